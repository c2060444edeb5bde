"""ROC curves of membership attacks: rates at few false alarms, best thresholds, and their intervals.

A *score* is any number that is larger where a sample looks more like a member; a loss is a score with its sign turned.
Only the order of scores counts, so they may be infinite, but not NaN. Every function takes ``members`` (m,) and
``nonmembers`` (n,). An area of 1 says that every member scores above every non-member, 0.5 that scores tell nothing,
and less than 0.5 that members look *less* like members than non-members do. Ties count half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedunlearn.errors import UserError
from fedunlearn.evaluation.attacks.areas import auc, scores_of
from fedunlearn.evaluation.bounds import LEVEL, lower_limit, upper_limit
from fedunlearn.evaluation.measure import Estimate
from fedunlearn.randomness import uniforms

RATES = (0.1, 0.01, 0.001)
"""False positive rates at which true positives are told, where there are enough non-members."""
_POINTS = 200
"""At most so many points of a curve go into a figure; the first half of them are the corners nearest to fpr = 0."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Roc:
    """All steps of the rule "member if the score is at least t", from the strictest t to the most generous.

    Attributes:
        fpr, tpr: (k,) ascending, from (0, 0) to (1, 1), one step for each different score.
        auc: area under the steps, joined by straight lines, so that ties count half.
        members, nonmembers: how many samples the curve rests on.
    """

    fpr: Array
    tpr: Array
    auc: float
    members: int
    nonmembers: int


@dataclass(frozen=True)
class AtRate:
    """What an attack finds at a stated false positive rate.

    Attributes:
        rate: the stated rate; at most so large a share of the non-members is called a member.
        threshold: members are the samples that score *above* it.
        tpr: share of the members found, with Clopper and Pearson's 95 % interval.
        fpr: share of the non-members called members, at most ``rate``, with the same interval. The threshold was chosen
            on them, so the interval tells how little so few non-members say about the true rate, and is no test of it.
    """

    rate: float
    threshold: float
    tpr: Estimate
    fpr: Estimate


# --- the curve -------------------------------------------------------------------------------------------


def roc_of(members: ArrayLike, nonmembers: ArrayLike) -> Roc:
    """Return the whole ROC curve. UserError if a set is empty or a score is not a number."""
    inside, outside = scores_of(members, nonmembers)
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    found, alarms = _at_least(inside, thresholds), _at_least(outside, thresholds)
    fpr, tpr = (np.concatenate([[0.0], k / k[-1]]) for k in (alarms, found))
    return Roc(fpr, tpr, auc(inside, outside), len(inside), len(outside))


# --- few false positives ----------------------------------------------------------------------------------------------


def smallest_fpr(n: int) -> float:
    """Return 1/n, the smallest false positive rate other than 0 that n >= 1 non-members can show."""
    return 1.0 / n


def default_rates(n: int) -> tuple[float, ...]:
    """Return those of :data:`RATES` that n non-members can resolve, perhaps none."""
    return tuple(rate for rate in RATES if _allowed(rate, n) >= 1)


def tpr_at(members: ArrayLike, nonmembers: ArrayLike, rate: float) -> AtRate:
    """Return the true positive rate at the most generous threshold with a false positive rate of at most ``rate``.

    With ties the realised rate may be smaller than the stated one, even 0: a threshold never splits equal scores.

    Raises:
        UserError: if the rate is not strictly between 0 and 1, is below 1/n (n non-members cannot resolve it), a set is
            empty, or a score is not a number.
    """
    inside, outside = scores_of(members, nonmembers)
    check_rate(rate, len(outside))
    threshold = float(np.sort(outside)[len(outside) - 1 - _allowed(rate, len(outside))])
    found, alarms = int((inside > threshold).sum()), int((outside > threshold).sum())
    return AtRate(rate, threshold, share(found, len(inside)), share(alarms, len(outside)))


def check_rate(rate: float, n: int) -> None:
    """Raise UserError, one sentence, unless n non-members can resolve a false positive rate strictly within (0, 1)."""
    if not 0 < rate < 1:
        raise UserError(f"a false positive rate of {rate:g} is not allowed: it must lie strictly between 0 and 1")
    if _allowed(rate, n) < 1:
        need = math.ceil(1 / rate - 1e-9)
        raise UserError(f"a false positive rate of {rate:g} needs at least {need} non-members, and there are {n}")


def _allowed(rate: float, n: int) -> int:
    """Return how many of n may be false positives; the hair keeps 0.001 of 1000 from being 0."""
    return min(math.floor(rate * n + 1e-9), n - 1)


