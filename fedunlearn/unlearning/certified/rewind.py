"""Rewinding: go back to a model from before much of the deleted data's influence, and train on without them.

After Mu and Klabjan, "Rewind-to-Delete" (NeurIPS 2025, arXiv 2409.09778), on one node or on many. Training follows a
public schedule over sample ids and keeps checkpoints of all rows; a request puts the rows back to one of them and
replays the rounds since then on the retained data, where deleted ids leave holes in the batches. The mean of the rows
is released with noise of a scale fixed beforehand, by training and by unlearning alike.

How far that mean may be from the one of retraining follows from the recipe and from *which ids* were deleted, never
from their content (docs/certificates.md 4f). For a strongly convex loss the distance shrinks with every replayed step
and a useful claim is within reach. For other losses the bound holds and is far too large for any useful noise: the
certificate then says that it is vacuous.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedunlearn.data import Role
from fedunlearn.errors import UserError
from fedunlearn.network import Network, TrainingSettings, train
from fedunlearn.network.local_steps import steps_in_float64
from fedunlearn.network.training import Watcher
from fedunlearn.privacy import Certificate, mu_of
from fedunlearn.privacy.accounting.replay import Descent, average_distance, runs
from fedunlearn.privacy.claims.rewind import certify, obtained
from fedunlearn.privacy.claims.rewind_facts import ROUNDING, RewindFacts
from fedunlearn.requests import DeletionRequest
from fedunlearn.settings import Settings
from fedunlearn.unlearning.base import Outcome, Plan, Situation, Unlearner
from fedunlearn.unlearning.certified import rewind_game
from fedunlearn.unlearning.certified.proximal import walk_back
from fedunlearn.unlearning.certified.release import hashes_of, issue, release
from fedunlearn.unlearning.certified.rewind_recipe import (
    Constants,
    all_ids,
    check_recipe,
    constants_of,
    deleted_shares,
    rates_of,
    roundings_of,
    steps_a_round,
    steps_of,
    takes_equal_steps,
)
from fedunlearn.unlearning.games import Game
from fedunlearn.unlearning.registry import MethodInfo


class RewindSettings(Settings):
    """How far to rewind, and how much noise to release with."""

    sigma: float = Field(default=0.05, gt=0, description="noise on every parameter of a release, fixed before training")
    rewind: float | None = Field(
        default=None, ge=0, le=1,
        description="share of the rounds to rewind, whatever epsilon comes out; by default as little as the claim "
        "allows, among the checkpoints",
    )  # fmt: skip
    checkpoints: int = Field(default=10, ge=1, description="without `rewind`: how many to keep, evenly spaced")
    start: Literal["checkpoint", "walked-back"] = Field(
        default="checkpoint",
        description="walked-back: keep no checkpoint, undo the last `rewind` of training when it ends",
    )
    offset: float = Field(
        default=1e-3, gt=0, description="walked-back: how far from training's own rows the result may be to be used"
    )


class Rewind(Unlearner):
    """Rewind-to-delete with a public schedule."""

    keeps = ("_known", "_residual", "_replayed_from")

    def __init__(self, settings: RewindSettings) -> None:
        self.settings = settings
        self._known: dict[str, NDArray[np.int64]] = {}
        """Population -> ids that were deleted before its checkpoints were trained."""
        self._residual: dict[str, float | None] = {}
        """Population -> largest remainder of the steps that were undone; None where the result was too far off."""
        self._replayed_from = 0

    # --- what is asked -----------------------------------------------------------------------------------------------

    def check(self, plan: Plan) -> None:
        """Refuse recipes that the theorem does not cover, and step sizes that break the condition of their loss."""
        check_recipe(plan)
        constants = constants_of(plan.model, plan.training, plan.feature_kind)
        training, total = plan.training, steps_of(plan.training)
        # The recursion refuses step sizes at which two runs of a convex loss may drift apart.
        self._descent(constants, training, np.zeros(total), plan.nodes)
        if self.settings.start == "walked-back":
            self._check_walk_back(plan, constants)

    def _check_walk_back(self, plan: Plan, constants: Constants) -> None:
        training, where = plan.training, "unlearning.start = 'walked-back'"
        if self.settings.rewind is None:
            raise UserError(f"{where} needs unlearning.rewind: training is undone before any request is known")
        if constants.smoothness is None:
            raise UserError(
                f"{where} is not defined without a Lipschitz constant of the gradients (allowed for model.name = "
                "'softmax' with model.features = 'unit' or 'frozen')"
            )
        if plan.network == "decentralized" or steps_a_round(training) != 1:
            raise UserError(
                f"{where} is not defined where rows differ or take several steps a round (allowed: one node or "
                "topology.mixing = 'exact-average', with one local step a round)"
            )
        if training.radius is not None:
            raise UserError(f"{where} is not defined with training.radius: a projection cannot be undone")
        largest = 1.0 / (constants.smoothness + training.l2)
        if training.lr * max(1.0, training.final_factor) >= largest:
            raise UserError(f"training.lr = {training.lr:g} is too large to undo a step (allowed: below {largest:g})")

    def copies_kept(self, rounds: int) -> int:
        """Return the number of checkpoints; the retrained twin keeps its own beside the network's."""
        return 2 * len(self._rounds_kept(rounds))

    # --- training ----------------------------------------------------------------------------------------------------

    def train(
        self, network: Network, situation: Situation, *, first: int = 0, every: int = 1, watch: Watcher | None = None
    ) -> None:
        """Run the recipe, keeping a copy of all rows at every checkpoint."""
        training, done = situation.training, first

        def look(round_: int, net: Network) -> None:
            if watch is not None and (round_ % every == 0 or round_ == training.rounds):
                watch(round_, net)

        for stop in (k for k in self._rounds_kept(training.rounds) if k >= first):
            train(network, training, first=done, last=stop, every=every, watch=look)
            network.checkpoint(_label(stop))
            done = stop
        if done < training.rounds:
            train(network, training, first=done, every=every, watch=look)
        self._known[network.name] = network.deleted.copy()

    @property
    def trains_by_recipe(self) -> bool:
        """Yes: copies are kept on the way, and nothing else is done to the rows."""
        return True

    def conclude(self, network: Network, situation: Situation) -> Outcome:
        """End the training: the mean of the rows with noise is released and becomes every row."""
        vector = network.mean(phase_cost=True)
        if self.settings.start == "walked-back" and situation.world == "main":
            self._walk_back(network, situation.training, vector)
        released = release(network, situation, vector, self.settings.sigma)
        return Outcome(noise_free=vector, release=released, certificate_reason="nothing was deleted yet")

    def _walk_back(self, network: Network, training: TrainingSettings, end: NDArray[np.float64]) -> None:
        """Put what undoing the last rounds gives in place of the checkpoint, if it is near enough; else drop it."""
        kept = self._rounds_kept(training.rounds)
        if not kept:  # all of it is replayed, from the public start
            return
        first = kept[0]
        found, residual = walk_back(network, training, end, first)
        network.rewind(_label(first))
        true = network.mean()
        rounded = np.where(np.isfinite(found), found, 0.0).astype(np.float32)
        # It is not the remainder that decides: training rounds, and undoing magnifies that as well.
        near = bool(np.linalg.norm(rounded - true) <= self.settings.offset)
        self._residual[network.name] = residual if near else None
        network.write(rounded)
        network.checkpoint(_label(first))

    # --- answering ---------------------------------------------------------------------------------------------------

    def unlearn(self, network: Network, request: DeletionRequest, situation: Situation) -> Outcome:
        """Rewind, replay on the retained data, release; where no checkpoint is good enough, retrain instead."""
        training, name = situation.training, network.name
        gone = np.setdiff1d(network.deleted, self._known[name])
        table = deleted_shares(network, training, gone)
        constants = constants_of(network.session.model, training, network.session.features.kind)
        descent = self._descent(
            constants, training, table.sum(0), network.num_alive, roundings_of(network, training),
            float(np.linalg.norm(situation.start.astype(np.float64))),
        )  # fmt: skip
        first = self._choose(descent, situation)
        if self.settings.start == "walked-back" and self._residual.get(name) is None:
            first = None
        self._replayed_from = first or 0
        if first:
            network.rewind(_label(first))
            train(network, training, first=first)
            walked = self.settings.start == "walked-back"
            start_rows, residual = ("walked-back", self._residual[name]) if walked else ("checkpoint", None)
        else:
            start_rows, residual, descent = "public", None, replace(descent, offset=0.0)
            situation.retrain(network)
        vector = network.mean(phase_cost=True)
        if not first and self.settings.start == "walked-back":
            self._walk_back(network, training, vector)
        rewound = steps_of(training) - (first or 0) * steps_a_round(training)
        facts = self._facts(network, request, situation, constants, descent, rewound, start_rows, residual, len(gone))
        released = release(network, situation, vector, self.settings.sigma)
        certificate, reason = _certificate(network, situation, facts)
        sensitivity = average_distance(descent, rewound)
        return Outcome(
            noise_free=vector, release=released, certificate=certificate, certificate_reason=reason,
            fell_back_to_retraining=first is None,
            details={
                "rewound_rounds": training.rounds - (first or 0), "rewound_steps": rewound,
                "sensitivity": sensitivity if math.isfinite(sensitivity) else None, "sigma": self.settings.sigma,
                "deleted_since_checkpoint": len(gone), "row": descent.row, "residual": residual,
            },
        )  # fmt: skip

    def junk_start(self, network: Network, situation: Situation) -> Callable[[], Outcome] | None:
        """Replay the same rounds from the public start: what the checkpoint was worth, for models not convex."""
        first = self._replayed_from
        if network.session.model.convex or first == 0:
            return None

        def attempt() -> Outcome:
            network.write(situation.start)
            train(network, situation.training, first=first)
            vector = network.mean(phase_cost=True)
            return Outcome(noise_free=vector, release=release(network, situation, vector, self.settings.sigma))

        return attempt

    def tight_game(self, network: Network, outcome: Outcome, situation: Situation) -> Game | None:
        """Return a pair of data sets on the same schedule, and a start, whose distance attains the bound."""
        if outcome.certificate is None or outcome.certificate.facts.get("rule") != "rewind":
            return None
        facts = RewindFacts.from_dict(outcome.certificate.facts)
        gone = np.setdiff1d(network.deleted, self._known[network.name])
        table = deleted_shares(network, situation.training, gone)
        return rewind_game.tight(network, facts, table, situation.training, situation.privacy.noise)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _rounds_kept(self, rounds: int) -> list[int]:
        """Return after which rounds a checkpoint is kept; the public start needs none."""
        if self.settings.rewind is not None:
            kept = {rounds - round(self.settings.rewind * rounds)}
        else:
            kept = {math.ceil(rounds * j / self.settings.checkpoints) for j in range(1, self.settings.checkpoints + 1)}
        return sorted(kept - {0})

    def _choose(self, descent: Descent, situation: Situation) -> int | None:
        """Return the round to rewind to: the fixed one, or the latest that the claim allows; 0: all, None: no other.

        A function of the settings and of the deleted ids alone.
        """
        training = situation.training
        if self.settings.rewind is not None:
            return training.rounds - round(self.settings.rewind * training.rounds)
        allowed = self.settings.sigma * mu_of(situation.privacy.epsilon, situation.privacy.delta)
        total, local = steps_of(training), steps_a_round(training)
        for stop in reversed(self._rounds_kept(training.rounds)):
            if average_distance(descent, total - stop * local) <= allowed:
                return stop
        return None

    def _descent(
        self, constants: Constants, training: TrainingSettings, shares: NDArray[np.float64], nodes: int,
        roundings: int = 0, start_norm: float = 0.0,
    ) -> Descent:  # fmt: skip
        offset = self.settings.offset if self.settings.start == "walked-back" else 0.0
        return Descent(
            constants.row, runs(rates_of(training)), runs(shares.tolist()), nodes, training.l2, constants.gradient,
            constants.smoothness, training.radius, offset, roundings * ROUNDING, start_norm,
        )  # fmt: skip

    def _facts(
        self, network: Network, request: DeletionRequest, situation: Situation, constants: Constants, descent: Descent,
        rewound: int, start_rows: str, residual: float | None, deleted: int,
    ) -> RewindFacts:  # fmt: skip
        training, features = situation.training, network.session.features
        model, dataset = network.session.model, network.session.dataset
        largest = max(len(dataset.train_rows(int(c))) for c in dataset.clients(Role.TRAIN))
        return RewindFacts(
            method="rewind",
            granularity=request.level,  # type: ignore[arg-type]
            row=descent.row,
            rates=descent.rates,
            shares=descent.shares,
            rewound=rewound,
            nodes=descent.nodes,
            l2=descent.l2,
            gradient_bound=constants.gradient,
            gradient_bound_by=constants.gradient_by,
            clip=training.clip,
            smoothness=constants.smoothness,
            radius=training.radius,
            softmax_loss=model.convex,
            features_bounded=features.kind != "raw",
            schedule_over_ids=training.schedule == "holes",
            fixed_divisor=training.schedule == "holes",
            plain_steps=training.momentum == 0 and not training.bfloat16,
            equal_steps=takes_equal_steps(training, largest),
            float64_steps=steps_in_float64(training, model),
            roundings=roundings_of(network, training),
            start_norm=descent.start_norm,
            mixing_kept=network.num_alive == network.num_nodes,
            all_deletions_counted=True,
            public_start=model.spec["checkpoint"] is None,
            noise_on_both_sides=True,
            start_rows=start_rows,  # type: ignore[arg-type]
            offset=descent.offset,
            residual=residual,
            deleted=deleted,
            total=len(all_ids(network)),
            dim=network.dim,
            extractor="public" if features.kind == "frozen" else "none",
            fresh_draw=True,
            sigma_drawn=self.settings.sigma,
        )


