"""Model clipping: what noise leaves of a difference when every state is first pulled into a ball.

A step ``x <- m(x) + sigma Z`` whose noise-free part lies in a set of diameter ``r sigma`` whatever x was shrinks the
delta at a fixed epsilon by a factor: only the part of the mass that still tells the worlds apart takes part in the next
step. With ``theta_e(r) = Q(e/r - r/2) - exp(e) Q(e/r + r/2)``, Q the upper tail of a normal variable,

    d_{k+1} = d_k theta_{e_k}(r),   e_k = ln(1 + (exp(e) - 1)/d_k),   d_0 = 1

(docs/certificates.md, T-contraction; Koloskova et al. 2025, "Certified unlearning for neural networks"). Nothing is
asked of what happens between such steps, as long as it is the same in both worlds. The result is a claim about the one
pair (epsilon, delta), not a Gaussian profile. All numbers are dimensionless; r is 2R/sigma for a projection onto a ball
of radius R right before the noise, (2R + 2 eta C)/sigma for a clipped step in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian

MOST_STEPS = 100_000
"""Number of steps at which :func:`contraction_steps` gives up; r above 8 or so is of no use."""


def theta(epsilon: float, r: float) -> float:
    """Return the delta at ``epsilon`` of two Gaussians whose means are r standard deviations apart.

    Raises:
        UserError: if epsilon or r is negative.
    """
    return gaussian.delta_of(r, epsilon)


def contract(epsilon: float, delta: float, r: float) -> float:
    """Return the delta after one step, at the same epsilon, from an upper bound ``delta`` in [0, 1] before it.

    Raises:
        UserError: if a number is out of range.
    """
    if not 0 <= delta <= 1:
        raise UserError(f"delta = {delta} is not allowed: it must lie in [0, 1]")
    if delta == 0:
        return 0.0
    # ln(1 + (exp(e) - 1)/d), written so that neither a large epsilon nor a tiny delta overflows
    rest = epsilon - math.log(delta) + math.log1p((delta - 1) * math.exp(-epsilon))
    return delta * theta(max(rest, epsilon), r)


def contraction_delta(epsilon: float, r: float | Iterable[float], steps: int = 1, start_delta: float = 1.0) -> float:
    """Return the delta at ``epsilon`` after ``steps`` contracting steps.

    Args:
        epsilon: positive.
        r: diameter over noise of every step, or one number a step, gone through ``steps`` times.
        steps: how many times.
        start_delta: delta at ``epsilon`` of the two starts: 1 where nothing is known, ``theta(epsilon, 2 C_0/sigma_0)``
            for starts projected onto a ball of radius C_0 and noised with sigma_0.

    Raises:
        UserError: if a number is out of range.
    """
    _check(epsilon, steps)
    ratios = [float(r)] if isinstance(r, (int, float)) else [float(value) for value in r]
    delta = start_delta
    for _ in range(steps):
        for ratio in ratios:
            delta = contract(epsilon, delta, ratio)
    return delta


def contraction_steps(
    epsilon: float, delta: float, r: float, start_delta: float = 1.0, most: int = MOST_STEPS
) -> int | None:
    """Return the least number of steps that brings delta down to the one asked for; None if ``most`` do not suffice.

    At (1, 1e-5): 3 steps for r = 1, 6 for r = 2, 40 for r = 4, 602 for r = 6, 24,096 for r = 8.

    Raises:
        UserError: if a number is out of range.
    """
    _check(epsilon, most)
    if not 0 < delta < 1:
        raise UserError(f"delta = {delta} is not allowed: it must lie strictly between 0 and 1")
    reached = start_delta
    for step in range(most + 1):
        if reached <= delta:
            return step
        reached = contract(epsilon, reached, r)
    return None


def _check(epsilon: float, steps: int) -> None:
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise UserError(f"epsilon = {epsilon} is not allowed: it must be a positive finite number")
    if steps < 0:
        raise UserError(f"steps = {steps} is not allowed: it must not be negative")
