"""What each leaver is still promised after the releases that came later."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.privacy import compose, epsilon_of, mu_of, sigma_for
from fedunlearn.privacy.accounting import GaussianRelease, PoissonSampledGaussian, epsilon_of_events
from fedunlearn.privacy.accounting.requesters import (
    epsilons_of_events,
    exposed,
    factor_below,
    leaver,
    leavers,
    left_for_next,
    mu_for_each,
    mu_of_leaver,
    sigma_below,
)

one = mu_of(1, 1e-5)
some_mus = st.lists(st.floats(0.01, 2), min_size=1, max_size=12)


def test_two_hundred_releases_golden() -> None:
    all_of_them = leavers([one] * 200, 1e-5)
    assert all_of_them[0].epsilon == pytest.approx(22.7, abs=0.05)
    assert all_of_them[-1].epsilon == pytest.approx(1, rel=1e-9)
    assert [entry.releases for entry in all_of_them] == list(range(200, 0, -1))
    assert [entry.request for entry in all_of_them] == list(range(1, 201))


@pytest.mark.parametrize("start", ["released", "public"])
def test_nobody_degrades_where_every_answer_starts_from_a_release(start) -> None:
    for entry in leavers([one] * 200, 1e-5, start):
        assert (entry.releases, entry.mu) == (1, one)
        assert entry.epsilon == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(("releases", "mu"), [(4, 0.536), (16, 1.072)])
def test_secret_starts_cost_a_square_root(releases: int, mu: float) -> None:
    assert mu_of_leaver([one] * releases, 1) == pytest.approx(mu, abs=5e-4)


def test_the_noise_that_keeps_everybody_below() -> None:
    sigma = sigma_below(3.0, 200, 1.0, 1e-5)
    assert sigma == pytest.approx(math.sqrt(200) * sigma_for(3.0, 1.0, 1e-5), rel=1e-9)
    planned = leavers([3.0 / sigma] * 200, 1e-5)
    assert max(entry.epsilon for entry in planned) <= 1
    assert max(entry.epsilon for entry in planned) == pytest.approx(1, rel=1e-6)
    assert mu_for_each(200, 1.0, 1e-5) == pytest.approx(3.0 / sigma, rel=1e-9)
    assert mu_for_each(200, 1.0, 1e-5, "released") == one
    assert sigma_below(3.0, 200, 1.0, 1e-5, "released") == sigma_for(3.0, 1.0, 1e-5)
    assert factor_below([one] * 200, 1.0, 1e-5) == pytest.approx(math.sqrt(200), rel=1e-9)
    assert factor_below([one] * 200, 1.0, 1e-5, "released") == pytest.approx(1, rel=1e-12)


@given(mus=some_mus)
def test_unequal_releases(mus: list[float]) -> None:
    found = leavers(mus, 1e-5)
    for request, entry in enumerate(found, start=1):
        later = [mu for index, mu in enumerate(mus, start=1) if index >= request]
        assert entry.mu == pytest.approx(math.sqrt(sum(mu * mu for mu in later)), rel=1e-12)
        assert entry.epsilon == pytest.approx(epsilon_of(compose(later), 1e-5), rel=1e-9)
    assert [entry.mu for entry in found] == sorted((entry.mu for entry in found), reverse=True)
    apart = leavers(mus, 1e-5, "released")
    assert [entry.mu for entry in apart] == pytest.approx(mus)
    assert all(a.epsilon <= b.epsilon + 1e-12 for a, b in zip(apart, found))


@given(mus=some_mus, epsilon=st.floats(0.1, 10))
def test_the_factor_keeps_everybody_below(mus: list[float], epsilon: float) -> None:
    factor = factor_below(mus, epsilon, 1e-5) * (1 + 1e-12)
    worst = max(entry.epsilon for entry in leavers([mu / factor for mu in mus], 1e-5))
    assert worst == pytest.approx(epsilon, rel=1e-6)


@given(mus=some_mus, epsilon=st.floats(0.1, 20))
def test_what_is_left_for_the_next_release(mus: list[float], epsilon: float) -> None:
    left = left_for_next(mus, epsilon, 1e-5)
    if left > 0:
        assert leaver([*mus, left], 1, 1e-5).epsilon <= epsilon * (1 + 1e-9)
        assert leaver([*mus, left * 1.05 + 1e-3], 1, 1e-5).epsilon > epsilon
    else:
        assert leaver(mus, 1, 1e-5).epsilon >= epsilon * (1 - 1e-9)
    assert left_for_next(mus, epsilon, 1e-5, "released") == mu_of(epsilon, 1e-5)


def test_releases_of_any_kind() -> None:
    plain, sampled = [GaussianRelease(1.0, 4.0)], [PoissonSampledGaussian(2.0, 0.1, 20)]
    found = epsilons_of_events([plain, sampled, plain], 1e-5)
    assert found[2] == epsilon_of_events(plain, 1e-5).epsilon
    assert found[1] == epsilon_of_events([*sampled, *plain], 1e-5).epsilon
    assert found[0] > found[1] > found[2]
    apart = epsilons_of_events([plain, sampled, plain], 1e-5, "released")
    assert apart == tuple(epsilon_of_events(events, 1e-5).epsilon for events in (plain, sampled, plain))


def test_exposure_is_refused_where_it_makes_no_sense() -> None:
    with pytest.raises(UserError, match="at least one release"):
        leavers([], 1e-5)
    with pytest.raises(UserError, match="request = 3 is not allowed: there were 2"):
        exposed([0.1, 0.2], 3)
    with pytest.raises(UserError, match="request = 0"):
        exposed([0.1, 0.2], 0)
    with pytest.raises(UserError, match="start = 'warm'"):
        leavers([0.1], 1e-5, "warm")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="releases = 0"):
        sigma_below(1.0, 0, 1.0, 1e-5)
