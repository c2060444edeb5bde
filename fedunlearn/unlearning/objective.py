"""The network's objective, evaluated by canonical all-reduces in float64.

``F(x) = sum_i w_i mean_{z in S_i} l(x; z) + (lambda/2) ||x||^2`` over the alive vertices and their retained samples, with
``w_i = 1/N`` (equal) or ``n_i/n`` (samples): weights are functions of the retained counts (provable.md, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedunlearn.network import Network

_PROGRAMS = "fedunlearn.network.programs"
Vector = NDArray[np.float64]


@dataclass
class NetworkObjective:
    """Gradient and Hessian-vector products of a population's objective; every call is one tree all-reduce."""

    network: Network
    weighting: str
    l2: float
    gradients: int = field(default=0, init=False)
    hvps: int = field(default=0, init=False)

    def _weights(self) -> dict[str, object]:
        net = self.network
        filled = int((net.counts[net.alive] > 0).sum())  # a vertex without samples has no data term
        return {"weighting": self.weighting, "clients": filled, "total": net.total_samples}

    def _compute(self) -> None:
        self.network.clock.compute(float(self.network.counts[self.network.alive].max()))

    def gradient(self, x: Vector) -> Vector:
        """Return ``grad F(x)``, (d,) float64."""
        self.gradients += 1
        self.network.work["gradients"] += 1
        total = self.network.sum(f"{_PROGRAMS}:gradient", {"at": "at", **self._weights()}, {"at": x})
        self._compute()
        self.network.charge_all_reduce("gradient")
        return total + self.l2 * x

    def hvp(self, x: Vector, v: Vector) -> Vector:
        """Return ``Hess F(x) v``, (d,) float64."""
        self.hvps += 1
        self.network.work["hvps"] += 1
        params = {"at": "at", "direction": "direction", **self._weights()}
        total = self.network.sum(f"{_PROGRAMS}:hessian_vector", params, {"at": x, "direction": v})
        self._compute()
        self.network.charge_all_reduce("hessian-vector product")
        return total + self.l2 * v

    def fisher_diagonal(self, x: Vector, kind: str) -> Vector:
        """Return the diagonal of the Fisher matrix of the retained data plus ``lambda``, (d,) float64."""
        params = {"at": "at", "kind": kind, **self._weights()}
        total = self.network.sum(f"{_PROGRAMS}:fisher_diagonal", params, {"at": x})
        self._compute()
        self.network.charge_all_reduce("fisher diagonal")
        return total + self.l2
