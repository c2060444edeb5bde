"""Shares of samples, and differences of shares on the same samples, with intervals that need no resampling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fedunlearn.evaluation.attacks.roc import share
from fedunlearn.evaluation.measure import COLUMNS, Estimate, Measure, Section

_Z = float(ndtri(0.975))


def share_of(hits: NDArray[np.bool_]) -> Estimate:
    """Return the share of ``hits`` (n,), n >= 1, that is true, with Clopper and Pearson's exact 95 % interval."""
    return share(int(np.count_nonzero(hits)), len(hits))


def paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Estimate:
    """Return the share of ``first`` less that of ``second``, both (n,) of the same samples in one order, n >= 1.

    The 95 % interval is Wald's for paired shares after half a sample was added to each of the four cells (Agresti and
    Min 2005, Statistics in Medicine 24, "adjusted Wald"). Only samples on which the two differ count against it, and
    it never shrinks to a point.

    Raises:
        ValueError: if the samples are not equally many, or there is none.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"paired shares must be of the same samples, at least one, not of {len(first)}, {len(second)}")
    only_first, only_second = (int(np.count_nonzero(a & ~b)) for a, b in ((first, second), (second, first)))
    n = len(first) + 2.0
    gain, loss = only_first + 0.5, only_second + 0.5
    middle = (gain - loss) / n
    half = _Z * math.sqrt(max(0.0, gain + loss - (gain - loss) ** 2 / n)) / n
    value = (only_first - only_second) / len(first)
    return Estimate(value, max(-1.0, min(value, middle - half)), min(1.0, max(value, middle + half)))


def difference(first: Estimate, second: Estimate) -> Estimate:
    """Return ``first - second`` of independent samples, with the 95 % interval that their intervals give.

    The distances from the values to the limits are added in squares (Zou and Donner 2008, Statistics in Medicine 27,
    equation 5); an estimate without an interval gives a difference without one.
    """
    value = first.value - second.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Estimate(value)
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, value - below, value + above)


def line(
    name: str, section: Section, reads: str, by_model: Mapping[str, Estimate | None], samples: dict[str, int]
) -> Measure:
    """Return a line of the battery from its estimates by model; ValueError for a model that has no column."""
    if strange := set(by_model) - set(COLUMNS):
        raise ValueError(f"a line of the battery has no column '{sorted(strange)[0]}'")
    columns: dict[str, Any] = dict(by_model)
    return Measure(name, section, reads, samples=samples, **columns)
