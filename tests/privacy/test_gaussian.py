"""The Gaussian profile against published numbers, numerical integration and its own laws."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from fedunlearn.errors import UserError
from fedunlearn.privacy.gaussian import classic_sigma, compose, curve, delta_of, epsilon_of, mu_of, sigma_for

epsilons = st.floats(1e-6, 1e3)
deltas = st.floats(-290, -1e-3).map(lambda exponent: 10.0**exponent)
mus = st.floats(-6, 1.5).map(lambda exponent: 10.0**exponent)


def hockey_stick(mu: float, epsilon: float) -> float:
    """Integrate max(0, p - exp(epsilon) q) over the line, p = N(mu, 1), q = N(0, 1): the definition itself."""
    start = epsilon / mu + mu / 2  # p exceeds exp(epsilon) q from here on
    value, _ = quad(
        lambda x: norm.pdf(x - mu) - math.exp(epsilon) * norm.pdf(x),
        start,
        start + 40,
        epsabs=0,
        epsrel=1e-11,
        limit=400,
    )
    return value


def exact_profile(mu: float, epsilon: float) -> mpmath.mpf:
    with mpmath.workdps(60):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        return mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)


@pytest.mark.parametrize(
    ("epsilon", "delta", "sigma"),
    [(0.5, 1e-5, 7.0318), (1, 1e-5, 3.7306), (3, 1e-5, 1.3906), (10, 1e-5, 0.49989), (1, 1e-6, 4.2247)],
)
def test_sigma_golden(epsilon: float, delta: float, sigma: float) -> None:
    assert sigma_for(1, epsilon, delta) == pytest.approx(sigma, rel=2e-5)


@pytest.mark.parametrize(
    ("epsilon", "mu"),
    [(0.1, 0.03252), (0.5, 0.14221), (1, 0.26805), (3, 0.71912), (5, 1.1212), (8, 1.6660), (10, 2.0005)],
)
def test_mu_golden(epsilon: float, mu: float) -> None:
    assert mu_of(epsilon, 1e-5) == pytest.approx(mu, rel=1e-4)


def test_epsilon_golden() -> None:
    assert epsilon_of(1, 1e-5) == pytest.approx(4.3772, abs=5e-5)
    assert epsilon_of(3.6, 1e-5) == pytest.approx(21, abs=0.5)


def test_total_variation_at_epsilon_zero() -> None:
    for mu in (1e-9, 0.3, 0.99, 1.01, 2.5):
        assert delta_of(mu, 0) == pytest.approx(math.erf(mu / math.sqrt(8)), rel=1e-13)


@pytest.mark.parametrize("mu", [0.05, 0.268, 0.999, 1.001, 2.0, 4.5])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 3.0, 8.0])
def test_profile_is_the_integral(mu: float, epsilon: float) -> None:
    value = hockey_stick(mu, epsilon)
    if value > 1e-250:
        assert delta_of(mu, epsilon) == pytest.approx(value, rel=1e-8)


@given(mus, st.floats(-6, 36))
@settings(deadline=None)
def test_profile_in_many_digits(mu: float, shift: float) -> None:
    epsilon = mu * (mu / 2 + shift)
    assume(epsilon >= 0)
    exact = exact_profile(mu, epsilon)
    assume(exact > mpmath.mpf("1e-290"))
    assert abs(delta_of(mu, epsilon) / exact - 1) < 1e-12


@given(mus, mus, epsilons)
def test_delta_grows_with_mu(first: float, second: float, epsilon: float) -> None:
    low, high = sorted((first, second))
    assert delta_of(low, epsilon) <= delta_of(high, epsilon) * (1 + 1e-11)


@given(mus, epsilons, epsilons)
def test_delta_falls_with_epsilon(mu: float, first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert delta_of(mu, high) <= delta_of(mu, low) * (1 + 1e-11)


@given(epsilons, deltas)
@settings(deadline=None)
def test_mu_of_is_the_inverse_and_safe(epsilon: float, delta: float) -> None:
    mu = mu_of(epsilon, delta)
    assert delta_of(mu, epsilon) <= delta
    assert delta_of(mu * (1 + 1e-10), epsilon) > delta * (1 - 1e-9)
    assert epsilon_of(mu, delta) == pytest.approx(epsilon, rel=1e-9)


@given(mus, deltas)
@settings(deadline=None)
def test_epsilon_of_is_the_inverse_and_safe(mu: float, delta: float) -> None:
    epsilon = epsilon_of(mu, delta)
    assert delta_of(mu, epsilon) <= delta
    if epsilon > 1e-6:
        assert mu_of(epsilon, delta) == pytest.approx(mu, rel=1e-7)


@given(st.floats(-8, 8).map(lambda e: 10.0**e), epsilons, deltas)
@settings(deadline=None)
def test_sigma_scales_with_sensitivity(sensitivity: float, epsilon: float, delta: float) -> None:
    sigma = sigma_for(sensitivity, epsilon, delta)
    assert sigma == pytest.approx(sensitivity * sigma_for(1, epsilon, delta), rel=1e-12)
    assert delta_of(sensitivity / sigma, epsilon) <= delta


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(1e-300, 1e-300), (1e-12, 0.999999), (700, 5e-324), (1e4, 1e-12), (1e-9, 1 - 1e-15)]
)
def test_extreme_targets(epsilon: float, delta: float) -> None:
    mu = mu_of(epsilon, delta)
    assert 0 < mu < math.inf
    assert delta_of(mu, epsilon) <= delta


def test_extreme_mu() -> None:
    assert delta_of(0, 1) == 0
    assert delta_of(math.inf, 1) == 1
    assert delta_of(1e300, 1) == 1
    assert delta_of(1e-300, 1) == 0
    assert epsilon_of(0, 1e-5) == 0
    assert epsilon_of(math.inf, 1e-5) == math.inf


def test_composition_is_pythagorean() -> None:
    assert compose([0.3, 0.4]) == pytest.approx(0.5)
    assert compose([]) == 0
    # Two releases of the same vector carry as much as their mean, which has sigma / sqrt(2).
    assert delta_of(compose([0.7, 0.7]), 1) == pytest.approx(delta_of(0.7 * math.sqrt(2), 1))


def test_curve_passes_the_claim() -> None:
    mu = mu_of(1, 1e-5)
    (point,) = curve(mu, epsilons=[1])
    assert point == (1, pytest.approx(1e-5))
    (point,) = curve(mu, deltas=[1e-5])
    assert point == (pytest.approx(1), 1e-5)
    values = [delta for _, delta in curve(mu, epsilons=np.linspace(0, 3, 40))]
    assert values == sorted(values, reverse=True)


def test_classic_formula() -> None:
    assert classic_sigma(1, 1, 1e-5) == pytest.approx(4.8448, abs=5e-5)
    for epsilon in (0.1, 0.5, 1):
        assert classic_sigma(1, epsilon, 1e-5) > sigma_for(1, epsilon, 1e-5)
    # What the formula would say at epsilon = 10 is less than the exact need: it must be refused, not evaluated.
    assert math.sqrt(2 * math.log(1.25 / 1e-5)) / 10 < sigma_for(1, 10, 1e-5)
    with pytest.raises(UserError, match="epsilon up to 1 only"):
        classic_sigma(1, 1.0001, 1e-5)


@pytest.mark.parametrize("epsilon", [0, -1, math.nan, math.inf])
def test_bad_epsilon(epsilon: float) -> None:
    for function in (mu_of, lambda e, d: sigma_for(1, e, d), lambda e, d: classic_sigma(1, e, d)):
        with pytest.raises(UserError, match=r"epsilon = .* must be a positive finite number"):
            function(epsilon, 1e-5)


@pytest.mark.parametrize("delta", [0, 1, -0.1, 2, math.nan])
def test_bad_delta(delta: float) -> None:
    for function in (mu_of, epsilon_of):
        with pytest.raises(UserError, match=r"delta = .* strictly between 0 and 1"):
            function(1.0, delta)


def test_bad_numbers() -> None:
    for sensitivity in (0, -1, math.inf, math.nan):
        with pytest.raises(UserError, match="sensitivity"):
            sigma_for(sensitivity, 1, 1e-5)
    with pytest.raises(UserError, match="out of float64's range"):
        sigma_for(1e300, 1e-300, 1e-300)
    for mu in (-1, math.nan):
        with pytest.raises(UserError, match="mu = "):
            delta_of(mu, 1)
        with pytest.raises(UserError, match="mu = "):
            compose([1, mu])
    with pytest.raises(UserError, match="epsilon"):
        delta_of(1, -0.5)
    with pytest.raises(UserError, match="either epsilons or deltas"):
        curve(1)
    with pytest.raises(UserError, match="either epsilons or deltas"):
        curve(1, epsilons=[1], deltas=[1e-5])
