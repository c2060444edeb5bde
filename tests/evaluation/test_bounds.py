"""Exact limits of probabilities, and what they say about mu and epsilon."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedunlearn.errors import UserError
from fedunlearn.evaluation.bounds import (
    Event,
    choose_epsilon,
    choose_trade_off,
    epsilon_bound,
    lower_limit,
    mu_from_errors,
    parametric_bound,
    trade_off_bound,
    trade_off_curve,
    upper_limit,
)

fifty = settings(max_examples=50, deadline=None)


@fifty
@given(st.integers(1, 400), st.data())
def test_limits_are_those_of_clopper_and_pearson(trials, data):
    count = data.draw(st.integers(0, trials))
    level = data.draw(st.sampled_from([0.025, 0.001, 0.2]))
    interval = stats.binomtest(count, trials).proportion_ci(1 - 2 * level, method="exact")
    assert float(upper_limit(count, trials, level)) == pytest.approx(interval.high, rel=1e-6)
    assert float(lower_limit(count, trials, level)) == pytest.approx(interval.low, rel=1e-6, abs=1e-12)


def test_limits_of_large_counts_agree_with_the_table_of_small_ones():
    counts = np.array([0, 3, 70, 19_999, 20_000])
    assert upper_limit(counts.astype(np.float64), 20_000) == pytest.approx(upper_limit(counts, 20_000))
    assert float(upper_limit(3, 1_000_000)) == pytest.approx(stats.binomtest(3, 10**6).proportion_ci(0.95).high)


@fifty
@given(st.integers(5, 60), st.floats(1e-9, 1.0), st.floats(1e-9, 1.0))
def test_a_bound_exceeds_the_truth_in_at_most_five_percent_of_the_counts(trials, a, b):
    """Summed over all counts, whatever the two error probabilities are."""
    counts = np.arange(trials + 1)
    limits = upper_limit(counts, trials)
    joint = np.outer(stats.binom.pmf(counts, trials, a), stats.binom.pmf(counts, trials, b))
    with np.errstate(invalid="ignore"):
        wrong = mu_from_errors(limits[:, None], limits[None, :]) > mu_from_errors(a, b) + 1e-9
    assert joint[wrong].sum() <= 0.05


def test_mu_of_two_errors_is_that_of_the_gaussian_test():
    mu, threshold = 1.3, 0.4
    assert mu_from_errors(stats.norm.sf(threshold), stats.norm.cdf(threshold - mu)) == pytest.approx(mu)
    assert mu_from_errors(0.5, 0.5) == 0


def test_trade_off_bound_of_counts_by_hand():
    unlearned, retrained = np.array([0.0, 1, 2, 3]), np.array([-3.0, -2, -1, 1])
    high = stats.binomtest(1, 4).proportion_ci(0.95).high  # one error in each world at the threshold 0.5
    expected = 2 * stats.norm.ppf(1 - high)
    assert trade_off_bound(unlearned, retrained, Event(0.5, True)) == pytest.approx(expected)


def test_epsilon_bound_of_counts_by_hand():
    unlearned, retrained = np.linspace(0.1, 1, 30), np.concatenate([np.full(28, -1.0), [0.5, 0.7]])
    low, high = stats.binomtest(30, 30).proportion_ci(0.95).low, stats.binomtest(2, 30).proportion_ci(0.95).high
    bound = epsilon_bound(unlearned, retrained, Event(0.0, True), 0.01)
    assert bound == pytest.approx(math.log((low - 0.01) / high))
    other = epsilon_bound(unlearned, retrained, Event(0.0, False, world=1), 0.01)
    low, high = stats.binomtest(28, 30).proportion_ci(0.95).low, stats.binomtest(0, 30).proportion_ci(0.95).high
    assert other == pytest.approx(math.log((low - 0.01) / high))


def test_nothing_is_bounded_where_worlds_do_not_differ():
    same = np.zeros(40)
    assert trade_off_bound(same, same, choose_trade_off(same, same)) <= 0
    assert epsilon_bound(same, same, choose_epsilon(same, same, 1e-5), 1e-5) == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_direction_and_threshold_are_found(sign):
    random = np.random.default_rng(0)
    p, q = sign * random.normal(2.0, size=(2, 500)), sign * random.normal(size=(2, 500))
    event = choose_trade_off(p[0], q[0])
    assert event.above == (sign > 0) and abs(event.threshold) < 3
    assert 1.4 < trade_off_bound(p[1], q[1], event) < 2.0


def test_the_order_of_the_worlds_is_found_where_only_one_order_shows_a_difference():
    """World 1 has an event that world 0 nearly lacks, and not the other way round."""
    random = np.random.default_rng(1)
    p = random.uniform(size=(2, 2000))
    q = np.where(random.random((2, 2000)) < 0.1, 2.0, random.uniform(size=(2, 2000)))
    event = choose_epsilon(p[0], q[0], 1e-5)
    assert event.world == 1 and event.above
    assert 2 < epsilon_bound(p[1], q[1], event, 1e-5) < math.log(0.13 / 1e-3)


def test_thresholds_of_many_trials_keep_the_tails():
    """With 100,000 trials not every threshold is tried, but the rarest events are."""
    random = np.random.default_rng(2)
    p, q = random.normal(1.0, size=(2, 100_000)), random.normal(size=(2, 100_000))
    event = choose_epsilon(p[0], q[0], 1e-5)
    tail = stats.norm.sf if event.above else stats.norm.cdf
    shares = tail(event.threshold - 1), tail(event.threshold)
    exact = math.log((shares[event.world] - 1e-5) / shares[1 - event.world])
    assert exact > 2.5 and epsilon_bound(p[1], q[1], event, 1e-5) == pytest.approx(exact, abs=0.5)


def test_infinite_scores_are_thresholds_and_nan_is_refused():
    unlearned, retrained = np.array([np.inf, np.inf, 1.0]), np.array([-np.inf, 0.0, 0.5])
    assert choose_trade_off(unlearned, retrained).count(unlearned) == 3
    with pytest.raises(UserError, match="NaN"):
        choose_trade_off(np.array([np.nan]), retrained)


def test_no_trial_is_refused():
    with pytest.raises(UserError, match="trials = 0"):
        upper_limit(0, 0)


def test_parametric_bound_is_the_difference_less_its_error():
    p, q = np.full(50, 3.0), np.full(50, 1.0)
    assert parametric_bound(p, q, 2.0) == pytest.approx(1.0 - 1.6448536 * math.sqrt(2 / 50))


def test_the_curve_of_the_figure_runs_between_its_limits():
    random = np.random.default_rng(3)
    curve = trade_off_curve(random.normal(1.0, size=300), random.normal(size=300))
    for name in ("false_positive", "false_negative"):
        assert (curve[f"{name}_low"] <= curve[name]).all() and (curve[name] <= curve[f"{name}_high"]).all()
    assert (np.diff(curve["false_positive"]) <= 0).all() and (np.diff(curve["false_negative"]) >= 0).all()
    beyond = stats.norm.cdf(stats.norm.isf(curve["false_positive_high"]) - 1)  # the true curve, at a larger error
    assert (beyond <= curve["false_negative_high"]).mean() > 0.95
