"""Conducting an audit: the experiment's world is run once, then its claims are played for many times.

An observer sees what was released and tries to say which of two worlds it came from. On the *natural* instance these
are the worlds of the experiment itself, unlearned and retrained; they lie far closer together than any claim allows, so
little can be learned there. On the *tight* instance, which the method supplies, they lie as far apart as its theorem
lets them. Claims about messages are played in the control worlds of docs/certificates.md T-V1: the clipped message
against one that carries nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedunlearn.audit.attacks import audit_game
from fedunlearn.audit.settings import AuditSettings
from fedunlearn.audit.verdict import Verdict
from fedunlearn.audit.whitebox import NoiseLaw, noise_law
from fedunlearn.config import Experiment
from fedunlearn.network import Session
from fedunlearn.network.inline import InlineTransport
from fedunlearn.privacy import Certificate
from fedunlearn.randomness import torch_seed
from fedunlearn.simulation import choose_device, prepare
from fedunlearn.simulation.answered import Answered, answer_all
from fedunlearn.simulation.forecast import check_memory
from fedunlearn.simulation.world import Progress
from fedunlearn.unlearning.base import Outcome
from fedunlearn.unlearning.games import Game, gaussian_game
from fedunlearn.unlearning.registry import method

ABOUT_RETRAINING = ("retrain-equivalence", "single-node")
"""Kinds of claim whose second world is retraining: noising the two vectors of a run plays them."""
MOST_ENTRIES = 20_000
"""Longer vectors are turned until they differ in the first entry alone, and cut to this length: isotropic noise has the
same law along every direction, and a game looks along one."""
NORM = "correction_norm"
"""Entry of a message claim's facts: L2 norm of what the message carries, before clipping and noise."""
FALSE_ALARM = 0.05
"""Of a whole audit whose claims are all true, whatever the number of claims and games."""
NOISE_LEVEL = 3e-6
"""Share of it for the three checks of the release's own noise; with thousands of entries they can be that strict."""
FINE = 0.01
"""Noise is judged on entries where float32 numbers lie closer than so many sigma: rounding afterwards is not a lie."""
FEWEST_ENTRIES = 20
"""Fewer entries say nothing about a law."""


@dataclass(frozen=True)
class Audited:
    """One claim with what came of playing for it; ``remarks`` say which instances there are not, and why.

    ``noise`` is the law of the noise that the run's own release carries, where its noise-free vector is known.
    """

    certificate: Certificate
    verdicts: tuple[Verdict, ...]
    remarks: tuple[str, ...]
    noise: NoiseLaw | None = None

    @property
    def noise_refutes(self) -> bool:
        """Whether the noise in the release cannot be that of the certificate: such p values are one in a million."""
        law = self.noise
        return law is not None and not min(law.p_mean, law.p_variance, law.p_kolmogorov) >= NOISE_LEVEL / 3

    @property
    def refuted(self) -> bool:
        """Whether one of the verdicts, or the noise of the release, refutes the claim."""
        return self.noise_refutes or any(verdict.refuted for verdict in self.verdicts)


@dataclass(frozen=True)
class Audit:
    """The audit of an experiment; without ``claims`` there was nothing to refute, for the ``reason`` given."""

    name: str
    seed: int
    trials: int
    method: str
    request: str
    claims: tuple[Audited, ...]
    reason: str

    @property
    def refuted(self) -> bool:
        """Whether one of the claims is refuted."""
        return any(claim.refuted for claim in self.claims)


def audit(experiment: Experiment, settings: AuditSettings | None = None, *, progress: Progress | None = None) -> Audit:
    """Run an experiment up to its last answer, and try to refute what is claimed about it.

    If all claims are true, one of them is refuted with probability at most 0.05: the sampled games share that level.

    Args:
        experiment: as for a run; its evaluation is not carried out.
        settings: trials and seed of the auditor.
        progress: ``progress(phase, done, total)`` is called while the audit goes on.

    Raises:
        UserError: for whatever a user can mend.
    """
    settings = settings or AuditSettings()
    tell = progress or (lambda phase, done, total: None)
    name = experiment.unlearning.method
    if method(name).certifies == "nothing":
        return Audit(experiment.name, experiment.seed, settings.trials, name, "", (), f"'{name}' certifies nothing")
    world = prepare(experiment, tell)
    check_memory(world)
    with Session(
        InlineTransport(experiment.runtime.hosts), world.dataset, world.model, world.features, seed=experiment.seed,
        data=experiment.data, links=experiment.links, runtime=experiment.runtime,
        device=choose_device(experiment.runtime.device), graph=world.graph,
    ) as session:  # fmt: skip
        answered = answer_all(world, session)
        certificates = certificates_of(answered.outcome)
        reason = "" if certificates else answered.outcome.certificate_reason.removeprefix("none: ")
        seed = experiment.seed if settings.seed is None else settings.seed
        claims = _play(answered, certificates, settings.trials, seed, tell)
    return Audit(
        experiment.name, experiment.seed, settings.trials, name, answered.request.describe(), claims, reason
    )  # fmt: skip


def certificates_of(outcome: Outcome) -> list[Certificate]:
    """Return every certificate of an answer, the one about its release first."""
    first = [] if outcome.certificate is None else [outcome.certificate]
    return [*first, *outcome.further_certificates]


