"""One Newton/Fisher correction, broadcast to every node's own model: the method of Wu et al. (arXiv 2601.06436).

*Paper mode*: the correction ``v`` and one noise vector are flooded as one message, every node adds it to its own model,
one recovery round on retained data follows. The certificate says what that is worth
(:mod:`fedunlearn.privacy.claims.correction`): training and retraining end at a public gradient norm tau and within a
public distance c of the mean, and the correction is accepted by the retained gradient it leaves (or its error is
bounded by worst-case constants); where it is not accepted the network retrains. With a clipping radius the message has
a certificate of its own (:mod:`fedunlearn.privacy.claims.message`) and is always sent: a network that retrains instead
shows that somebody asked.

*One-step mode*: the same correction without noise, and without a certificate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError, listed
from fedunlearn.network import Network
from fedunlearn.privacy.accounting.corrections import Budget, budget
from fedunlearn.requests import DeletionRequest
from fedunlearn.unlearning.base import Outcome, Plan, Situation, Unlearner
from fedunlearn.unlearning.certified import stopping_pair, tolerance_release
from fedunlearn.unlearning.certified.correction import OwnData, correction, gradient_from_forget_set
from fedunlearn.unlearning.certified.correction_release import (
    Answer,
    certificates,
    flood,
    noise_scale,
    radius_of,
    rounding_at,
)
from fedunlearn.unlearning.certified.ending import Ending, disagreement, end_training, settle
from fedunlearn.unlearning.certified.newton_settings import NewtonSettings
from fedunlearn.unlearning.games import Game, gaussian_game
from fedunlearn.unlearning.objective import NetworkObjective
from fedunlearn.unlearning.optimise import Vector

_OWN_CURVATURES = ("auto", "fisher-diagonal", "empirical-fisher-diagonal")


@dataclass
class _Seen:
    """What was noted of a request before its samples were erased."""

    counts: NDArray[np.int64]
    alive: NDArray[np.bool_]
    gradient: Vector | None = None
    correction: Vector | None = None
    unsolved: float | None = None


class SingleCorrection(Unlearner):
    """Adds one correction vector to every node's model."""

    keeps = ("_ended_at_tau",)
    rebuilds = ("_one_vector", "_releases", "_seen")  # a request is answered as a whole, or again from before it

    def __init__(self, settings: NewtonSettings) -> None:
        self.settings = settings
        self._seen: _Seen | None = None
        self._one_vector, self._releases = True, 1
        self._ended_at_tau = False

    def check(self, plan: Plan) -> None:
        """Refuse settings that contradict each other, or leave a convex model without a certificate."""
        s = self.settings
        if s.mode == "one-step":
            return
        if plan.model.convex and not plan.training.l2 > 0:
            raise UserError(
                f"training.l2 = {plan.training.l2} does not make the objective strongly convex (allowed for 'newton' "
                "in paper mode on a convex model: l2 > 0)"
            )
        if s.bound == "worst-case" and s.curvature in ("public", "none"):
            raise UserError(
                f"unlearning.curvature = '{s.curvature}' has no known error (allowed with bound = 'worst-case': 'auto' "
                "or a Fisher matrix)"
            )
        if s.curvature_data == "asking-client":
            self._check_asking_client(plan)
        self._one_vector = s.consensus == 0 or (s.consensus is None and plan.network != "decentralized")
        # One vector: a later answer starts from the noised one, so nothing accumulates (T5.3); else it does (T5.2).
        self._releases = 1 if self._one_vector else max(1, len(plan.requests))

    def _check_asking_client(self, plan: Plan) -> None:
        s = self.settings
        for name, value, allowed in (
            ("gradient", s.gradient, ("forget-set",)),
            ("bound", s.bound, ("worst-case",)),
            ("curvature", s.curvature, _OWN_CURVATURES),
        ):
            if value not in allowed:
                raise UserError(
                    f"unlearning.{name} = '{value}' needs other clients' data, which curvature_data = 'asking-client' "
                    f"does without (allowed: {listed(allowed)})"
                )
        for request in plan.requests:
            if request.level == "class":
                raise UserError(
                    f"{request.where}.level = 'class' concerns several clients (allowed with "
                    "curvature_data = 'asking-client': 'sample', 'client')"
                )

    # --- training ----------------------------------------------------------------------------------------------------

    def budget(self, situation: Situation) -> Budget | None:
        """Return tau, r_max and c of these settings; None where there is no L2 term."""
        s, privacy, lam = self.settings, situation.privacy, situation.training.l2
        if not lam > 0:
            return None
        return budget(
            privacy.epsilon, privacy.delta, lam, target_sigma=s.target_sigma, one_vector=self._one_vector,
            releases=self._releases, tau=s.tolerance, residual=s.residual, consensus=s.consensus,
        )  # fmt: skip

    def conclude(self, network: Network, situation: Situation) -> Outcome:
        """End training at tau and c, where the model is convex; nothing is released, nodes keep their own models."""
        if self.settings.mode == "one-step":
            return Outcome(certificate_reason="one-step corrections are not certified")
        if not network.session.model.convex:
            return Outcome(certificate_reason="the training of paper mode ends without a release")
        ending = self._end(network, situation)
        if situation.world == "main":
            self._ended_at_tau = ending.met
        return Outcome(
            noise_free=ending.own_model(network), certificate_reason="nothing was deleted yet",
            details=ending.details(),
        )  # fmt: skip

    def _end(self, network: Network, situation: Situation) -> Ending:
        public = self.budget(situation)
        assert public is not None, "check() refuses convex models without an L2 term"
        s = self.settings
        return end_training(network, situation, public.tau, public.consensus, s.max_steps, s.max_products)

    # --- a request ---------------------------------------------------------------------------------------------------

    def observe(self, network: Network, request: DeletionRequest, situation: Situation) -> None:
        """Note the counts; where the settings say so, read the deleted samples once, before they are erased."""
        s, training = self.settings, situation.training
        self._seen = _Seen(network.counts.copy(), network.alive.copy())
        if s.gradient != "forget-set":
            return
        alone = request.node if s.mode == "paper" and s.curvature_data == "asking-client" else None
        g = gradient_from_forget_set(network, request, training.weighting, training.l2, only=alone)
        if alone is None:
            self._seen.gradient = g
            return
        own = NetworkObjective(OwnData(network, alone), training.weighting, training.l2)  # type: ignore[arg-type]
        x = network.mean()
        v = correction(own, g, s.curvature, s.damping, situation, at=x)
        self._seen.correction, self._seen.unsolved = v, 0.0
        if s.curvature == "auto":
            self._seen.unsolved = float(np.linalg.norm(own.hvp(x, v) + s.damping * v + g))

    def unlearn(self, network: Network, request: DeletionRequest, situation: Situation) -> Outcome:
        """Broadcast the correction; the leaver has gone before anything is mixed again."""
        seen, self._seen = self._seen, None
        if self.settings.mode == "one-step":
            return self._one_step(network, None if seen is None else seen.gradient, situation)
        return self._paper(network, request, seen, situation)

    def _one_step(self, network: Network, gradient: Vector | None, situation: Situation) -> Outcome:
        objective = NetworkObjective(network, situation.training.weighting, situation.training.l2)
        vector = correction(objective, gradient, self.settings.curvature, self.settings.damping, situation)
        network.broadcast(vector.astype(np.float32), "correction", "add")
        return Outcome(
            certificate_reason=(
                "none: the error of a single Newton/Fisher correction is bounded by worst-case constants only, and "
                "nodes keep models that differ from each other"
            ),
            details={"correction_norm": float(np.linalg.norm(vector)), "hvps": objective.hvps},
        )

    def _paper(
        self, network: Network, request: DeletionRequest | None, seen: _Seen | None, situation: Situation
    ) -> Outcome:
        """Correct, noise, flood, recover; ``request`` is None for a start that no request has touched."""
        s, public, convex = self.settings, self.budget(situation), network.session.model.convex
        x, apart = settle(network, public.consensus, situation) if convex and public else disagreement(network)
        answer = Answer(x, np.zeros(network.dim), apart, **self._counts(network, seen, situation))
        radius = radius_of(network, request, answer, s, situation, public)
        answer = self._correct(network, answer, seen, situation, public, radius)
        fell_back = convex and not answer.accepted and radius is None
        if fell_back:
            situation.retrain(network)
            ending = self._end(network, situation)
            if not ending.met:
                reason = "none: the correction was not accepted, and retraining did not reach tau and c"
                return Outcome(
                    certificate_reason=reason, fell_back_to_retraining=True, noise_free=ending.own_model(network),
                    details=ending.details(),
                )  # fmt: skip
            answer = answer.retrained(ending)
        facts, sigma = noise_scale(network, request, answer, s, situation, public, self._releases, radius)
        own = answer.x if self._one_vector else network.read(network.root).astype(np.float64)
        noise_free = own + answer.vector
        release = flood(network, answer, sigma, s, situation, self._one_vector)
        network.wipe()
        issued = certificates(network, facts, radius, sigma, situation, s)
        return Outcome(
            noise_free=noise_free if convex else None, release=release if issued.first is not None else None,
            certificate=issued.first, certificate_reason=issued.reason, further_certificates=issued.further,
            fell_back_to_retraining=fell_back, details={**answer.details(), "sigma": sigma},
        )  # fmt: skip

    def _counts(self, network: Network, seen: _Seen | None, situation: Situation) -> dict[str, Any]:
        """Return who lost how many records; public, and what the constants of the certificate are made of."""
        if seen is None:
            return {}
        before, after = seen.counts, np.where(network.alive, network.counts, 0)
        lost = np.flatnonzero(before > after)
        return {
            "forgotten": tuple((int(before[i] - after[i]), int(before[i])) for i in lost),
            "clients": int((before[seen.alive] > 0).sum()),
            "total": int(before[seen.alive].sum()),
            "leavers": int((seen.alive & ~network.alive).sum()),
            "first": situation.release == 1 and self._ended_at_tau,
        }

    def _correct(
        self, network: Network, answer: Answer, seen: _Seen | None, situation: Situation, public: Budget | None,
        radius: float | None,
    ) -> Answer:  # fmt: skip
        """Return the answer with its correction, clipped to ``radius``, and whether its public rule accepts it."""
        s, training, x = self.settings, situation.training, answer.x
        objective = NetworkObjective(network, training.weighting, training.l2)

        def clipped(v: Vector) -> Vector:
            norm = float(np.linalg.norm(v))
            return v if radius is None or norm <= radius else v * (radius / norm)

        if seen is not None and seen.correction is not None:  # by the asking client; nothing more can be measured
            norm = float(np.linalg.norm(seen.correction))
            rounding = rounding_at(network, x, training.l2)
            return replace(
                answer, vector=clipped(seen.correction), norm=norm, residual=seen.unsolved, rounding=rounding
            )  # fmt: skip
        forget = None if seen is None else seen.gradient
        measured = s.bound == "measured"
        g = forget if forget is not None else objective.gradient(x)
        before = None if forget is not None else float(np.linalg.norm(g))
        rule = tolerance_release.stopping_rule(network, training.l2, public.residual if public and measured else np.inf)
        vector = np.zeros(network.dim)
        for _ in range(s.corrections if measured else 1):
            v = correction(objective, g, s.curvature, s.damping, situation, at=x + vector)
            vector, norm = clipped(vector + v), float(np.linalg.norm(vector + v))
            left = objective.gradient(x + vector) if measured else objective.hvp(x, v) + g
            if rule.met(x + vector, left):
                break
            g = left
        return replace(
            answer, vector=vector, norm=norm, accepted=rule.met(x + vector, left), gradient_norm=before,
            residual=float(np.linalg.norm(left)), gradients=objective.gradients, hvps=objective.hvps,
            rounding=rounding_at(network, x + vector, training.l2),
        )  # fmt: skip

    # --- audit -------------------------------------------------------------------------------------------------------

    def junk_start(self, network: Network, situation: Situation) -> Callable[[], Outcome] | None:
        """Correct, noise and recover from the public start, where the model is not convex (T6)."""
        if self.settings.mode == "one-step" or network.session.model.convex:
            return None

        def attempt() -> Outcome:
            network.write(situation.start)
            return self._paper(network, None, None, situation)

        return attempt

    def tight_game(self, network: Network, outcome: Outcome, situation: Situation) -> Game | None:
        """Return the farthest pair that the public rules admit: gradients and disagreement along one unseen direction.

        With measured acceptance it attains the sensitivity. A worst-case bound on the Newton error is not attained by
        anything known, so where that error is more than a tenth of the sensitivity there is no tight instance.
        """
        certificate, public = outcome.certificate, self.budget(situation)
        if certificate is None or public is None or outcome.noise_free is None:
            return None
        measured = self.settings.bound == "measured"
        rules = tuple(
            tolerance_release.stopping_rule(network, situation.training.l2, tau)
            for tau in (public.residual if measured else public.tau, public.tau)
        )
        worlds = stopping_pair.pair(network, situation, outcome.noise_free, (rules[0], rules[1]), public.consensus)
        if worlds is None:
            return None
        unlearned, retrained = worlds
        if not measured:  # the unlearned end is only known to be near the minimiser: put it there
            middle = (unlearned + retrained) / 2
            unlearned = middle + public.consensus * stopping_pair.invisible_direction(network)
        game = gaussian_game(
            "both ends of the public rules", "tight", unlearned, retrained, certificate.sigma, certificate.sensitivity,
            situation.privacy.noise,
        )  # fmt: skip
        return game if game.ratio is not None and game.ratio >= 0.9 else None
