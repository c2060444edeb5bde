"""Membership inference by the loss: does a model treat samples as if it had been trained on them?

Direction, in all functions here: an area of 1 means that every member has a smaller loss than every non-member, 0.5
that losses tell nothing, less than 0.5 that members look *less* familiar than non-members. For a model that has
forgotten, the target is neither 0 nor 0.5 but the value of the model retrained without the data: forgotten samples of
one writer may be easier or harder than average test samples, trained on or not.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from fedunlearn.errors import UserError
from fedunlearn.randomness import uniforms


def loss_threshold_auc(member_losses: NDArray[Any], nonmember_losses: NDArray[Any]) -> float:
    """Return the area under the ROC curve of the rule "member if the loss is below t" (Yeom et al. 2018), over all t.

    It is the probability that a random member has a smaller loss than a random non-member, ties counted half: the
    Mann-Whitney statistic, from ranks in O(n log n).

    Args:
        member_losses: (m,), m >= 1; infinite losses are ranked last.
        nonmember_losses: (n,), n >= 1.

    Raises:
        UserError: if a set is empty or a loss is not a number.
    """
    members, others = _checked(member_losses, nonmember_losses)
    return float(1.0 - _placements(members, others).mean())


def auc_interval(
    member_losses: NDArray[Any], nonmember_losses: NDArray[Any], level: float = 0.95
) -> tuple[float, float]:
    """Return the confidence interval of :func:`loss_threshold_auc` by DeLong, DeLong and Clarke-Pearson (1988).

    The variance of the area is ``var(V10)/m + var(V01)/n`` with the placement values of members among non-members and
    the other way round. The interval covers the choice of samples, not that of the trained model, and is cut to [0, 1].

    Args:
        member_losses, nonmember_losses: (m,) and (n,), both of at least two samples.
        level: coverage, strictly between 0 and 1.

    Raises:
        UserError: if a set has fewer than two samples, a loss is not a number, or the level is out of range.
    """
    if not 0 < level < 1:
        raise UserError(f"level = {level} is not allowed: it must lie strictly between 0 and 1")
    members, others = _checked(member_losses, nonmember_losses)
    if min(len(members), len(others)) < 2:
        raise UserError("the interval of a membership area needs at least two members and two non-members")
    v10, v01 = 1.0 - _placements(members, others), _placements(others, members)
    half = float(ndtri((1 + level) / 2)) * math.sqrt(v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01))
    area = float(v10.mean())
    return max(0.0, area - half), min(1.0, area + half)


def threshold_balanced_accuracy(member_losses: NDArray[Any], nonmember_losses: NDArray[Any], seed: int) -> float:
    """Return the balanced accuracy, in [0, 1], of the best loss threshold, never judged on the samples that chose it.

    Both sets are halved by the seed; each half's best threshold is judged on the other half, and the two are averaged.
    0.5 is chance. A threshold judged on its own samples would find "membership" in pure noise.

    Args:
        member_losses, nonmember_losses: (m,) and (n,), both of at least two samples.
        seed: seed of the halves.

    Raises:
        UserError: if a set has fewer than two samples or a loss is not a number.
    """
    members, others = _checked(member_losses, nonmember_losses)
    if min(len(members), len(others)) < 2:
        raise UserError("a membership threshold needs at least two members and two non-members")
    halves = list(zip(_halves(members, seed, 0), _halves(others, seed, 1)))
    scores = [_balanced_accuracy(*judged, best_threshold(*chosen)) for chosen, judged in (halves, halves[::-1])]
    return sum(scores) / 2


def best_threshold(member_losses: NDArray[Any], nonmember_losses: NDArray[Any]) -> float:
    """Return a loss t whose rule "member if the loss is at most t" has the best balanced accuracy on these samples.

    Of several, the smallest, half-way to the next larger loss; ``-inf`` (nobody is a member) when none beats chance.
    """
    members, others = _checked(member_losses, nonmember_losses)
    candidates = np.unique(np.concatenate([members, others]))
    hits = np.searchsorted(np.sort(members), candidates, side="right") / len(members)
    alarms = np.searchsorted(np.sort(others), candidates, side="right") / len(others)
    best = int(np.argmax(hits - alarms))
    if hits[best] <= alarms[best]:
        return -math.inf
    above = candidates[best + 1] if best + 1 < len(candidates) else candidates[best]
    return float((candidates[best] + above) / 2) if math.isfinite(above) else float(candidates[best])


def _balanced_accuracy(members: NDArray[np.float64], others: NDArray[np.float64], threshold: float) -> float:
    return float(((members <= threshold).mean() + (others > threshold).mean()) / 2)


def _placements(values: NDArray[np.float64], among: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for every value, the share of ``among`` that is smaller, ties counted half, from mid-ranks."""
    together = rankdata(np.concatenate([values, among]))[: len(values)]
    return (together - rankdata(values)) / len(among)


def _halves(values: NDArray[np.float64], seed: int, which: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    order = np.argsort(uniforms(seed, "membership", np.arange(len(values)), which), kind="stable")
    return values[order[: len(values) // 2]], values[order[len(values) // 2 :]]


def _checked(
    member_losses: NDArray[Any], nonmember_losses: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pair = []
    for name, given in (("members", member_losses), ("non-members", nonmember_losses)):
        values = np.asarray(given, dtype=np.float64).ravel()
        if not len(values):
            raise UserError(f"membership inference needs at least one sample among the {name}")
        if np.isnan(values).any():
            raise UserError(
                f"membership inference met a loss among the {name} that is not a number: the model diverged"
            )
        pair.append(values)
    return pair[0], pair[1]
