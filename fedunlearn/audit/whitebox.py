"""What the simulator can check without sampling error, because it knows the noise-free vectors and the noise (A4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedunlearn.privacy import epsilon_of

ROUNDING = 1e-9
"""Relative excess of a distance over its bound that float64 alone may cause."""
FALSE_ALARM = 0.05
"""Of all checks of the noise law together."""


def distance_holds(distance: float, sensitivity: float) -> bool:
    """Return whether the noise-free vectors are as close as the certificate says; False for NaN."""
    return bool(distance <= sensitivity * (1.0 + ROUNDING))


def pair_epsilon(distance: float, sigma: float, delta: float) -> float:
    """Return the exact epsilon of this very pair of vectors under Gaussian noise: what no attack can exceed."""
    return epsilon_at(distance / sigma if distance > 0 else 0.0, delta)


def epsilon_at(mu: float, delta: float) -> float:
    """Return the epsilon of a Gaussian curve at ``delta``, infinite at delta 0 and for infinite mu."""
    if mu == 0:
        return 0.0
    return epsilon_of(mu, delta) if delta > 0 and math.isfinite(mu) else math.inf


@dataclass(frozen=True)
class NoiseLaw:
    """Whether standardised noise looks like fresh standard normals.

    Attributes:
        mean, variance: of all entries.
        p_mean, p_variance, p_kolmogorov: two-sided p values of the three checks on the law.
        correlation: the largest absolute correlation between two releases (or nodes); 0 for a single one.
        p_correlation: its p value, corrected for the number of pairs.
    """

    mean: float
    variance: float
    p_mean: float
    p_variance: float
    p_kolmogorov: float
    correlation: float
    p_correlation: float

    @property
    def suspicious(self) -> bool:
        """Whether one of the four checks fails at 5 % in all (Bonferroni)."""
        checks = (self.p_mean, self.p_variance, self.p_kolmogorov, self.p_correlation)
        return not min(checks) >= FALSE_ALARM / len(checks)


def noise_law(standardised: NDArray[np.float64]) -> NoiseLaw:
    """Return how far ``(release - noise_free)/sigma``, (releases or nodes, d), is from fresh N(0, 1) entries.

    Each row is the noise of one release (or node); rows must be uncorrelated. Releases are rounded to float32, so a
    sigma near the spacing of float32 numbers at the model's entries shows here as well.
    """
    rows = np.atleast_2d(np.asarray(standardised, dtype=np.float64))
    values = rows.ravel()
    n = values.size
    mean, variance = float(values.mean()), float(np.square(values).mean())
    sum_of_squares = n * variance
    tail = min(stats.chi2.cdf(sum_of_squares, n), stats.chi2.sf(sum_of_squares, n))
    correlation, p_correlation = 0.0, 1.0
    if len(rows) > 1:
        # The means are zero, so r sqrt(d - 1)/sqrt(1 - r^2) follows Student's law with d - 1 degrees of freedom.
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
        matrix = np.abs(unit @ unit.T)
        np.fill_diagonal(matrix, 0.0)
        degrees = max(rows.shape[1] - 1, 1)
        pairs = len(rows) * (len(rows) - 1) // 2
        correlation = min(float(matrix.max()), 1.0)
        score = correlation * math.sqrt(degrees / max(1.0 - correlation**2, 1e-300))
        p_correlation = min(1.0, 2.0 * float(stats.t.sf(score, degrees)) * pairs)
    return NoiseLaw(
        mean=mean,
        variance=variance,
        p_mean=2.0 * float(stats.norm.sf(abs(mean) * math.sqrt(n))),
        p_variance=min(1.0, 2.0 * float(tail)),
        p_kolmogorov=float(stats.kstest(values, "norm").pvalue),
        correlation=correlation,
        p_correlation=p_correlation,
    )
