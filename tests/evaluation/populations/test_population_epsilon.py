"""The bound between populations: closed forms, an honest error rate by simulation, and what it cannot show."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, norm

from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.bounds import choose_epsilon, epsilon_bound
from fedunlearn.evaluation.populations.model_halves import halves
from fedunlearn.evaluation.populations.population_epsilon import (
    FITTED,
    largest_bound,
    log_ratios,
    population_bound,
    population_epsilons,
    statistics_used,
)
from fedunlearn.privacy import epsilon_of
from fedunlearn.randomness import generator


def shadow(count: int, seed: int, shift: float = 0.0, samples: int = 10) -> ShadowMargins:
    draw = generator(seed, "test-population-epsilon")
    return ShadowMargins(*({"forget": draw.normal(move, 1, (count, samples))} for move in (9.0, shift, 0.0)))


def test_the_log_ratio_is_scipys_where_variances_are_equal_over_samples():
    draw = generator(1, "test-population-epsilon")
    column = draw.normal(0, 1, 6)
    first = np.stack([column, column + 2, column - 1], 1)  # equal variances: shrinking changes nothing
    second = np.stack([3 * column, 3 * column, 3 * column + 1], 1)
    of = draw.normal(0, 2, (4, 3))
    for k, found in enumerate(log_ratios(first, second, of)):
        expected = sum(
            norm.logpdf(of[k, i], first[:, i].mean(), first[:, i].std(ddof=1))
            - norm.logpdf(of[k, i], second[:, i].mean(), second[:, i].std(ddof=1))
            for i in range(3)
        )
        assert found == pytest.approx(expected, rel=1e-6)


def test_the_ratio_is_finite_where_models_do_not_differ():
    same = np.full((4, 3), 7.0)
    assert np.isfinite(log_ratios(same, same, same)).all()
    assert np.isfinite(log_ratios(same, same + 1, 1e3 * same)).all()
    assert population_bound(np.full((16, 3), 7.0), np.full((16, 3), 7.0), seed=1) == 0


@pytest.mark.parametrize("counting", [1, 2, 7, 8, 32, 256])
def test_the_largest_bound_in_closed_form(counting):
    for statistics in (1, 2):
        level = 0.025 / statistics
        low, high = beta.ppf(level, counting, 1), beta.ppf(1 - level, 1, counting)
        assert low == pytest.approx(level ** (1 / counting)) and high == pytest.approx(1 - low)
        expected = max(0.0, math.log((low - 1e-5) / high))
        assert largest_bound(counting, statistics) == pytest.approx(expected)


@pytest.mark.parametrize("count", [14, 16, 33, 64])
def test_perfect_separation_reaches_the_largest_bound_and_nothing_exceeds_it(count):
    world = shadow(count, count)
    most = largest_bound(count - count // 2, statistics_used(count // 2))
    assert most > 0
    assert population_bound(world.original["forget"], world.retrained["forget"], seed=3) == pytest.approx(most)
    assert population_bound(-world.original["forget"], world.retrained["forget"], seed=3) == pytest.approx(most)


def test_a_difference_in_spread_alone_is_found_by_the_log_ratio():
    draw = generator(2, "test-population-epsilon")
    narrow, wide = draw.normal(0, 0.3, (64, 40)), draw.normal(0, 1, (64, 40))
    assert population_bound(narrow, wide, seed=1) == pytest.approx(largest_bound(32, 2))


def test_samples_that_move_in_opposite_directions_are_found_though_their_mean_stays():
    draw = generator(3, "test-population-epsilon")
    move = np.where(np.arange(40) % 2, 1.0, -1.0)
    assert population_bound(draw.normal(0, 1, (64, 40)) + move, draw.normal(0, 1, (64, 40)), seed=1) > 1.5


def test_one_half_chooses_and_the_other_counts():
    for seed in range(6):
        draw = generator(seed, "test-population-epsilon-halves")
        a, b = draw.normal(0.8, 1, (60, 5)), draw.normal(0, 1, (60, 5))
        (choose_a, count_a), (choose_b, count_b) = halves(60, seed, 0), halves(60, seed, 1)
        event = choose_epsilon(a[choose_a].mean(1), b[choose_b].mean(1), 1e-5)
        bounds = [epsilon_bound(a[count_a].mean(1), b[count_b].mean(1), event, 1e-5, 0.0125)]
        left_out_a = [log_ratios(a[choose_a[choose_a != k]], b[choose_b], a[[k]])[0] for k in choose_a]
        left_out_b = [log_ratios(a[choose_a], b[choose_b[choose_b != k]], b[[k]])[0] for k in choose_b]
        event = choose_epsilon(np.array(left_out_a), np.array(left_out_b), 1e-5)
        counted = [log_ratios(a[choose_a], b[choose_b], world) for world in (a[count_a], b[count_b])]
        bounds.append(epsilon_bound(*counted, event, 1e-5, 0.0125))
        assert population_bound(a, b, seed=seed) == pytest.approx(max(bounds))
        assert 0 < max(bounds) < largest_bound(30, 2)


def test_equal_populations_are_rarely_told_apart_while_a_rule_judged_on_its_own_models_always_is():
    honest, dishonest = 0, 0
    for seed in range(150):
        world = shadow(40, seed)
        a, b = world.unlearned["forget"], world.retrained["forget"]
        honest += population_bound(a, b, seed=seed) > 0
        scores = log_ratios(a, b, a), log_ratios(a, b, b)
        dishonest += epsilon_bound(*scores, choose_epsilon(*scores, 1e-5), 1e-5) > 0
    assert honest / 150 <= 0.05
    assert dishonest / 150 > 0.5


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_the_bound_stays_below_a_known_epsilon(epsilon):
    # randomised response has exactly this epsilon: all samples of a model carry one answer
    draw = generator(4, "test-population-epsilon")
    truth = math.exp(epsilon) / (1 + math.exp(epsilon))
    bounds = []
    for seed in range(100):
        worlds = [np.where(draw.random((100, 1)) < p, 1.0, -1.0) * np.ones((1, 3)) for p in (truth, 1 - truth)]
        bounds.append(population_bound(*worlds, seed=seed))
    assert np.mean(np.array(bounds) > epsilon) <= 0.05
    assert epsilon < 1 or np.median(bounds) > epsilon / 3  # it is not sound by being empty


def test_the_bound_stays_below_the_epsilon_of_gaussians():
    draw = generator(5, "test-population-epsilon")
    for mu in (0.5, 1.0):
        truth = epsilon_of(mu, 1e-5)
        for seed in range(20):
            shift = mu / math.sqrt(10)  # ten independent samples together have mu
            a, b = draw.normal(shift, 1, (60, 10)), draw.normal(0, 1, (60, 10))
            assert population_bound(a, b, seed=seed) <= truth


def test_lines_have_the_control_and_what_so_many_models_could_show():
    bound, most = population_epsilons(shadow(32, 6), seed=1).measures
    assert bound.original.value == pytest.approx(most.original.value) == pytest.approx(largest_bound(16, 2))
    assert most.control.value == pytest.approx(largest_bound(8, 2))
    assert bound.unlearned.value == 0 and bound.control.value == 0
    assert bound.samples == {"forget": 10, "models": 32}
    assert "show nothing" not in bound.reads


def test_few_models_say_that_they_can_show_nothing():
    found = population_epsilons(shadow(4, 7), seed=1)
    assert found.measures[0].original.value == 0 == found.measures[1].original.value
    assert "4 models of each kind show nothing" in found.measures[0].reads
    assert found.measures[0].control is None
    assert "there are 4: ask for --shadows 8" in found.refusals[0].reason
    assert population_epsilons(shadow(8, 7), seed=1).measures[0].control is not None
    assert "there are 3: ask for --shadows 4" in population_epsilons(shadow(3, 7), seed=1).refusals[0].reason
    assert "forget sample" in population_epsilons(shadow(8, 7, samples=0), seed=1).refusals[0].reason
    with pytest.raises(ValueError, match="4 models"):
        population_bound(np.zeros((3, 1)), np.zeros((9, 1)), seed=1)


def test_the_number_of_statistics_depends_on_the_number_of_models_alone():
    assert statistics_used(FITTED) == 2 and statistics_used(FITTED - 1) == 1
