"""Membership inference against scikit-learn, counting pairs, and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fedunlearn.errors import UserError
from fedunlearn.evaluation import auc_interval, loss_threshold_auc, threshold_balanced_accuracy
from fedunlearn.evaluation.attacks.areas import auc_interval_of
from fedunlearn.evaluation.attacks.membership import best_threshold
from fedunlearn.randomness import generator

# few different values, so that ties are the rule
tied = st.lists(st.integers(0, 6).map(lambda k: k / 4), min_size=1, max_size=30).map(np.array)
real = st.lists(st.floats(0, 50), min_size=1, max_size=30).map(np.array)


@given(st.one_of(tied, real), st.one_of(tied, real))
def test_auc_agrees_with_scikit_learn_and_with_counting_pairs(members, others):
    found = loss_threshold_auc(members, others)
    truth = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    assert found == pytest.approx(roc_auc_score(truth, -np.concatenate([members, others])), abs=1e-12)
    pairs = [(m < o) + 0.5 * (m == o) for m, o in itertools.product(members, others)]
    assert found == pytest.approx(np.mean(pairs), abs=1e-12)


@given(tied, tied)
def test_swapping_the_sets_mirrors_the_area(members, others):
    assert loss_threshold_auc(members, others) + loss_threshold_auc(others, members) == pytest.approx(1)


@given(tied, tied)
def test_only_the_order_of_losses_counts(members, others):
    assert loss_threshold_auc(members, others) == loss_threshold_auc(np.exp(3 * members), np.exp(3 * others))


def test_direction_and_extremes():
    assert loss_threshold_auc([0.1, 0.2], [0.3, np.inf]) == 1.0
    assert loss_threshold_auc([0.3, np.inf], [0.1, 0.2]) == 0.0
    assert loss_threshold_auc([1.0] * 5, [1.0] * 3) == 0.5


def test_the_interval_covers_the_true_area_as_often_as_it_says():
    draw = generator(2, "test-membership")
    truth = 0.7602499389065233  # Phi(1 / sqrt 2): members are N(-1, 1), others N(0, 1)
    hits = 0
    for _ in range(400):
        low, high = auc_interval(draw.normal(-1, 1, 60), draw.normal(0, 1, 80), level=0.9)
        hits += low <= truth <= high
    assert 0.85 <= hits / 400 <= 0.95


def test_the_interval_is_that_of_scores_and_no_point_where_all_members_win():
    members, others = np.array([0.1, 0.4, 0.4, 0.9]), np.array([0.4, 0.8, 1.2])
    assert auc_interval(members, others) == auc_interval_of(-members, -others)
    low, high = auc_interval([0.1, 0.2], [0.3, 0.4, 0.5])
    assert low < 0.5 and high == 1.0


def test_best_threshold_against_trying_all():
    draw = generator(3, "test-membership")
    for _ in range(50):
        members, others = draw.integers(0, 8, 9) / 2, draw.integers(1, 9, 7) / 2
        tried = [-np.inf, *np.arange(0, 5, 0.25)]  # all losses, and the middle between any two that follow each other
        scores = [np.mean(members <= t) - np.mean(others <= t) for t in tried]
        found = best_threshold(members, others)
        assert np.mean(members <= found) - np.mean(others <= found) == max(scores)
        assert found >= tried[int(np.argmax(scores))]


def test_best_threshold_lies_between_the_sets():
    assert best_threshold([0.0, 1.0], [3.0, 4.0]) == 2.0
    assert best_threshold([0.0, 1.0], [np.inf]) == 1.0
    assert best_threshold([3.0], [1.0]) == -np.inf


def test_a_threshold_finds_members_where_there_are_some_and_none_in_noise():
    draw = generator(4, "test-membership")
    assert threshold_balanced_accuracy(draw.uniform(0, 1, 50), draw.uniform(2, 3, 50), seed=0) == 1.0
    noise = [threshold_balanced_accuracy(draw.normal(size=30), draw.normal(size=30), seed=k) for k in range(200)]
    assert abs(np.mean(noise) - 0.5) < 0.015


def test_halves_depend_on_the_seed_only():
    draw = generator(5, "test-membership")
    members, others = draw.normal(0, 1, 21), draw.normal(0.5, 1, 18)
    values = [threshold_balanced_accuracy(members, others, seed) for seed in (1, 1, 2, 3, 4)]
    assert values[0] == values[1]
    assert len(set(values)) > 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: loss_threshold_auc([], [1.0]), "at least one sample among the members"),
        (lambda: loss_threshold_auc([1.0], [np.nan]), "among the non-members that is not a number"),
        (lambda: auc_interval([1.0], [1.0, 2.0]), "at least two members"),
        (lambda: auc_interval([1.0, 2.0], [1.0, 2.0], level=1.0), "level = 1.0"),
        (lambda: threshold_balanced_accuracy([1.0, 2.0], [1.0], seed=0), "at least two members"),
    ],
)
def test_mistakes_are_told_in_one_sentence(call, says):
    with pytest.raises(UserError, match=says):
        call()
