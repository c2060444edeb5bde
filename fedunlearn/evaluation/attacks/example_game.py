"""Attacks judged over models: every shadow model is the target once, and others teach the attack.

One pair of models says how well samples are told apart *in those two models*. Over K pairs, the spread of that number
over models shows too. A world is what an attack is to recognise (*inside*: trained with the forget set, or unlearned)
or to tell it from (*outside*: trained without it); both are margins (K, n) of the same n samples, so how hard a sample
is cannot pass for membership. No model is ever judged by laws that it was fitted to.

Leaving out a *pair* keeps chance at one half: if both worlds have the same law, the two left-out models may be swapped
without the fit knowing, so the expected area is exactly 0.5. Leaving out a single model would push it below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from fedunlearn.evaluation.attacks.areas import auc
from fedunlearn.evaluation.attacks.lira import Gaussians, Variance, fit, lira_score
from fedunlearn.evaluation.attacks.rmia import GAMMA, OFFLINE_A, rmia_score
from fedunlearn.evaluation.measure import Estimate
from fedunlearn.randomness import uniforms

Array = NDArray[np.float64]
LEAST_PAIRS = 3
"""Fewest pairs of a game: the laws need two models beside the one left out."""
SPLITS = 8
"""Random halves of the models over which numbers of single samples are averaged."""


@dataclass(frozen=True, eq=False)
class PairGame:
    """Scores of one attack, every pair of models being the target once.

    Attributes:
        inside, outside: (K, n) scores of the n samples at the two targets of every pair.
        shared: whether the attack learned from the other pairs of *both* worlds, which makes the K areas dependent.
    """

    inside: Array
    outside: Array
    shared: bool

    @property
    def areas(self) -> Array:
        """(K,) how often a score at the inside target is above one at the outside target of the same pair."""
        return np.array([auc(*pair) for pair in zip(self.inside, self.outside)])

    def area(self) -> Estimate:
        """Return the mean area with its 95 % interval over *models*, by Student's t on K - 1 degrees of freedom.

        Where the attack learned from the other pairs, two areas share the product of their pairs' differences: in equal
        worlds the mean then has ``2 (K-1) / (K-2)`` times the variance that independent areas of the same spread would
        give (a degenerate U-statistic of order two), and the interval is widened by the root of that. Where the worlds
        differ, the interval is wide rather than narrow. It is cut to [0, 1].
        """
        return over_models(self.areas, self.shared)

    def found_above(self, threshold: float) -> Estimate:
        """Return the share of scores at the inside targets above a threshold, with an interval over models.

        Scores at one target move together, so counting them all as independent would give far too short an interval.
        The threshold stands for a share of the outside scores and would be another with other models; so the spread is
        that of the share found less the share of false alarms, pair by pair, which is right where the worlds are equal.
        """
        found, alarms = ((scores > threshold).mean(axis=1) for scores in (self.inside, self.outside))
        return over_models(found, self.shared, spread=found - alarms)


def over_models(values: Array, shared: bool, spread: Array | None = None) -> Estimate:
    """Return the mean of numbers (K,) in [0, 1], one a pair, with the interval that :meth:`PairGame.area` describes.

    Where all K are 1, or all are 0, they show no spread; the other limit is then that of K trials without an exception,
    ``0.025^(1/K)`` from the far end, which holds for the mean of any numbers in [0, 1].

    Args:
        values: (K,) in [0, 1].
        shared: see :class:`PairGame`.
        spread: numbers (K,) whose deviation counts in the place of that of ``values``.
    """
    k, mean = len(values), float(values.mean())
    if mean in (0.0, 1.0):
        limit = 0.025 ** (1 / k)
        return Estimate(mean, limit, 1.0) if mean else Estimate(mean, 0.0, 1 - limit)
    deviation = float((values if spread is None else spread).std(ddof=1))
    half = float(student.ppf(0.975, k - 1)) * deviation / math.sqrt(k)
    if shared:
        half *= math.sqrt(2 * (k - 1) / (k - 2))
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half))


def loss_pairs(inside: Array, outside: Array) -> PairGame:
    """Return the game of the bare loss: the margin rises as the loss falls and learns nothing from other models."""
    _check(inside, outside)
    return PairGame(inside, outside, shared=False)


def lira_pairs(inside: Array, outside: Array, variance: Variance | None = None) -> PairGame:
    """Return the game of LiRA, or of U-LiRA where *inside* are unlearned models.

    Args:
        inside, outside: (K, n) margins, K >= :data:`LEAST_PAIRS`.
        variance: see :func:`fedunlearn.evaluation.attacks.lira.fit`.

    Raises:
        ValueError: if the worlds differ in shape or have too few models.
    """
    _check(inside, outside)
    laws = list(zip(_left_out(inside, variance), _left_out(outside, variance)))
    scores = [
        np.stack([lira_score(target, *law) for target, law in zip(targets, laws)]) for targets in (inside, outside)
    ]
    return PairGame(scores[0], scores[1], shared=True)


def rmia_pairs(
    inside: Array, outside: Array, population_inside: Array, population_outside: Array, *,
    a: float = OFFLINE_A, gamma: float = GAMMA,
) -> PairGame:  # fmt: skip
    """Return the game of RMIA, whose reference models are the other models of the outside world.

    Args:
        inside, outside: (K, n) margins, K >= :data:`LEAST_PAIRS`.
        population_inside, population_outside: (K, m) margins of samples that no model has learned from.
        a, gamma: see :func:`fedunlearn.evaluation.attacks.rmia.rmia_score`.

    Raises:
        ValueError: as there, or if the worlds differ in shape or have too few models.
    """
    _check(inside, outside)
    scores = []
    for targets, populations in ((inside, population_inside), (outside, population_outside)):
        rows = []
        for k in range(len(targets)):
            references = np.delete(outside, k, 0), np.delete(population_outside, k, 0)
            rows.append(rmia_score(targets[k], references[0], populations[k], references[1], a=a, gamma=gamma))
        scores.append(np.stack(rows))
    return PairGame(scores[0], scores[1], shared=False)


def example_areas(inside: Array, outside: Array, variance: Variance | None = None) -> Array:
    """Return, for every sample, how well its models of the two worlds are told apart by LiRA, (n,) areas.

    The area of a sample is the share of pairs (k, l) in which its margin under inside model k scores above its margin
    under outside model l, ties half, by laws fitted without either of the two (leave-pair-out, Airola et al. 2011).
    It is a multiple of 1/(2 K^2) and has the expectation 0.5 in equal worlds. It says nothing about one model.

    Args:
        inside, outside: (K, n) margins, K >= :data:`LEAST_PAIRS`.

    Raises:
        ValueError: if the worlds differ in shape or have too few models.
    """
    _check(inside, outside)
    laws_in, laws_out = _left_out(inside, variance), _left_out(outside, variance)
    wins = np.zeros(inside.shape[1])
    for one, law_in in zip(inside, laws_in):
        for other, law_out in zip(outside, laws_out):
            first, second = lira_score(one, law_in, law_out), lira_score(other, law_in, law_out)
            wins += (first > second) + 0.5 * (first == second)
    return wins / len(inside) ** 2


def split_models(count: int, seed: int, which: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return two disjoint random halves of ``count`` models, of count // 2 each; the seed and ``which`` decide."""
    order = np.argsort(uniforms(seed, "halves of the shadow models", np.arange(count), which), kind="stable")
    half = count // 2
    return np.sort(order[:half]), np.sort(order[half : 2 * half])