# --- one threshold ----------------------------------------------------------------------------------------------------


def balanced_accuracy(members: ArrayLike, nonmembers: ArrayLike, seed: int) -> Estimate:
    """Return the balanced accuracy, in [0, 1], of the best threshold, never judged on the samples that chose it.

    Both sets are halved by the seed; each half's best threshold is judged on the other half, and the two are averaged.
    0.5 is chance. A threshold judged on its own samples would find "membership" in pure noise. The 95 % interval adds
    Clopper and Pearson's for the two shares of right calls, each at 97.5 %: it is wide rather than narrow.

    Raises:
        UserError: if a set has fewer than two samples or a score is not a number.
    """
    inside, outside = scores_of(members, nonmembers)
    if min(len(inside), len(outside)) < 2:
        raise UserError("a membership threshold needs at least two members and two non-members")
    halves = list(zip(_halves(inside, seed, 0), _halves(outside, seed, 1)))
    score, right = 0.0, np.zeros(2)
    for chosen, judged in (halves, halves[::-1]):
        threshold = best_threshold(*chosen)
        calls = judged[0] >= threshold, judged[1] < threshold
        score += float((calls[0].mean() + calls[1].mean()) / 2)
        right += [int(call.sum()) for call in calls]
    sides = [share(int(k), len(s), LEVEL / 2) for k, s in zip(right, (inside, outside))]
    low, high = ((a + b) / 2 for a, b in zip(*[(s.low or 0.0, s.high or 0.0) for s in sides]))
    return Estimate(score / 2, min(low, score / 2), max(high, score / 2))


def best_threshold(members: ArrayLike, nonmembers: ArrayLike) -> float:
    """Return a t whose rule "member if the score is at least t" has the best balanced accuracy on these samples.

    Of several, the largest, half-way to the next smaller score; ``inf`` (nobody is a member) when none beats chance.
    """
    inside, outside = scores_of(members, nonmembers)
    candidates = np.unique(np.concatenate([inside, outside]))[::-1]
    hits, alarms = _at_least(inside, candidates) / len(inside), _at_least(outside, candidates) / len(outside)
    best = int(np.argmax(hits - alarms))
    if hits[best] <= alarms[best]:
        return math.inf
    below = candidates[min(best + 1, len(candidates) - 1)]
    return float(candidates[best] / 2 + below / 2) if math.isfinite(below) else float(candidates[best])


# --- for figures and for others ---------------------------------------------------------------------------------------


def roc_curve_table(
    roc: Roc, *, attack: str, label: str, positives: str, negatives: str, group: str
) -> dict[str, Any]:  # fmt: skip
    """Return a curve as plain numbers for a figure, thinned by :func:`thinned`; texts say what was compared."""
    fpr, tpr = thinned(roc)
    return {
        "attack": attack, "label": label, "positives": positives, "negatives": negatives,
        "fpr": fpr.tolist(), "tpr": tpr.tolist(), "auc": roc.auc, "smallest_fpr": smallest_fpr(roc.nonmembers),
        "group": group,
    }  # fmt: skip


def thinned(roc: Roc, points: int = _POINTS) -> tuple[Array, Array]:
    """Return fpr and tpr of at most ``points`` corners of a curve.

    Points on a straight line between others go first, which changes nothing. If corners are still too many, the half
    of the points nearest to fpr = 0 stay all, and the rest are taken evenly.
    """
    across, up = np.diff(roc.fpr), np.diff(roc.tpr)
    turns = np.abs(across[:-1] * up[1:] - across[1:] * up[:-1]) > 1e-15
    corners = np.flatnonzero(np.concatenate([[True], turns, [True]]))
    if len(corners) > points:
        near = points // 2
        rest = np.linspace(near, len(corners) - 1, points - near).round().astype(int)
        corners = np.concatenate([corners[:near], corners[rest]])
    return roc.fpr[corners], roc.tpr[corners]


def share(count: int, of: int, level: float = LEVEL) -> Estimate:
    """Return ``count / of`` with Clopper and Pearson's exact interval, each side at ``level`` (2.5 %: a 95 % one)."""
    low, high = (float(limit(float(count), of, level)) for limit in (lower_limit, upper_limit))
    return Estimate(count / of, low, high)


def _at_least(scores: Array, thresholds: Array) -> NDArray[np.int64]:
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")


def _halves(values: Array, seed: int, which: int) -> tuple[Array, Array]:
    order = np.argsort(uniforms(seed, "membership", np.arange(len(values)), which), kind="stable")
    return values[order[: len(values) // 2]], values[order[len(values) // 2 :]]
