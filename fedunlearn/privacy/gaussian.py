"""The exact privacy profile of Gaussian noise, and its inverses.

A vector known up to an L2 distance ``sensitivity`` and published with noise N(0, sigma^2 I) has one privacy number,
``mu = sensitivity / sigma``: the two possible releases are as hard to tell apart as N(0, 1) and N(mu, 1). All
(epsilon, delta) pairs follow from it through the profile of Balle and Wang (2018, Theorem 8),

    delta(epsilon) = Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu),

which is an equality, not a bound. Epsilon, delta and mu are dimensionless; sigma has the unit of the sensitivity.
Everything here is scalar float64 arithmetic, accurate to about 1e-12 relative for mu and epsilon up to a thousand, down
to the smallest deltas that a float can hold. Inverses return the safe end of their bracket, so the delta recomputed
from an answer is never above the one asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, ndtr

from fedunlearn.errors import UserError

_SQRT2 = math.sqrt(2.0)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


def delta_of(mu: float, epsilon: float) -> float:
    """Return the smallest delta at which N(0, 1) and N(mu, 1) are (epsilon, delta)-close, both ways.

    The profile is the difference of two nearly equal numbers when mu is small. With ``u = epsilon/mu - mu/2``,
    ``v = epsilon/mu + mu/2``, phi the normal density and R(x) = Phi(-x)/phi(x) the Mills ratio, the identity
    ``exp(epsilon) phi(v) = phi(u)`` turns it into ``phi(u) (R(u) - R(v))``, evaluated without cancellation.

    Args:
        mu: sensitivity over sigma, in [0, infinity].
        epsilon: in [0, infinity).

    Raises:
        UserError: if mu is negative or epsilon is negative or not finite.
    """
    if not mu >= 0:
        raise UserError(f"mu = {mu} is not allowed: it must be a number that is not negative")
    if not (epsilon >= 0 and math.isfinite(epsilon)):
        raise UserError(f"epsilon = {epsilon} is not allowed: it must be a finite number that is not negative")
    if mu == 0:
        return 0.0
    if math.isinf(mu):
        return 1.0
    u = epsilon / mu - mu / 2
    v = epsilon / mu + mu / 2
    if u > 39:  # phi(39) is below the smallest positive float64
        return 0.0
    density = math.exp(-u * u / 2) / math.sqrt(2 * math.pi)
    if mu < 1:
        points = epsilon / mu + (mu / 2) * _NODES
        return density * (mu / 2) * float(_WEIGHTS @ _mills_slope(points))
    if u > -1:
        return density * (_mills(u) - _mills(v))
    return float(ndtr(-u)) - density * _mills(v)


def mu_of(epsilon: float, delta: float) -> float:
    """Return the largest mu whose profile passes at or below ``delta`` at ``epsilon``.

    Raises:
        UserError: if epsilon is not positive and finite, or delta is not strictly between 0 and 1.
    """
    _check_target(epsilon, delta)
    low, high = 1.0, 1.0
    while delta_of(high, epsilon) <= delta:
        low, high = high, 2 * high
    while delta_of(low, epsilon) > delta:
        low, high = low / 2, low
    while low < (middle := low + (high - low) / 2) < high:
        if delta_of(middle, epsilon) <= delta:
            low = middle
        else:
            high = middle
    return low


def epsilon_of(mu: float, delta: float) -> float:
    """Return the smallest epsilon at which noise with this mu is (epsilon, delta)-close; 0 if no epsilon is needed.

    Raises:
        UserError: if mu is negative, or delta is not strictly between 0 and 1.
    """
    _check_delta(delta)
    if delta_of(mu, 0.0) <= delta:
        return 0.0
    # delta(epsilon) <= Phi(-u), which is below delta from u = sqrt(2 ln(1/delta)) on.
    low, high = 0.0, mu * (mu / 2 + math.sqrt(-2 * math.log(delta)))
    if math.isinf(high):
        return math.inf
    while delta_of(mu, high) > delta:
        high *= 2
    while low < (middle := low + (high - low) / 2) < high:
        if delta_of(mu, middle) <= delta:
            high = middle
        else:
            low = middle
    return high


def sigma_for(sensitivity: float, epsilon: float, delta: float) -> float:
    """Return the smallest noise standard deviation that makes a release (epsilon, delta)-close.

    Args:
        sensitivity: largest L2 distance of the two noise-free vectors, positive.
        epsilon: positive.
        delta: strictly between 0 and 1.

    Raises:
        UserError: if an argument is out of range, or no finite sigma exists in float64.
    """
    _check_sensitivity(sensitivity)
    mu = mu_of(epsilon, delta)
    sigma = sensitivity / mu if mu > 0 else math.inf
    if not 0 < sigma < math.inf:
        raise UserError(
            f"sensitivity = {sensitivity}, epsilon = {epsilon}, delta = {delta} need a sigma out of float64's range"
        )
    while delta_of(sensitivity / sigma, epsilon) > delta:  # the division rounds; step to the safe side
        sigma = math.nextafter(sigma, math.inf)
    return sigma


def classic_sigma(sensitivity: float, epsilon: float, delta: float) -> float:
    """Return ``sensitivity sqrt(2 ln(1.25/delta)) / epsilon`` (Dwork and Roth 2014, Theorem A.1), for comparison only.

    Raises:
        UserError: if epsilon exceeds 1, where the formula can give less noise than is needed, or is out of range.
    """
    _check_sensitivity(sensitivity)
    _check_target(epsilon, delta)
    if epsilon > 1:
        raise UserError(
            f"epsilon = {epsilon} is not allowed in the classic formula: it is proved for epsilon up to 1 only, "
            "use the exact one (sigma_for)"
        )
    return sensitivity * math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def compose(mus: Iterable[float]) -> float:
    """Return the mu of several Gaussian releases seen together, ``sqrt(sum mu_i^2)``.

    Dong, Roth and Su (2022), "Gaussian differential privacy", on composition. Exact, also when each release is
    chosen after seeing the ones before it.

    Raises:
        UserError: if one of them is negative.
    """
    values = list(mus)
    for mu in values:
        if not mu >= 0:
            raise UserError(f"mu = {mu} is not allowed: it must be a number that is not negative")
    return math.hypot(*values)


def curve(
    mu: float, *, epsilons: Iterable[float] | None = None, deltas: Iterable[float] | None = None
) -> list[tuple[float, float]]:
    """Return (epsilon, delta) points of the profile at the given epsilons, or at the given deltas.

    Raises:
        UserError: if both or neither are given, or one of the values is out of range.
    """
    if (epsilons is None) == (deltas is None):
        raise UserError("a privacy curve needs either epsilons or deltas, not both and not neither")
    if epsilons is not None:
        return [(float(epsilon), delta_of(mu, float(epsilon))) for epsilon in epsilons]
    assert deltas is not None
    return [(epsilon_of(mu, float(delta)), float(delta)) for delta in deltas]


def _mills(x: float) -> float:
    """Return Phi(-x)/phi(x)."""
    return math.sqrt(math.pi / 2) * float(erfcx(x / _SQRT2))


def _mills_slope(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``-R'(x) = 1 - x R(x)`` elementwise, from its asymptotic series where the difference would cancel."""
    direct = 1 - x * (math.sqrt(math.pi / 2) * erfcx(x / _SQRT2))
    far = np.maximum(x, 25.0)
    square = far**-2.0
    series = np.zeros_like(far)
    for odd in (15, 13, 11, 9, 7, 5, 3):  # Horner form of 1 - 3/x^2 + 15/x^4 - 105/x^6 + ...
        series = 1 - odd * square * (series if odd < 15 else 1.0)
    return np.where(x > 25, square * series, direct)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise UserError(f"delta = {delta} is not allowed: it must lie strictly between 0 and 1")


def _check_target(epsilon: float, delta: float) -> None:
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise UserError(f"epsilon = {epsilon} is not allowed: it must be a positive finite number")
    _check_delta(delta)


def _check_sensitivity(sensitivity: float) -> None:
    if not (sensitivity > 0 and math.isfinite(sensitivity)):
        raise UserError(f"sensitivity = {sensitivity} is not allowed: it must be a positive finite number")
