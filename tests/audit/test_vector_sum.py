"""Shuffled batches accounted as Poisson ones: the claim of the Poisson accountant, and what the sums show."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy import stats

from fedunlearn.audit import audit_game
from fedunlearn.audit.vector_sum import _poisson_ratio, _shuffled, _shuffled_ratio, vector_sum_game
from fedunlearn.errors import UserError

DELTA = 1e-5


@lru_cache
def poisson_claim(steps: int, noise_multiplier: float) -> float:
    """Return epsilon of one epoch of Poisson-sampled steps, by its privacy loss distribution."""
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant

    step = dp_event.PoissonSampledDpEvent(1 / steps, dp_event.GaussianDpEvent(noise_multiplier))
    accountant = PLDAccountant()
    accountant.compose(dp_event.SelfComposedDpEvent(step, steps))
    return accountant.get_epsilon(DELTA)


@pytest.mark.parametrize("trials", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_shuffled_batches_break_the_poisson_claim(trials):
    claim = poisson_claim(20, 1.0)
    assert claim == pytest.approx(1.985, abs=0.01)
    verdict = audit_game(vector_sum_game("shuffled", 20, 1.0), trials, None, claim, DELTA, 0)
    assert verdict.refuted_by == ("epsilon-delta",)
    assert verdict.epsilon_lower > {100_000: 2.1, 1_000_000: 2.6}[trials]
    honest = audit_game(vector_sum_game("poisson", 20, 1.0), trials, None, claim, DELTA, 0)
    assert not honest.refuted and 0.5 < honest.epsilon_lower < claim


@pytest.mark.slow
def test_a_hundred_batches_leak_twice_what_is_claimed():
    claim = poisson_claim(100, 0.7)
    verdict = audit_game(vector_sum_game("shuffled", 100, 0.7), 1_000_000, None, claim, DELTA, 1)
    assert verdict.epsilon_lower > 1.8 * claim
    assert not audit_game(vector_sum_game("poisson", 100, 0.7), 1_000_000, None, claim, DELTA, 1).refuted


def test_the_sums_are_those_of_shuffled_records():
    """Sixty records of -1, but the first, which is +1 or replaced by a zero, in batches of six; shifted by six."""
    random = np.random.default_rng(0)
    for world, value in enumerate((1.0, 0.0)):
        records = np.full(60, -1.0)
        records[0] = value
        sums = np.array([random.permutation(records).reshape(10, 6).sum(1) + 6 for _ in range(2000)])
        drawn = _shuffled(world, random, 2000, 10)
        for rows in (sums, drawn):
            assert (np.sort(rows, axis=1) == [0.0] * 9 + [value + 1]).all()
        assert stats.chisquare(np.bincount(sums.argmax(1), minlength=10)).pvalue > 1e-3
        assert stats.chisquare(np.bincount(drawn.argmax(1), minlength=10)).pvalue > 1e-3


def test_the_scores_are_log_likelihood_ratios():
    """Against densities multiplied out by hand."""
    sums, sigma, steps = np.array([[0.3, 1.9, -0.4], [0.1, -2.0, 0.5]]), 0.8, 3

    def density(rows, centres):
        return np.mean([stats.norm.pdf(rows, centre, sigma).prod(1) for centre in centres], axis=0)

    eye = np.eye(steps)
    shuffled = np.log(density(sums, 2 * eye) / density(sums, eye))
    assert _shuffled_ratio(sums, sigma) == pytest.approx(shuffled)
    mixture = (2 / 3) * stats.norm.pdf(sums, 0, sigma) + (1 / 3) * stats.norm.pdf(sums, 1, sigma)
    poisson = np.log(mixture / stats.norm.pdf(sums, 0, sigma)).sum(1)
    assert _poisson_ratio(sums, sigma) == pytest.approx(poisson)


def test_a_likelihood_ratio_has_mean_one_under_the_other_world():
    for sampling in ("shuffled", "poisson"):
        seen = vector_sum_game(sampling, 5, 1.5).draw(1, 200_000, 0)[:, 0]
        assert np.exp(seen).mean() == pytest.approx(1.0, abs=0.02)


def test_draws_of_the_two_worlds_are_apart_and_repeat():
    game = vector_sum_game("poisson", 4, 1.0)
    assert np.array_equal(game.draw(0, 10, 3), game.draw(0, 10, 3))
    assert not np.array_equal(game.draw(0, 10, 3), game.draw(1, 10, 3))


@pytest.mark.parametrize("arguments", [("ordered", 5, 1.0), ("shuffled", 1, 1.0), ("poisson", 5, 0.0)])
def test_nonsense_is_refused(arguments):
    with pytest.raises(UserError, match="not allowed"):
        vector_sum_game(*arguments)
