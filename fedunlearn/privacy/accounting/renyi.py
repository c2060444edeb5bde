"""Renyi accounting: curves of (order, divergence) pairs, and what they say about (epsilon, delta).

A second opinion here: an upper bound on the true epsilon that shares no arithmetic with the accountants that decide.
Sources: Mironov (2017), "Renyi differential privacy" (Gaussian, composition, first conversion); Mironov, Talwar and
Zhang (2019), "Renyi differential privacy of the sampled Gaussian mechanism" (integer orders); Canonne, Kamath and
Steinke (2020), Proposition 12, and Balle et al. (2020) (improved conversion); Bun and Steinke (2016) (zCDP). Orders,
divergences (in nats), epsilon and delta are dimensionless.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlog1py, xlogy

from fedunlearn.errors import UserError

Conversion = Literal["old", "improved"]

WHOLE_ORDERS: tuple[float, ...] = (*range(2, 65), *range(68, 129, 4), *range(136, 257, 8), 320, 384, 448, 512)
"""Orders at which the sampled Gaussian mechanism has a closed form."""

ORDERS: tuple[float, ...] = (
    *(1 + step / 100 for step in range(1, 10)),
    *(1 + step / 10 for step in range(1, 110)),
    *(order for order in WHOLE_ORDERS if order > 11),
    1024,
    4096,
    16384,
)
"""Orders for mechanisms whose divergence is known at every real order above 1."""


@dataclass(frozen=True)
class Curve:
    """A divergence at each of several orders; the two never part, so none is read at another's order.

    Attributes:
        orders: orders above 1, rising.
        values: the divergence at each of them, not negative, infinity allowed.
    """

    orders: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.orders) != len(self.values) or not self.orders:
            raise UserError(f"{len(self.orders)} orders have {len(self.values)} divergences: each order needs its own")
        if not all(order > 1 for order in self.orders):
            raise UserError(f"orders = {min(self.orders)} is not allowed: a Renyi order must be above 1")

    def __add__(self, other: Curve) -> Curve:
        """Return the curve of both mechanisms composed (Mironov 2017, Proposition 1), at the orders they share."""
        if self.orders != other.orders:
            raise UserError("two Renyi curves at different orders cannot be added: compute both at the same orders")
        return Curve(self.orders, tuple(a + b for a, b in zip(self.values, other.values)))

    def times(self, count: int) -> Curve:
        """Return the curve of ``count`` such mechanisms composed."""
        return Curve(self.orders, tuple(count * value if count else 0.0 for value in self.values))

    def epsilon(self, delta: float, conversion: Conversion = "improved") -> float:
        """Return the smallest epsilon at ``delta`` over the orders, at least 0; infinity if no order gives one."""
        convert = {"old": epsilon_old, "improved": epsilon_improved}[conversion]
        return max(0.0, min(convert(value, order, delta) for order, value in zip(self.orders, self.values)))

    def delta(self, epsilon: float) -> float:
        """Return the smallest delta at ``epsilon`` over the orders, at most 1, by the improved conversion."""
        least = min(
            (order - 1) * (value - epsilon + math.log1p(-1 / order)) - math.log(order)
            for order, value in zip(self.orders, self.values)
        )
        return min(1.0, math.exp(min(0.0, least)))


def epsilon_old(value: float, order: float, delta: float) -> float:
    """Return ``value + ln(1/delta)/(order - 1)`` (Mironov 2017, Proposition 3)."""
    return value - math.log(_checked(delta)) / (order - 1)


def epsilon_improved(value: float, order: float, delta: float) -> float:
    """Return ``value + ln((order-1)/order) - (ln delta + ln order)/(order-1)``; smaller than the old one throughout."""
    return value + math.log1p(-1 / order) - (math.log(_checked(delta)) + math.log(order)) / (order - 1)


def gaussian_curve(mu: float, orders: Sequence[float] = ORDERS) -> Curve:
    """Return ``order mu^2/2``, the divergence of N(mu, 1) from N(0, 1)."""
    return Curve(tuple(orders), tuple(order * mu * mu / 2 for order in orders))


def sampled_curve(rate: float, noise_multiplier: float, orders: Sequence[float] = WHOLE_ORDERS) -> Curve:
    """Return the divergences of one noisy sum over a Poisson-sampled batch, for one record added or removed.

    At a whole order a it is ``ln(sum_k C(a,k) (1-q)^(a-k) q^k exp((k^2-k)/(2 sigma^2))) / (a-1)``, q the rate and sigma
    the noise multiplier (Mironov, Talwar and Zhang 2019, Section 3.3).

    Raises:
        UserError: if an order is not whole: the finite sum exists for whole orders only.
    """
    values = []
    for order in orders:
        if order != int(order) or order < 2:
            raise UserError(f"order = {order} is not allowed for a sampled Gaussian: the formula needs a whole order")
        k = np.arange(int(order) + 1)
        terms = _log_binomial(int(order), k, rate) + (k * k - k) / (2 * noise_multiplier**2)
        values.append(max(0.0, _log_sum(terms)) / (order - 1))
    return Curve(tuple(orders), tuple(values))


def sampled_group_curve(
    rate: float, noise_multiplier: float, group: int, orders: Sequence[float] | None = None
) -> Curve:
    """Return the same for ``group`` records added or removed together, by numerical integration at any real order.

    The number of them in a batch is binomial, so the worst pair is the binomial mixture of N(k, sigma^2) against
    N(0, sigma^2); the larger of the two directions counts. The trapezoid rule on a grid finer than every feature of
    the integrand is accurate to about 1e-10 here.
    """
    counts, weights = binomial_weights(group, rate)
    orders = orders_for_group(group) if orders is None else orders
    step = min(noise_multiplier, noise_multiplier**2 / max(1.0, math.sqrt(group))) / 16
    top = max(orders) * counts[-1] + 14 * noise_multiplier
    step = max(step, (top + 14 * noise_multiplier) / 4e5)
    x = np.arange(-14 * noise_multiplier, top, step)
    loss = mixture_loss(x, counts, weights, noise_multiplier)
    density = -((x / noise_multiplier) ** 2) / 2 + math.log(step / (noise_multiplier * math.sqrt(2 * math.pi)))
    values = []
    for order in orders:
        forward = _log_sum(order * loss + density)
        backward = _log_sum((1 - order) * loss + density)
        values.append(max(0.0, forward, backward) / (order - 1))
    return Curve(tuple(orders), tuple(values))


def orders_for_group(group: int) -> tuple[float, ...]:
    """Return orders at which the integrals of a group of this size stay on a grid of bearable length."""
    top = max(4.0, min(256.0, 2000.0 / group))
    return tuple(float(order) for order in 1 + np.geomspace(0.02, top - 1, 40))


def rho_of_mu(mu: float) -> float:
    """Return the zCDP number ``mu^2/2`` of a Gaussian release (Bun and Steinke 2016, Proposition 6)."""
    return mu * mu / 2


def epsilon_of_rho(rho: float, delta: float) -> float:
    """Return ``rho + 2 sqrt(rho ln(1/delta))`` (Bun and Steinke 2016, Proposition 3)."""
    return rho + 2 * math.sqrt(-rho * math.log(_checked(delta)))


def binomial_weights(group: int, rate: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return counts and probabilities of Binomial(group, rate), without tails that weigh less than 1e-24 together.

    Zero is kept where it has any weight: it decides how small a privacy loss can be.
    """
    k = np.arange(group + 1)
    weights = np.exp(_log_binomial(group, k, rate))
    keep = (np.cumsum(weights) > 5e-25) & (np.cumsum(weights[::-1])[::-1] > 5e-25)
    keep[0] |= weights[0] > 0
    return k[keep].astype(np.float64), weights[keep] / weights[keep].sum()


def mixture_loss(
    x: NDArray[np.float64], counts: NDArray[np.float64], weights: NDArray[np.float64], noise_multiplier: float
) -> NDArray[np.float64]:
    """Return ``ln sum_k w_k exp((2 k x - k^2)/(2 sigma^2))``: the log ratio to N(0, sigma^2)."""
    result = np.full_like(x, -np.inf)
    for count, weight in zip(counts, weights):
        result = np.logaddexp(result, math.log(weight) + (2 * count * x - count * count) / (2 * noise_multiplier**2))
    return result


def _log_sum(logs: NDArray[np.float64]) -> float:
    """Return ln sum exp; scipy's serves more cases at ten times the price."""
    peak = float(logs.max())
    return peak + math.log(float(np.exp(logs - peak).sum()))


def _log_binomial(n: int, k: NDArray[np.int64], rate: float) -> NDArray[np.float64]:
    log_choose = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return np.asarray(log_choose + xlogy(k, rate) + xlog1py(n - k, -rate), dtype=np.float64)


def _checked(delta: float) -> float:
    if not 0 < delta < 1:
        raise UserError(f"delta = {delta} is not allowed: it must lie strictly between 0 and 1")
    return delta
