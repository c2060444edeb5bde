"""The certificate of a clipped, noised broadcast: what one message adds to what was known before.

docs/certificates.md T-V1. Two worlds share everything before the request, all models included, and the retained data;
one answers the request, the other a dummy with ``v = 0``. The broadcast ``clip(v, C_v) + N(0, sigma^2 I)`` is a
Gaussian mechanism of sensitivity C_v given that past, and all that the nodes do with it and retained data is
post-processing. It does not say that the trained model forgets: that is no retrain-equivalence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian
from fedunlearn.privacy.certificate import Certificate, NoCertificate, Noise, Premise
from fedunlearn.privacy.claims.correction_facts import facts_from, plain_facts

RULE = "message"


@dataclass(frozen=True)
class MessageFacts:
    """What a run did when it broadcast one clipped and noised correction.

    Attributes:
        method, granularity: the method, and what was deleted.
        radius: public clipping radius C_v.
        radius_source: ``setting``, or ``bound`` (from lam, tau and the request's counts).
        correction_norm: norm of v before clipping.
        sent_nothing_else: the asking client made v from its own records and public or earlier values alone.
        continued_on_retained: what followed read the message, earlier models and retained data only.
        fell_back: the network retrained instead of keeping to the correction.
        fresh_draw, sigma_drawn, dim: the noise was drawn for this message; its deviation; number of parameters.
    """

    method: str
    granularity: Literal["sample", "class", "client"]
    radius: float
    radius_source: Literal["setting", "bound"]
    correction_norm: float
    sent_nothing_else: bool
    continued_on_retained: bool
    fell_back: bool
    fresh_draw: bool
    sigma_drawn: float
    dim: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the rule that turns these facts into a certificate."""
        return plain_facts(self, RULE)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> MessageFacts:
        """Return the facts that :meth:`to_dict` wrote; UserError if an entry is missing, unknown or ill-typed."""
        found: MessageFacts = facts_from(cls, plain, RULE)
        return found


def certify(
    facts: MessageFacts, epsilon: float, delta: float, *, noise: Noise, hashes: Mapping[str, str] | None = None
) -> Certificate:
    """Return the certificate of one broadcast.

    Raises:
        NoCertificate: if the network fell back to retraining, which a dummy request never does, or the noise is too
            small for the radius.
        UserError: if a number is out of range.
    """
    hashes = dict(hashes or {})
    if facts.fell_back:
        raise NoCertificate("the network retrained: everybody sees that the request was not a dummy")
    if not (facts.radius > 0 and facts.sigma_drawn > 0):
        raise UserError(f"radius = {facts.radius}, sigma_drawn = {facts.sigma_drawn}: both must be positive numbers")
    mu, needed = facts.radius / facts.sigma_drawn, gaussian.mu_of(epsilon, delta)
    if not mu <= needed * (1 + 1e-12):
        raise NoCertificate(
            f"the noise drawn has sigma = {facts.sigma_drawn:.6g}, but a message of radius {facts.radius:.6g} needs "
            f"{facts.radius / needed:.6g} for epsilon = {epsilon:g} at delta = {delta:g}"
        )
    source = "given in the settings" if facts.radius_source == "setting" else "a bound from public constants"

    def premise(name: str, enforced: bool, yes: str, no: str) -> Premise:
        return Premise(name, "enforced" if enforced else "assumed", yes if enforced else no)

    premises = (
        Premise("radius", "enforced", f"the correction was clipped to C_v = {facts.radius:.6g}, {source}"),
        premise(
            "single draw", facts.fresh_draw, "the noise was drawn for this message and used once",
            "nothing prevented the noise from serving another message too",
        ),
        premise(
            "nothing else was sent", facts.sent_nothing_else,
            "the asking client made the correction from its own records and what was known before",
            "gradients or curvature were summed over the network to make the correction, and show it without noise",
        ),
        premise(
            "continuation", facts.continued_on_retained,
            "what followed was computed from the message, earlier models and retained data",
            "what followed may have read deleted data",
        ),
        premise(
            "public settings", "settings.toml" in hashes,
            "the radius and the noise follow from the settings file with the recorded hash and the request's counts",
            "no hash of the settings was recorded",
        ),
    )  # fmt: skip
    scope = (
        "all nodes: they see the broadcast and everything that follows, given everything they knew before the request, "
        "their own models included",
        "simulation only: the noise derives from the run's seed, so whoever knows the seed can subtract it; the claim "
        "is about the same run with secret noise"
        if noise == "simulated"
        else "noise: it came from the operating system, was not stored, and nobody else saw it",
        "constants: every setting was fixed before any record that may be deleted was seen; the request's counts and "
        "who asked are public",
    )
    limits = (
        "Forgetting: this is no retrain-equivalence. What models and messages before the request revealed about the "
        "deleted data, they still reveal.",
        f"Two real requests: between them the sensitivity is 2 C_v = {2 * facts.radius:.6g}, mu = {2 * mu:.6g}.",
        "That a request was made, by whom, and for how many records.",
        "Nodes that do not follow the protocol.",
        "The low-order bits of floating-point noise, which are not those of an ideal Gaussian.",
    )
    return Certificate(
        method=facts.method, kind="message", granularity=facts.granularity, epsilon=epsilon, delta=delta,
        mu=float(mu), sigma=float(facts.sigma_drawn), sensitivity=float(facts.radius),
        theorem="T-V1 (clipped broadcast)",
        claim="Given everything before the request, all that the nodes see of its answer is (epsilon, delta)-"
        "indistinguishable, both ways, from the answer to a dummy request that changes nothing.",
        scope=scope, view="T-V1" if facts.sent_nothing_else else "none",
        view_reason="The broadcast is the only message that depends on the deleted data, and it is clipped and noised."
        if facts.sent_nothing_else
        else "The claim is about the broadcast alone; the sums that made the correction were sent in the clear.",
        premises=premises,
        constants={"radius": float(facts.radius), "correction_norm": float(facts.correction_norm),
                   "dim": float(facts.dim)},
        noise=noise, hashes=hashes, limits=limits, facts=facts.to_dict(),
    )  # fmt: skip


def from_facts(
    facts: Mapping[str, Any], epsilon: float, delta: float, *, noise: Noise, hashes: Mapping[str, str] | None = None
) -> Certificate:
    """Return the certificate of facts as they lie in a file; raises as :func:`certify` does, UserError if malformed."""
    return certify(MessageFacts.from_dict(facts), epsilon, delta, noise=noise, hashes=hashes)
