"""Halves of a population of models: what lets two populations be compared with one population and itself.

Scores made from histograms or from the best of many thresholds depend on the number of models. A control made of the
retrained models alone has half as many, so it is only read beside the same score of the unlearned models at that size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.measure import Refusal
from fedunlearn.randomness import uniforms

LEAST_MODELS = 64
"""Of each kind: below, histograms and thresholds over models say more about chance than about forgetting."""
Population = NDArray[np.float64]
"""Margins (N, n) of N models on n samples."""
Scores = NDArray[np.float64]
Indices = NDArray[np.int64]


def halves(count: int, seed: int, which: int = 0) -> tuple[Indices, Indices]:
    """Return a random partition of ``range(count)`` into two parts, the second larger by one if ``count`` is odd."""
    order = np.argsort(uniforms(seed, "model-halves", np.arange(count), which), kind="stable")
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def at_half_size(
    score: Callable[[Population, Population], Scores], models: Population, retrained: Population, seed: int
) -> Scores:
    """Return the mean scores of two pairs of halves, ``floor(N/2)`` models a side: models against retrained ones."""
    (m1, m2), (r1, r2) = _equal_halves(models, seed, 0), _equal_halves(retrained, seed, 1)
    return (score(m1, r1) + score(m2, r2)) / 2


def control_at_half_size(score: Callable[[Population, Population], Scores], retrained: Population, seed: int) -> Scores:
    """Return the mean scores, in both orders, of one half of the retrained models against the other."""
    r1, r2 = _equal_halves(retrained, seed, 1)
    return (score(r1, r2) + score(r2, r1)) / 2


def too_few(name: str, have: int) -> Refusal | None:
    """Return the refusal of a score over models when there are fewer than :data:`LEAST_MODELS` of each kind."""
    if have >= LEAST_MODELS:
        return None
    reason = (
        f"{name} needs at least {LEAST_MODELS} shadow models of each kind, and there are {have}: "
        f"ask for --shadows {LEAST_MODELS}"
    )
    return Refusal(name, "populations", reason)


def _equal_halves(population: Population, seed: int, which: int) -> tuple[Population, Population]:
    first, second = halves(len(population), seed, which)
    return population[first], population[second[: len(first)]]
