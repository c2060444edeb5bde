"""The distribution of the privacy loss: Google's PLD, which decides under sampling, and opacus' PRV beside it.

Both discretise the law of the privacy loss and convolve it by FFT. PLD rounds so that its epsilon is an upper bound
("connect the dots", Doroshenko et al. 2022); PRV returns an interval with stated error bounds (Gopi, Lee and Wutschitz
2021). The worst pair for a group of m records under Poisson sampling is a binomial mixture of Gaussians (Ganesh 2024,
"Tight group-level DP guarantees for DP-SGD with sampling via mixture of Gaussians mechanisms"). The libraries are
imported when first used: together they take three seconds to load.

opacus' third accountant, the central limit of Gaussian differential privacy, is not offered: under sampling it lies
below the truth.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

from fedunlearn.errors import UserError
from fedunlearn.privacy.accounting.renyi import binomial_weights, mixture_loss

SMALLEST_DELTA = 1e-12
"""Below this the loss distributions' own truncation (1e-15 a composition) and rounding would decide."""

_TAIL = 10.5  # standard deviations kept on each side: a mass of 4e-26 lies beyond
_MOST_CELLS = 250_000


def pld_of(sampled: Sequence[tuple[float, float, int, int]], mu: float = 0.0, *, interval: float = 1e-4) -> Any:
    """Return dp_accounting's pessimistic loss distribution of sampled sums and one Gaussian release, composed.

    Args:
        sampled: (noise_multiplier, rate, steps, group) of each series of noisy sums over Poisson-sampled batches, all
            positive, rates below 1.
        mu: privacy number of the Gaussian release; 0 for none.
        interval: width of a cell of the discretised loss, in nats.
    """
    pld = _library()
    parts = [_one_sum(noise, rate, group, interval).self_compose(steps) for noise, rate, steps, group in sampled]
    if mu > 0:
        parts.append(pld.from_gaussian_mechanism(1 / mu, value_discretization_interval=interval))
    total = parts[0] if parts else pld.identity(value_discretization_interval=interval)
    for part in parts[1:]:
        total = total.compose(part)
    return total


def prv_interval(
    sampled: Sequence[tuple[float, float, int]], delta: float, *, epsilon_error: float = 0.01
) -> tuple[float, float] | None:
    """Return opacus' lower and upper bound on the epsilon of sampled sums, one record removed; None if it gives up.

    Args:
        sampled: (noise_multiplier, rate, steps), rates strictly between 0 and 1.
        delta: the target.
        epsilon_error: half the width of the interval that is aimed at; widened where the grid would be too long.
    """
    from opacus.accountants.analysis import prv as library

    error = delta / 1000
    laws = [library.PoissonSubsampledGaussianPRV(rate, noise) for noise, rate, _ in sampled]
    counts = [steps for _, _, steps in sampled]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            span = library.compute_safe_domain_size(
                prvs=laws, max_self_compositions=counts, eps_error=epsilon_error, delta_error=error
            )
            cells = math.sqrt(sum(counts) * math.log(12 / error) / 2)
            epsilon_error = max(epsilon_error, 2 * span * cells / (4 * _MOST_CELLS))
            domain = library.Domain.create_aligned(-span, span, epsilon_error / cells)
            discrete = [
                library.discretize(library.TruncatedPrivacyRandomVariable(law, domain.t_min, domain.t_max), domain)
                for law in laws
            ]
            law = library.compose_heterogeneous(dprvs=discrete, num_self_compositions=counts)
            lower, _, upper = law.compute_epsilon(delta, error, epsilon_error)
        except (RuntimeError, ValueError, IndexError):  # its own checks of the discretisation failed
            return None
    return (max(0.0, float(lower)), float(upper)) if math.isfinite(lower) and math.isfinite(upper) else None


def opacus_epsilon(mechanism: str, sampled: Sequence[tuple[float, float, int]], delta: float) -> float:
    """Return the upper end of opacus' interval, by the name of its accountant.

    Raises:
        UserError: for ``gdp``, which is not offered, or an unknown name.
    """
    if mechanism == "gdp":
        raise UserError(
            "accountant = 'gdp' of opacus is not offered: it is a central limit that lies below the true epsilon under "
            "sampling (5.63 where PLD and PRV say 6.90), use 'pld'"
        )
    if mechanism != "prv":
        raise UserError(f"accountant = '{mechanism}' is not known: 'prv' is the one of opacus that is offered")
    interval = prv_interval(sampled, delta)
    return math.inf if interval is None else interval[1]


