"""The network's objective, evaluated by canonical all-reduces in float64.

``F(x) = sum_i w_i mean_{z in S_i} l(x; z) + (lambda/2) ||x||^2`` over the present vertices and their retained samples,
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
_SEARCH_PROGRAMS = "fedunlearn.network.search_programs"
_STEERED = 1e-7
"""Smallest lambda for which products in float32 steer: below it their rounding errors would outweigh lambda."""
Vector = NDArray[np.float64]


@dataclass
class NetworkObjective:
    """Gradient and Hessian-vector products of a population's objective; every call is one tree all-reduce.

    With ``steering`` the products only steer a search, whose stopping rule looks at gradients: on a softmax head they
    are then taken in float32, from the probabilities that the gradient at the same point left on the hosts.
    """

    network: Network
    weighting: str
    l2: float
    steering: bool = False
    gradients: int = field(default=0, init=False)
    hvps: int = field(default=0, init=False)
    all_reduces: int = field(default=0, init=False)

    @property
    def _kept(self) -> dict[str, object] | None:
        """What the programs of a search are told beside the rest; None where the model has none."""
        session = self.network.session
        plain = session.model.convex and self.network.dim == session.model.num_classes * session.model.input_shape[0]
        plain = plain and session.features.kind != "raw" and session.device == "cpu"
        usable = self.steering and plain and self.l2 >= _STEERED
        return {"room": f"probabilities.{self.network.name}"} if usable else None

    def _weights(self) -> dict[str, object]:
        net = self.network
        filled = int((net.counts[net.present] > 0).sum())  # a vertex without samples has no data term
        return {"weighting": self.weighting, "clients": filled, "total": net.total_samples}

    def _charge(self, kind: str, items: int | None = None) -> None:
        """Count one evaluation on every vertex and one all-reduce of ``items`` float64 numbers (by default d)."""
        self.all_reduces += 1
        self.network.clock.compute(float(self.network.counts[self.network.present].max()))
        self.network.charge_all_reduce(kind, items=items)

    def gradient(self, x: Vector) -> Vector:
        """Return ``grad F(x)``, (d,) float64."""
        return self._gradient(x, "gradient", 1, {})

    def gradient_and_diagonal(self, x: Vector) -> tuple[Vector, Vector]:
        """Return ``grad F(x)`` and the diagonal of ``Hess F(x)``, (d,) each.

        One all-reduce of 2d numbers where the programs of a search can be used, else two all-reduces.
        """
        if self._kept is None:
            return self.gradient(x), self.fisher_diagonal(x, "true")
        both = self._gradient(x, "gradient and diagonal", 2, {"diagonal": True})
        return both[: len(x)], both[len(x) :] + self.l2

    def _gradient(self, x: Vector, kind: str, copies: int, more: dict[str, object]) -> Vector:
        self.gradients += 1
        self.network.work["gradients"] += 1
        kept = self._kept
        program = f"{_PROGRAMS}:gradient" if kept is None else f"{_SEARCH_PROGRAMS}:gradient"
        params = {"at": "at", **self._weights(), **(kept or {}), **more}
        total = self.network.sum(program, params, {"at": x}, size=copies * len(x))
        self._charge(kind, items=copies * len(x))
        total[: len(x)] += self.l2 * x
        return total

    def hvp(self, x: Vector, v: Vector) -> Vector:
        """Return ``Hess F(x) v``, (d,) float64."""
        self.hvps += 1
        self.network.work["hvps"] += 1
        kept = self._kept
        program = f"{_PROGRAMS}:hessian_vector" if kept is None else f"{_SEARCH_PROGRAMS}:hessian_vector"
        params = {"at": "at", "direction": "direction", **self._weights(), **(kept or {})}
        total = self.network.sum(program, params, {"at": x, "direction": v})
        self._charge("hessian-vector product")
        return total + self.l2 * v

    def fisher_diagonal(self, x: Vector, kind: str) -> Vector:
        """Return the diagonal of the Fisher matrix of the retained data plus ``lambda``, (d,) float64."""
        params = {"at": "at", "kind": kind, **self._weights()}
        total = self.network.sum(f"{_PROGRAMS}:fisher_diagonal", params, {"at": x})
        self._charge("fisher diagonal")
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
        self._charge("fisher matrix", items=size)
        return total
