"""The worst case of rewinding: two data sets on the run's own schedule whose released means attain the bound.

All retained records are one row ``a`` of norm one with label k, all deleted ones the same row with label y, and the
public start puts so much weight on ``<w_k, a>`` that the softmax is saturated for the whole training. A retained record
then has no gradient and no curvature, a deleted one pushes by ``(e_k - e_y) a^T`` of norm sqrt(2) in every step, and
nothing but the L2 term pulls the two runs together again: every inequality of the recursion is an equality. Start,
records and labels are admissible, so that no smaller bound can hold for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from fedunlearn.network import Network, TrainingSettings
from fedunlearn.privacy import Noise
from fedunlearn.privacy.accounting.replay import average_distance
from fedunlearn.privacy.claims.rewind_facts import RewindFacts
from fedunlearn.topology import mixing_matrix, random_matching
from fedunlearn.unlearning.certified.rewind_recipe import steps_a_round
from fedunlearn.unlearning.games import Game, gaussian_game

_SATURATED = 60.0
"""Margin of the logits that is kept to the last step: the other classes' probability is below 1e-26."""
_LARGEST = 1e200

Vector = NDArray[np.float64]


def tight(
    network: Network, facts: RewindFacts, shares: Vector, training: TrainingSettings, noise: Noise
) -> Game | None:
    """Return the game, or None where the bound is not that of a convex softmax head, or is zero.

    ``shares`` (N, T): deleted ids over ids of the batch, of every node in every step.
    """
    sensitivity = average_distance(facts.descent(), facts.rewound)
    model, softmax_head = network.session.model, facts.softmax_loss and facts.features_bounded
    convex = facts.row in ("strongly-convex", "convex") and softmax_head
    inputs = model.input_shape[-1]
    if not convex or facts.radius is not None or sensitivity == 0 or model.dim != model.num_classes * inputs:
        return None
    rates = np.repeat([rate for _, rate in facts.rates], [count for count, _ in facts.rates])
    margin = _start(rates, shares, facts.l2)
    if margin is None:
        return None
    ends = worst_case(network, facts, rates, shares, margin, steps_a_round(training))
    row = np.zeros(inputs)
    row[[0, -1]] = math.sqrt(0.5)  # as a feature map gives it for a record along its first axis
    unlearned, retrained = ((end[:, None] * row).reshape(-1) for end in ends)
    return gaussian_game(
        "rewind, worst data sets", "tight", unlearned, retrained, facts.sigma_drawn, sensitivity, noise
    )


def worst_case(
    network: Network, facts: RewindFacts, rates: Vector, shares: Vector, margin: float, local: int
) -> tuple[Vector, Vector]:
    """Return where unlearning and retraining end, as logits of the one row, (K,) float64 each: the mean of all rows.

    Both runs start at logits ``(margin, 0, ..., 0)`` in every row; retained records have class 0, deleted ones class 1.
    """
    nodes, classes = len(shares), network.session.model.num_classes
    start = np.zeros((nodes, classes))
    start[:, 0] = margin
    runs = {"unlearned": start, "retrained": start.copy()}
    kept, gone = np.eye(classes)[0], np.eye(classes)[1]
    rewind_point, mixed = len(rates) - facts.rewound, _mixing(network)
    for t, rate in enumerate(rates):
        for name, rows in runs.items():
            if name == "unlearned" and t == rewind_point:
                rows = rows + facts.offset * (gone - kept) / math.sqrt(2.0)
            p = softmax(rows, axis=1)
            push = (1.0 - shares[:, t, None]) * (p - kept)
            if name == "unlearned" and t < rewind_point:
                push += shares[:, t, None] * (p - gone)
            rows = rows - rate * push - rate * facts.l2 * rows
            runs[name] = mixed(rows, t // local) if (t + 1) % local == 0 else rows
    return runs["unlearned"].mean(0), runs["retrained"].mean(0)


def _start(rates: Vector, shares: Vector, l2: float) -> float | None:
    """Return a margin that lasts: neither the L2 term nor the deleted records bring it below the saturated one."""
    pushes = 2.0 * float(rates @ shares.max(0))
    decay = float(np.sum(np.log(np.maximum(1.0 - rates * l2, 1e-300))))
    logarithm = math.log(_SATURATED + pushes) - decay
    return math.exp(logarithm) if logarithm < math.log(_LARGEST) else None


def _mixing(network: Network) -> Callable[[Vector, int], Vector]:
    """Return how the network's mixing changes rows (N, K) in a round."""
    if network.num_alive == 1:
        return lambda rows, round_: rows
    if network.mixing == "exact-average":
        return lambda rows, round_: np.tile(rows.mean(0), (len(rows), 1))
    if network.mixing == "random-matching":
        return lambda rows, r: random_matching(network.graph, network.seed, r, network.alive) @ rows
    weights = mixing_matrix(network.graph, network.mixing, network.alive)
    return lambda rows, round_: weights @ rows