def group_deltas(
    noise_multiplier: float, rate: float, group: int, epsilons: NDArray[np.float64], *, adding: bool
) -> NDArray[np.float64]:
    """Return the exact delta at each epsilon for one noisy sum and ``group`` records removed, or added.

    Removed: the binomial mixture of N(k, sigma^2) against N(0, sigma^2); added: the other way round. With x the point
    where the log ratio of the densities passes epsilon (or -epsilon), delta is the difference of two tails there.
    """
    counts, weights = binomial_weights(group, rate)
    nothing = math.log(weights[0]) if counts[0] == 0 else -math.inf  # the log ratio never falls to this
    targets = -epsilons if adding else epsilons
    deltas = np.zeros_like(epsilons) if adding else -np.expm1(np.minimum(epsilons, 0.0))
    inside = targets > nothing
    x = _where_loss_is(targets[inside], counts, weights, noise_multiplier)
    sign = 1.0 if adding else -1.0
    single = log_ndtr(sign * x / noise_multiplier)
    mixed = ndtr(sign * (x[:, None] - counts) / noise_multiplier) @ weights
    if adding:
        with np.errstate(divide="ignore"):
            deltas[inside] = np.exp(single) - np.exp(epsilons[inside] + np.log(mixed))
    else:
        deltas[inside] = mixed - np.exp(epsilons[inside] + single)
    return np.clip(deltas, 0.0, 1.0)


def _where_loss_is(
    targets: NDArray[np.float64],
    counts: NDArray[np.float64],
    weights: NDArray[np.float64],
    noise_multiplier: float,
) -> NDArray[np.float64]:
    """Solve ``mixture_loss(x) = target`` by Newton's method from the right, which is monotone: the loss is convex."""
    variance = noise_multiplier**2
    x = np.full_like(targets, np.inf)
    for count, weight in zip(counts, weights):
        if count > 0:  # the loss is at least each of its terms, so it has passed the target where one of them has
            x = np.minimum(x, variance * (targets - math.log(weight)) / count + count / 2)
    for _ in range(100):
        loss = mixture_loss(x, counts, weights, noise_multiplier)
        slope = np.zeros_like(x)
        for count, weight in zip(counts, weights):
            share = math.log(weight) + (2 * count * x - count * count) / (2 * variance) - loss
            slope += count / variance * np.exp(share)
        step = np.where(slope > 0, (loss - targets) / np.where(slope > 0, slope, 1.0), 0.0)
        x = x - step
        if np.all(np.abs(step) <= 1e-13 * (noise_multiplier + np.abs(x))):
            break
    return x


@lru_cache(maxsize=64)
def _one_sum(noise_multiplier: float, rate: float, group: int, interval: float) -> Any:
    """Return the loss distribution of one noisy sum over a Poisson-sampled batch, both directions."""
    pld = _library()
    if group == 1:
        return pld.from_gaussian_mechanism(noise_multiplier, sampling_prob=rate, value_discretization_interval=interval)
    from dp_accounting.pld import pld_pmf

    low, high = _loss_range(noise_multiplier, rate, group)
    halves = []
    for adding in (False, True):
        first, last = (-high, -low) if adding else (low, high)
        first, last = math.floor(first / interval), math.ceil(last / interval)
        grid = np.arange(first, last + 1) * interval
        deltas = np.concatenate(
            [group_deltas(noise_multiplier, rate, group, part, adding=adding) for part in _chunks(grid)]
        )
        deltas = np.maximum.accumulate(deltas[::-1])[::-1]  # rounding may break the order; this is the safe side
        halves.append(pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(interval, first, last, deltas))
    return pld.PrivacyLossDistribution(*halves)


def narrowest(noise_multiplier: float, rate: float, group: int, cells: int = _MOST_CELLS) -> float:
    """Return the cell width at which one noisy sum's loss distribution has about ``cells`` cells, in nats."""
    low, high = _loss_range(noise_multiplier, rate, group)
    return (high - low) / cells


def _loss_range(noise_multiplier: float, rate: float, group: int) -> tuple[float, float]:
    """Return the least and the largest privacy loss of one noisy sum, records removed, beyond which 1e-25 lies."""
    counts, weights = binomial_weights(group, rate)
    # dp_accounting, which serves groups of one, leaves out less of the upper tail
    top = 1 + _TAIL * noise_multiplier if group == 1 else _upper_end(counts, weights, noise_multiplier)
    low, high = mixture_loss(np.array([-_TAIL * noise_multiplier, top]), counts, weights, noise_multiplier)
    return float(low), float(high)


def _upper_end(counts: NDArray[np.float64], weights: NDArray[np.float64], noise_multiplier: float) -> float:
    """Return a point that the mixture passes with a probability of about 1e-25."""
    low, high = 0.0, counts[-1] + _TAIL * noise_multiplier
    for _ in range(60):
        middle = (low + high) / 2
        if float(ndtr((counts - middle) / noise_multiplier) @ weights) > 1e-25:
            low = middle
        else:
            high = middle
    return high


def _chunks(grid: NDArray[Any], size: int = 20_000) -> list[NDArray[Any]]:
    return [grid[start : start + size] for start in range(0, len(grid), size)]


def _library() -> Any:
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution
