"""ROC curves against scikit-learn, scipy, brute force and simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve

from fedunlearn.errors import UserError
from fedunlearn.evaluation.attacks import areas, roc
from fedunlearn.randomness import generator

# few different values, so that ties are the rule
tied = st.lists(st.integers(0, 6).map(lambda k: k / 4), min_size=1, max_size=30).map(np.array)
real = st.lists(st.floats(-50, 50), min_size=1, max_size=30).map(np.array)
scores = st.one_of(tied, real)


def truth_of(members, others):
    return np.concatenate([np.ones(len(members)), np.zeros(len(others))]), np.concatenate([members, others])


@given(scores, scores)
def test_curve_and_area_agree_with_scikit_learn(members, others):
    found = roc.roc_of(members, others)
    fpr, tpr, _ = roc_curve(*truth_of(members, others), drop_intermediate=False)
    assert found.fpr == pytest.approx(fpr, abs=1e-12)
    assert found.tpr == pytest.approx(tpr, abs=1e-12)
    assert (
        found.auc == areas.auc(members, others) == pytest.approx(roc_auc_score(*truth_of(members, others)), abs=1e-12)
    )
    assert np.trapezoid(found.tpr, found.fpr) == pytest.approx(found.auc, abs=1e-12)
    assert (found.members, found.nonmembers) == (len(members), len(others))


@given(scores)
def test_equal_sets_have_an_area_of_exactly_one_half(values):
    assert areas.auc(values, values[::-1]) == 0.5
    if len(values) > 1:
        assert areas.paired_auc_interval(values, values, seed=3) == (0.5, 0.5)


def test_infinite_scores_are_ranked():
    assert areas.auc([np.inf, 1.0], [0.0, -np.inf]) == 1.0
    assert areas.auc([np.inf, -np.inf], [np.inf, -np.inf]) == 0.5
    assert roc.roc_of([np.inf, -np.inf], [0.0]).tpr.tolist() == [0.0, 0.5, 0.5, 1.0]


# --- few false positives ----------------------------------------------------------------------------------------------


@given(scores, tied, st.integers(1, 12))
def test_true_positives_at_a_rate_against_trying_all_thresholds(members, others, k):
    rate = k / 13
    if rate < 1 / len(others):
        with pytest.raises(UserError, match=f"needs at least {int(np.ceil(13 / k))} non-members, and there are"):
            roc.tpr_at(members, others, rate)
        return
    tried = np.concatenate([[-np.inf], members, others, [np.inf]])
    best = max((members > t).mean() for t in tried if (others > t).mean() <= rate + 1e-12)
    found = roc.tpr_at(members, others, rate)
    assert found.tpr.value == best == (members > found.threshold).mean()
    assert found.fpr.value == (others > found.threshold).mean() <= rate + 1e-12
    for estimate, n in ((found.tpr, len(members)), (found.fpr, len(others))):
        exact = binomtest(round(estimate.value * n), n).proportion_ci(0.95, method="exact")
        assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_true_positives_lie_on_the_curve_of_scikit_learn():
    draw = generator(1, "test-roc")
    members, others = draw.normal(1, 1, 300), draw.normal(0, 1, 1000)
    fpr, tpr, _ = roc_curve(*truth_of(members, others))
    for rate in (0.1, 0.01, 0.001):
        assert roc.tpr_at(members, others, rate).tpr.value == tpr[fpr <= rate].max()


@pytest.mark.parametrize("n", [10, 49, 100, 1000, 7000])  # 49 (1/49) < 1 in floats
def test_a_rate_that_is_exactly_one_sample_can_be_resolved(n):
    members, others = np.arange(n) + 0.5, np.arange(n, dtype=float)
    found = roc.tpr_at(members, others, roc.smallest_fpr(n))
    assert found.fpr.value == 1 / n
    assert found.tpr.value == 2 / n


def test_usual_rates_are_those_that_the_sample_resolves():
    found = {n: roc.default_rates(n) for n in (1, 9, 10, 99, 100, 999, 1000)}
    assert found == {
        1: (), 9: (), 10: (0.1,), 99: (0.1,), 100: (0.1, 0.01), 999: (0.1, 0.01), 1000: (0.1, 0.01, 0.001)
    }  # fmt: skip


def test_too_few_nonmembers_are_told_with_both_numbers():
    assert 1 / (1 / 49) > 49  # in floats
    with pytest.raises(UserError, match="at least 49 non-members, and there are 48"):
        roc.check_rate(1 / 49, 48)
    with pytest.raises(UserError) as error:
        roc.tpr_at(np.zeros(5), np.zeros(399), 0.001)
    assert str(error.value) == "a false positive rate of 0.001 needs at least 1000 non-members, and there are 399"


# --- intervals --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.data())
def test_shares_have_clopper_and_pearsons_interval(n, data):
    k = data.draw(st.integers(0, n))
    found, exact = roc.share(k, n), binomtest(k, n).proportion_ci(0.95, method="exact")
    assert (found.value, found.low, found.high) == pytest.approx((k / n, exact.low, exact.high), abs=1e-9)


def test_the_balanced_accuracy_has_the_interval_of_its_two_shares():
    members, others = np.arange(12.0) + 100, np.arange(30.0)
    found = roc.balanced_accuracy(members, others, seed=1)
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx((0.0125 ** (1 / 12) + 0.0125 ** (1 / 30)) / 2)  # all right: level^(1/n)
    noise = generator(6, "test-roc").normal(size=(200, 2, 40))
    estimates = [roc.balanced_accuracy(*pair, seed=k) for k, pair in enumerate(noise)]
    assert abs(np.mean([e.value for e in estimates]) - 0.5) < 0.015
    assert np.mean([e.low <= 0.5 <= e.high for e in estimates]) >= 0.95


def test_the_best_threshold_separates_and_nobody_is_a_member_by_chance():
    assert roc.best_threshold([3.0, 4.0], [0.0, 1.0]) == 2.0
    assert roc.best_threshold([0.0], [1.0]) == np.inf
    assert np.isfinite(roc.best_threshold([1.7e308], [1.6e308]))


# --- for figures ------------------------------------------------------------------------------------------------------


def test_a_thinned_curve_keeps_all_corners_near_zero_and_both_ends():
    draw = generator(7, "test-roc")
    curve = roc.roc_of(draw.normal(0.5, 1, 5000), draw.normal(0, 1, 5000))
    fpr, tpr = roc.thinned(curve)
    assert len(fpr) == 200
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    steps = list(zip(curve.fpr, curve.tpr))
    assert set(zip(fpr, tpr)) <= set(steps)
    fine_fpr, fine_tpr = roc.thinned(curve, points=10**6)
    assert fpr[:100].tolist() == fine_fpr[:100].tolist()
    assert tpr[:100].tolist() == fine_tpr[:100].tolist()
    assert np.interp(curve.fpr[1:], fine_fpr, fine_tpr)[-1] == 1
    assert np.trapezoid(fine_tpr, fine_fpr) == pytest.approx(curve.auc, abs=1e-12)
    assert np.trapezoid(tpr, fpr) == pytest.approx(curve.auc, abs=0.005)


def test_points_on_a_straight_line_are_dropped_and_change_nothing():
    curve = roc.roc_of([3.0, 4.0, 5.0], [0.0, 1.0, 2.0])
    fpr, tpr = roc.thinned(curve)
    assert (fpr.tolist(), tpr.tolist()) == ([0, 0, 1], [0, 1, 1])


def test_a_curve_table_is_plain_json():
    curve = roc.roc_of([3.0, 1.0], [0.0, 2.0, 1.0, -1.0])
    table = roc.roc_curve_table(curve, attack="loss", label="loss", positives="p", negatives="n", group="g")
    assert json.loads(json.dumps(table)) == table
    assert table["fpr"] == [0, 0, 0.25, 0.5, 1]
    assert table["tpr"] == [0, 0.5, 0.5, 1, 1]
    assert (table["auc"], table["smallest_fpr"]) == (6.5 / 8, 0.25)
    assert {k: table[k] for k in ("attack", "label", "positives", "negatives", "group")} == {
        "attack": "loss", "label": "loss", "positives": "p", "negatives": "n", "group": "g",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: areas.auc([], [1.0]), "at least one sample among the members"),
        (lambda: roc.roc_of([1.0], [np.nan]), "a score among the non-members that is not a number"),
        (lambda: areas.auc_interval_of([1.0], [1.0, 2.0]), "at least two members"),
        (lambda: areas.auc_interval_of([1.0, 2.0], [1.0, 2.0], level=1.0), "level = 1.0"),
        (lambda: areas.paired_auc_interval([1.0], [1.0], seed=1), "at least two samples"),
        (lambda: areas.paired_auc_interval([1.0, 2.0], [1.0, 2.0], seed=1, level=0.0), "level = 0.0"),
        (lambda: roc.balanced_accuracy([1.0, 2.0], [1.0], seed=0), "at least two members"),
        (lambda: roc.tpr_at([1.0, 2.0], [1.0], 0.0), "a false positive rate of 0 is not allowed"),
        (lambda: roc.tpr_at([1.0, 2.0], [1.0], 1.0), "a false positive rate of 1 is not allowed"),
    ],
)
def test_mistakes_are_told_in_one_sentence(call, says):
    with pytest.raises(UserError, match=says):
        call()
