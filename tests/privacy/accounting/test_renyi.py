"""Renyi curves against published numbers, numerical integration and enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, norm

from fedunlearn.errors import UserError
from fedunlearn.privacy import delta_of, epsilon_of
from fedunlearn.privacy.accounting.renyi import (
    ORDERS,
    WHOLE_ORDERS,
    Curve,
    binomial_weights,
    epsilon_improved,
    epsilon_of_rho,
    epsilon_old,
    gaussian_curve,
    rho_of_mu,
    sampled_curve,
    sampled_group_curve,
)

whole = tuple(range(2, 257))


@pytest.mark.parametrize(
    ("rate", "noise", "values"),
    [
        (0.01, 1.0, [1.7181e-4, 3.6315e-4, 8.9364e-4, 3.08785, 11.24628]),
        (0.1, 4.0, [6.4474e-4, 1.3049e-3, 2.6745e-3, 5.6355e-3, 1.27202e-2]),
    ],
)
def test_sampled_gaussian_golden(rate: float, noise: float, values: list[float]) -> None:
    assert sampled_curve(rate, noise, (2, 4, 8, 16, 32)).values == pytest.approx(values, rel=3e-5)


@pytest.mark.parametrize(
    ("curve", "old", "improved"),
    [
        (sampled_curve(0.01, 1.0, whole).times(1000), 2.5383, 2.1078),
        (sampled_curve(0.1, 4.0, whole).times(100), 1.3200, 1.0817),
        (gaussian_curve(1.0, [1 + step / 100 for step in range(1, 51_100)]), 5.2985, 4.7284),
    ],
)
def test_conversion_golden(curve: Curve, old: float, improved: float) -> None:
    assert curve.epsilon(1e-5, "old") == pytest.approx(old, abs=6e-5)
    assert curve.epsilon(1e-5, "improved") == pytest.approx(improved, abs=6e-5)


def quadrature(rate: float, noise: float, order: float, *, forward: bool) -> float:
    """The definition: ln of the integral of p^a q^(1-a), over a - 1."""

    def log_integrand(x: float) -> float:
        plain = norm.logpdf(x, 0, noise)
        mixed = np.logaddexp(math.log1p(-rate) + plain, math.log(rate) + norm.logpdf(x, 1, noise))
        top, bottom = (mixed, plain) if forward else (plain, mixed)
        return order * top + (1 - order) * bottom

    peak = max(log_integrand(x) for x in np.linspace(-5 * noise, order + 5 * noise, 400))
    points = [0.0, 1.0, order]
    value, _ = quad(
        lambda x: math.exp(log_integrand(x) - peak), -12 * noise, order + 12 * noise, points=points, limit=500
    )
    return (math.log(value) + peak) / (order - 1)


@pytest.mark.parametrize("order", [2, 3, 7, 20])
@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.0), (0.1, 4.0), (0.5, 0.8)])
def test_sampled_gaussian_is_the_integral(rate: float, noise: float, order: int) -> None:
    value = sampled_curve(rate, noise, (order,)).values[0]
    assert value == pytest.approx(quadrature(rate, noise, order, forward=True), rel=1e-7)
    assert value >= quadrature(rate, noise, order, forward=False) * (1 - 1e-7)


@pytest.mark.parametrize("order", [1.5, 2.0, 3.7, 10.0])
def test_group_of_one_is_the_integral_at_any_real_order(order: float) -> None:
    value = sampled_group_curve(0.05, 1.3, 1, (order,)).values[0]
    assert value == pytest.approx(quadrature(0.05, 1.3, order, forward=True), rel=1e-8)


@pytest.mark.parametrize(("group", "order"), [(2, 2), (2, 4), (3, 3), (5, 3)])
def test_group_curve_is_the_sum_over_all_batches(group: int, order: int) -> None:
    """E_q[(p/q)^a] = E exp((S^2 - sum k_i^2)/(2 sigma^2)) over a independent binomial counts k_i with sum S."""
    rate, noise = 0.2, 1.5
    total = 0.0
    for counts in itertools.product(range(group + 1), repeat=order):
        weight = math.prod(binom.pmf(k, group, rate) for k in counts)
        cross = sum(counts) ** 2 - sum(k * k for k in counts)
        total += weight * math.exp(cross / (2 * noise**2))
    value = sampled_group_curve(rate, noise, group, (order,)).values[0]
    assert value == pytest.approx(math.log(total) / (order - 1), rel=1e-8)


def test_rate_one_is_the_gaussian_mechanism() -> None:
    assert sampled_curve(1.0, 2.0).values == pytest.approx(gaussian_curve(0.5, WHOLE_ORDERS).values, rel=1e-12)
    assert sampled_curve(0.0, 2.0).values == pytest.approx([0.0] * len(WHOLE_ORDERS), abs=1e-15)


def test_binomial_weights_keep_zero_and_all_that_matters() -> None:
    counts, weights = binomial_weights(1000, 0.3)
    assert counts[0] == 0
    assert weights.sum() == pytest.approx(1, abs=1e-14)
    assert len(counts) < 400
    middle = counts == 300
    assert weights[middle][0] == pytest.approx(binom.pmf(300, 1000, 0.3), rel=1e-9)


@given(mu=st.floats(0.05, 6), delta=st.floats(-12, -1).map(lambda e: 10.0**e))
def test_exact_is_below_improved_is_below_old(mu: float, delta: float) -> None:
    curve = gaussian_curve(mu)
    assert epsilon_of(mu, delta) <= curve.epsilon(delta, "improved") * (1 + 1e-12)
    assert curve.epsilon(delta, "improved") <= curve.epsilon(delta, "old")


@given(value=st.floats(0, 50), order=st.sampled_from(ORDERS), delta=st.floats(1e-12, 0.5))
def test_the_improved_conversion_is_below_the_old_one_at_every_order(value: float, order: float, delta: float) -> None:
    assert epsilon_improved(value, order, delta) <= epsilon_old(value, order, delta) + 1e-12


@given(mu=st.floats(0.05, 4), epsilon=st.floats(0.01, 20))
def test_delta_of_a_curve_is_an_upper_bound_and_inverts_epsilon(mu: float, epsilon: float) -> None:
    curve = gaussian_curve(mu)
    delta = curve.delta(epsilon)
    assert delta >= delta_of(mu, epsilon) * (1 - 1e-9)
    if 1e-100 < delta < 0.9:
        assert curve.epsilon(delta) == pytest.approx(epsilon, rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(rate=st.floats(1e-4, 0.9), noise=st.floats(0.4, 10), steps=st.integers(1, 50), more=st.integers(0, 50))
def test_curves_compose_by_addition_and_grow(rate: float, noise: float, steps: int, more: int) -> None:
    one = sampled_curve(rate, noise)
    together, apart = one.times(steps + more), one.times(steps) + one.times(more)
    assert together.values == pytest.approx(apart.values, rel=1e-12)
    assert list(one.values) == sorted(one.values)  # a Renyi divergence never falls with its order
    quieter = sampled_curve(rate, noise * 1.1).values
    rarer = sampled_curve(rate * 0.9, noise).values
    assert all(a <= b * (1 + 1e-9) + 1e-15 for a, b in zip(quieter, one.values))
    assert all(a <= b * (1 + 1e-9) + 1e-15 for a, b in zip(rarer, one.values))


def test_small_rate_rule() -> None:
    """Mironov, Talwar and Zhang 2019, Theorem 11: 2 q^2 a / sigma^2 where sigma >= 4 and q <= 1/5."""
    orders = (2, 4, 8)
    for value, order in zip(sampled_curve(0.1, 4.0, orders).values, orders):
        assert value <= 2 * 0.1**2 * order / 16


def test_orders_and_divergences_stay_together() -> None:
    with pytest.raises(UserError, match="different orders"):
        gaussian_curve(1.0, (2, 3)) + gaussian_curve(1.0, (2, 4))
    with pytest.raises(UserError, match="each order needs its own"):
        Curve((2, 3), (0.5,))
    with pytest.raises(UserError, match="must be above 1"):
        Curve((1.0,), (0.5,))
    with pytest.raises(UserError, match="whole order"):
        sampled_curve(0.1, 1.0, (2.5,))


def test_zcdp() -> None:
    rho = rho_of_mu(1.0)
    assert rho == 0.5
    assert epsilon_of_rho(rho, 1e-5) == pytest.approx(0.5 + 2 * math.sqrt(0.5 * math.log(1e5)), rel=1e-12)
    # the old conversion at its best real order is the zCDP formula
    best = 1 + math.sqrt(math.log(1e5) / rho)
    assert gaussian_curve(1.0, (best,)).epsilon(1e-5, "old") == pytest.approx(epsilon_of_rho(rho, 1e-5), rel=1e-12)
