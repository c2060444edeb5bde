"""The integral against arbitrary-precision arithmetic, over the whole range that certificates use."""

from __future__ import annotations

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.privacy import gaussian
from fedunlearn.privacy.accounting.integration import delta_of, epsilon_of


@given(mu=st.floats(-5, 1.6).map(lambda e: 10.0**e), u=st.floats(-30, 30))
def test_the_integral_is_the_profile(mu: float, u: float) -> None:
    epsilon = max(0.0, mu * (u + mu / 2))
    with mpmath.workdps(60):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        exact = mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)
    assert delta_of(mu, epsilon) == pytest.approx(float(exact), rel=1e-9)


@given(mu=st.floats(1.6, 5).map(lambda e: 10.0**e), u=st.floats(-60, 30))
def test_the_integral_is_the_profile_where_a_certificate_is_vacuous(mu: float, u: float) -> None:
    epsilon = max(0.0, mu * (u + mu / 2))
    assert delta_of(mu, epsilon) == pytest.approx(gaussian.delta_of(mu, epsilon), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("mu", [1e-3, 1.0, 1e3, 1e5])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.1])
def test_the_inverse_is_that_of_the_profile(mu: float, delta: float) -> None:
    assert epsilon_of(mu, delta) == pytest.approx(gaussian.epsilon_of(mu, delta), rel=1e-9, abs=1e-12)


def test_golden() -> None:
    assert epsilon_of(1.0, 1e-5) == pytest.approx(4.3772, abs=5e-5)
    assert epsilon_of(0.26805112, 1e-5) == pytest.approx(1.0, rel=1e-6)
    assert epsilon_of(1e-6, 1e-5) == 0
    assert delta_of(0.0, 1.0) == 0