def _play(
    answered: Answered, certificates: list[Certificate], trials: int, seed: int, tell: Progress
) -> tuple[Audited, ...]:
    """Play all games about all claims, each at an equal share of the false alarms that the audit may raise."""
    games = [list(games_for(answered, certificate)) for certificate in certificates]
    noises = [release_noise(answered.outcome, certificate) for certificate in certificates]
    level = level_of_each(sum(isinstance(g, Game) for of in games for g in of), sum(law is not None for law in noises))
    claims = []
    for certificate, of, law in zip(certificates, games, noises):
        verdicts, remarks = [], []
        phase = f"audit: {certificate.kind}"
        for place, game in enumerate(of):
            tell(phase, place, len(of))
            if isinstance(game, str):
                remarks.append(game)
                continue
            drawn = torch_seed(seed, f"audit of {certificate.kind}", place)
            verdicts.append(
                audit_game(
                    game, trials, certificate.mu, certificate.epsilon, certificate.delta, drawn,
                    method=certificate.method, level=level,
                )
            )  # fmt: skip
        tell(phase, len(of), len(of))
        claims.append(Audited(certificate, tuple(verdicts), tuple(remarks), law))
    return tuple(claims)


def level_of_each(games: int, noise_checks: int) -> float:
    """Return the level of each of the two limits of every game, so that the whole audit keeps to its false alarms."""
    return (FALSE_ALARM - noise_checks * NOISE_LEVEL) / (2 * max(1, games))


def release_noise(outcome: Outcome, certificate: Certificate) -> NoiseLaw | None:
    """Return the law of ``(release - noise-free vector)/sigma``, None where they do not differ by noise alone.

    Entries whose float32 rounding is not small beside sigma are left out, and None is returned where few are left.
    """
    if certificate is not outcome.certificate or certificate.kind not in ("retrain-equivalence", "exact"):
        return None
    if outcome.release is None or outcome.noise_free is None:
        return None
    largest = np.abs(outcome.noise_free) + 10 * certificate.sigma
    fine = np.spacing(largest.astype(np.float32)) <= FINE * certificate.sigma
    if fine.sum() < min(FEWEST_ENTRIES, len(fine)):
        return None
    return noise_law((outcome.release.astype(np.float64) - outcome.noise_free)[fine][None] / certificate.sigma)


def games_for(answered: Answered, certificate: Certificate) -> Iterator[Game | str]:
    """Yield the games in which a claim is played for; a sentence where there is no such game."""
    if certificate.kind == "exact":
        yield _exact(answered, certificate)
    elif certificate.kind == "message":
        yield from _message_games(certificate)
    elif certificate is not answered.outcome.certificate:
        yield f"no instance: the method supplies games for its first claim, and this one is of kind {certificate.kind}"
    else:
        yield _tight(answered)
        yield _natural(answered, certificate)


def _exact(answered: Answered, certificate: Certificate) -> Game | str:
    """Nothing may tell an exact answer from retraining, so a game is played only where their numbers differ."""
    one, other = answered.outcome.noise_free, answered.retrained.noise_free
    if certificate is not answered.outcome.certificate or one is None or other is None:
        return "the answer is claimed to be retraining itself, and its noise-free vectors are not known"
    if np.array_equal(one, other):
        return "answer and retraining are the same numbers: nothing tells them apart"
    return gaussian_game("this run, retrained", "natural", *shortened(one, other), certificate.sigma, 0.0)


def _tight(answered: Answered) -> Game | str:
    unlearner = answered.world.unlearner
    game = unlearner.tight_game(answered.network, answered.outcome, answered.situation)
    return game or "the method supplies no tight instance of this claim"


def _natural(answered: Answered, certificate: Certificate) -> Game | str:
    outcome, twin = answered.outcome, answered.retrained
    game = answered.world.unlearner.natural_game(
        answered.network, answered.before, outcome, twin, answered.situation
    )  # fmt: skip
    if game is not None:
        return game
    if certificate.kind not in ABOUT_RETRAINING:
        return (
            "no natural instance: the method supplies none, and the run has no second world for a claim of kind "
            f"{certificate.kind}"
        )
    if outcome.noise_free is None or twin.noise_free is None:
        return "no natural instance: the noise-free vectors of the run are not known"
    one, other = shortened(outcome.noise_free, twin.noise_free)
    return gaussian_game(
        "this run, retrained", "natural", one, other, certificate.sigma, certificate.sensitivity
    )  # fmt: skip


def _message_games(certificate: Certificate) -> Iterator[Game | str]:
    """Yield the control worlds of T-V1: only the message's length matters, for its noise is isotropic."""
    radius, sigma = certificate.sensitivity, certificate.sigma
    yield gaussian_game("message of full length", "tight", np.array([radius]), np.zeros(1), sigma, radius)
    if NORM not in certificate.facts:
        yield "no natural instance: the length of the message is not known"
    else:
        norm = min(float(certificate.facts[NORM]), radius)
        yield gaussian_game("message of this run", "natural", np.array([norm]), np.zeros(1), sigma, radius)
    yield (
        "messages are noised here as the certificate says: what the network sent is gone, so noise that was too small "
        "when it was sent would not be noticed"
    )


def shortened(
    one: np.ndarray, other: np.ndarray, most: int = MOST_ENTRIES
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return two vectors as far apart as those given, and no longer than ``most``."""
    if len(one) <= most:
        return one, other
    first = np.zeros(most)
    first[0] = np.linalg.norm(one - other)
    return first, np.zeros(most)
