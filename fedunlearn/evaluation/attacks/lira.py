"""LiRA: is the margin of a sample what models that learned from it say, or what models say that never saw it?

Carlini et al. (2112.03570): margins ``phi = log(p_y / (1 - p_y))`` of one sample under models of independent seeds are
nearly Gaussian. Two normal laws are fitted to shadow models, *in* and *out*, and the score of a target model is the
logarithm of their likelihood ratio, which no other test of the same margin beats (Neyman and Pearson). U-LiRA (Hayes et
al. 2403.01218) is the same score where *in* is "trained with the sample, then unlearned". A score is larger where the
sample looks more like *in*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Variance = Literal["shared", "example"]
FEW_MODELS = 64
"""Up to so many models the variance is shared over samples, as Carlini et al. advise: the deviation of one sample from
K models is wrong by about 1/sqrt(2K - 2), 18 % at K = 16, and the rare false alarms would be the samples whose
deviation came out too small."""
FLOOR = 1e-3
"""Smallest standard deviation of margins, in nats: differences below it are rounding of float32 logits, not memory."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gaussians:
    """One normal law for each of n samples: ``mean`` (n,) and ``deviation`` (n,), at least :data:`FLOOR`, in nats."""

    mean: Array
    deviation: Array


def fit(margins: Array, variance: Variance | None = None) -> Gaussians:
    """Return the laws of n samples from the margins of K models.

    The mean is each sample's own. The variance has the divisor K - 1; ``shared`` is its mean over the samples,
    ``example`` each sample's own, None stands for ``shared`` up to :data:`FEW_MODELS` models and ``example`` above.

    Args:
        margins: (K, n), K >= 2, n >= 1.

    Raises:
        ValueError: for another shape, or a variance of another name.
    """
    if margins.ndim != 2 or len(margins) < 2 or not margins.shape[1]:
        raise ValueError(f"a normal law needs the margins of two models or more, not {margins.shape}")
    kind = variance or ("shared" if len(margins) <= FEW_MODELS else "example")
    if kind not in ("shared", "example"):
        raise ValueError(f"variance = {kind!r} is not known")
    squares = margins.var(axis=0, ddof=1)
    if kind == "shared":
        squares = np.full(margins.shape[1], squares.mean())
    return Gaussians(margins.mean(axis=0), np.maximum(np.sqrt(squares), FLOOR))


def lira_score(margins: Array, inside: Gaussians, outside: Gaussians) -> Array:
    """Return ``log N(phi; mu_in, s_in) - log N(phi; mu_out, s_out)``, in nats.

    Args:
        margins: (..., n) margins of target models, of the same n samples as the laws.
    """
    return _log_density(margins, inside) - _log_density(margins, outside)


def offline_score(margins: Array, outside: Gaussians) -> Array:
    """Return ``z = (phi - mu_out) / s_out``, for samples that no model has learned from.

    The one-sided offline test of LiRA is ``Phi(z)`` (2112.03570, equation 4). It has the order of z, but rounds to 1
    from z = 8.3 on and would tie just the samples that the attack is surest of.

    Args:
        margins: (..., n) margins of target models.
    """
    return np.asarray((margins - outside.mean) / outside.deviation)


def _log_density(margins: Array, law: Gaussians) -> Array:
    """Return the logarithm of the normal density, without the constant that cancels in a ratio."""
    return np.asarray(-0.5 * ((margins - law.mean) / law.deviation) ** 2 - np.log(law.deviation))
