"""RMIA: how many samples of the population does a sample beat, each judged by how much better the target knows it?

Zarifzadeh et al. (2312.03262): a sample x is likelier under the target model than in general by ``p(x|theta) / Pr(x)``;
the score is the share of population samples z with ``LR(x, z) = [p(x|theta)/Pr(x)] / [p(z|theta)/Pr(z)] >= gamma``. It
needs only few reference models, none of them trained with the sample. A score is larger where x looks more like a
member. It is a multiple of 1/m for m population samples, so there are ties.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, logsumexp

OFFLINE_A = 0.3
"""The coefficient ``a`` of :func:`log_typical`: models trained with x are taken to say ``a Pr_out + 1 - a``."""
GAMMA = 1.0
"""The factor ``gamma`` by which x must beat z: 1, as in the authors' released code. With a larger factor, all samples
that models are sure of tie at the share of z that the target gets wrong, a number that differs from model to model."""

Array = NDArray[np.float64]


def log_typical(references: Array, a: float = OFFLINE_A) -> Array:
    """Return ``log Pr(x)``, (n,): how likely the true class of x is under models in general.

    ``Pr = ((1 + a) Pr_out + (1 - a)) / 2`` (2312.03262, the offline form) with ``Pr_out`` the mean over the reference
    models, none of which has learned from x, in place of the mean of models with and without x.

    Args:
        references: (K, n) margins, K >= 1; ``p = sigmoid(margin)``.
        a: within [0, 1]; 1 is ``Pr_out`` itself.

    Raises:
        ValueError: if a is out of range or there is no reference model.
    """
    if not 0 <= a <= 1:
        raise ValueError(f"a = {a} is not allowed: it must lie within [0, 1]")
    if references.ndim != 2 or not len(references):
        raise ValueError(f"RMIA needs the margins of one reference model or more, not {references.shape}")
    log_mean = logsumexp(log_expit(references), axis=0) - np.log(len(references))
    with np.errstate(divide="ignore"):
        return np.asarray(np.logaddexp(np.log((1 + a) / 2) + log_mean, np.log((1 - a) / 2)))


def rmia_score(
    margins: Array, references: Array, population: Array, population_references: Array, *,
    a: float = OFFLINE_A, gamma: float = GAMMA,
) -> Array:  # fmt: skip
    """Return the share of the population that each sample beats by the factor gamma, (n,) in [0, 1].

    ``Pr(z)`` is taken like ``Pr(x)``, as in the authors' code. O((n + m) log m).

    Args:
        margins: (n,) margins of the samples under the target model.
        references: (K, n) margins of the same samples under reference models.
        population: (m,) margins, under the target model, of samples that no model has learned from, m >= 1.
        population_references: (K, m) their margins under the reference models.
        a: see :func:`log_typical`.
        gamma: at least 1.

    Raises:
        ValueError: if gamma is less than 1, a is out of range, or there is no population.
    """
    if not gamma >= 1:
        raise ValueError(f"gamma = {gamma} is not allowed: it must be at least 1")
    if not population.size:
        raise ValueError("RMIA needs at least one population sample")
    own = log_expit(margins) - log_typical(references, a)
    others = np.sort(log_expit(population) - log_typical(population_references, a))
    return np.searchsorted(others, own - np.log(gamma), side="right") / len(others)
