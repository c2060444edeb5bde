"""Several deleted records: through the Gaussian profile, through the pair, and one after the other."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.privacy import delta_of, epsilon_of, mu_of
from fedunlearn.privacy.accounting import (
    capacity,
    chained_mu,
    cumulative,
    group_epsilon,
    group_mu,
    group_of_pair,
    sequential_mus,
)

mus = st.floats(0.02, 1.5)
sizes = st.integers(1, 12)


def test_profile_and_pair_golden() -> None:
    mu = mu_of(1, 1e-5)
    assert group_mu(mu, 5) == pytest.approx(1.34025, abs=2e-5)
    assert group_epsilon(mu, 5, 1e-5) == epsilon_of(5 * mu, 1e-5)
    assert group_of_pair(1, 1e-5, 5) == (5, pytest.approx(5 * math.exp(4) * 1e-5, rel=1e-12))
    assert group_of_pair(1, 0, 5) == (5, 0)
    assert group_of_pair(1, 1e-5, 1) == (1, pytest.approx(1e-5))
    assert group_of_pair(100, 1e-5, 100)[1] == math.inf


@given(mu=mus, size=sizes, epsilon=st.floats(0.05, 2))
def test_the_pair_is_never_better_than_the_profile(mu: float, size: int, epsilon: float) -> None:
    grown, delta = group_of_pair(epsilon, delta_of(mu, epsilon), size)
    assert delta_of(group_mu(mu, size), grown) <= delta * (1 + 1e-9) + 1e-300


@given(mu=mus, size=sizes)
def test_a_group_is_a_chain_of_single_steps(mu: float, size: int) -> None:
    assert chained_mu([mu] * size) == pytest.approx(group_mu(mu, size), rel=1e-12)


@given(counts=st.lists(st.integers(1, 50), min_size=1, max_size=8), mu=mus)
def test_sequential_deletions_count_all_so_far(counts: list[int], mu: float) -> None:
    assert cumulative(counts) == tuple(sum(counts[: i + 1]) for i in range(len(counts)))
    assert sequential_mus(mu, counts)[-1] == pytest.approx(mu * sum(counts), rel=1e-12)


@given(mu=mus, epsilon=st.floats(0.1, 30))
def test_capacity_is_the_last_group_within_the_claim(mu: float, epsilon: float) -> None:
    count = capacity(mu, epsilon, 1e-5)
    if count:
        assert group_epsilon(mu, count, 1e-5) <= epsilon * (1 + 1e-9)
    assert group_epsilon(mu, count + 1, 1e-5) > epsilon * (1 - 1e-9)


def test_refusals() -> None:
    with pytest.raises(UserError, match="records = 0"):
        group_mu(1.0, 0)
    with pytest.raises(UserError, match=r"records = 2\.5"):
        group_mu(1.0, 2.5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="mu = -1"):
        chained_mu([1.0, -1.0])
    with pytest.raises(UserError, match="mu = 0"):
        capacity(0.0, 1.0, 1e-5)
