"""The two farthest points that a stopping rule admits: what an honest optimiser rarely meets, and an audit should."""

from __future__ import annotations

import numpy as np

from fedunlearn.network import Network
from fedunlearn.unlearning.base import Situation
from fedunlearn.unlearning.objective import NetworkObjective
from fedunlearn.unlearning.optimise import Stop, Vector, newton_cg

SLACK = 2e-3
"""Share of a rule that is left to the inexact minimiser and to rounding."""


def invisible_direction(network: Network) -> Vector:
    """Return the unit vector that raises all logits of a softmax head alike: no record sees it, its curvature is lambda
    (docs/certificates.md T1, remark on tightness)."""
    model = network.session.model
    inputs = int(np.prod(model.input_shape))
    q = np.zeros(model.dim)
    q[: model.num_classes * inputs] = 1.0
    return q / np.linalg.norm(q)


def minimiser(network: Network, situation: Situation, start: Vector, tau: float) -> tuple[NetworkObjective, Vector]:
    """Return the objective of a network's data and its minimiser, to a thousandth of ``tau``."""
    training = situation.training
    objective = NetworkObjective(network, training.weighting, training.l2)
    return objective, newton_cg(objective, start, Stop(1e-3 * tau)).x


def pair(
    network: Network, situation: Situation, start: Vector, rules: tuple[Stop, Stop], offset: float = 0.0
) -> tuple[Vector, Vector] | None:
    """Return two vectors on opposite sides of the minimiser that just meet the rules, each moved out by ``offset``.

    Both are tried by the real objective before the offset (a node's distance to the mean) is added; None where one of
    them misses its rule.
    """
    objective, centre = minimiser(network, situation, start, min(rule.tau for rule in rules))
    q, found = invisible_direction(network), []
    for sign, rule in zip((1.0, -1.0), rules):
        x = centre + sign * (1 - SLACK) * rule.tau / objective.l2 * q
        if not rule.met(x, objective.gradient(x)):
            return None
        found.append(x + sign * offset * q)
    return found[0], found[1]
