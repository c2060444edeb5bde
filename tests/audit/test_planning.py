"""What a number of trials can show: published figures, and exact powers against simulated ones."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedunlearn.audit.planning import (
    POWER,
    detectable_mu,
    power,
    refutable_epsilon,
    refutable_mu,
    simulated_power,
    trial_budget,
    trials_for_epsilon,
)
from fedunlearn.errors import UserError
from fedunlearn.privacy import mu_of

DELTA = 1e-5
MU = mu_of(1.0, DELTA)
CLAIM = {"mu": MU, "epsilon": 1.0, "delta": DELTA}
EPSILON_CLAIM = {**CLAIM, "mu": None}


@pytest.mark.parametrize(
    ("counted", "epsilon"),
    [(50, 2.57), (100, 3.28), (200, 3.98), (500, 4.91), (1000, 5.60), (5000, 7.21), (10_000, 7.90)],
)
def test_largest_epsilon_without_any_error(counted, epsilon):
    assert refutable_epsilon(counted, DELTA) == pytest.approx(epsilon, abs=0.006)


@pytest.mark.parametrize(("epsilon", "needed"), [(1, 12), (2, 30), (3, 76), (5, 550), (8, 10_999)])
def test_trials_needed_without_any_error(epsilon, needed):
    assert trials_for_epsilon(epsilon, DELTA) == needed


@pytest.mark.parametrize(("counted", "mu"), [(100, 3.6), (1000, 5.4)])
def test_largest_mu_without_any_error(counted, mu):
    assert refutable_mu(counted) == pytest.approx(mu, abs=0.05)
    limit = stats.binomtest(0, counted).proportion_ci(0.95).high
    assert refutable_mu(counted) == pytest.approx(-2 * stats.norm.ppf(limit))


def test_one_trial_refutes_nothing():
    assert refutable_epsilon(1, DELTA) == 0 and refutable_mu(1) == 0 and refutable_epsilon(3, 0.9) == 0


@pytest.mark.parametrize(
    ("trials", "factor", "a1", "a2", "a3"),
    [
        (200, 2, 0.0, 0.07, 0.84),
        (200, 5, 0.45, 0.98, 1.0),
        (1000, 1, 0.0, 0.0, 0.06),
        (1000, 2, 0.0, 0.53, 1.0),
        (1000, 3, 0.20, 0.97, 1.0),
        (5000, 2, 0.09, 0.99, 1.0),
    ],
)
def test_power_table(trials, factor, a1, a2, a3):
    """Shares of 200 audits each, found by an independent implementation; ours are within the error of both."""
    share = simulated_power(factor * MU, trials, 200, mu=MU, epsilon=1.0, delta=DELTA)
    for name, published in (("A1", a1), ("A2", a2), ("A3", a3)):
        error = 3 * math.sqrt(2 * max(published * (1 - published), 0.01) / 200)
        assert share[name] == pytest.approx(published, abs=error)


@pytest.mark.parametrize(("trials", "factor"), [(200, 3), (1000, 2), (1000, 3)])
def test_exact_power_is_a_little_above_that_of_audits_that_find_their_threshold(trials, factor):
    exact = power(factor * MU, trials, **CLAIM)
    found = simulated_power(factor * MU, trials, 300, mu=MU, epsilon=1.0, delta=DELTA)["A2"]
    assert exact - 0.18 < found < exact + 0.09


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 4000), st.floats(0.05, 4.0))
def test_a_true_claim_is_refuted_in_at_most_five_percent(trials, mu):
    """At its own edge: the truth is exactly what is claimed."""
    assert power(mu, trials, mu=mu, epsilon=1.0, delta=DELTA) <= 0.05
    epsilon = 2.0
    assert power(mu_of(epsilon, DELTA), trials, mu=None, epsilon=epsilon, delta=DELTA) <= 0.05


@pytest.mark.parametrize("claim", [CLAIM, EPSILON_CLAIM])
def test_the_detectable_mu_is_where_the_power_is_reached(claim):
    found = detectable_mu(1000, **claim)
    assert power(found, 1000, **claim) >= POWER > power(0.99 * found, 1000, **claim)
    assert MU < detectable_mu(5000, **claim) < found < detectable_mu(200, **claim)


def test_audits_notice_a_detectable_fault_nine_times_in_ten():
    found = detectable_mu(1000, **CLAIM)
    assert simulated_power(found, 1000, 300, mu=MU, epsilon=1.0, delta=DELTA, seed=1)["A2"] > 0.85


def test_a_claim_beyond_reach_has_no_detectable_mu():
    assert detectable_mu(100, mu=5.0, epsilon=1.0, delta=DELTA) == math.inf
    assert detectable_mu(100, mu=None, epsilon=5.0, delta=DELTA) == math.inf


def test_the_budget_notices_the_fault_and_less_does_not():
    trials = trial_budget(1.0, DELTA, fault=3.0)
    assert power(3 * MU, trials, **CLAIM | {"mu": None}) >= POWER > power(3 * MU, trials // 2, **EPSILON_CLAIM)
    assert trial_budget(1.0, DELTA, MU, fault=3.0) < trials / 4  # the trade-off test needs far fewer


@pytest.mark.parametrize(
    "call",
    [
        lambda: refutable_epsilon(0, DELTA),
        lambda: trials_for_epsilon(-1.0, DELTA),
        lambda: power(1.0, 1, **CLAIM),
        lambda: trial_budget(1.0, DELTA, fault=1.0),
    ],
)
def test_nonsense_is_refused_in_a_sentence(call):
    with pytest.raises(UserError, match="not allowed"):
        call()
