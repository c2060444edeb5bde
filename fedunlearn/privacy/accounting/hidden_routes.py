"""A walk whose route nobody knows: the expectation of delta over routes, bounded from above.

A hop is a visit of the noisy node with probability p, independent of everything else. Given the route, the last token
has the privacy number ``mu(route) = min over visits t of B_t/sqrt(V_t)`` (docs/certificates.md, T8); over routes its
law is a mixture, and delta at a fixed epsilon is convex, so ``E[delta_mu(route)(epsilon)]`` is a valid delta. It is a
claim about one pair (epsilon, delta), not a Gaussian profile.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian
from fedunlearn.privacy.accounting.invert import smallest
from fedunlearn.privacy.accounting.transcripts import visit_quantile
from fedunlearn.privacy.certificate import NoCertificate


def hidden_route_delta(
    epsilon: float,
    hops: int,
    p: float,
    clip: float,
    lr: float,
    noise: float,
    start_radius: float,
    *,
    local_steps: int = 1,
    points: int = 600,
) -> float:
    """Return an upper bound on ``E[delta_mu(epsilon)]`` over routes whose every hop is a visit with probability p (T8).

    Neither observers nor the claim know the route: the law of the token is a mixture over routes, and delta at a fixed
    epsilon is convex. The least of ``B_t/sqrt(V_t)`` stays above x exactly when at each visit t the count of visits is
    below ``(B_t/(x lr noise))^2``, a boundary that a recursion over (hop, count) respects; the law of the minimum on a
    grid of ``points`` values of x follows, and each value counts as the upper end of its interval. A route without a
    visit counts as delta = 1. An L2 term that shrinks the token only helps and is left out.

    Raises:
        UserError: if a number is out of range.
    """
    for name, value in {"clip": clip, "lr": lr, "noise": noise, "start_radius": start_radius}.items():
        if not (value >= 0 and math.isfinite(value)):
            raise UserError(f"{name} = {value} is not allowed: it must be a finite number that is not negative")
    if hops < 1 or not 0 <= p <= 1 or local_steps < 1 or points < 2:
        raise UserError(
            f"hops = {hops}, p = {p}, local_steps = {local_steps}, points = {points} are not allowed: "
            "at least 1, in [0, 1], at least 1, at least 2"
        )
    if start_radius == 0:
        return 0.0
    if noise == 0 or p == 0:
        return 1.0
    gaps = 2 * start_radius + 2 * lr * clip * local_steps * np.arange(1, hops + 1)
    lowest = float(np.min(gaps / np.sqrt(np.arange(1, hops + 1)))) / (lr * noise)
    highest = float(gaps[-1]) / (lr * noise)
    grid = np.geomspace(lowest * (1 - 1e-9), highest * (1 + 1e-9), points)
    above, left_out = _survival(hops, p, gaps / (lr * noise), grid)
    # the minimum lies in (grid[j-1], grid[j]] with probability above[j-1] - above[j]; beyond the grid: no visit at all
    masses = -np.diff(above)
    deltas = [gaussian.delta_of(float(mu), epsilon) for mu in grid[1:]]
    return min(1.0, float(masses @ np.asarray(deltas)) + float(above[-1]) + left_out)


def hidden_route_sigma(
    epsilon: float,
    delta: float,
    hops: int,
    p: float,
    clip: float,
    lr: float,
    start_radius: float,
    *,
    local_steps: int = 1,
) -> float:
    """Return the least ``noise`` at which a walk with a hidden route is (epsilon, delta)-close; 0 with a public start.

    Raises:
        NoCertificate: if the chance ``(1 - p)^hops`` of a route without a visit is not below delta.
        UserError: if a number is out of range.
    """
    unit = gaussian.mu_of(epsilon, delta)
    if start_radius == 0:
        return 0.0
    if (1 - p) ** hops >= delta:
        raise NoCertificate(
            f"{hops} hops pass by the noisy node with probability {(1 - p) ** hops:.3g}, not below delta = {delta:g}: "
            "a hidden route needs more hops"
        )

    def holds(noise: float) -> bool:
        reached = hidden_route_delta(epsilon, hops, p, clip, lr, noise, start_radius, local_steps=local_steps)
        return reached <= delta

    return smallest(holds, what="noise", start=2 * start_radius / (lr * unit), relative=1e-6)


def _survival(
    hops: int, p: float, gaps: NDArray[np.floating], grid: NDArray[np.floating]
) -> tuple[NDArray[np.floating], float]:
    """Return P(least of gap_t/sqrt(visits up to t) over visits t > x) for each x of ``grid``, and a mass left out.

    The mass left out belongs to routes with more visits than the recursion keeps.
    """
    most = max(1, visit_quantile(hops, p, 1e-16))
    roots = grid[:, None] * np.sqrt(np.arange(1, most + 1))
    alive = np.zeros((len(grid), most + 1))
    alive[:, 0] = 1.0
    for gap in gaps:
        visited = p * alive[:, :-1] * (roots < gap)
        alive *= 1 - p
        alive[:, 1:] += visited
    above = np.minimum.accumulate(alive.sum(axis=1))  # a law; rounding must not make it rise
    return above, max(0.0, 1.0 - float(above[0]))
