"""RMIA against two loops over samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.evaluation.attacks.areas import auc
from fedunlearn.evaluation.attacks.rmia import log_typical, rmia_score
from fedunlearn.randomness import generator

finite = st.floats(-20, 20)


def world(seed: int, samples: int, models: int = 3, spread: float = 3.0):
    draw = generator(seed, "test-rmia")
    return draw.normal(1, spread, samples), draw.normal(1, spread, (models, samples))


def naive(margins, references, population, population_references, a, gamma):
    """The definition, with probabilities instead of their logarithms."""

    def ratio(margin, others):
        out = np.mean([1 / (1 + np.exp(-other)) for other in others])
        return 1 / (1 + np.exp(-margin)) / (0.5 * ((1 + a) * out + (1 - a)))

    scores = []
    for i in range(len(margins)):
        beaten = 0
        for j in range(len(population)):
            own, other = ratio(margins[i], references[:, i]), ratio(population[j], population_references[:, j])
            beaten += own / other >= gamma
        scores.append(beaten / len(population))
    return np.array(scores)


@pytest.mark.parametrize("a", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("gamma", [1.0, 1.3, 2.0])
def test_against_two_loops(a, gamma):
    samples, population = world(1, 40), world(2, 30)
    found = rmia_score(*samples, *population, a=a, gamma=gamma)
    assert np.array_equal(found, naive(*samples, *population, a, gamma))
    assert 0 < found.mean() < 1  # a case with nothing to count would agree as well


def test_a_case_by_hand():
    # p(x) = 1/2 under the target, 1/4 under the reference: 0.5 / (0.65 / 4 + 0.35) = 0.97561; z: 1/2 and 1/2, 0.740741;
    # y: 1/10 and 1/2: 0.148148
    margins, references = np.array([0.0]), np.array([[-np.log(3)]])
    population, others = np.array([0.0, -np.log(9)]), np.array([[0.0, 0.0]])
    assert np.exp(log_typical(references))[0] == pytest.approx(0.65 / 4 + 0.35)
    assert rmia_score(margins, references, population, others, gamma=1.3).tolist() == [1.0]
    assert rmia_score(margins, references, population, others, gamma=1.4).tolist() == [0.5]
    assert rmia_score(margins, references, population, others, gamma=7.0).tolist() == [0.0]


def test_a_model_that_knows_nothing_more_gives_the_whole_population_at_gamma_one():
    margins = np.array([0.5, 0.5])
    assert rmia_score(margins, margins[None], margins, margins[None], gamma=1.0).tolist() == [1.0, 1.0]
    assert rmia_score(margins, margins[None], margins, margins[None]).tolist() == [1.0, 1.0]
    assert rmia_score(margins, margins[None], margins, margins[None], gamma=1.01).tolist() == [0.0, 0.0]


def test_very_sure_and_very_wrong_models_stay_finite():
    far = np.array([-5000.0, 5000.0])
    score = rmia_score(far, np.stack([far, -far]), far, np.stack([far, -far]), a=1.0, gamma=2.0)
    assert score.tolist() == [0.0, 0.5]


@given(st.lists(finite, min_size=2, max_size=6), st.floats(0, 1), st.floats(1, 5))
def test_the_score_rises_with_the_targets_margin_and_falls_with_gamma(margins, a, gamma):
    ordered = np.sort(margins)
    references = np.zeros((2, len(ordered)))
    population = world(3, 25)
    score = rmia_score(ordered, references, *population, a=a, gamma=gamma)
    assert (np.diff(score) >= 0).all() and (score >= 0).all() and (score <= 1).all()
    assert (rmia_score(ordered, references, *population, a=a, gamma=gamma + 0.5) <= score).all()


@given(st.lists(finite, min_size=1, max_size=5), st.floats(0, 1))
def test_what_is_typical_lies_between_half_of_one_minus_a_and_one(margins, a):
    typical = np.exp(log_typical(np.array([margins]), a))
    assert (typical >= (1 - a) / 2 - 1e-12).all() and (typical <= 1 + 1e-12).all()
    assert (typical >= 1 / (1 + np.exp(-np.array(margins))) - 1e-12).all()  # a model with x is never thought worse


def test_one_reference_model_sees_more_than_the_loss():
    draw = generator(4, "test-rmia")
    level, easy = draw.normal(0, 3, 3000), draw.normal(0, 3, 3000)
    noise = draw.normal(0, 0.5, (4, 3000))
    inside, outside, reference = level + 1.5 + noise[0], level + noise[1], (level + noise[2])[None]
    population = easy + noise[3], easy[None] + draw.normal(0, 0.5, (1, 3000))
    scores = [rmia_score(target, reference, *population, gamma=1.0) for target in (inside, outside)]
    assert auc(*scores) > auc(inside, outside) + 0.1


def test_bad_settings_are_refused():
    samples, population = world(5, 3), world(6, 3)
    with pytest.raises(ValueError, match="gamma"):
        rmia_score(*samples, *population, gamma=0.5)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        rmia_score(*samples, *population, a=1.5)
    with pytest.raises(ValueError, match="population"):
        rmia_score(*samples, np.zeros(0), np.zeros((3, 0)))
    with pytest.raises(ValueError, match="reference"):
        log_typical(np.zeros((0, 3)))
