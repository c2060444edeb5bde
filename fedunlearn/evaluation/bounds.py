"""Lower bounds on what separates two worlds, from scores of sampled releases.

A test calls "world 0" when the score lies on one side of a threshold. It errs with probability ``a`` in world 1 and
``b`` in world 0. Counts bound both from above by Clopper and Pearson's exact interval (1934), each at level 2.5 %, so a
bound built from the two fails in at most 5 % of the audits of a true claim, provided that threshold and direction came
from other trials than the ones counted. Scores are (n,) float64 arrays, one entry a trial, larger where world 0 is
more likely; a score may be infinite but not NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri

from fedunlearn.errors import UserError

LEVEL = 0.025
"""Level of each one-sided interval where a test stands alone; two of them make a 95 % statement. Tests that stand side
by side share it."""
CHOICE_LEVEL = 0.001
"""Level while choosing: the best of many thresholds looks better than it is, most of all where few trials err."""
_TABLE = 20_000
"""Up to so many trials, the limits of all counts are computed once and kept."""
_THRESHOLDS = 4_000
"""At most about so many thresholds are tried."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Event:
    """Which trials count as "world ``world``": score above the threshold, or not above it."""

    threshold: float
    above: bool
    world: Literal[0, 1] = 0

    def count(self, scores: Array) -> int:
        """Return in how many trials the event occurs."""
        above = int((scores > self.threshold).sum())
        return above if self.above else len(scores) - above


def upper_limit(counts: ArrayLike, trials: int, level: float = LEVEL) -> Array:
    """Return Clopper and Pearson's upper limit of a probability whose event occurred ``counts`` times in ``trials``."""
    k = np.asarray(counts)
    if trials <= _TABLE and np.issubdtype(k.dtype, np.integer):
        return _upper_table(trials, level)[k]
    return _upper(k.astype(np.float64), trials, level)


def lower_limit(counts: ArrayLike, trials: int, level: float = LEVEL) -> Array:
    """Return Clopper and Pearson's lower limit of a probability whose event occurred ``counts`` times in ``trials``."""
    return 1.0 - upper_limit(trials - np.asarray(counts), trials, level)


@lru_cache(maxsize=32)
def _upper_table(trials: int, level: float) -> Array:
    table = _upper(np.arange(trials + 1, dtype=np.float64), trials, level)
    table.setflags(write=False)
    return table


def _upper(k: Array, trials: int, level: float) -> Array:
    if trials < 1:
        raise UserError(f"trials = {trials} is not allowed: at least one trial must be counted")
    inside = np.minimum(k, trials - 0.5)
    return np.where(k >= trials, 1.0, betaincinv(inside + 1.0, trials - inside, 1.0 - level))


# --- A2: the trade-off test -------------------------------------------------------------------------------------------


def mu_from_errors(false_positive: ArrayLike, false_negative: ArrayLike) -> Array:
    """Return ``Phi^-1(1 - a) - Phi^-1(b)``: no claim of a smaller mu allows a test with these two errors.

    Dong, Roth and Su (2022), definition 2.3 and equation 6, solved for mu. -inf where one of the errors is 1.
    """
    return -ndtri(np.asarray(false_positive, dtype=np.float64)) - ndtri(np.asarray(false_negative, dtype=np.float64))


def choose_trade_off(unlearned: Array, retrained: Array) -> Event:
    """Return the event that gives the largest mu bound on these trials; use it on others."""
    thresholds = _thresholds(unlearned, retrained)
    hits, alarms = _above(unlearned, thresholds), _above(retrained, thresholds)
    n0, n1 = len(unlearned), len(retrained)
    level = CHOICE_LEVEL
    above = mu_from_errors(upper_limit(alarms, n1, level), upper_limit(n0 - hits, n0, level))
    below = mu_from_errors(upper_limit(n1 - alarms, n1, level), upper_limit(hits, n0, level))
    is_above = bool(above.max() >= below.max())
    return Event(float(thresholds[_middle_of_best(above if is_above else below)]), is_above)


def trade_off_bound(unlearned: Array, retrained: Array, event: Event, level: float = LEVEL) -> float:
    """Return a lower bound on mu from counts of ``event``, wrong with probability ``2 level`` at most (A2).

    By default it holds at 95 %; -inf if an error may be 1.
    """
    n0, n1 = len(unlearned), len(retrained)
    a = upper_limit(event.count(retrained), n1, level)
    b = upper_limit(n0 - event.count(unlearned), n0, level)
    return float(mu_from_errors(a, b))


# --- A1: the (epsilon, delta) test ------------------------------------------------------------------------------------


