"""Differentially private training as an answer to deletion requests: the released model already hides every record.

Training adds Gaussian noise to clipped sums over Poisson samples (Abadi et al. 2016, DP-SGD). Whoever is deleted later,
the law of all that training released is (epsilon, delta)-close to its law without the deleted records, so the answer is
to keep the model. The m deleted records are one group of neighbours: ``K ~ Binomial(m, q)`` of them are in the sample
of a step, and the pair ``N(K C, (z C)^2)`` against ``N(0, (z C)^2)`` dominates all that the step shows (Ganesh 2024,
"Tight group-level DP guarantees for DP-SGD with sampling via mixture of Gaussians mechanisms"). The privacy losses of
the steps are composed numerically by :mod:`fedunlearn.privacy.accounting.opinions`. Only sampling by independent coins
is accounted: shuffled batches of a fixed size are another mechanism, whose epsilon can be many times larger (Chua et
al. 2024, "How private are DP-SGD implementations?").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedunlearn.privacy.accounting.events import PoissonSampledGaussian
from fedunlearn.privacy.accounting.opinions import Opinion, epsilon_of_events
from fedunlearn.privacy.certificate import Certificate, NoCertificate, Noise, Premise
from fedunlearn.privacy.claims.dp_training_facts import DpTrainingFacts

LIMITS = (
    "Observers of training's own messages: sums travel to one node without noise, and it adds the noise to the total.",
    "The fact that a request was made, and its timing.",
    "Groups of more records than the certificate counts: people who stay are protected as single records at a smaller "
    "epsilon, whole clients are not unless they are counted record by record.",
    "Nodes that do not follow the protocol, or keep what they were told to erase.",
    "The low-order bits of floating-point noise, which are not those of an ideal Gaussian, and the coins, which come "
    "from a hash that was made for simulations and not for cryptography.",
)


def event_of(facts: DpTrainingFacts) -> PoissonSampledGaussian:
    """Return what training released, as an event for the accountants; nobody deleted counts as one record."""
    return PoissonSampledGaussian(
        noise_multiplier=facts.noise_multiplier, rate=facts.rate, steps=facts.steps, group=max(1, facts.forget_count)
    )


def opinion_of(facts: DpTrainingFacts, delta: float) -> Opinion:
    """Return the smallest epsilon at ``delta`` with its second opinions; raises NoCertificate where there is none."""
    _refuse_the_uncertifiable(facts)
    return epsilon_of_events([event_of(facts)], delta)


def claimable(facts: DpTrainingFacts, epsilon: float, delta: float) -> float:
    """Return the epsilon that can be claimed at ``delta``: the one asked for, or the next that holds, in four digits.

    Rounding up leaves room for what another version of a library may find in the last digits.

    Raises:
        NoCertificate: if the sampling cannot be accounted, or no finite epsilon holds.
    """
    obtained = opinion_of(facts, delta).epsilon
    if not np.isfinite(obtained):
        raise NoCertificate(
            f"no finite epsilon holds for {facts.forget_count} deleted records at delta = {delta:g} with noise "
            f"multiplier {facts.noise_multiplier:.6g}"
        )
    if obtained <= epsilon:
        return epsilon
    digit = 10.0 ** (math.floor(math.log10(obtained)) - 3)
    return float(f"{math.ceil(obtained / digit) * digit:.4g}")


def certify(
    facts: DpTrainingFacts, epsilon: float, delta: float, *, noise: Noise, hashes: Mapping[str, str] | None = None
) -> Certificate:
    """Return the certificate of a model that DP training released, for all records deleted so far together.

    Args:
        facts: what training did.
        epsilon, delta: the claim.
        noise: where noise and coins came from.
        hashes: SHA-256 hashes, as for :func:`fedunlearn.privacy.claims.tolerance.certify`.

    Raises:
        NoCertificate: if sampling was not by independent coins, contributions were not bounded, sums were divided by a
            number that depends on the records, or the noise is too small for the claim.
        UserError: if epsilon or delta is out of range.
    """
    hashes = dict(hashes or {})
    obtained = opinion_of(facts, delta).epsilon
    if not obtained <= epsilon * (1 + 1e-9):
        raise NoCertificate(
            f"noise multiplier {facts.noise_multiplier:.6g} at rate {facts.rate:g} over {facts.steps} steps gives "
            f"epsilon = {obtained:.6g} at delta = {delta:g} for {facts.forget_count} deleted records, more than "
            f"{epsilon:g}"
        )
    m = facts.forget_count
    records = {0: "any one record", 1: "the deleted record"}.get(m, f"the {m} deleted records")
    return Certificate(
        method=facts.method,
        kind="differential-privacy",
        granularity=facts.granularity,
        epsilon=epsilon,
        delta=delta,
        mu=None,
        sigma=facts.noise_multiplier * facts.clip,
        sensitivity=max(1, m) * facts.clip,
        theorem="Poisson-sampled Gaussian mechanism, group of all records deleted so far (Ganesh 2024), privacy losses "
        "composed numerically",
        claim=f"All models that training released are (epsilon, delta)-indistinguishable, both ways, from those of the "
        f"same training without {records}.",
        scope=_scope(noise),
        view="T-V2",
        view_reason="The answer sends no message at all, so it adds (0, 0) to what the last release had shown; the "
        "messages of training itself lie outside the claim.",
        premises=_premises(facts, hashes),
        constants=_constants(facts),
        noise=noise,
        hashes=hashes,
        limits=LIMITS,
        facts=facts.to_dict(),
    )


def from_facts(
    facts: Mapping[str, Any], epsilon: float, delta: float, *, noise: Noise, hashes: Mapping[str, str] | None = None
) -> Certificate:
    """Return the certificate of facts as :meth:`DpTrainingFacts.to_dict` wrote them; raises as :func:`certify` does."""
    return certify(DpTrainingFacts.from_dict(facts), epsilon, delta, noise=noise, hashes=hashes)


def _refuse_the_uncertifiable(facts: DpTrainingFacts) -> None:
    if facts.sampling != "poisson":
        raise NoCertificate(
            f"records were sampled as '{facts.sampling}': the accountant of Poisson sampling holds for independent "
            "coins only, and gives numbers that are too small for anything else"
        )
    if not facts.clipped_every_record:
        raise NoCertificate("gradients were not clipped record by record, so nothing bounds what one record adds")
    if not facts.fixed_divisor:
        raise NoCertificate("sums were divided by a number that depends on who was sampled, which noise does not hide")


def _constants(facts: DpTrainingFacts) -> dict[str, float]:
    numbers: dict[str, float] = {
        "clip": facts.clip,
        "noise_multiplier": facts.noise_multiplier,
        "rate": facts.rate,
        "steps": facts.steps,
        "group": facts.forget_count,
        "capacity": facts.capacity,
        "dim": facts.dim,
    }
    return {name: float(number) for name, number in numbers.items()}


def _premises(facts: DpTrainingFacts, hashes: Mapping[str, str]) -> tuple[Premise, ...]:
    rate = f"probability {facts.rate:g}"
    hashed = facts.extractor == "public" and {"extractor", "extractor_training_rows"} <= set(hashes)
    features = {
        "none": "features are a fixed rule of each record alone",
        "public": "the extractor and its training records are recorded by hash, and none of them belongs to a client",
    }
    return (
        _premise(
            "Poisson sampling",
            facts.independent_coins,
            f"every record had an independent coin of {rate} in each of {facts.steps} steps",
            f"nothing showed that the coins of {rate} were independent",
        ),
        Premise("clipping", "enforced", f"each record's gradient was clipped to norm {facts.clip:g} before the sum"),
        Premise("fixed divisor", "enforced", "sums were divided by a constant fixed before training"),
        _premise(
            "noise of its own for every step",
            facts.fresh_draws,
            f"each sum got one fresh draw of standard deviation {facts.noise_multiplier:.6g} times {facts.clip:g} "
            "before anything was made of it",
            "nothing prevented noise from serving two steps",
        ),
        _premise(
            "public start",
            facts.public_start,
            "training started from a point that no record had touched",
            "the start came from a checkpoint, which may have seen records that are deleted now",
        ),
        _premise(
            "no selection",
            facts.steps_fixed,
            "the number of steps was fixed, and the last vector is the one released",
            "the released vector may have been chosen by what was learned",
        ),
        _premise(
            "public features",
            facts.extractor == "none" or hashed,
            features.get(facts.extractor, ""),
            "nothing shows that the extractor never saw records that may be deleted",
        ),
        _premise(
            "public settings",
            "settings.toml" in hashes,
            "rate, steps, clip and noise multiplier are those of the settings file with the recorded hash",
            "no hash of the settings was recorded",
        ),
    )


def _scope(noise: Noise) -> tuple[str, ...]:
    source = (
        "simulation only: noise and coins derive from the run's seed, so whoever knows the seed can undo them; the "
        "claim is about the same run with secret randomness"
        if noise == "simulated"
        else "noise: it came from the operating system, as did the key of the coins; neither was stored"
    )
    return (
        "released: observers see every released model, also those of before the request, and all that is made of them",
        "state: the same holds for those who also obtain all that the network stores afterwards, except the retained "
        "data",
        source,
        "requests: they do not depend on released models; who asks because of a release is outside the claim",
        "constants: every setting was fixed before any record that may be deleted was seen",
    )


def _premise(name: str, enforced: bool, yes: str, no: str) -> Premise:
    return Premise(name, "enforced" if enforced else "assumed", yes if enforced else no)
