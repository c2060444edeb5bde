"""Games over models against loops that leave models out one by one, and against chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from fedunlearn.evaluation.attacks.example_game import (
    PairGame,
    example_areas,
    example_summary,
    lira_pairs,
    loss_pairs,
    rmia_pairs,
    split_models,
)
from fedunlearn.evaluation.attacks.rmia import rmia_score
from fedunlearn.evaluation.attacks.roc import tpr_at
from fedunlearn.randomness import generator


def world(seed: int, models: int, samples: int, shift: float = 0.0) -> np.ndarray:
    """Margins of models that differ from each other and of samples that differ in difficulty."""
    draw = generator(seed, "test-example-game")
    return np.linspace(-4, 6, samples) + shift + draw.standard_normal((models, samples))


def naive_score(phi, inside, outside):
    """LiRA with a shared variance, from scipy, for one model of n samples."""
    laws = [norm(v.mean(0), np.sqrt(v.var(0, ddof=1).mean())) for v in (inside, outside)]
    return laws[0].logpdf(phi) - laws[1].logpdf(phi)


def test_lira_pairs_against_leaving_out_by_hand():
    inside, outside = world(1, 5, 6, shift=1), world(2, 5, 6)
    game = lira_pairs(inside, outside)
    areas = []
    for k in range(5):
        kept = [j for j in range(5) if j != k]
        scores = [naive_score(target, inside[kept], outside[kept]) for target in (inside[k], outside[k])]
        assert np.allclose([game.inside[k], game.outside[k]], scores, rtol=1e-10)
        areas.append(roc_auc_score([1] * 6 + [0] * 6, np.concatenate(scores)))
    assert game.areas == pytest.approx(areas, abs=1e-12)


def test_rmia_pairs_take_the_other_outside_models_as_references():
    worlds = world(3, 4, 7, 1), world(4, 4, 7), world(5, 4, 9), world(6, 4, 9)
    game = rmia_pairs(*worlds, gamma=1.2)
    inside, outside, of_inside, of_outside = worlds
    for k in range(4):
        kept = [j for j in range(4) if j != k]
        for targets, population, found in ((inside, of_inside, game.inside), (outside, of_outside, game.outside)):
            score = rmia_score(targets[k], outside[kept], population[k], of_outside[kept], gamma=1.2)
            assert np.array_equal(found[k], score)


def test_the_interval_is_students_and_wider_where_models_are_shared():
    game = loss_pairs(world(7, 4, 5, 1), world(8, 4, 5))
    areas = game.areas
    low, high = student.interval(0.95, 3, areas.mean(), areas.std(ddof=1) / 2)
    found = game.area()
    assert (found.value, found.low, found.high) == pytest.approx((areas.mean(), max(0, low), min(1, high)), abs=1e-12)
    wide = PairGame(np.tile([0.0, 1.0], (5, 1)), np.array([[0.4, 0.6]] * 4 + [[0.4, 2.0]]), shared=True).area()
    narrow = PairGame(np.tile([0.0, 1.0], (5, 1)), np.array([[0.4, 0.6]] * 4 + [[0.4, 2.0]]), shared=False).area()
    assert wide.value - wide.low == pytest.approx((narrow.value - narrow.low) * np.sqrt(8 / 3))


@pytest.mark.parametrize("common", [0.0, 0.7])
def test_equal_worlds_give_one_half_and_intervals_that_hold_it(common):
    """300 games of six pairs, samples independent or moved by one common shift a model: one half must be held in
    95 % of them. Intervals as of independent areas are too narrow for LiRA, whose areas share pairs."""
    draw = generator(9, "test-example-game")
    means, held, held_by_narrow, held_by_loss = [], 0, 0, 0
    for _ in range(300):
        one, two = (
            np.linspace(-4, 6, 40) + draw.standard_normal((6, 40)) + common * draw.standard_normal((6, 1))
            for _ in range(2)
        )
        game = lira_pairs(one, two)
        area = game.area()
        means.append(area.value)
        held += area.low <= 0.5 <= area.high
        narrow = PairGame(game.inside, game.outside, shared=False).area()
        held_by_narrow += narrow.low <= 0.5 <= narrow.high
        by_loss = loss_pairs(one, two).area()
        held_by_loss += by_loss.low <= 0.5 <= by_loss.high
    error = np.std(means) / np.sqrt(300)
    assert abs(np.mean(means) - 0.5) < 4 * error and error < 0.01
    assert 0.91 <= held / 300 <= 0.99
    assert 0.91 <= held_by_loss / 300 <= 0.99
    assert held_by_narrow / 300 < 0.88


def test_lira_sees_what_the_loss_does_not():
    inside, outside = world(10, 12, 80, shift=1.5), world(11, 12, 80)
    lira, loss = lira_pairs(inside, outside).area(), loss_pairs(inside, outside).area()
    best = norm.cdf(1.5 / np.sqrt(2))
    assert lira.low > loss.high
    assert abs(lira.value - best) < 0.05


def test_example_areas_against_loops():
    inside, outside = world(12, 4, 5, shift=0.8), world(13, 4, 5)
    wins = np.zeros(5)
    for k in range(4):
        for j in range(4):
            kept = np.delete(inside, k, 0), np.delete(outside, j, 0)
            first, second = (naive_score(phi, *kept) for phi in (inside[k], outside[j]))
            wins += np.where(np.isclose(first, second), 0.5, first > second)
    assert example_areas(inside, outside) == pytest.approx(wins / 16, abs=1e-12)


def test_example_areas_are_centred_at_one_half_in_equal_worlds_and_at_one_far_apart():
    one, two = world(14, 8, 4000), world(15, 8, 4000)
    areas = example_areas(one, two)
    assert abs(areas.mean() - 0.5) < 4 * areas.std() / np.sqrt(4000)
    assert (example_areas(one + 20, two) == 1).all()
    assert (example_areas(np.ones((3, 2)), np.ones((3, 2))) == 0.5).all()  # all tie


def test_the_largest_of_many_areas_lies_far_above_one_half_by_chance_and_the_control_shows_it():
    retrained, again = world(16, 16, 200), world(17, 16, 200)
    chance, floor = example_summary(again, retrained, 1), example_summary(retrained, retrained, 1)
    assert floor["max"] > 0.8 and abs(floor["max"] - chance["max"]) < 0.05
    assert abs(floor["p95"] - chance["p95"]) < 0.05
    few = again.copy()
    few[:, :20] += 4  # every tenth sample is remembered
    found = example_summary(few, retrained, 1)
    assert found["p95"] > floor["p95"] + 0.1 and found["median"] < floor["median"] + 0.1


@given(st.integers(2, 70), st.integers(0, 5), st.integers(0, 3))
def test_halves_are_disjoint_equal_and_fixed_by_the_seed(count, seed, which):
    one, other = split_models(count, seed, which)
    assert len(one) == len(other) == count // 2
    assert len({*one.tolist(), *other.tolist()}) == 2 * (count // 2)
    assert set(one.tolist()) | set(other.tolist()) <= set(range(count))
    assert all(np.array_equal(a, b) for a, b in zip(split_models(count, seed, which), (one, other)))


@settings(max_examples=30)
@given(st.integers(3, 6), st.integers(1, 5), st.integers(0, 99))
def test_swapping_the_worlds_changes_no_area_of_lira_and_mirrors_that_of_the_loss(models, samples, seed):
    one, two = world(seed, models, samples, 0.5), world(seed + 100, models, samples)
    assert lira_pairs(one, two).areas == pytest.approx(lira_pairs(two, one).areas)
    assert example_areas(one, two) == pytest.approx(example_areas(two, one))
    assert loss_pairs(one, two).areas + loss_pairs(two, one).areas == pytest.approx(np.ones(models))


def test_too_few_pairs_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match="at least 3 pairs"):
        lira_pairs(world(1, 2, 4), world(2, 2, 4))
    with pytest.raises(ValueError, match="K models of n samples"):
        loss_pairs(world(1, 3, 4), world(2, 3, 5))


@pytest.mark.parametrize("rate", [0.1, 0.01])
def test_rates_found_have_intervals_over_models(rate):
    """All scores of one model move together with its seed; counted as independent they would cover one time in four."""
    draw, hits, trials = generator(9, "test-example-game", int(100 * rate)), 0, 200
    for _ in range(trials):
        inside, outside = draw.normal(size=(2, 12, 50)) + 1.2 * draw.normal(size=(2, 12, 1))
        game = loss_pairs(inside, outside)
        threshold = tpr_at(inside.ravel(), outside.ravel(), rate).threshold
        found = game.found_above(threshold)
        assert found.value == pytest.approx((inside > threshold).mean(), abs=1e-12)
        hits += found.low <= rate <= found.high
    assert hits / trials >= 0.85


def test_models_that_all_agree_are_no_certainty():
    game = loss_pairs(np.full((6, 2), 5.0) + np.arange(2), np.zeros((6, 2)))
    assert (game.area().low, game.area().high) == pytest.approx((0.025 ** (1 / 6), 1.0))
    assert game.found_above(9.0).high == pytest.approx(1 - 0.025 ** (1 / 6))
    equal = loss_pairs(np.zeros((6, 2)), np.zeros((6, 2))).area()
    assert (equal.value, equal.low, equal.high) == (0.5, 0.5, 0.5)
