"""Areas under ROC curves, and intervals that cover them with few samples too.

A *score* is any number that is larger where a sample looks more like a member. The area is the probability that a
random member scores above a random non-member, ties counted half: 1 says always, 0.5 that scores tell nothing. All
intervals cover the choice of samples, not that of the trained models.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit
from scipy.stats import rankdata

from fedunlearn.errors import UserError
from fedunlearn.evaluation.measure import Estimate
from fedunlearn.randomness import generator

RESAMPLES = 1000
"""Resamples of the paired bootstrap."""
_CHUNK = 1 << 18
"""About so many numbers of the bootstrap are held at a time: they stay in the cache."""

Array = NDArray[np.float64]


def auc(members: ArrayLike, nonmembers: ArrayLike) -> float:
    """Return the probability that a random member scores above a random non-member, ties counted half.

    It is the Mann-Whitney statistic, from ranks in O(n log n); two equal sets give exactly 0.5. UserError if a set is
    empty or a score is not a number.
    """
    inside, outside = scores_of(members, nonmembers)
    ranks = rankdata(np.concatenate([inside, outside]))[: len(inside)].sum()
    return float((ranks - len(inside) * (len(inside) + 1) / 2) / (len(inside) * len(outside)))


def auc_interval_of(members: ArrayLike, nonmembers: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of :func:`auc` for different samples; see :func:`placement_interval`.

    Where members and non-members are the same samples under two models, use :func:`paired_auc_interval`.

    Raises:
        UserError: if a set has fewer than two samples, a score is not a number, or the level is out of range.
    """
    _check_level(level)
    inside, outside = scores_of(members, nonmembers)
    if min(len(inside), len(outside)) < 2:
        raise UserError("the interval of a membership area needs at least two members and two non-members")
    return placement_interval(_placements(inside, outside), 1.0 - _placements(outside, inside), level)


def placement_interval(of_members: Array, of_nonmembers: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of an area from placement values: the hull of two, within [0, 1].

    The first is DeLong's (1988), with the variance ``var(V10)/m + var(V01)/n`` and Student's t on Satterthwaite's
    degrees of freedom (Brunner and Munzel 2000). It allows for members that spread unlike non-members, but with few
    samples it is too short near 0 and 1, and a point at 0 and 1. The second, Newcombe's score interval (2006,
    Statistics in Medicine 25, method 5), covers there.

    Args:
        of_members: (m,) share of the non-members below each member, m >= 2.
        of_nonmembers: (n,) share of the members above each non-member, n >= 2.
        level: coverage, strictly between 0 and 1.
    """
    area, m, n = float(of_members.mean()), len(of_members), len(of_nonmembers)
    parts = float(of_members.var(ddof=1)) / m, float(of_nonmembers.var(ddof=1)) / n
    half = 0.0
    if sum(parts) > 0:
        freedom = sum(parts) ** 2 / (parts[0] ** 2 / (m - 1) + parts[1] ** 2 / (n - 1))
        half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(sum(parts))
    low, high = _score_interval(area, m, n, float(ndtri((1 + level) / 2)))
    return max(0.0, min(low, area - half)), min(1.0, max(high, area + half))


def _score_interval(area: float, m: int, n: int, z: float) -> tuple[float, float]:
    """Return the areas A with ``|A - area| <= z sd(A)``, by Hanley and McNeil's variance with both sizes (m+n)/2."""
    size = (m + n) / 2

    def beyond(a: float) -> float:
        spread = a * (1 - a) * (1 + (size - 1) * ((1 - a) / (2 - a) + a / (1 + a))) / (m * n)
        return abs(a - area) - z * math.sqrt(spread)

    low = float(brentq(beyond, 0.0, min(area, 1 - 1e-9))) if area > 1e-9 else 0.0
    high = float(brentq(beyond, max(area, 1e-9), 1.0)) if area < 1 - 1e-9 else 1.0
    return low, high


def auc_estimate(members: ArrayLike, nonmembers: ArrayLike) -> Estimate:
    """Return :func:`auc` with the 95 % interval of :func:`auc_interval_of`."""
    return Estimate(auc(members, nonmembers), *auc_interval_of(members, nonmembers))


