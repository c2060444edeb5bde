"""The facts, the noise and the certificates of a broadcast correction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.network import Network, train
from fedunlearn.network.training import local_steps
from fedunlearn.privacy import Certificate, publish, sigma_for
from fedunlearn.privacy.accounting.corrections import Budget, step_bound
from fedunlearn.privacy.claims import correction as claim
from fedunlearn.privacy.claims import message
from fedunlearn.privacy.claims.correction_facts import CorrectionFacts
from fedunlearn.privacy.claims.message import MessageFacts
from fedunlearn.requests import DeletionRequest
from fedunlearn.unlearning.base import Situation
from fedunlearn.unlearning.certified import tolerance_release
from fedunlearn.unlearning.certified.correction import SOLVE
from fedunlearn.unlearning.certified.ending import Ending
from fedunlearn.unlearning.certified.newton_settings import NewtonSettings
from fedunlearn.unlearning.certified.release import hashes_of, issue, release_noise
from fedunlearn.unlearning.optimise import Vector


@dataclass(frozen=True)
class Answer:
    """A correction before noise.

    Attributes:
        x: mean model before it, (d,).
        vector: the correction v that is added, (d,).
        apart: largest distance of a row to the mean.
        forgotten, clients, total, leavers: the request's counts, as in :class:`CorrectionFacts`.
        first: the models are those that training ended with, at tau.
        norm: norm of the correction before clipping.
        accepted: whether its public rule holds.
        gradient_norm: retained gradient before it; None if nobody computed it.
        residual: retained gradient after it, or what is left of the linear system.
        rounding: bound on the rounding error of these; None if there is none.
        fell_back: the network retrained instead.
        gradients, hvps: all-reduces of each kind.
    """

    x: Vector
    vector: Vector
    apart: float
    forgotten: tuple[tuple[int, int], ...] = ()
    clients: int = 1
    total: int = 1
    leavers: int = 0
    first: bool = False
    norm: float = 0.0
    accepted: bool = True
    gradient_norm: float | None = None
    residual: float | None = None
    rounding: float | None = None
    fell_back: bool = False
    gradients: int = 0
    hvps: int = 0

    def retrained(self, ending: Ending) -> Answer:
        """Return the answer of a network that retrained: no correction, and the gradient where training ended."""
        norm = float(np.linalg.norm(ending.gradient))
        rounding = None if self.rounding is None else ending.rounding
        return replace(
            self, x=ending.x, vector=np.zeros_like(self.vector), apart=ending.apart, norm=0.0, residual=norm,
            rounding=rounding, fell_back=True,
        )  # fmt: skip

    def details(self) -> dict[str, float | int]:
        """Return the numbers of the answer."""
        numbers = {
            "correction_norm": self.norm, "disagreement": self.apart, "gradients": self.gradients, "hvps": self.hvps
        }  # fmt: skip
        return numbers if self.residual is None else {**numbers, "residual": self.residual}


@dataclass(frozen=True)
class Issued:
    """The certificate of the models, why there is none, and that of the message."""

    first: Certificate | None
    reason: str
    further: tuple[Certificate, ...] = ()


def rounding_at(network: Network, x: Vector, l2: float) -> float | None:
    """Return the bound on the rounding error of a gradient at ``x`` (T3); None where rows are not bounded."""
    if not tolerance_release.bounded(network):
        return None
    return tolerance_release.stopping_rule(network, l2, np.inf).rounding(x)


def _facts(
    network: Network, request: DeletionRequest, answer: Answer, s: NewtonSettings, situation: Situation,
    public: Budget, releases: int, radius: float | None,
) -> CorrectionFacts:  # fmt: skip
    model, features = network.session.model, network.session.features
    safe = tolerance_release.bounded(network)
    return CorrectionFacts(
        method="newton",
        granularity=request.level,  # type: ignore[arg-type]
        lam=public.lam,
        dim=network.dim,
        convex_loss=model.convex,
        softmax_rows=safe,
        extractor="public" if features.kind == "frozen" else "none",
        bound=s.bound,
        gradient=s.gradient,
        curvature=s.curvature,
        own_curvature=s.curvature_data == "asking-client",
        damping=s.damping,
        weighting=situation.training.weighting,
        clients=answer.clients,
        total=answer.total,
        forgotten=answer.forgotten,
        leavers=answer.leavers,
        nodes=network.num_alive,
        tau=public.tau,
        retraining_always_stops=(
            safe and public.consensus == 0.0 and tolerance_release.cannot_diverge(situation.training)
        ),
        first_answer=answer.first,
        residual_bound=public.residual,
        solve=10 * SOLVE,
        gradient_norm=answer.gradient_norm,
        residual_norm=answer.residual,
        rounding_bound=answer.rounding,
        consensus_bound=public.consensus,
        consensus_residual=answer.apart,
        correction_norm=answer.norm,
        clipped=radius is not None and answer.norm > radius,
        always_sent=radius is not None,
        fell_back=answer.fell_back,
        recovery=s.recovery,
        releases=releases,
        fresh_draw=True,
        sigma_drawn=public.sigma,
    )


def radius_of(
    network: Network, request: DeletionRequest | None, answer: Answer, s: NewtonSettings, situation: Situation,
    public: Budget | None,
) -> float | None:  # fmt: skip
    """Return the public radius to which the message is clipped, None where it is not (docs/certificates.md T-V1).

    ``bound`` is a bound on the norm of every correction that these counts allow, so that clipping changes nothing.
    """
    if s.message_radius is None or request is None:
        return None
    if s.message_radius != "bound":
        return float(s.message_radius)
    if public is None:
        raise UserError("unlearning.message_radius = 'bound' needs training.l2 > 0 (allowed: a number)")
    facts = _facts(network, request, answer, s, situation, public, 1, None)
    gradient = claim.gradient_bounds(facts)[0]
    return max(step_bound(gradient, facts.lam, damping=facts.damping, solve=facts.solve * gradient), 1e-12)


def noise_scale(
    network: Network, request: DeletionRequest | None, answer: Answer, s: NewtonSettings, situation: Situation,
    public: Budget | None, releases: int, radius: float | None,
) -> tuple[CorrectionFacts | None, float]:  # fmt: skip
    """Return the facts of an answer, and the noise that the models and the message ask for.

    The noise follows from the settings and the request's counts alone, never from what was measured.
    """
    privacy = situation.privacy
    if public is None or request is None:
        sigma = s.target_sigma if public is None else public.sigma
        return None, sigma if radius is None else max(sigma, sigma_for(radius, privacy.epsilon, privacy.delta))
    facts = _facts(network, request, answer, s, situation, public, releases, radius)
    distance = claim.numbers_of(facts)["sensitivity"]
    sigma = sigma_for(distance * float(np.sqrt(releases)), privacy.epsilon, privacy.delta)
    if radius is not None:
        sigma = max(sigma, sigma_for(radius, privacy.epsilon, privacy.delta))
    return replace(facts, sigma_drawn=sigma), sigma


def flood(
    network: Network, answer: Answer, sigma: float, s: NewtonSettings, situation: Situation, one_vector: bool
) -> NDArray[np.float32]:
    """Noise the correction once, let every node add it, recover; returns what the root holds in the end.

    What nodes add to models of their own is kept under another word than what they release: the two tell their model
    before the answer.
    """
    hidden, what = (answer.x + answer.vector, "release") if one_vector else (answer.vector, "message")
    message = situation.noised(lambda: publish(hidden, release_noise(network, situation, sigma)), what)
    if one_vector:
        situation.persist(message)
        network.broadcast(message, "correction")
    else:
        situation.persist(network.read(network.root) + message)
        network.broadcast(message, "correction", "add")
    if s.recovery != "none":
        training = situation.training
        done = training.rounds + max(0, situation.release - 1)
        more = training.model_copy(update={"lr": s.recovery_lr or training.lr, "rounds": done + 1, "final_rounds": 0})
        if s.recovery == "round":
            train(network, more, first=done)
        else:
            local_steps(network, more, done)
        situation.persist(network.read(network.root))
    return network.read(network.root)


def certificates(
    network: Network, facts: CorrectionFacts | None, radius: float | None, sigma: float, situation: Situation,
    s: NewtonSettings,
) -> Issued:  # fmt: skip
    """Return what can be certified about the models, and about the message where it was clipped."""
    if facts is None:
        return Issued(None, "none: without training.l2 > 0 no distance follows from a small gradient")
    privacy, hashes = situation.privacy, hashes_of(network, situation)
    first, reason = issue(
        lambda: claim.certify(facts, privacy.epsilon, privacy.delta, noise=privacy.noise, hashes=hashes)
    )
    further: list[Certificate] = []
    if radius is not None:
        told = MessageFacts(
            method="newton",
            granularity=facts.granularity,
            radius=radius,
            radius_source="bound" if s.message_radius == "bound" else "setting",
            correction_norm=facts.correction_norm,
            sent_nothing_else=s.curvature_data == "asking-client",
            continued_on_retained=True,
            fell_back=facts.fell_back,
            fresh_draw=True,
            sigma_drawn=sigma,
            dim=facts.dim,
        )
        further.append(message.certify(told, privacy.epsilon, privacy.delta, noise=privacy.noise, hashes=hashes))
    return Issued(first, reason, tuple(further))
