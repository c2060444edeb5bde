"""The Gaussian profile by numerical integration of its definition: a second way to the number that decides.

Nothing here uses the closed form of :mod:`fedunlearn.privacy.gaussian`; agreement of the two is checked whenever the
closed form decides. All numbers are dimensionless.
"""

from __future__ import annotations

import math

import numpy as np

_PANELS = 16
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def delta_of(mu: float, epsilon: float) -> float:
    """Integrate ``max(0, p - exp(epsilon) q)``, p the density of N(mu, 1) and q that of N(0, 1), mu finite.

    The integrand is positive from ``epsilon/mu + mu/2`` on and is written there as ``p (1 - exp(-mu s))``, s the way
    gone since, so nothing cancels.
    """
    if mu == 0:
        return 0.0
    start = epsilon / mu - mu / 2  # where p overtakes, seen from the mean of p
    if start > 39:
        return 0.0
    width = max(0.0, -start) + (10.0 if start < 4 else 45.0 / start)
    first = max(0.0, -start - 10.0)  # p has less than 1e-23 of its mass before
    edges = np.linspace(first, width, _PANELS + 1)
    if first == 0 and mu * width > 1:  # 1 - exp(-mu s) rises within some 1/mu of the start
        rise = np.geomspace(1.0 / mu, width, max(2, math.ceil(math.log2(mu * width))), endpoint=False)
        edges = np.union1d(edges, rise)
    half = (edges[1:] - edges[:-1]) / 2
    way = (edges[:-1] + half)[:, None] + half[:, None] * _NODES
    values = np.exp(-((start + way) ** 2) / 2) * -np.expm1(-mu * way)
    return float((half[:, None] * _WEIGHTS * values).sum() / math.sqrt(2 * math.pi))


def epsilon_of(mu: float, delta: float) -> float:
    """Return the epsilon at which the integral passes ``delta``, by bisection to 1e-15 of the first bracket."""
    if delta_of(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(mu, high) > delta:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        if delta_of(mu, middle) <= delta:
            high = middle
        else:
            low = middle
    return high