def paired_auc_interval(
    positives: ArrayLike, negatives: ArrayLike, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of :func:`auc` when both sets are scores of the same n samples under two models.

    Percentile bootstrap over :data:`RESAMPLES` resamples of whole samples, each with both of its scores (Efron and
    Tibshirani 1993, chapter 13). A resample holds a sample twice more often than the data do, which moves its area by
    ``(mean_i psi_ii - auc) / n`` on average, with psi_ii the comparison of a sample with itself; that is taken off.
    Distances to the limits are stretched by ``sqrt(n / (n - 1)) t_{n-1} / z``, without which few samples give too short
    an interval (Hesterberg 2015, The American Statistician 69, "expanded percentile"). At an area of 1 or 0, where no
    resample differs, the other limit is that of Clopper and Pearson for n // 2 disjoint pairs of samples without an
    exception. The same numbers follow from the same seed. Equal sets give exactly (0.5, 0.5).

    Args:
        positives, negatives: (n,) scores in one order of samples, n >= 2.
        seed: seed of the resamples.
        level: coverage, strictly between 0 and 1.

    Raises:
        UserError: if there are fewer than two samples, a score is not a number, or the level is out of range.
        ValueError: if the sets differ in size.
    """
    _check_level(level)
    first, second = scores_of(positives, negatives)
    n = len(first)
    if n != len(second):
        raise ValueError(f"paired scores must be of the same samples, not of {n} and {len(second)}")
    if n < 2:
        raise UserError("the interval of a paired membership area needs at least two samples")
    order = np.argsort(second, kind="stable")
    ascending = second[order]
    below, upto = (np.searchsorted(ascending, first, side=side) for side in ("left", "right"))
    untied = bool((below == upto).all())
    draw = generator(seed, "paired-auc")
    areas = np.empty(RESAMPLES)
    rows = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, rows):
        k = min(rows, RESAMPLES - start)
        drawn = draw.integers(n, size=(k, n), dtype=np.int32) + (np.arange(k, dtype=np.int32) * n)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=k * n).reshape(k, n).astype(np.float64)
        mass = np.zeros((k, n + 1))  # how much weight of the negatives lies below each place
        np.cumsum(np.take(weights, order, axis=1), axis=1, out=mass[:, 1:])
        less = np.take(mass, below, axis=1)
        if not untied:
            less = (less + np.take(mass, upto, axis=1)) / 2
        areas[start : start + k] = np.einsum("kn,kn->k", weights, less)
    areas /= float(n) ** 2
    itself = float(((first > second) + 0.5 * (first == second)).mean())
    shift = (itself - auc(first, second)) / n
    area, tail = auc(first, second), (1 - level) / 2
    if area in (0.0, 1.0):
        limit = tail ** (1.0 / (n // 2))
        return (limit, 1.0) if area == 1.0 else (0.0, 1.0 - limit)
    stretch = math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, 1 - tail)) / float(ndtri(1 - tail))
    low, high = area + stretch * (np.quantile(areas, [tail, 1 - tail]) - shift - area)
    return max(0.0, min(float(low), area)), min(1.0, max(float(high), area))


def paired_auc_estimate(positives: ArrayLike, negatives: ArrayLike, seed: int) -> Estimate:
    """Return :func:`auc` with the 95 % interval of :func:`paired_auc_interval`."""
    return Estimate(auc(positives, negatives), *paired_auc_interval(positives, negatives, seed))


def scores_of(members: ArrayLike, nonmembers: ArrayLike) -> tuple[Array, Array]:
    """Return both sets as flat float64 arrays. UserError if one is empty or holds a NaN."""
    pair = []
    for name, given in (("members", members), ("non-members", nonmembers)):
        values = np.asarray(given, dtype=np.float64).ravel()
        if not len(values):
            raise UserError(f"membership inference needs at least one sample among the {name}")
        if np.isnan(values).any():
            raise UserError(
                f"membership inference met a score among the {name} that is not a number: the model diverged"
            )
        pair.append(values)
    return pair[0], pair[1]


def _placements(values: Array, among: Array) -> Array:
    """Return, for every value, the share of ``among`` that is smaller, ties counted half, from mid-ranks."""
    joint = rankdata(np.concatenate([values, among]))[: len(values)]
    return (joint - rankdata(values)) / len(among)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"level = {level} is not allowed: it must lie strictly between 0 and 1")
