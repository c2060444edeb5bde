"""Composed visits, and the published amplified accountants: golden numbers and independent recomputations."""

from __future__ import annotations

import math
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from fedunlearn.errors import UserError
from fedunlearn.privacy.accounting.transcripts import (
    contributions,
    mean_inverse_delay,
    network_dp_sigma,
    paper_epsilon,
    paper_sigma,
    quantile_sigma,
    spotted_contributions,
    transcript_delta,
    transcript_mu,
    transcript_sigma,
    visit_quantile,
)
from fedunlearn.privacy.gaussian import delta_of

DELTA = 1e-5


def _renyi_noise(visits: int) -> float:
    """Return the noise at (1, 1e-5) by Renyi accounting: a grid of orders, the improved conversion."""
    orders = 1 + np.exp(np.linspace(math.log(0.01), math.log(5000), 50_000))

    def epsilon(mu: float) -> float:
        terms = orders * mu**2 / 2 + np.log1p(-1 / orders) - (math.log(DELTA) + np.log(orders)) / (orders - 1)
        return float(terms.min())

    return math.sqrt(visits) / brentq(lambda mu: epsilon(mu) - 1, 0.1, 0.4)


def test_golden_numbers() -> None:
    """N = 10, p = 0.1, T = 100, (1, 1e-5): 12.8 for 10 visits, 17.6 for 19 by Renyi accounting, 14.6 published."""
    assert _renyi_noise(10) == pytest.approx(12.8, abs=0.05)
    assert _renyi_noise(19) == pytest.approx(17.6, abs=0.05)
    assert paper_sigma(1, DELTA, 100, 0.1, 10, 1) == pytest.approx(14.6, abs=0.05)
    # the exact profile asks for less than Renyi accounting, as it must
    for visits in (10, 19):
        exact = transcript_sigma(1, DELTA, visits, 1)
        assert 0.9 * _renyi_noise(visits) < exact < _renyi_noise(visits)
        assert delta_of(transcript_mu(visits, 1, exact), 1) == pytest.approx(DELTA)


def test_amplification_factor_is_the_mean_inverse_of_a_geometric_delay() -> None:
    for nodes, golden in ((10, 0.2558), (100, 0.0465), (1000, 0.00691)):
        q = 1 / nodes
        series = sum(q * (1 - q) ** (k - 1) / k for k in range(1, 60 * nodes))
        assert mean_inverse_delay(q) == pytest.approx(golden, rel=2e-3)
        assert mean_inverse_delay(q) == pytest.approx(series, rel=1e-9)
        assert mean_inverse_delay(q) > math.log(nodes) / nodes  # the published factor is the smaller one
    assert mean_inverse_delay(1) == 1


@given(st.integers(1, 60), st.floats(0.02, 0.98), st.floats(-8, -1))
@settings(deadline=None)
def test_visit_quantile(hops: int, p: float, exponent: float) -> None:
    tail = 10.0**exponent
    count = visit_quantile(hops, p, tail)

    def above(v: int) -> float:
        return math.fsum(comb(hops, k) * p**k * (1 - p) ** (hops - k) for k in range(v + 1, hops + 1))

    assert above(count) <= tail * (1 + 1e-9)
    assert count == 0 or above(count - 1) > tail * (1 - 1e-9)


@pytest.mark.parametrize(("epsilon", "hops", "p", "noise"), [(1.0, 100, 0.1, 16.0), (0.5, 30, 0.5, 30.0)])
def test_expectation_over_visits(epsilon: float, hops: int, p: float, noise: float) -> None:
    """Exact by its definition, and never more than a quantile's claim plus its tail."""
    weights = [comb(hops, k) * p**k * (1 - p) ** (hops - k) for k in range(hops + 1)]
    exact = sum(w * delta_of(math.sqrt(k) / noise, epsilon) for k, w in enumerate(weights))
    found = transcript_delta(epsilon, hops, p, 1, noise)
    assert found == pytest.approx(exact)
    for tail in (1e-3, 1e-6):
        assert found <= delta_of(transcript_mu(visit_quantile(hops, p, tail), 1, noise), epsilon) + tail
    # Jensen the wrong way: the mean number of visits is no bound
    assert found > delta_of(transcript_mu(round(hops * p), 1, noise), epsilon)


def test_quantile_noise_suffices() -> None:
    noise = quantile_sigma(1, DELTA, 100, 0.1, 1)
    assert transcript_delta(1, 100, 0.1, 1, noise) <= DELTA
    assert noise > transcript_sigma(1, DELTA, 19, 1)


