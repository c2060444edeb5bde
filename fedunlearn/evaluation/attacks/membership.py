"""Membership inference by the loss: does a model treat samples as if it had been trained on them?

Direction, in all functions here: an area of 1 means that every member has a smaller loss than every non-member, 0.5
that losses tell nothing, less than 0.5 that members look *less* familiar than non-members. For a model that has
forgotten, the target is neither 0 nor 0.5 but the value of the model retrained without the data: forgotten samples of
one writer may be easier or harder than average test samples, trained on or not. The machinery is that of scores
(:mod:`fedunlearn.evaluation.attacks.roc`): a loss with its sign turned is one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.attacks import areas, roc


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
    return areas.auc(_score(member_losses), _score(nonmember_losses))


def auc_interval(
    member_losses: NDArray[Any], nonmember_losses: NDArray[Any], level: float = 0.95
) -> tuple[float, float]:
    """Return the confidence interval of :func:`loss_threshold_auc`, of different samples.

    See :func:`fedunlearn.evaluation.attacks.areas.placement_interval`: it covers the choice of samples, not that of the
    trained model, and is cut to [0, 1].

    Args:
        member_losses, nonmember_losses: (m,) and (n,), both of at least two samples.
        level: coverage, strictly between 0 and 1.

    Raises:
        UserError: if a set has fewer than two samples, a loss is not a number, or the level is out of range.
    """
    return areas.auc_interval_of(_score(member_losses), _score(nonmember_losses), level)


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
    return roc.balanced_accuracy(_score(member_losses), _score(nonmember_losses), seed).value


def best_threshold(member_losses: NDArray[Any], nonmember_losses: NDArray[Any]) -> float:
    """Return a loss t whose rule "member if the loss is at most t" has the best balanced accuracy on these samples.

    Of several, the smallest, half-way to the next larger loss; ``-inf`` (nobody is a member) when none beats chance.
    """
    return -roc.best_threshold(_score(member_losses), _score(nonmember_losses))


def _score(losses: NDArray[Any]) -> NDArray[np.float64]:
    return -np.asarray(losses, dtype=np.float64)
