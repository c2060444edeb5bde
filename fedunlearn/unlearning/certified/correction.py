"""The single Newton/Fisher correction of Wu et al. (arXiv 2601.06436), as derived in docs/methods.md."""

from __future__ import annotations

import numpy as np

from fedunlearn.network import Network
from fedunlearn.requests import DeletionRequest
from fedunlearn.unlearning.base import Situation
from fedunlearn.unlearning.curvature import Curvature, choose
from fedunlearn.unlearning.objective import NetworkObjective
from fedunlearn.unlearning.optimise import Vector, conjugate_gradients

_PROGRAMS = "fedunlearn.network.programs"


def gradient_from_forget_set(network: Network, request: DeletionRequest, weighting: str, l2: float) -> Vector:
    """Return ``grad F^{-U}(xbar)`` computed from the deleted samples alone, taking ``grad F(xbar) = 0`` for granted.

    Call it before the samples are erased. Equal client weights, deletion within clients:
    ``sum_u [m_u grad F_u - sum_{U_u} grad f] / (N (n_u - m_u))``; a whole client: ``-grad F_u / (N - 1)``; sample
    weights: ``-sum_U grad f / (n - m)``. Without the ``m grad F_u`` term the equal-weight correction is wrong unless
    clients are i.i.d. (docs/methods.md; the tests measure it).
    """
    x = network.mean(phase_cost=True)
    ids = [int(i) for i in request.sample_ids]
    params = {
        "at": "at", "ids": ids, "leaves": list(request.leaves), "weighting": weighting, "l2": l2,
        "clients": int((network.counts[network.alive] > 0).sum()), "total": network.total_samples, "removed": len(ids),
    }  # fmt: skip
    network.work["gradients"] += 1
    total = network.sum(f"{_PROGRAMS}:forget_gradient", params, {"at": x})
    network.clock.compute(float(network.counts[network.alive].max()))
    network.charge_all_reduce("gradient")
    return total


def correction(
    objective: NetworkObjective, gradient: Vector | None, curvature: Curvature, damping: float, situation: Situation
) -> Vector:
    """Return ``v = -Hhat^{-1} grad F^{-U}(xbar)`` for the retained objective.

    Parameters
    ----------
    gradient : (d,) the retained gradient at the mean model; computed by one all-reduce when None.
    curvature : ``auto`` solves with the exact Hessian by conjugate gradients to a relative residual of 1e-8; every
        other value applies that matrix' inverse once. Diagonal and empirical matrices can overshoot (docs/methods.md).
    """
    x = objective.network.mean(phase_cost=True)
    g = objective.gradient(x) if gradient is None else gradient
    if curvature != "auto":
        if damping == 0.0:
            return -choose(curvature, objective, x, situation.public, None)(g)
        damped = NetworkObjective(objective.network, objective.weighting, objective.l2 + damping)
        return -choose(curvature, damped, x, situation.public, None)(g)
    precondition = choose("fisher-diagonal", objective, x, situation.public, None)
    tolerance = 1e-8 * float(np.linalg.norm(g))
    step, _ = conjugate_gradients(
        lambda v: objective.hvp(x, v) + damping * v, -g, tolerance, 10 * objective.network.dim, precondition
    )
    return step