def test_paper_formula_inverts() -> None:
    noise = paper_sigma(2, 1e-4, 300, 0.05, 20, 0.5)
    assert noise == pytest.approx(
        2 * math.sqrt(2) * 0.5 / 2 * math.sqrt(0.05 * 300 * math.log(1e4) * math.log(20) / 20)
    )
    assert paper_epsilon(noise, 1e-4, 300, 0.05, 20, 0.5) == pytest.approx(2)


def test_contributions() -> None:
    assert contributions(100, 10) == 12
    assert contributions(200_000, 2000) == 120
    assert spotted_contributions(100, 10, DELTA) == 12  # in a small network every step may be spotted
    assert spotted_contributions(200_000, 2000, DELTA) == math.ceil(0.12 + math.sqrt(6 * 120 * math.log(1e5) / 2000))


@pytest.mark.parametrize(("nodes", "hops"), [(10, 100), (100, 10_000), (2000, 200_000)])
def test_network_noise_is_the_least_of_its_formula(nodes: int, hops: int) -> None:
    """Recompute the published sum on a grid of orders at the noise found, and at a little less."""
    epsilon, clip = 10.0, 0.4
    noise = network_dp_sigma(epsilon, DELTA, nodes, hops, clip)
    count, spotted = contributions(hops, nodes), spotted_contributions(hops, nodes, DELTA)

    def total(sigma: float) -> float:
        orders = 1 + np.exp(np.linspace(math.log(1e-4), math.log(1e4), 200_000))
        allowed = orders[sigma >= clip * np.sqrt(2 * orders * (orders - 1))]
        seen_late = 2 * count * clip**2 * allowed * math.log(nodes) / (sigma**2 * nodes)
        seen_late += math.log(1 / DELTA) / (allowed - 1)
        one = clip * math.sqrt(2 * math.log(1.25 * count / DELTA)) / sigma
        advanced = math.sqrt(2 * spotted * math.log(count / DELTA)) * one + spotted * one * math.expm1(one)
        return float(seen_late.min()) + min(spotted * one, advanced)

    assert total(noise) == pytest.approx(epsilon, rel=1e-3)
    assert total(0.99 * noise) > epsilon
    assert network_dp_sigma(epsilon, DELTA, nodes, hops, clip, group=7) == pytest.approx(7 * noise)


def test_closed_form_for_many_contributions() -> None:
    """Without spotted steps the noise is at most the published closed form, where that form is allowed."""
    nodes, hops, epsilon = 100, 100_000, 1.0
    count = contributions(hops, nodes)
    assert count >= nodes * math.log(1 / DELTA) / (2 * math.log(nodes))
    closed = 4 * math.sqrt(2 * count * math.log(nodes) * math.log(1 / DELTA) / nodes) / epsilon
    found = network_dp_sigma(epsilon, DELTA, nodes, hops, 1, most_spotted=0)
    assert 0.4 * closed < found <= closed


def test_a_small_network_gains_nothing() -> None:
    """At N = 10 the published amplified noise exceeds plain composition, at N = 2000 it is far below."""
    assert network_dp_sigma(1, DELTA, 10, 100, 1) > transcript_sigma(1, DELTA, contributions(100, 10), 2)
    assert network_dp_sigma(10, DELTA, 2000, 200_000, 1) < 0.5 * transcript_sigma(10, DELTA, 120, 2)


def test_extremes_and_mistakes() -> None:
    assert transcript_mu(0, 1, 0) == 0
    assert transcript_mu(3, 1, 0) == math.inf
    assert transcript_sigma(1, DELTA, 0, 1) == 0
    for call in (
        lambda: transcript_mu(-1, 1, 1),
        lambda: transcript_mu(1, -1, 1),
        lambda: transcript_delta(1, 10, 1.5, 1, 1),
        lambda: visit_quantile(10, 0.1, 0),
        lambda: quantile_sigma(1, DELTA, 10, 0.1, 1, share=1),
        lambda: mean_inverse_delay(0),
        lambda: paper_sigma(0, DELTA, 10, 0.1, 10, 1),
        lambda: paper_sigma(1, DELTA, 10, 0.1, 1, 1),
        lambda: contributions(0, 10),
        lambda: network_dp_sigma(1, 0, 10, 100, 1),
        lambda: network_dp_sigma(1, DELTA, 10, 100, 1, group=0),
    ):
        with pytest.raises(UserError):
            call()
