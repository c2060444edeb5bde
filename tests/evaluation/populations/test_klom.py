"""KLoM against a loop with numpy's histogram and scipy's entropy, closed forms, and its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy, norm

from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.populations.klom import BINS, klom, klom_scores
from fedunlearn.randomness import generator

populations = arrays(np.float64, (12, 3), elements=st.floats(-150, 150))


def by_loop(models: np.ndarray, retrained: np.ndarray) -> list[float]:
    scores = []
    for i in range(models.shape[1]):
        a, b = np.clip(models[:, i], -100, 100), np.clip(retrained[:, i], -100, 100)
        ends = (min(a.min(), b.min()), max(a.max(), b.max()))
        p = np.histogram(a, bins=20, range=ends)[0] / len(a)
        q = np.histogram(b, bins=20, range=ends)[0] / len(b)
        q = [max(y, 1e-5) if x > 0 else y for x, y in zip(p, q)]
        scores.append(float(entropy(p, q)))  # scipy scales q to sum to 1
    return scores


def shadow(count: int, seed: int, shift: float = 0.0, n: int = 30) -> ShadowMargins:
    draw = generator(seed, "test-klom")
    worlds = [
        {which: draw.normal(move, 1, (count, n)) for which in ("forget", "retain", "test", "never_member")}
        for move in (3.0, shift, 0.0)
    ]
    return ShadowMargins(*worlds)


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1, 2), (3, -1), (80, 20)])
def test_klom_is_what_a_loop_finds(scale, shift):
    draw = generator(1, "test-klom")
    models, retrained = draw.normal(shift, scale, (64, 50)), draw.normal(0, 1, (64, 50))
    np.testing.assert_allclose(klom(models, retrained), by_loop(models, retrained), rtol=1e-9, atol=1e-12)


@given(populations, populations)
def test_klom_is_finite_and_not_negative(models, retrained):
    scores = klom(models, retrained)
    assert ((scores >= 0) & (scores <= math.log(1.1e5))).all()


@given(populations, st.permutations(range(12)))
def test_equal_populations_have_none_in_whatever_order(margins, order):
    np.testing.assert_allclose(klom(margins, margins[list(order)]), 0, atol=1e-12)


def test_populations_without_a_common_bin_in_closed_form():
    assert klom(np.full((5, 1), 1.0), np.full((9, 1), 0.0))[0] == pytest.approx(math.log((1 + 1e-5) / 1e-5))
    assert klom(np.full((5, 1), 200.0), np.full((9, 1), 300.0))[0] == 0  # both are cut to 100


def test_one_model_of_many_alone_in_its_bin_costs_what_the_module_says():
    models, retrained = np.zeros((64, 1)), np.zeros((64, 1))
    models[0] = 1.0
    alone = math.log(1e5 / 64) / 64 + 63 / 64 * math.log(63 / 64) + math.log1p(1e-5)
    assert klom(models, retrained)[0] == pytest.approx(alone)


def test_many_models_give_the_divergence_of_binned_gaussians():
    draw = generator(2, "test-klom")
    models, retrained = draw.normal(0.7, 1, (200_000, 1)), draw.normal(0, 1.5, (200_000, 1))
    edges = np.linspace(min(models.min(), retrained.min()), max(models.max(), retrained.max()), BINS + 1)
    p, q = np.diff(norm.cdf(edges, 0.7, 1)), np.diff(norm.cdf(edges, 0, 1.5))
    assert klom(models, retrained)[0] == pytest.approx(entropy(p, q), abs=0.005)
    exact = math.log(1.5) + (1 + 0.7**2) / (2 * 1.5**2) - 0.5
    assert klom(models, retrained)[0] == pytest.approx(exact, abs=0.02)


def test_lines_are_mean_and_percentile_with_a_control_of_the_same_size():
    world = shadow(64, 3, shift=1.0)
    found = {measure.name: measure for measure in klom_scores(world, seed=5).measures}
    assert len(found) == 12  # three sets, mean and percentile, whole and halves; no never-members
    for which in ("forget", "retain", "test"):
        scores = by_loop(world.unlearned[which], world.retrained[which])
        assert found[f"klom_model_to_retrained_{which}_mean"].unlearned.value == pytest.approx(np.mean(scores))
        assert found[f"klom_model_to_retrained_{which}_p95"].unlearned.value == pytest.approx(np.percentile(scores, 95))
        assert found[f"klom_model_to_retrained_{which}_mean"].control is None
        halved = found[f"klom_model_to_retrained_{which}_mean_half_the_models"]
        assert halved.samples == {which: 30, "models": 32}
        assert halved.control.value < halved.unlearned.value < halved.original.value


def test_equal_populations_are_as_far_as_the_control_and_not_at_zero():
    gaps, floors = [], []
    for seed in range(6):
        found = {measure.name: measure for measure in klom_scores(shadow(64, seed), seed=seed).measures}
        line = found["klom_model_to_retrained_forget_mean_half_the_models"]
        gaps.append(line.unlearned.value - line.control.value)
        floors.append(line.control.value)
    assert min(floors) > 0.3  # the bias that makes the control necessary
    assert abs(np.mean(gaps)) < 0.05 * np.mean(floors)


def test_few_models_are_refused():
    found = klom_scores(shadow(63, 4), seed=1)
    assert not found.measures
    assert "there are 63: ask for --shadows 64" in found.refusals[0].reason
