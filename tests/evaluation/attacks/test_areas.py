"""Areas and their intervals, against scikit-learn, definitions and simulation, most of all with few samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import brunnermunzel, norm
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from fedunlearn.evaluation.attacks import areas
from fedunlearn.randomness import generator


def truth_of(members, others):
    return np.concatenate([np.ones(len(members)), np.zeros(len(others))]), np.concatenate([members, others])


def placements(members, others):
    won = (members[:, None] > others[None]) + 0.5 * (members[:, None] == others[None])
    return won.mean(1), won.mean(0)


@pytest.mark.parametrize(("m", "n"), [(2, 200), (3, 200), (5, 200), (20, 200), (5, 5)])
@pytest.mark.parametrize("area", [0.5, 0.8, 0.95])
def test_the_interval_covers_the_true_area_with_few_samples_too(m, n, area):
    draw, hits, trials = generator(1, "test-areas", m, n, int(100 * area)), 0, 200
    for _ in range(trials):
        low, high = areas.auc_interval_of(draw.normal(np.sqrt(2) * norm.ppf(area), 1, m), draw.normal(size=n))
        hits += low <= area <= high
    assert hits / trials >= 0.91


def test_members_that_spread_more_do_not_spoil_the_interval():
    draw, hits, trials = generator(2, "test-areas"), 0, 300
    for _ in range(trials):
        low, high = areas.auc_interval_of(draw.normal(0, 3, 6), draw.normal(0, 1, 300))
        hits += low <= 0.5 <= high
    assert hits / trials >= 0.91


@pytest.mark.parametrize(("m", "n"), [(2, 2), (3, 40), (40, 40)])
def test_perfect_separation_is_no_certainty(m, n):
    low, high = areas.auc_interval_of(np.arange(m) + 100.0, np.arange(n))
    assert low < 1.0 == high
    assert areas.auc_interval_of(np.arange(n) - 100.0, np.arange(m)) == pytest.approx((0.0, 1 - low))
    low, high = areas.paired_auc_interval(np.arange(m) + 100.0, np.arange(m), seed=1)
    assert (low, high) == pytest.approx((0.025 ** (1 / (m // 2)), 1.0))
    assert areas.paired_auc_interval(np.arange(m), np.arange(m) + 100.0, seed=1) == pytest.approx((0.0, 1 - low))


def test_the_interval_is_the_hull_of_newcombes_and_brunner_and_munzels():
    draw = generator(3, "test-areas")
    for m, n, shift in ((7, 9, 0.3), (4, 60, 1.0), (60, 80, 0.2)):
        members, others = draw.normal(shift, 2, m), draw.normal(0, 1, n)
        area = roc_auc_score(*truth_of(members, others))
        grid, size = np.linspace(0, 1, 200_001), (m + n) / 2
        variance = grid * (1 - grid) * (1 + (size - 1) * ((1 - grid) / (2 - grid) + grid / (1 + grid))) / (m * n)
        allowed = grid[np.abs(grid - area) <= norm.ppf(0.975) * np.sqrt(variance)]
        # brunnermunzel gives t = (area - 1/2) / deviation and its p-value, so the deviation and t's quantile follow
        test = brunnermunzel(others, members)
        v10, v01 = placements(members, others)
        one, two = v10.var(ddof=1) / m, v01.var(ddof=1) / n
        freedom = (one + two) ** 2 / (one**2 / (m - 1) + two**2 / (n - 1))
        assert test.pvalue == pytest.approx(2 * student.sf(abs(test.statistic), freedom))
        half = student.ppf(0.975, freedom) * abs((area - 0.5) / test.statistic)
        expected = max(0.0, min(allowed[0], area - half)), min(1.0, max(allowed[-1], area + half))
        assert areas.auc_interval_of(members, others) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("n", [5, 10])
def test_the_paired_interval_covers_with_few_samples(n):
    draw, hits, trials = generator(4, "test-areas", n), 0, 200
    for seed in range(trials):
        low, high = areas.paired_auc_interval(*bivariate(draw, n, 1.19, 0.5), seed)
        hits += low <= norm.cdf(1.19 / np.sqrt(2)) <= high
    assert hits / trials >= 0.91


def bivariate(draw, n, shift, correlation):
    common, one, two = draw.normal(size=(3, n))
    first = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * one + shift
    return first, np.sqrt(correlation) * common + np.sqrt(1 - correlation) * two


def test_the_paired_interval_covers_the_true_area_as_often_as_it_says():
    draw, hits, trials = generator(2, "test-roc"), 0, 300
    for seed in range(trials):
        low, high = areas.paired_auc_interval(*bivariate(draw, 50, 0.5, 0.8), seed)
        hits += low <= norm.cdf(0.5 / np.sqrt(2)) <= high
    assert 0.91 <= hits / trials <= 0.985


def test_the_paired_interval_has_the_width_of_the_law_of_large_samples():
    """The area of paired scores moves by V10_i + V01_i - 2 auc with sample i (Hajek's projection)."""
    for correlation in (0.0, 0.9):
        first, second = bivariate(generator(3, "test-roc", int(10 * correlation)), 400, 0.3, correlation)
        v10 = (first[:, None] > second[None]).mean(1)
        v01 = (first[:, None] > second[None]).mean(0)
        width = 2 * 1.96 * np.sqrt((v10 + v01).var(ddof=1) / 400)
        low, high = areas.paired_auc_interval(first, second, seed=1)
        assert high - low == pytest.approx(width, rel=0.1)
        assert (low + high) / 2 == pytest.approx(areas.auc(first, second), abs=0.1 * width)
    unpaired = areas.auc_interval_of(first, second)
    assert high - low < (unpaired[1] - unpaired[0]) / 2


def test_the_paired_interval_against_resampling_by_hand(monkeypatch):
    monkeypatch.setattr(areas, "RESAMPLES", 60)
    draw = generator(4, "test-roc")
    first, second = draw.integers(0, 5, 17) / 4 + 0.25, draw.integers(0, 5, 17) / 4
    picked = generator(7, "paired-auc").integers(17, size=(60, 17), dtype=np.int32)
    drawn = [roc_auc_score(*truth_of(first[rows], second[rows])) for rows in picked]
    area = roc_auc_score(*truth_of(first, second))
    shift = (np.mean((first > second) + 0.5 * (first == second)) - area) / 17
    stretch = np.sqrt(17 / 16) * student.ppf(0.95, 16) / norm.ppf(0.95)
    expected = area + stretch * (np.quantile(drawn, [0.05, 0.95]) - shift - area)
    assert areas.paired_auc_interval(first, second, seed=7, level=0.9) == pytest.approx(tuple(expected), abs=1e-12)
    monkeypatch.setattr(areas, "_CHUNK", 40)
    assert areas.paired_auc_interval(first, second, seed=7, level=0.9) == pytest.approx(tuple(expected), abs=1e-12)


def test_paired_resamples_depend_on_the_seed_only():
    first, second = bivariate(generator(5, "test-roc"), 30, 0.5, 0.5)
    intervals = [areas.paired_auc_interval(first, second, seed) for seed in (1, 1, 2)]
    assert intervals[0] == intervals[1] != intervals[2]


def test_paired_scores_of_different_samples_are_a_programmers_mistake():
    with pytest.raises(ValueError, match="same samples"):
        areas.paired_auc_interval([1.0, 2.0], [1.0, 2.0, 3.0], seed=1)