def choose_epsilon(unlearned: Array, retrained: Array, delta: float) -> Event:
    """Return the event (threshold, direction, order of the worlds) with the largest epsilon bound on these trials."""
    thresholds = _thresholds(unlearned, retrained)
    worlds = (unlearned, retrained)
    best, chosen = -math.inf, Event(float(thresholds[0]), True)
    above = [_above(scores, thresholds) for scores in worlds]
    for is_above in (True, False):
        counts = above if is_above else [len(s) - k for s, k in zip(worlds, above)]
        for world in (0, 1):
            hits, alarms = counts[world], counts[1 - world]
            bound = _epsilon(hits, len(worlds[world]), alarms, len(worlds[1 - world]), delta, CHOICE_LEVEL)
            if bound.max() > best:
                place = _middle_of_best(bound)
                best, chosen = float(bound.max()), Event(float(thresholds[place]), is_above, world)
    return chosen


def epsilon_bound(unlearned: Array, retrained: Array, event: Event, delta: float, level: float = LEVEL) -> float:
    """Return the lower bound ``ln((TPR_lo - delta)/FPR_hi)`` on epsilon at ``delta``, at least 0 (A1).

    It is wrong with probability ``2 level`` at most.
    """
    worlds = (unlearned, retrained)
    likely, other = worlds[event.world], worlds[1 - event.world]
    bound = _epsilon(event.count(likely), len(likely), event.count(other), len(other), delta, level)
    return max(0.0, float(bound))


def _epsilon(hits: ArrayLike, trials: int, alarms: ArrayLike, other_trials: int, delta: float, level: float) -> Array:
    gain = lower_limit(hits, trials, level) - delta
    with np.errstate(divide="ignore"):
        bound = np.log(np.maximum(gain, 0.0)) - np.log(upper_limit(alarms, other_trials, level))
    return np.asarray(bound)


# --- A3: known Gaussian noise -----------------------------------------------------------------------------------------


def parametric_bound(unlearned: Array, retrained: Array, sigma: float) -> float:
    """Return the 95 % lower bound on mu for scores that are Gaussian with standard deviation ``sigma`` in both worlds.

    Difference of means over sigma, less 1.645 standard errors (A3). The most powerful bound, and blind to noise of
    another law: check that law by itself (:func:`fedunlearn.audit.whitebox.noise_law`).
    """
    error = math.sqrt(1.0 / len(unlearned) + 1.0 / len(retrained))
    return float((unlearned.mean() - retrained.mean()) / sigma + ndtri(0.05) * error)


# --- for figures ------------------------------------------------------------------------------------------------------


def trade_off_curve(
    unlearned: Array, retrained: Array, points: int = 200, level: float = LEVEL
) -> dict[str, Array]:  # fmt: skip
    """Return measured errors over thresholds with pointwise limits at ``level``, for a figure; it decides nothing.

    Arrays (m,), by ascending threshold: ``false_positive`` (share of retrained scores above it), ``false_negative``
    (share of unlearned scores not above it), and the limits ``false_positive_low``, ``..._high``,
    ``false_negative_low``, ``..._high``.
    """
    thresholds = _thresholds(unlearned, retrained)
    thresholds = thresholds[np.unique(np.linspace(0, len(thresholds) - 1, points).astype(int))]
    curve: dict[str, Array] = {}
    for name, counts, trials in (
        ("false_positive", _above(retrained, thresholds), len(retrained)),
        ("false_negative", len(unlearned) - _above(unlearned, thresholds), len(unlearned)),
    ):
        curve[name] = counts / trials
        curve[f"{name}_low"] = lower_limit(counts, trials, level)
        curve[f"{name}_high"] = upper_limit(counts, trials, level)
    return curve


def _above(scores: Array, thresholds: Array) -> NDArray[np.int64]:
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="right")


def _thresholds(unlearned: Array, retrained: Array) -> Array:
    """Return ascending thresholds midway between neighbouring scores; of many, all near the ends of both worlds."""
    if np.isnan(unlearned).any() or np.isnan(retrained).any():
        raise UserError("a score is not a number (NaN), so the trials cannot be ordered")
    merged = np.unique(np.concatenate([unlearned, retrained]))
    if len(merged) > _THRESHOLDS:
        picked = []
        for world in (np.sort(unlearned), np.sort(retrained)):
            n = len(world)
            ranks = np.unique(np.geomspace(1, n, _THRESHOLDS // 8).astype(int)) - 1
            picked += [world[ranks], world[n - 1 - ranks], world[np.linspace(0, n - 1, _THRESHOLDS // 4).astype(int)]]
        merged = np.unique(np.concatenate(picked))
    if len(merged) == 1:
        return merged
    finite = np.clip(merged, -np.finfo(np.float64).max, np.finfo(np.float64).max)
    return finite[:-1] / 2 + finite[1:] / 2


def _middle_of_best(values: Array) -> int:
    best = np.flatnonzero(values == values.max())
    return int(best[len(best) // 2])
