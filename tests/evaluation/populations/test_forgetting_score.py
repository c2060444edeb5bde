"""The NeurIPS-2023 score against a literal transcription of its rules, and the values that simulation gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.outputs import Outputs
from fedunlearn.evaluation.populations.forgetting_score import (
    CAP,
    double_rule,
    epsilons,
    forgetting_scores,
    points,
    quality_and_median,
    sample_epsilon,
    scaled_confidence,
    single_rule,
)
from fedunlearn.randomness import generator


def rule_value(false_positive: int, false_negative: int, n: int) -> float | None:
    """What one rule is worth, from its counts of errors; None if it is discarded."""
    if false_positive == 0 and false_negative == 0:
        return math.inf
    if false_positive == 0 or false_negative == 0:
        return None
    a, b = false_positive / n, false_negative / n
    found = [math.log(1 - 1e-5 - x) - math.log(y) for x, y in ((a, b), (b, a)) if 1 - 1e-5 - x > 0]
    return max([0.0, *found]) if found else None


def best(values: list[float | None]) -> float:
    return max([value for value in values if value is not None], default=-math.inf)


def single_by_the_book(u: np.ndarray, r: np.ndarray) -> float:
    positive, negative = (r, u) if np.median(r) > np.median(u) else (u, r)
    low, high = min(u.min(), r.min()), max(u.max(), r.max())
    values = []
    for t in np.linspace(low, high, math.ceil((high - low) * 100)):
        values.append(rule_value(sum(c >= t for c in negative), sum(c < t for c in positive), len(u)))
    return best(values)


def double_by_the_book(u: np.ndarray, r: np.ndarray) -> float:
    width_u, width_r = u.max() - u.min(), r.max() - r.min()
    peaky, other, width = (r, u, width_r) if width_u >= width_r else (u, r, width_u)
    errors = set()
    for right in np.linspace(peaky.min() + width - 2, peaky.max() + 2, 400):
        lefts = np.linspace(right - width - 2, right - width + 2, 400)
        # left ends that meet the smallest value but for rounding belong to it
        lefts = np.where(np.abs(lefts - peaky.min()) < 1e-9, peaky.min(), lefts)
        inside_peaky = ((lefts[:, None] <= peaky) & (peaky <= right)).sum(1)
        inside_other = ((lefts[:, None] <= other) & (other <= right)).sum(1)
        errors |= set(zip(inside_other.tolist(), (len(u) - inside_peaky).tolist()))
    return best([rule_value(a, b, len(u)) for a, b in errors])


def gaussians(n: int, samples: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    draw = generator(seed, "test-forgetting-score")
    return draw.normal(shift, scale, (n, samples)), draw.normal(0, 1, (n, samples))


def outputs(right: int) -> Outputs:
    labels = np.zeros(10, np.int64)
    logits = np.eye(2)[np.where(np.arange(10) < right, 0, 1)]
    return Outputs(logits, labels, np.arange(10), labels)


ANSWERS = {
    model: {"retain": outputs(ra), "test": outputs(ta)}
    for model, ra, ta in (("original", 10, 8), ("unlearned", 9, 4), ("retrained", 10, 8), ("control", 10, 6))
}


def shadow(count: int, seed: int, shift: float = 0.0, samples: int = 20) -> ShadowMargins:
    draw = generator(seed, "test-forgetting-score-shadow")
    return ShadowMargins(*({"forget": draw.normal(move, 1, (count, samples))} for move in (2.0, shift, 0.0)))


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (0.5, 1), (-1, 0.3), (0, 5), (6, 1), (0, 0.05)])
def test_both_rules_are_those_of_the_book(shift, scale):
    for seed in range(3):
        u, r = (np.sort(world[:, 0]) for world in gaussians(24, 1, seed, shift, scale))
        assert single_rule(u, r) == pytest.approx(single_by_the_book(u, r), abs=1e-9)
        assert double_rule(u, r) == pytest.approx(double_by_the_book(u, r), abs=1e-9)


def test_separate_populations_reach_the_cap_and_peaky_ones_are_taken_for_it():
    u, r = np.linspace(5, 6, 20), np.linspace(0, 1, 20)
    assert sample_epsilon(u, r) == CAP
    assert sample_epsilon(np.linspace(0.500, 0.509, 20), r) == CAP  # inside, but a range below 1 %
    assert sample_epsilon(np.linspace(0.40, 0.42, 20), r) < CAP
    assert sample_epsilon(np.full(20, 1.0), np.full(20, 1.0)) == 0
    assert sample_epsilon(np.full(20, 1.0), np.full(20, 1.1)) == CAP


def test_values_closer_than_the_thresholds_are_first_spread_out():
    u, r = (np.sort(world[:, 0]) * 1e-4 for world in gaussians(64, 1, 3))
    assert single_rule(u, r) == -math.inf  # where the released code stops with an error
    spread = math.sqrt((u.var() + r.var()) / 2)
    expected = max(single_rule(u / spread, r / spread), double_rule(u / spread, r / spread))
    assert 0 < sample_epsilon(u, r) == expected
    assert sample_epsilon(u + 1e-3, r) == CAP
    gap = np.concatenate([np.zeros(10), np.ones(10)]) * 1e-3
    assert sample_epsilon(gap, gap + 1e-3 + 1e-9) == CAP  # a gap too small for any threshold
    assert sample_epsilon(u * 1e-300, r * 1e-300) == 0  # no difference but rounding


def test_margins_are_cut_where_the_probabilities_are():
    margins = np.array([-300.0, -5.0, 0.0, 40.0, 90.0, 300.0])
    edge = math.log(1e45)
    expected = [-edge, -5, 0, 40, 90, edge]
    assert scaled_confidence(margins) == pytest.approx(expected, abs=1e-5)


def test_points_halve_in_every_bucket_and_stop_at_what_the_models_can_show():
    found = points(np.array([0.0, 0.49, 0.5, 1.0, 6.49, 6.5, 6.99, 7.0, 50.0]), 512)
    assert found.tolist() == [1, 1, 0.5, 0.25, 2**-12, 2**-13, 2**-13, 0, 0]
    assert points(np.array([4.99, 5.0]), 64).tolist() == [2**-9, 0]
    assert points(np.array([2.9, 3.2]), 21).tolist() == [2**-5, 0]  # the limit is ln 20 rounded up, not ln 21
    buckets, worth, start = {}, 1.0, 0.0
    while start + 0.5 <= math.ceil(math.log(63)):
        buckets[start], worth, start = worth, worth / 2, start + 0.5
    for value in np.linspace(0, 6, 61) + 0.013:
        by_the_book = next((worth for start, worth in buckets.items() if value < start + 0.5), 0.0)
        assert points(np.array([value]), 64)[0] == by_the_book


@settings(max_examples=25, deadline=None)
@given(arrays(np.float64, (2, 16), elements=st.floats(-20, 20)), st.floats(-50, 50))
def test_laws_of_the_epsilon(pair, offset):
    u, r = pair
    value = sample_epsilon(u, r)
    assert 0 <= value <= CAP
    assert sample_epsilon(u[::-1], r) == value  # models have no order
    assert sample_epsilon(u + 1000, r) == CAP


def test_equal_populations_by_the_single_rule_have_the_published_bias():
    for n, samples in ((64, 400), (128, 300)):
        u, r = gaussians(n, samples, n)
        found = np.array([single_rule(np.sort(u[:, i]), np.sort(r[:, i])) for i in range(samples)])
        assert np.median(found) == pytest.approx(1.1, abs=0.1)
        assert points(found, n).mean() == pytest.approx(0.35, abs=0.04)


def test_equal_populations_by_both_rules_look_still_farther_apart():
    for n, samples in ((32, 150), (64, 150)):
        quality, median = quality_and_median(*gaussians(n, samples, n))
        # the epsilon is near the logarithm of a small whole number: its median jumps from ln 4 to ln 5 by chance
        assert math.log(3.9) < median < math.log(5.1)
        assert quality == pytest.approx(0.185, abs=0.03)


@pytest.mark.parametrize(
    ("shift", "median", "worth", "single_worth"),
    [(0.25, 1.75, 0.135, 0.168), (0.5, 2.3, 0.073, 0.075), (1, 3.4, 0.0165, 0.016), (2, 4.9, 0.0017, 0.002)],
)
def test_shifts_at_512_models(shift, median, worth, single_worth):
    u, r = gaussians(512, 250, 9, shift)
    quality, middle = quality_and_median(u, r)
    assert middle == pytest.approx(median, abs=0.15)
    assert quality == pytest.approx(worth, rel=0.15)
    alone = np.array([single_rule(np.sort(u[:, i]), np.sort(r[:, i])) for i in range(250)])
    assert points(alone, 512).mean() == pytest.approx(single_worth, rel=0.2)


def test_the_score_multiplies_quality_by_the_accuracies():
    world = shadow(64, 1, shift=0.5)
    found = {measure.name: measure for measure in forgetting_scores(ANSWERS, world, seed=2).measures}
    quality, final = found["forgetting_quality_like_retrained"], found["forgetting_score_like_retrained"]
    eps = epsilons(world.unlearned["forget"], world.retrained["forget"])
    assert quality.unlearned.value == pytest.approx(points(eps, 64).mean())
    assert found["forgetting_epsilon_median_from_retrained"].unlearned.value == pytest.approx(np.median(eps))
    assert final.unlearned.value == pytest.approx(quality.unlearned.value * 0.9 * 0.5)
    assert final.original.value == pytest.approx(quality.original.value)
    halved = found["forgetting_score_like_retrained_half_the_models"]
    floor = found["forgetting_quality_like_retrained_half_the_models"].control.value
    assert halved.control.value == pytest.approx(floor * 0.75)
    assert halved.samples == {"forget": 20, "models": 32}
    assert quality.control is None


def test_equal_populations_score_like_the_control():
    found = [
        {m.name: m for m in forgetting_scores(ANSWERS, shadow(64, seed, samples=25), seed=seed).measures}
        for seed in (1, 2)
    ]
    lines = [lines["forgetting_quality_like_retrained_half_the_models"] for lines in found]
    gaps = [line.unlearned.value - line.control.value for line in lines]
    assert abs(np.mean(gaps)) < 0.07
    assert all(line.original.value < line.unlearned.value / 5 for line in lines)


def test_what_cannot_be_scored_is_refused():
    few = forgetting_scores(ANSWERS, shadow(63, 1), seed=1)
    assert not few.measures and "there are 63: ask for --shadows 64" in few.refusals[0].reason
    empty = forgetting_scores(ANSWERS, shadow(64, 1, samples=0), seed=1)
    assert not empty.measures and "there are none" in empty.refusals[0].reason
    without = forgetting_scores({"unlearned": ANSWERS["unlearned"]}, shadow(64, 1, samples=3), seed=1)
    assert [refusal.name for refusal in without.refusals] == ["forgetting_score_like_retrained"]
    assert len(without.measures) == 4
    zero = {**ANSWERS, "retrained": {"retain": outputs(0), "test": outputs(5)}}
    assert "or 0" in forgetting_scores(zero, shadow(64, 1, samples=3), seed=1).refusals[0].reason
    with pytest.raises(ValueError, match="shapes"):
        epsilons(np.zeros((4, 2)), np.zeros((5, 2)))
