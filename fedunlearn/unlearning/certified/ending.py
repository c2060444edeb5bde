"""How training ends where nodes keep their own models: near each other, and at a small gradient at their mean.

Both bounds are public, so a trained and a retrained network meet the same ones (docs/certificates.md T2, one node).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedunlearn.network import Network
from fedunlearn.unlearning.base import Situation
from fedunlearn.unlearning.certified import tolerance_release
from fedunlearn.unlearning.curvature import choose
from fedunlearn.unlearning.objective import NetworkObjective
from fedunlearn.unlearning.optimise import Solution, Stop, Vector, accelerated_gradient, newton_cg

_DEVIATION = "fedunlearn.unlearning.certified.correction:deviation"
_GOSSIP = 256
"""Mixing rounds after which the rows are averaged exactly instead."""


@dataclass(frozen=True)
class Ending:
    """Where training ended: the mean ``x`` (d,), its gradient (d,) and the bound on its norm with ``rounding``, the
    largest distance of a row to the mean, and whether both public bounds hold."""

    x: Vector
    gradient: Vector
    bound: float
    rounding: float
    apart: float
    met: bool
    one_vector: bool

    def own_model(self, network: Network) -> Vector:
        """Return the model of the root before any noise, (d,) float64; the mean where all nodes hold it."""
        return self.x if self.one_vector else network.read(network.root).astype(np.float64)

    def details(self) -> dict[str, float]:
        """Return the numbers of the ending."""
        return {"gradient_bound": self.bound, "disagreement": self.apart}


def disagreement(network: Network) -> tuple[Vector, float]:
    """Return the mean of the alive rows, (d,) float64, and the largest distance of a row to it."""
    x = network.mean(phase_cost=True)
    apart = network.measure(_DEVIATION, {"at": "at"}, {"at": x})[:, 0]
    network.charge_all_reduce("disagreement", items=1)
    return x, float(np.nanmax(apart))


def settle(network: Network, consensus: float, situation: Situation) -> tuple[Vector, float]:
    """Mix until every row is within half of ``consensus`` of the mean; returns the mean and the largest distance.

    Rows are averaged exactly where gossip does not get there in time, or where the bound is zero.
    """
    x, apart = disagreement(network)
    done, rounds = 0, 1
    while apart > consensus / 2 and done < _GOSSIP and consensus > 0.0 and network.num_alive > 1:
        network.mix(rounds, situation.training.rounds + done)
        done, rounds = done + rounds, min(2 * rounds, 32)
        x, apart = disagreement(network)
    if apart > consensus / 2:
        common = x.astype(np.float32)
        network.write(common)
        x, apart = common.astype(np.float64), 0.0
    return x, apart


def end_training(
    network: Network, situation: Situation, tau: float, consensus: float, max_steps: int, max_products: int
) -> Ending:
    """Bring rows together and their mean to the rule; every row is moved by the same vector, rounded to float32.

    With ``consensus = 0`` the vector that met the rule is kept in float64 and every row holds its rounding.
    """
    training = situation.training
    stop = tolerance_release.stopping_rule(network, training.l2, tau)
    objective = NetworkObjective(network, training.weighting, training.l2)
    one_vector = consensus == 0.0
    for _ in range(4):  # rows are float32: what the search found is rounded, and tried again
        x, apart = settle(network, consensus, situation)
        gradient = objective.gradient(x)
        if stop.met(x, gradient) and apart <= consensus:
            return Ending(x, gradient, stop.bound(x, gradient), stop.rounding(x), apart, True, one_vector)
        goal = stop if one_vector else Stop(tau / 2, stop.rounding)
        solution = _reach(network, objective, x, goal, gradient, situation, max_steps, max_products)
        if one_vector:
            network.broadcast(solution.x.astype(np.float32), "model")
            rounding = stop.rounding(solution.x)
            return Ending(solution.x, solution.gradient, solution.bound, rounding, 0.0, solution.met, one_vector)
        network.broadcast((solution.x - x).astype(np.float32), "model", "add")
    x, apart = disagreement(network)
    gradient = objective.gradient(x)
    met = stop.met(x, gradient) and apart <= consensus
    return Ending(x, gradient, stop.bound(x, gradient), stop.rounding(x), apart, met, one_vector)


def _reach(
    network: Network, objective: NetworkObjective, x: Vector, stop: Stop, gradient: Vector, situation: Situation,
    max_steps: int, max_products: int,
) -> Solution:  # fmt: skip
    """Search by Newton-CG, and where that fails by accelerated gradient, whose number of steps is proved."""
    solution = newton_cg(
        objective, x, stop, precondition=choose("auto", objective, x, situation.public, None), max_steps=max_steps,
        max_products=max_products, gradient=gradient,
    )  # fmt: skip
    if not solution.met and tolerance_release.bounded(network):
        l2 = situation.training.l2
        solution = accelerated_gradient(objective, solution.x, stop, 0.5 + l2, l2)
    return solution
