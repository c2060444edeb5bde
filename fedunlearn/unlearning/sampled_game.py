"""The two worlds that are hardest to tell apart under Poisson sampling: what claims of DP training are tested on."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedunlearn.privacy import Noise, gaussian_noise
from fedunlearn.randomness import torch_seed, uniforms
from fedunlearn.unlearning.games import Game, Observations

COIN = "poisson coin"
"""Purpose of the coins by which records enter a step: keyed by (seed, record, step)."""


def sampled_game(
    rate: float, steps: int, noise_multiplier: float, group: int, *, clip: float = 1.0, noise: Noise = "simulated"
) -> Game:
    """Return the game of the dominating pair: ``group`` records of gradient C against none.

    All gradients of the group lie on one line and have norm C, those of everybody else vanish, so an observation is the
    noisy sums of all steps along that line: ``K_t C + N(0, (z C)^2)``, K_t the coins that came up, against noise alone.
    Ganesh (2024, "Tight group-level DP guarantees for DP-SGD with sampling via mixture of Gaussians mechanisms") proves
    that no training tells more. The score is the likelihood ratio of all steps.
    """
    ids, places = np.arange(group)[None, :], np.arange(steps)[:, None]
    counts = np.arange(group + 1)
    weights = _log_binomial(group, rate)

    def draw(world: int, trials: int, seed: int) -> Observations:
        out = np.empty((trials, steps))
        for trial in range(trials):
            out[trial] = gaussian_noise(noise_multiplier * clip, steps, noise, seed, trial, node=world)
            if world == 0:
                coins = uniforms(torch_seed(seed, "coins of a trial", trial), COIN, ids, places) < rate
                out[trial] += coins.sum(1) * clip
        return out

    def score(seen: Observations) -> NDArray[np.float64]:
        total = np.zeros(len(seen))
        for step in range(steps):  # one step at a time: (trials, steps, group) would be large
            exponents = weights + (counts * seen[:, step, None] / clip - counts**2 / 2) / noise_multiplier**2
            top = exponents.max(1)
            total += top + np.log(np.exp(exponents - top[:, None]).sum(1))
        return total

    what = f"{group} record{'s' if group > 1 else ''} of gradient C in every step that samples them"
    return Game(what, "tight", draw, score, distance=group * clip, sensitivity=group * clip)


def _log_binomial(n: int, q: float) -> NDArray[np.float64]:
    """Return the logarithms of the probabilities of Binomial(n, q), (n + 1,); minus infinity where there is none."""
    if q >= 1:
        return np.where(np.arange(n + 1) == n, 0.0, -np.inf)
    k = np.arange(n + 1)
    chosen = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(n + 1)])
    return chosen + k * math.log(q) + (n - k) * math.log1p(-q)
