"""The vector-sum game: are batches sampled as the accountant assumes?

Clipped and noised gradient training shows every step's sum of a batch plus N(0, sigma^2) noise. What one record adds is
seen along one line, so a batch sum is a number in units of the clip. The worst records for two ways to batch n records
over an epoch of T steps, and the law of the T sums, up to a known shift:

* ``shuffled``: every record is in exactly one of T batches of fixed size. All other records pull against the one in
  question, so a batch tells by its sum whether the record is in it, and with what value: ``2`` (or ``1`` where the
  record was replaced by a zero) in one of the T sums, ``0`` in the others.
* ``poisson``: every record joins every batch with probability 1/T by its own coin. All others are zero: each sum has a
  ``1`` with probability 1/T, or nothing where the record was replaced by a zero.

Chua et al. (2024), "How private are DP-SGD implementations?", arXiv 2403.17673; Annamalai et al. (2024), "To shuffle or
not to shuffle", arXiv 2411.10614. World 0 has the record, in world 1 it was replaced by a zero (zero-out adjacency).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from fedunlearn.errors import UserError, listed
from fedunlearn.randomness import generator
from fedunlearn.unlearning.games import Game, Observations

Sampling = Literal["shuffled", "poisson"]
_CHUNK = 1 << 16


def vector_sum_game(sampling: Sampling, steps: int, noise_multiplier: float) -> Game:
    """Return the game of one epoch of noised batch sums, scored by its exact likelihood ratio.

    An observation is that log likelihood ratio, one number a trial, so that a million trials fit in memory.

    Args:
        sampling: how the batches are really made.
        steps: number T of batches, at least 2.
        noise_multiplier: noise of a batch sum over the clip.

    Raises:
        UserError: if an argument is out of range.
    """
    if sampling not in ("shuffled", "poisson"):
        raise UserError(f"sampling = {sampling!r} is not allowed: it must be one of {listed(('shuffled', 'poisson'))}")
    if steps < 2 or not noise_multiplier > 0:
        raise UserError(
            f"steps = {steps}, noise_multiplier = {noise_multiplier} are not allowed: at least 2 steps, positive noise"
        )
    make, ratio = {"shuffled": (_shuffled, _shuffled_ratio), "poisson": (_poisson, _poisson_ratio)}[sampling]

    def draw(world: int, trials: int, seed: int) -> Observations:
        out = np.empty((trials, 1))
        for start in range(0, trials, _CHUNK):
            rows = min(_CHUNK, trials - start)
            random = generator(seed, "vector sum", world, start)
            sums = make(world, random, rows, steps) + noise_multiplier * random.standard_normal((rows, steps))
            out[start : start + rows, 0] = ratio(sums, noise_multiplier)
        return out

    return Game(f"{sampling} batches", "tight", draw, lambda seen: seen[:, 0])


def _shuffled(world: int, random: np.random.Generator, rows: int, steps: int) -> NDArray[np.float64]:
    sums = np.zeros((rows, steps))
    sums[np.arange(rows), random.integers(steps, size=rows)] = (2.0, 1.0)[world]
    return sums


def _shuffled_ratio(sums: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Return ``ln mean_t exp((2 s_t - 2)/sigma^2) - ln mean_t exp((s_t - 1/2)/sigma^2)``."""
    scaled = sums / sigma**2
    return logsumexp(2.0 * scaled, axis=1) - logsumexp(scaled, axis=1) - 1.5 / sigma**2


def _poisson(world: int, random: np.random.Generator, rows: int, steps: int) -> NDArray[np.float64]:
    return (random.random((rows, steps)) < (1.0 / steps, 0.0)[world]).astype(np.float64)


def _poisson_ratio(sums: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Return ``sum_t ln(1 - q + q exp((s_t - 1/2)/sigma^2))`` with q = 1/T."""
    rate = 1.0 / sums.shape[1]
    return np.logaddexp(np.log1p(-rate), np.log(rate) + (sums - 0.5) / sigma**2).sum(1)
