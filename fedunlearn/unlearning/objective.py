"""The network's objective, evaluated by canonical all-reduces in float64.

``F(x) = sum_i w_i mean_{z in S_i} l(x; z) + (lambda/2) ||x||^2`` over the alive vertices and their retained samples,
with ``w_i = 1/N`` (equal) or ``n_i/n`` (samples): weights are functions of the retained counts
(docs/certificates.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedunlearn.network import Network
from fedunlearn.network.programs import block_positions

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

    def fisher(self, x: Vector, kind: str) -> NDArray[np.float64]:
        """Return the full Fisher matrix of the retained data plus ``lambda I``, (d, d) float64; for small d."""
        d = self.network.dim
        flat = self._matrix("fisher_matrix", {"kind": kind}, x, d * d)
        return flat.reshape(d, d) + self.l2 * np.eye(d)

    def fisher_blocks(self, x: Vector) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Return the diagonal blocks of the true Fisher matrix plus ``lambda I``: positions (b,) and block (b, b)."""
        places = block_positions(self.network.session.model)
        flat = self._matrix("fisher_block_matrices", {}, x, sum(len(p) ** 2 for p in places))
        blocks, first = [], 0
        for place in places:
            size = len(place)
            block = flat[first : first + size * size].reshape(size, size)
            blocks.append((place, block + self.l2 * np.eye(size)))
            first += size * size
        return blocks

    def _matrix(self, program: str, params: dict[str, object], x: Vector, size: int) -> Vector:
        total = self.network.sum(
            f"{_PROGRAMS}:{program}", {"at": "at", **params, **self._weights()}, {"at": x}, size=size
        )
        self._compute()
        self.network.charge_all_reduce("fisher matrix", items=size)
        return total