def _certificate(network: Network, situation: Situation, facts: RewindFacts) -> tuple[Certificate | None, str]:
    """Return the certificate for the claim that was asked for, or for what this noise gives, and why it is weak."""
    privacy, hashes = situation.privacy, hashes_of(network, situation)

    def claim() -> Certificate:
        sensitivity = average_distance(facts.descent(), facts.rewound)
        epsilon = obtained(sensitivity, facts.sigma_drawn, privacy.epsilon, privacy.delta)
        return certify(facts, epsilon, privacy.delta, noise=privacy.noise, hashes=hashes)

    return issue(claim)


def _label(round_: int) -> str:
    return f"round-{round_}"


METHOD = MethodInfo(
    name="rewind",
    summary="go back to a checkpoint and replay the rounds since then without the deleted data (R2D)",
    levels=("sample", "class", "client"),
    settings=RewindSettings,
    implementation=Rewind,
    needs="training.schedule = 'holes' without momentum; the same number of steps in every row; topology.repair = "
    "'relay' where clients leave; 'softmax' on rows of norm one, or training.clip",
    certifies="retrain-equivalence of releases; useful for strongly convex losses, vacuous for others",
    enforces="public schedule over ids, fixed divisors, step size within the loss' condition, gradient bound",
    networks=("centralized", "federated", "decentralized"),
    not_defined="its theorem covers plain decentralized gradient steps over a public schedule of ids",
    under_faults="its bound needs the same mixing matrix and every node in every round",
)
