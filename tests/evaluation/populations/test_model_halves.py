"""Halves of models: partitions, fixed by the seed, of equal sizes where scores are compared."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.evaluation.populations.model_halves import (
    LEAST_MODELS,
    at_half_size,
    control_at_half_size,
    halves,
    too_few,
)


@given(st.integers(2, 300), st.integers(0, 10**6), st.integers(0, 3))
def test_halves_are_a_partition_and_fixed_by_the_seed(count, seed, which):
    first, second = halves(count, seed, which)
    assert sorted([*first, *second]) == list(range(count))
    assert len(second) - len(first) == count % 2
    again = halves(count, seed, which)
    assert np.array_equal(first, again[0]) and np.array_equal(second, again[1])


def test_every_model_is_as_likely_in_the_first_half():
    counts = np.zeros(9)
    for seed in range(2000):
        counts[halves(9, seed)[0]] += 1
    expected = 2000 * 4 / 9
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected * 5 / 9)).all()


@pytest.mark.parametrize("count", [8, 9])
def test_scores_at_half_size_compare_equal_numbers_of_models(count):
    sizes, sums = [], []

    def score(a, b):
        sizes.append((len(a), len(b)))
        sums.append((a.sum(), b.sum()))
        return np.array([a.mean() - b.mean(), 1.0])

    models, retrained = np.full((count, 3), 5.0), np.arange(count)[:, None] * np.ones((1, 3))
    found = at_half_size(score, models, retrained, seed=1)
    assert sizes == [(count // 2, count // 2)] * 2
    assert found[1] == 1.0
    if count == 8:  # nobody is left out, so means average to the mean
        assert found[0] == pytest.approx(5.0 - 3.5)
    sums.clear()
    assert control_at_half_size(score, retrained, seed=1)[0] == 0.0  # a signed score cancels over both orders
    assert sums[0] == sums[1][::-1] and sums[0][0] != sums[0][1]


def test_the_refusal_says_how_many_there_are_and_which_option_raises_it():
    assert too_few("klom", LEAST_MODELS) is None
    refusal = too_few("klom", 16)
    assert refusal.reason == (
        "klom needs at least 64 shadow models of each kind, and there are 16: ask for --shadows 64"
    )
    assert refusal.section == "populations"
