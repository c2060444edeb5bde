from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fedunlearn.evaluation.measure import Estimate
from fedunlearn.evaluation.rates import difference, line, paired_difference, share_of

bits = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def test_a_share_has_scipys_exact_interval() -> None:
    hits = np.arange(40) < 7
    ours, exact = share_of(hits), binomtest(7, 40).proportion_ci(method="exact")
    assert ours.value == 7 / 40
    assert (ours.low, ours.high) == (pytest.approx(exact.low), pytest.approx(exact.high))


def test_the_paired_difference_by_hand() -> None:
    """Four cells (both 30, first only 12, second only 5, neither 53) plus a half each, and Wald's formula by hand."""
    first = np.repeat([True, True, False, False], [30, 12, 5, 53])
    second = np.repeat([True, False, True, False], [30, 12, 5, 53])
    ours = paired_difference(first, second)
    p12, p21, n = 12.5 / 102, 5.5 / 102, 102
    half = 1.959964 * np.sqrt((p12 + p21 - (p12 - p21) ** 2) / n)
    assert ours.value == pytest.approx(0.07)
    assert ours.low == pytest.approx(p12 - p21 - half, abs=1e-6)
    assert ours.high == pytest.approx(p12 - p21 + half, abs=1e-6)


@given(bits)
def test_a_paired_difference_turns_its_sign_and_holds_its_value(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(side) for side in zip(*pairs))
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert there.low is not None and there.high is not None and back.low is not None and back.high is not None
    assert there.value == pytest.approx(first.mean() - second.mean()) and there.value == -back.value
    assert -1 <= there.low <= there.value <= there.high <= 1 and there.low < there.high
    assert there.low == pytest.approx(-back.high)


def test_the_paired_interval_covers() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        u, v = rng.random(50), rng.random(50)
        first = u < 0.8
        second = np.where(v < 0.7, first, rng.random(50) < 0.6)  # truth: 0.8 - (0.7 * 0.8 + 0.3 * 0.6)
        found = paired_difference(first, second)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.06 <= found.high
    assert 0.92 <= covered / 600 <= 0.99


def test_a_difference_adds_distances_in_squares() -> None:
    found = difference(Estimate(0.5, 0.2, 0.6), Estimate(0.1, 0.0, 0.5))
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.4 - 0.5, 0.4 + np.hypot(0.1, 0.1)))
    assert difference(Estimate(0.5), Estimate(0.1, 0.0, 0.2)) == Estimate(0.4)


def test_mistakes_of_the_program_are_named() -> None:
    with pytest.raises(ValueError, match="no column 'junk'"):
        line("x", "backdoor", "", {"junk": Estimate(1.0)}, {})
    with pytest.raises(ValueError, match="same samples"):
        paired_difference(np.ones(3, bool), np.ones(2, bool))
