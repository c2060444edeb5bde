"""Noise between steps: what two noisy iterations from different starts still tell an observer of the last state.

Two worlds run ``X_t = psi_t(X_{t-1}) + sigma_t Z_t``, from starts at most B_0 apart. A step may bring the worlds
farther apart by its drift: ``||psi_t(x) - psi'_t(y)|| <= rho_t ||x - y|| + s_t``, as a step of length eta along
gradients clipped to C does with ``s_t = 2 eta C``, whatever the loss. Moving one world onto the other in small shifts
that the noise hides gives, with ``B_t = rho_t B_{t-1} + s_t`` and ``V_t = rho_t^2 V_{t-1} + sigma_t^2``,

    mu = min over t <= T of B_t / sqrt(V_t)

when both worlds apply the same maps (docs/certificates.md, T7): the pair is as hard to tell apart as N(0, 1) and
N(mu, 1). The end of the run need not be the best time to be merged, and after the best one nothing is lost. The idea
of shifts is Feldman et al. (2018), "Privacy amplification by iteration"; the Gaussian profile takes the place of Renyi
divergences, and no condition on the order of drifts and noise is left. Distances and sigmas are in units of the
parameters; mu is dimensionless.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fedunlearn.errors import UserError


@dataclass(frozen=True)
class Coupling:
    """Where two worlds are best merged, and how they got there.

    Attributes:
        mu: privacy number of the last state, infinite where no noise stands against a gap.
        step: the t at which the worlds are merged; 0 means that they start together.
        gaps: B_0, ..., B_T, distances in units of the parameters.
        variances: V_0, ..., V_T, per parameter, in squared units.
    """

    mu: float
    step: int
    gaps: tuple[float, ...]
    variances: tuple[float, ...]


def shifted_coupling(
    start: float, drifts: Sequence[float], sigmas: Sequence[float], contractions: Sequence[float] | None = None
) -> Coupling:
    """Return the privacy number of T noisy steps along maps that both worlds share (T7).

    Args:
        start: B_0, largest distance of the two starts, not negative.
        drifts: s_1, ..., s_T, what a step may add to the distance, not negative.
        sigmas: sigma_1, ..., sigma_T, noise of each step; 0 at steps without noise.
        contractions: rho_1, ..., rho_T, not negative; by default all 1.

    Raises:
        UserError: if the lists differ in length or a number is out of range.
    """
    factors = _checked(start, drifts, sigmas, contractions)
    gap, variance = float(start), 0.0
    gaps, variances = [gap], [variance]
    best, step = _ratio(gap, variance), 0
    for t, (drift, sigma, factor) in enumerate(zip(drifts, sigmas, factors), start=1):
        gap, variance = factor * gap + drift, factor * factor * variance + sigma * sigma
        gaps.append(gap)
        variances.append(variance)
        if (mu := _ratio(gap, variance)) < best:
            best, step = mu, t
    return Coupling(best, step, tuple(gaps), tuple(variances))


def taut_string(
    start: float, drifts: Sequence[float], sigmas: Sequence[float], contractions: Sequence[float] | None = None
) -> float:
    """Return mu when the worlds are merged at the last step and not before, because their maps may differ until then.

    A step that reads the deleted data is another map in the other world, so worlds that were merged would part again.
    The accumulated shift A, a function of the accumulated variance V, must stay below the gap B and reach it at the
    end; ``sum (dA)^2/dV`` is least for the greatest convex function below the knots (V_t, B_t) from (0, 0) to
    (V_T, B_T): a string pulled taut (T7). With contractions all of it is measured in the units of step 0.

    Args:
        start, drifts, sigmas, contractions: as in :func:`shifted_coupling`; contractions must be positive.

    Returns:
        mu; infinite where the last gap opens after the last noise.

    Raises:
        UserError: if the lists differ in length or a number is out of range.
    """
    factors = _checked(start, drifts, sigmas, contractions)
    if not all(factor > 0 for factor in factors):
        raise UserError("a contraction of 0 is not allowed where maps differ: it must be positive")
    gap, variance, scale = float(start), 0.0, 1.0
    # gaps only grow in the units of step 0, so the lowest knot at a variance is the first one
    knots = [(0.0, gap)]
    for drift, sigma, factor in zip(drifts, sigmas, factors):
        scale *= factor
        gap, variance = gap + drift / scale, variance + (sigma / scale) ** 2
        if variance > knots[-1][0]:
            knots.append((variance, gap))
    if gap == 0:
        return 0.0
    if variance == 0 or gap > knots[-1][1]:
        return math.inf
    hull = [(0.0, 0.0)]
    for point in knots[1:]:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return math.sqrt(sum((b - a) ** 2 / (v - u) for (u, a), (v, b) in pairwise(hull)))


def renyi_of(mu: float, alpha: float) -> float:
    """Return ``alpha mu^2 / 2``, the Renyi divergence of order alpha of N(0, 1) and N(mu, 1) (Mironov 2017).

    Raises:
        UserError: if mu is negative or alpha is below 1.
    """
    if not (mu >= 0 and alpha >= 1):
        raise UserError(f"mu = {mu} at alpha = {alpha} is not allowed: mu must not be negative and alpha at least 1")
    return alpha * mu * mu / 2


def mu_without_decay(start: float, drift: float, sigma: float, steps: int) -> float:
    """Return ``(B_0 + s t) / (sigma sqrt t)``, the value at step t of equal steps with rho = 1 (T7)."""
    _steps(steps)
    return _ratio(start + drift * steps, sigma * sigma * steps)


def mu_with_decay(start: float, drift: float, sigma: float, steps: int, contraction: float) -> float:
    """Return the value at step t of equal steps with rho < 1 (T7).

    ``(B_0 q + S (1 - q)) sqrt(1 - rho^2) / (sigma sqrt(1 - q^2))`` with ``q = rho^t`` and ``S = s/(1 - rho)``.

    Raises:
        UserError: if the contraction is not in [0, 1).
    """
    _steps(steps)
    if not 0 <= contraction < 1:
        raise UserError(f"contraction = {contraction} is not allowed: it must lie in [0, 1)")
    q = contraction**steps
    gap = start * q + drift / (1 - contraction) * (1 - q)
    return _ratio(gap, sigma * sigma * (1 - q * q) / (1 - contraction * contraction))


def best_steps(start: float, drift: float) -> int:
    """Return the number of equal steps without decay that merges best: an integer beside ``B_0 / s``.

    From there on more steps do not improve the bound, whose square cannot fall below ``4 B_0 s / sigma^2``.

    Raises:
        UserError: if start or drift is not positive.
    """
    if not (start > 0 and drift > 0):
        raise UserError(f"start = {start}, drift = {drift} are not allowed: both must be positive")
    below = max(1, math.floor(start / drift))
    return min((below, below + 1), key=lambda t: mu_without_decay(start, drift, 1.0, t))


def _ratio(gap: float, variance: float) -> float:
    if gap == 0:
        return 0.0
    return gap / math.sqrt(variance) if variance > 0 else math.inf


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])


def _steps(steps: int) -> None:
    if steps < 1:
        raise UserError(f"steps = {steps} is not allowed: it must be at least 1")


def _checked(
    start: float, drifts: Sequence[float], sigmas: Sequence[float], contractions: Sequence[float] | None
) -> Sequence[float]:
    factors = [1.0] * len(drifts) if contractions is None else contractions
    if not len(drifts) == len(sigmas) == len(factors):
        raise UserError(
            f"{len(drifts)} drifts, {len(sigmas)} sigmas and {len(factors)} contractions do not describe the same steps"
        )
    for name, values in (("start", [start]), ("drift", drifts), ("sigma", sigmas), ("contraction", factors)):
        for value in values:
            if not (value >= 0 and math.isfinite(value)):
                raise UserError(f"{name} = {value} is not allowed: it must be a finite number that is not negative")
    return factors