def example_summary(inside: Array, outside: Array, seed: int) -> dict[str, float]:
    """Return ``median``, ``p95`` and ``max`` of the areas of single samples, mean over :data:`SPLITS` random halves.

    In each split, half of the inside models stand against the *other* half of the outside models. So retrained against
    retrained, with ``inside`` equal to ``outside``, is judged in exactly the same way and from as many models: the
    largest of n areas lies far above 0.5 by chance alone, and this control shows how far.

    Args:
        inside, outside: (K, n) margins, K >= 2 * :data:`LEAST_PAIRS`.
    """
    found = []
    for which in range(SPLITS):
        one, other = split_models(len(inside), seed, which)
        areas = example_areas(inside[one], outside[other])
        found.append([np.median(areas), np.quantile(areas, 0.95), areas.max()])
    median, high, largest = np.mean(found, axis=0)
    return {"median": float(median), "p95": float(high), "max": float(largest)}


def _left_out(margins: Array, variance: Variance | None) -> list[Gaussians]:
    """Return the laws of all models but one, for every one."""
    return [fit(np.delete(margins, k, 0), variance) for k in range(len(margins))]


def _check(inside: Array, outside: Array) -> None:
    if inside.shape != outside.shape or inside.ndim != 2:
        raise ValueError(f"both worlds must have the margins of K models of n samples: {inside.shape}, {outside.shape}")
    if len(inside) < LEAST_PAIRS:
        raise ValueError(f"a game over models needs at least {LEAST_PAIRS} pairs, not {len(inside)}")
