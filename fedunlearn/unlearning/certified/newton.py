"""Newton/Fisher-corrected unlearning on a network.

*Provable mode* (default; docs/certificates.md T1-T5): training, retraining and unlearning all end by one public rule,
gradient norm of the retained objective at one vector at most ``tau`` in float64; that vector plus noise drawn once
overwrites every row. Unlearned and retrained vector then differ by at most ``2 tau/lambda``, whatever optimiser,
start, topology or number of deleted records. A request starts from the last release (or from zero), never from a
noise-free state, so nothing accumulates over requests (T5.3).

*Paper mode* and *one-step mode* (Wu et al., arXiv 2601.06436): one Newton/Fisher correction is added to every node's
own model, with noise or without; see :mod:`fedunlearn.unlearning.certified.newton_paper`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.models import Model, gradient_sum
from fedunlearn.models.extractor import one_thread
from fedunlearn.network import Network, TrainingSettings
from fedunlearn.privacy import Calibration, PrivacySettings
from fedunlearn.requests import DeletionRequest
from fedunlearn.unlearning.base import Outcome, Plan, PublicKnowledge, Situation, Unlearner
from fedunlearn.unlearning.certified import stopping_pair, tolerance_release
from fedunlearn.unlearning.certified.newton_paper import SingleCorrection
from fedunlearn.unlearning.certified.newton_settings import NewtonSettings
from fedunlearn.unlearning.curvature import FULL_LIMIT, Curvature, PublicCurvature, choose, public_curvature
from fedunlearn.unlearning.games import Game, gaussian_game
from fedunlearn.unlearning.objective import NetworkObjective
from fedunlearn.unlearning.optimise import Preconditioner, Solution, Stop, Vector, accelerated_gradient, newton_cg
from fedunlearn.unlearning.registry import MethodInfo

DIAGONAL = "newton_with_diagonal"
"""The control that answers from the last release without public curvature."""


@dataclass(frozen=True)
class _Search:
    objective: NetworkObjective
    solution: Solution
    stop: Stop
    safeguarded: bool

    def details(self) -> dict[str, float | int]:
        return {
            "tau": self.stop.tau,
            "gradient_bound": self.solution.bound,
            "safeguard_steps" if self.safeguarded else "newton_steps": self.solution.steps,
            "gradients": self.objective.gradients,
            "hvps": self.objective.hvps,
            "all_reduces": self.objective.all_reduces,
        }


class Newton(Unlearner):
    """Re-optimises on the retained data to a public tolerance, then releases one noised vector."""

    rebuilds = ("_public", "_public_start", "_single")

    def __init__(self, settings: NewtonSettings) -> None:
        self.settings = settings
        self._public: PublicCurvature | None = None
        self._public_start: float | None = None
        self._single = None if settings.mode == "provable" else SingleCorrection(settings)

    def check(self, plan: Plan) -> None:
        """Refuse settings under which the mode has no theorem."""
        if self._single is not None:
            if plan.faults:
                raise UserError(
                    f"unlearning.mode = '{self.settings.mode}' is not defined with [faults]: its bounds are about all "
                    "clients, and nodes that mix in every round (allowed with faults: 'provable')"
                )
            return self._single.check(plan)
        model, training = plan.model, plan.training
        if not training.l2 > 0:
            raise UserError(
                f"training.l2 = {training.l2} does not make the objective strongly convex (allowed for "
                "provable 'newton': l2 > 0)"
            )
        if not model.convex:
            raise UserError(
                f"model.name = '{model.spec['name']}' is not convex (allowed for provable 'newton': 'softmax', with "
                "model.features = 'frozen' for the features of a deep network; or set unlearning.mode = 'paper' or "
                "'one-step')"
            )

    def prepare(self, network: Network, situation: Situation) -> None:
        """Build the public curvature once a run: it depends on public records only, so it outlives every request."""
        settings, model = self.settings, network.session.model
        if self._single is not None:
            return
        have_public = situation.public is not None and situation.public.head is not None
        if settings.curvature_at == "public-head" and settings.curvature in ("auto", "public") and have_public:
            assert situation.public is not None
            if settings.curvature == "public" or model.dim <= FULL_LIMIT:
                l2 = situation.training.l2
                self._public = public_curvature(model, situation.public, l2, cache=situation.cache)
        if have_public:
            assert situation.public is not None
            self._public_start = _public_norm(model, situation.public, situation.training.l2, situation.start)

    def preparation(self) -> dict[str, Any] | None:
        """Return what the public curvature took, if it was built before training."""
        found = self._public
        if found is None:
            return None
        return {
            "what": "public curvature", "seconds": found.seconds, "built_in": found.built_in, "cached": found.cached,
            "without": DIAGONAL,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Return what the modes that broadcast a correction keep; provable mode keeps nothing."""
        return super().state() if self._single is None else self._single.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take it over."""
        if self._single is not None:
            self._single.restore(state)

    def conclude(self, network: Network, situation: Situation) -> Outcome:
        """Polish the mean of the nodes' models to the tolerance, release it with noise, overwrite every row by it."""
        if self._single is not None:
            return self._single.conclude(network, situation)
        search = self._search(network, situation, [network.mean(phase_cost=True)], safeguard=True)
        return self._outcome(network, situation, search, None, "public", fell_back=False)

    def observe(self, network: Network, request: DeletionRequest, situation: Situation) -> None:
        """Let the modes that broadcast a correction read what is about to be deleted; provable mode reads nothing."""
        if self._single is not None:
            self._single.observe(network, request, situation)

    def unlearn(self, network: Network, request: DeletionRequest, situation: Situation) -> Outcome:
        """Answer a request; where the tolerance is not reached within the limits, retrain instead, and say so."""
        if self._single is not None:
            return self._single.unlearn(network, request, situation)
        if situation.previous_release is not None:
            starts = [situation.previous_release.astype(np.float64)]
            if (
                network.session.model.spec["checkpoint"] is None
            ):  # whatever a checkpoint has seen stays out of the search
                starts.append(situation.start.astype(np.float64))
            search = self._search(network, situation, starts, safeguard=False)
            if search.solution.met:
                return self._outcome(network, situation, search, request, "released", fell_back=False)
        situation.retrain(network)
        search = self._search(network, situation, [network.mean(phase_cost=True)], safeguard=True)
        # The abandoned attempt's messages depended on the last release, so the answer as a whole is not a cold restart.
        start = "public" if situation.previous_release is None else "released"
        return self._outcome(network, situation, search, request, start, fell_back=True)

    def controls(self, network: Network, situation: Situation) -> dict[str, Callable[[], Outcome]]:
        """Reach the same tolerance in other ways, for comparison.

        From the initial model and from the public head: no private start, no training. And from the last release with
        the diagonal as preconditioner: what the public curvature saves.
        """
        if self._single is not None:
            return {}
        ways: dict[str, tuple[Vector, Curvature | None]] = {
            "newton_from_initial_model": (situation.start.astype(np.float64), None)
        }
        if situation.public is not None and situation.public.head is not None:
            ways["newton_from_public_head"] = (situation.public.head, None)
        if self._public is not None and situation.previous_release is not None:
            ways[DIAGONAL] = (situation.previous_release.astype(np.float64), "fisher-diagonal")

        def attempt(start: Vector, curvature: Curvature | None) -> Outcome:
            search = self._search(network, situation, [start], safeguard=False, curvature=curvature)
            return Outcome(noise_free=search.solution.x if search.solution.met else None, details=search.details())

        return {name: partial(attempt, *way) for name, way in ways.items()}

    def junk_start(self, network: Network, situation: Situation) -> Callable[[], Outcome] | None:
        """Return the same answer from a public start, in paper mode on a model that is not convex (T6)."""
        return None if self._single is None else self._single.junk_start(network, situation)

    def tight_game(self, network: Network, outcome: Outcome, situation: Situation) -> Game | None:
        """Return the farthest pair of vectors that both meet the stopping rule (docs/certificates.md T1, tightness)."""
        if self._single is not None:
            return self._single.tight_game(network, outcome, situation)
        certificate = outcome.certificate
        if certificate is None or outcome.noise_free is None:
            return None
        stop = tolerance_release.stopping_rule(network, situation.training.l2, self._calibration(situation).tau)
        worlds = stopping_pair.pair(network, situation, outcome.noise_free, (stop, stop))
        if worlds is None:
            return None
        return gaussian_game(
            "both ends of the stopping rule", "tight", *worlds, certificate.sigma, certificate.sensitivity,
            situation.privacy.noise,
        )  # fmt: skip

    def public_constants(self, training: TrainingSettings, privacy: PrivacySettings) -> Calibration | None:
        """Return tau, sensitivity and sigma of these settings, None where nothing is certified."""
        if self._single is not None or not training.l2 > 0:
            return None
        return tolerance_release.calibration(privacy, training.l2, self.settings.target_sigma, self.settings.tolerance)

    def _calibration(self, situation: Situation) -> Calibration:
        constants = self.public_constants(situation.training, situation.privacy)
        assert constants is not None, "check() refuses settings without a certificate"
        return constants

    def _search(
        self, network: Network, situation: Situation, starts: list[Vector], *, safeguard: bool,
        curvature: Curvature | None = None,
    ) -> _Search:  # fmt: skip
        """Run Newton-CG from the start with the smallest retained gradient (T5.3: a function of release and D').

        The first all-reduce brings the gradient at the first start and, where the preconditioner is matched with it,
        the diagonal of the Hessian there. The second start is not asked about where it is known to be worse
        (:meth:`_hopeless`). With ``safeguard`` a failed search goes on by accelerated gradient, whose number of steps
        is proved: the learner always stops, in both worlds.
        """
        training = situation.training
        stop = tolerance_release.stopping_rule(network, training.l2, self._calibration(situation).tau)
        objective = NetworkObjective(network, training.weighting, training.l2, steering=True)
        kind = self.settings.curvature if curvature is None else curvature
        start, diagonal = starts[0], None
        if kind in ("auto", "public", "fisher-diagonal"):
            gradient, diagonal = objective.gradient_and_diagonal(start)
        else:
            gradient = objective.gradient(start)
        for other in starts[1:]:
            if not self._hopeless(gradient):
                there = objective.gradient(other)
                if np.linalg.norm(there) < np.linalg.norm(gradient):
                    start, gradient, diagonal = other, there, None
        solution = newton_cg(
            objective, start, stop, precondition=self._preconditioner(objective, start, situation, kind, diagonal),
            max_steps=self.settings.max_steps, max_products=self.settings.max_products, gradient=gradient,
        )  # fmt: skip
        safeguarded = safeguard and not solution.met and tolerance_release.bounded(network)
        if safeguarded:
            # softmax on rows of norm at most one: the data term is 1/2-smooth
            solution = accelerated_gradient(objective, solution.x, stop, 0.5 + training.l2, training.l2)
        return _Search(objective, solution, stop, safeguarded)

    def _hopeless(self, gradient: Vector) -> bool:
        """Return whether the public start is not worth an all-reduce, given the gradient at the last release.

        Public records say what gradient to expect at the public start; where the release's is at most half of it,
        the release is taken. A function of release, retained data and public knowledge, as T5.3 asks.
        """
        return self._public_start is not None and float(np.linalg.norm(gradient)) <= 0.5 * self._public_start

    def _preconditioner(
        self, objective: NetworkObjective, at: Vector, situation: Situation, kind: Curvature, diagonal: Vector | None
    ) -> Preconditioner:
        model, public = objective.network.session.model, situation.public
        at_release = self.settings.curvature_at == "release" and kind in ("auto", "public")
        if at_release and public is not None and model.dim <= FULL_LIMIT:
            point = at if situation.previous_release is None else situation.previous_release.astype(np.float64)
            built = public_curvature(model, public, objective.l2, point)
            return choose("public", objective, at, public, built, diagonal)
        return choose(kind, objective, at, public, self._public, diagonal)

    def _outcome(
        self, network: Network, situation: Situation, search: _Search, request: DeletionRequest | None,
        start: str, *, fell_back: bool,
    ) -> Outcome:  # fmt: skip
        solution = search.solution
        if not solution.met:
            reason = (
                f"none: the tolerance was not reached (gradient bound {solution.bound:.3g} > tau {search.stop.tau:.3g})"
            )
            return Outcome(certificate_reason=reason, fell_back_to_retraining=fell_back, details=search.details())
        released, certificate, reason = tolerance_release.release(
            network, situation, solution, self._calibration(situation), request, method="newton", start=start
        )
        return Outcome(
            noise_free=solution.x, release=released, certificate=certificate, certificate_reason=reason,
            fell_back_to_retraining=fell_back, details=search.details(),
        )  # fmt: skip


def _public_norm(model: Model, public: PublicKnowledge, l2: float, start: NDArray[np.float32]) -> float:
    """Return the gradient norm of the public mean loss, L2 term included, at the public start."""
    theta = torch.from_numpy(start.astype(np.float64))
    x, y = model.prepare(public.inputs).to(torch.float64), torch.from_numpy(public.labels)
    with one_thread():
        return float((gradient_sum(model, theta, x, y) / len(y) + l2 * theta).norm())


METHOD = MethodInfo(
    name="newton",
    summary="re-optimise on the retained data to a public tolerance (Newton-CG), release one noised vector",
    levels=("sample", "class", "client"),
    settings=NewtonSettings,
    implementation=Newton,
    needs="provable and paper mode: a convex model and training.l2 > 0 for a valid certificate",
    certifies=(
        "retrain-equivalence of releases and stored state (provable mode); of one node's model alone, and what the "
        "message adds (paper mode); nothing (one-step mode)"
    ),
    enforces="the retained gradient norm in float64, strong convexity by training.l2, rows of norm one, a single draw",
    under_faults="",
)
