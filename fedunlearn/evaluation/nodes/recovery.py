"""Recovery: how many rounds of ordinary training a network needs after an answer to be as good as the retrained one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedunlearn.evaluation.evaluator import Evaluator
from fedunlearn.network import Network, TrainingSettings, train

TOLERANCE = 0.005
"""A network has recovered when an accuracy is at most this much below that of the retrained network."""
SHOWN = 5
"""Rounds that are trained in any case, so that a curve can be seen."""


@dataclass(frozen=True)
class Recovery:
    """Test accuracy of the nodes' own models after 0, 1, 2, … further rounds: the mean node's and the worst node's.

    ``recovered_mean`` and ``recovered_worst`` are the first of these rounds in which the target is reached up to
    :data:`TOLERANCE`: 0 if the answer itself reaches it, None if no round did, which says no more than that.
    """

    mean: tuple[float, ...]
    worst: tuple[float, ...]
    target_mean: float
    target_worst: float

    @property
    def recovered_mean(self) -> int | None:
        """First round in which the mean over nodes reaches its target."""
        return first_reached(self.mean, self.target_mean)

    @property
    def recovered_worst(self) -> int | None:
        """First round in which the worst node reaches its target."""
        return first_reached(self.worst, self.target_worst)


def first_reached(values: tuple[float, ...], target: float) -> int | None:
    """Return the position of the first value that is at least ``target - TOLERANCE``, or None."""
    reached = np.flatnonzero(np.asarray(values) >= target - TOLERANCE - 1e-12)  # 0.895 + 0.005 is not quite 0.9
    return int(reached[0]) if len(reached) else None


def follow_recovery(
    network: Network, twin: Network, evaluator: Evaluator, training: TrainingSettings, rounds: int, *, first: int,
    tick: Callable[[int], None] = lambda done: None,
) -> Recovery:  # fmt: skip
    """Train a *copy* of the network by the recipe on what is left to it, until it is as good as the twin.

    The network stays as it is. The copy starts with zero momenta, and trains at the step size of the recipe's last
    rounds. It ends when both accuracies are recovered, but not before :data:`SHOWN` rounds.

    Args:
        network: after the answer; nothing deleted is read.
        twin: retrained; its nodes' accuracies are the targets.
        evaluator: its node test set must lie on the hosts (:meth:`Evaluator.put_node_test`).
        training: the recipe.
        rounds: at most so many further rounds.
        first: number of the first of them, at least ``training.rounds``: later epochs visit samples in other orders.
        tick: called with the number of finished rounds.

    Raises:
        UserError: if training diverges.
    """
    copy = Network(
        network.session, "recovery", network.graph, network.mixing, network.read(network.root),
        deleted=network.deleted, alive=network.alive, momentum=training.momentum > 0, seed=network.seed,
    )  # fmt: skip
    network.session.later("copy", {"source": network.name, "target": copy.name})
    target = _accuracies(evaluator, twin)
    found = Recovery((), (), *target)
    for done in range(rounds + 1):
        if done:
            train(copy, training, first=first + done - 1, last=first + done)
        mean, worst = _accuracies(evaluator, copy)
        found = Recovery((*found.mean, mean), (*found.worst, worst), *target)
        tick(done)
        if done >= SHOWN and found.recovered_mean is not None and found.recovered_worst is not None:
            break
    copy.drop()
    return found


def _accuracies(evaluator: Evaluator, network: Network) -> tuple[float, float]:
    values = evaluator.nodes(network)[:, 0]
    values = values[~np.isnan(values)]
    return float(values.mean()), float(values.min())
