"""The single Newton/Fisher correction of Wu et al. (arXiv 2601.06436), as derived in docs/methods.md."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedunlearn.network import Network
from fedunlearn.network.block import Block
from fedunlearn.network.declared import node_program
from fedunlearn.requests import DeletionRequest
from fedunlearn.unlearning.base import Situation
from fedunlearn.unlearning.curvature import Curvature, choose
from fedunlearn.unlearning.objective import NetworkObjective
from fedunlearn.unlearning.optimise import Vector, conjugate_gradients

_PROGRAMS = "fedunlearn.network.programs"
SOLVE = 1e-8
"""Relative residual to which conjugate gradients solve for a correction."""


class OwnData:
    """A network of which only one vertex answers: sums over its own records, without a message."""

    def __init__(self, network: Network, node: int) -> None:
        self.session, self.dim, self.clock, self.work = network.session, network.dim, network.clock, network.work
        self.alive = self.present = np.arange(network.num_nodes) == node
        self.counts, self.total_samples = network.counts, int(network.counts[node])
        self._network, self._node = network, node

    def sum(self, program: str, params: dict[str, Any], vectors: dict[str, Vector], size: int | None = None) -> Vector:
        """Return what a program gives at the vertex."""
        return self._network.sum(program, params, vectors, only=[self._node], size=size)

    def charge_all_reduce(self, kind: str, item_bytes: int = 0, items: int | None = None) -> None:
        """Nothing is sent."""


@node_program("measure", vectors={"at": "d"}, reads_samples=False)
def deviation(block: Block, population: str, nodes: list[int], *, at: str) -> list[float]:
    """Return how far the row of each vertex is from the broadcast vector ``at``, in float64."""
    vector = block.vector(at)
    return [float((block.row(population, node).double() - vector).norm()) for node in nodes]


def gradient_from_forget_set(
    network: Network, request: DeletionRequest, weighting: str, l2: float, *, only: int | None = None
) -> Vector:
    """Return ``grad F^{-U}(xbar)`` computed from the deleted samples alone, taking ``grad F(xbar) = 0`` for granted.

    Call it before the samples are erased. Equal client weights, deletion within clients:
    ``sum_u [m_u grad F_u - sum_{U_u} grad f] / (N (n_u - m_u))``; a whole client: ``-grad F_u / (N - 1)``; sample
    weights: ``-sum_U grad f / (n - m)``. Without the ``m grad F_u`` term the equal-weight correction is wrong unless
    clients are i.i.d. (docs/methods.md; the tests measure it). With ``only``, the vertex that has all of these samples
    computes it alone, and sends nothing.
    """
    x = network.mean(phase_cost=True)
    ids = [int(i) for i in request.sample_ids]
    params = {
        "at": "at", "ids": ids, "leaves": list(request.leaves), "weighting": weighting, "l2": l2,
        "clients": int((network.counts[network.alive] > 0).sum()), "total": network.total_samples, "removed": len(ids),
    }  # fmt: skip
    network.work["gradients"] += 1
    total = network.sum(f"{_PROGRAMS}:forget_gradient", params, {"at": x}, only=None if only is None else [only])
    network.clock.compute(float(network.counts[network.alive].max()))
    if only is None:
        network.charge_all_reduce("gradient")
    return total


def correction(
    objective: NetworkObjective, gradient: Vector | None, curvature: Curvature, damping: float, situation: Situation,
    at: Vector | None = None,
) -> Vector:  # fmt: skip
    """Return ``v = -Hhat^{-1} grad F^{-U}(xbar)`` for the retained objective.

    Parameters
    ----------
    gradient : (d,) the retained gradient at the mean model; computed by one all-reduce when None.
    curvature : ``auto`` solves with the exact Hessian by conjugate gradients to a relative residual of 1e-8; every
        other value applies that matrix' inverse once. Diagonal and empirical matrices can overshoot (docs/methods.md).
    at : (d,) the mean model, where the caller has it.
    """
    x = objective.network.mean(phase_cost=True) if at is None else at
    g = objective.gradient(x) if gradient is None else gradient
    if curvature != "auto":
        if damping == 0.0:
            return -choose(curvature, objective, x, situation.public, None)(g)
        damped = NetworkObjective(objective.network, objective.weighting, objective.l2 + damping)
        return -choose(curvature, damped, x, situation.public, None)(g)
    precondition = choose("fisher-diagonal", objective, x, situation.public, None)
    tolerance = SOLVE * float(np.linalg.norm(g))
    step, _ = conjugate_gradients(
        lambda v: objective.hvp(x, v) + damping * v, -g, tolerance, 10 * objective.network.dim, precondition
    )
    return step
