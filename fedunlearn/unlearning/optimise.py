"""Newton's method with preconditioned conjugate gradients, until the gradient norm meets a public tolerance.

The tolerance certificate (docs/certificates.md T1) asks only *that* the stopping rule is met, not how; so the direction
may be inexact, the preconditioner anything symmetric positive definite, and the line search looks at the gradient norm
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Preconditioner = Callable[[Vector], Vector]


class Objective(Protocol):
    """A strongly convex function known through its derivatives."""

    def gradient(self, x: Vector) -> Vector:
        """Return the gradient at x."""
        ...

    def hvp(self, x: Vector, v: Vector) -> Vector:
        """Return the Hessian at x times v."""
        ...


@dataclass(frozen=True)
class Stop:
    """The public rule ``(1 + gamma) ||grad|| + e64(x) <= tau`` (docs/certificates.md T3), fixed before the data."""

    tau: float
    rounding: Callable[[Vector], float] = lambda x: 0.0

    def bound(self, x: Vector, gradient: Vector) -> float:
        """Return the certified upper bound on the true gradient norm at x."""
        k = gradient.size + 2
        gamma = k * 2.0**-53 / (1 - k * 2.0**-53)
        return (1 + gamma) * float(np.linalg.norm(gradient)) + self.rounding(x)

    def met(self, x: Vector, gradient: Vector) -> bool:
        """Return whether the rule holds; a NaN never does."""
        return bool(self.bound(x, gradient) <= self.tau)


@dataclass(frozen=True)
class Solution:
    """Where the iteration ended: the point, its gradient, the certified norm bound and whether the rule holds there."""

    x: Vector
    gradient: Vector
    bound: float
    met: bool
    steps: int


def deflated(base: Preconditioner, pairs: list[tuple[Vector, Vector]]) -> Preconditioner:
    """Return a preconditioner that is exact on the span of former search directions and ``base`` on the rest.

    ``pairs`` are ``(p, A p)`` of a solve with nearly the same matrix A. With S spanning the p and ``S^T A S = I``,
    ``P r = (I - S (AS)^T) base((I - AS S^T) r) + S S^T r`` is symmetric positive definite whenever ``base`` is
    (limited-memory preconditioner: Gratton, Sartenaer, Tshimanga 2011, SIAM J. Optim. 21(3), definition 2.1). A Newton
    step thus profits from the products that the step before it paid for.
    """
    pairs = [
        (p, product) for p, product in pairs if p @ product > 0.0
    ]  # the last of a search that broke off may not be
    if not pairs:
        return base
    directions, products = (np.stack(part, axis=1) for part in zip(*pairs))
    length = np.sqrt(np.einsum("ij,ij->j", directions, products))  # later directions are shorter by orders of magnitude
    directions, products = directions / length, products / length
    gram = directions.T @ products
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    kept = values > 1e-6 * values[-1]
    basis = vectors[:, kept] / np.sqrt(values[kept])
    s, image = directions @ basis, products @ basis

    def apply(r: Vector) -> Vector:
        inside = s.T @ r
        z = base(r - image @ inside)
        return z - s @ (image.T @ z) + s @ inside

    return apply


def conjugate_gradients(
    apply: Callable[[Vector], Vector], b: Vector, tolerance: float, limit: int, precondition: Preconditioner
) -> tuple[Vector, list[tuple[Vector, Vector]]]:
    """Solve ``A x = b`` until ``||A x - b|| <= tolerance``; returns x and the pairs ``(p, A p)`` of the search."""
    pairs: list[tuple[Vector, Vector]] = []
    x = np.zeros_like(b)
    r = b.copy()
    z = precondition(r)
    p = z.copy()
    rz = float(r @ z)
    for _ in range(limit):
        if float(np.linalg.norm(r)) <= tolerance:
            break
        product = apply(p)
        pairs.append((p, product))
        curvature = float(p @ product)
        if not curvature > 0.0:  # rounding level, or a NaN: the direction found so far is the answer
            break
        alpha = rz / curvature
        x = x + alpha * p
        r = r - alpha * product
        z = precondition(r)
        rz_new = float(r @ z)
        p = z + (rz_new / rz) * p
        rz = rz_new
    return x, pairs


def newton_cg(
    objective: Objective, start: Vector, stop: Stop, *, precondition: Preconditioner = lambda v: v,
    max_steps: int = 50, max_products: int = 2000, gradient: Vector | None = None,
) -> Solution:  # fmt: skip
    """Take inexact Newton steps from ``start`` until the stopping rule holds or a limit is reached.

    The inner tolerance is ``max(min(0.2, ||g||^(1/2)) ||g||, 0.7 tau)``: superlinear far from the goal, and no more
    products than the goal needs at the end. A step is halved until the gradient norm falls. The search directions of
    one step precondition the next (:func:`deflated`).
    """
    x = start.astype(np.float64, copy=True)
    g = objective.gradient(x) if gradient is None else gradient
    used = 0
    pairs: list[tuple[Vector, Vector]] = []
    for step in range(max_steps + 1):
        if stop.met(x, g):
            return Solution(x, g, stop.bound(x, g), True, step)
        norm = float(np.linalg.norm(g))
        if step == max_steps or used >= max_products or not np.isfinite(norm):
            break
        inner = max(min(0.2, norm**0.5) * norm, 0.7 * stop.tau)
        hessian = partial(objective.hvp, x)
        p, pairs = conjugate_gradients(hessian, -g, inner, max_products - used, deflated(precondition, pairs))
        used += len(pairs)
        length = 1.0
        while True:
            candidate = x + length * p
            trial = objective.gradient(candidate)
            if float(np.linalg.norm(trial)) <= (1 - 1e-4 * length) * norm or stop.met(candidate, trial):
                x, g = candidate, trial
                break
            length /= 2
            if length < 1e-6:
                return Solution(x, g, stop.bound(x, g), False, step)
    return Solution(x, g, stop.bound(x, g), False, step)


def accelerated_gradient(objective: Objective, start: Vector, stop: Stop, smoothness: float, strong: float) -> Solution:
    """Nesterov's method for ``strong``-convex, ``smoothness``-smooth functions, with its proved number of steps.

    The safeguard behind Newton-CG: ``F(x_k) - F* <= (1 - q)^k (F(x_0) - F* + (strong/2) ||x_0 - x*||^2)`` with
    ``q = sqrt(strong/smoothness)`` (Nesterov 2018, theorem 2.2.3), ``||grad||^2 <= 2 smoothness (F - F*)`` and
    ``F(x_0) - F* <= ||grad(x_0)||^2 / (2 strong)`` give ``k <= ln(2 smoothness ||g_0||^2 / (strong tau^2)) / q``, so
    the rule is met whatever the data are. Half of tau is left to rounding. On the way the rule is tried where the
    gradient is known anyway, at the extrapolated points y_k; the theorem is about x_k, which has the last word.
    """
    q = float(np.sqrt(strong / smoothness))
    momentum = (1 - q) / (1 + q)
    x = y = start.astype(np.float64, copy=True)
    g = objective.gradient(x)
    first = float(np.linalg.norm(g))
    limit = max(1, int(np.ceil(np.log(max(2.0, 8 * smoothness * first**2 / (strong * stop.tau**2))) / q)))
    for step in range(limit + 1):
        if stop.met(y, g):
            return Solution(y, g, stop.bound(y, g), True, step)
        following = y - g / smoothness
        y = following + momentum * (following - x)
        x = following
        g = objective.gradient(y)
    g = objective.gradient(x)
    return Solution(x, g, stop.bound(x, g), stop.met(x, g), limit + 1)
