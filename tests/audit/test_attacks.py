"""An audit of one game: what it chooses, what it counts, what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from fedunlearn.audit import audit_game, noise_law, pair_epsilon
from fedunlearn.audit.attacks import learned_scores
from fedunlearn.errors import UserError
from fedunlearn.privacy import epsilon_of, mu_of
from fedunlearn.randomness import generator
from fedunlearn.unlearning.games import Game, gaussian_game

DELTA = 1e-5
MU = mu_of(1.0, DELTA)


def normals(mean0=0.0, sd0=1.0, dim=1, score=False, **known) -> Game:
    """World 0 is N(mean0, sd0^2) in every entry, world 1 standard normal."""

    def draw(world, trials, seed):
        noise = generator(seed, "test", world).standard_normal((trials, dim))
        return noise if world else mean0 + sd0 * noise

    return Game("normals", "tight", draw, (lambda seen: seen[:, 0]) if score else None, **known)


def pair(mu: float, claimed: float = MU, dim: int = 5):
    """Two vectors whose noise makes them ``mu`` apart, with the sensitivity of a claim of ``claimed``."""
    shift = np.full(dim, mu / np.sqrt(dim))
    return gaussian_game("pair", "tight", shift, np.zeros(dim), 1.0, claimed)


def test_a_true_claim_stands_and_the_numbers_of_the_pair_are_exact():
    verdict = audit_game(pair(MU), 400, MU, 1.0, DELTA, 0, method="newton")
    assert not verdict.refuted and verdict.outcome == "not refuted" and verdict.ratio == pytest.approx(1.0)
    assert verdict.pair_mu == pytest.approx(MU) and verdict.pair_epsilon == pytest.approx(1.0)
    assert verdict.epsilon_lower <= 1.0 and verdict.mu_lower <= MU
    assert verdict.decides == "trade-off" and verdict.method == "newton" and verdict.trials == 400


def test_a_false_claim_falls_by_the_trade_off_and_by_the_distance():
    verdict = audit_game(pair(3.0), 400, MU, 1.0, DELTA, 0)
    assert verdict.refuted_by == ("trade-off", "distance") and verdict.outcome == "refuted"
    assert 2.0 < verdict.mu_lower < 3.0 and verdict.mu_parametric == pytest.approx(3.0, abs=0.3)
    assert verdict.fault_needed == 1.0


def test_an_epsilon_claim_is_decided_by_its_own_test():
    game = normals(2.0, score=True)
    verdict = audit_game(game, 2000, None, 1.0, DELTA, 0)
    assert verdict.decides == "epsilon-delta" and verdict.refuted_by == ("epsilon-delta",)
    assert 1.0 < verdict.epsilon_lower < epsilon_of(2.0, DELTA)
    assert not audit_game(game, 2000, None, epsilon_of(2.0, DELTA), DELTA, 0).refuted


def test_the_same_seed_gives_the_same_verdict_and_another_other_scores():
    one, again, other = (audit_game(pair(1.0), 100, MU, 1.0, DELTA, seed) for seed in (1, 1, 2))
    assert one == again and one.mu_lower != other.mu_lower
    assert np.array_equal(one.scores.unlearned, again.scores.unlearned)


def test_half_of_the_trials_are_counted():
    verdict = audit_game(pair(1.0), 101, MU, 1.0, DELTA, 0)
    assert len(verdict.scores.unlearned) == len(verdict.scores.retrained) == 51


def test_a_distance_beyond_its_bound_refutes_without_any_luck():
    verdict = audit_game(pair(0.03, claimed=0.02), 20, 0.02, 1.0, DELTA, 0)
    assert verdict.refuted_by == ("distance",) and verdict.outcome == "refuted"


def test_worlds_much_closer_than_claimed_are_said_to_show_nothing():
    verdict = audit_game(pair(0.05 * MU), 1000, MU, 1.0, DELTA, 0)
    assert verdict.outcome == "no power" and verdict.ratio == pytest.approx(0.05)
    assert "no power here" in verdict.power() and verdict.fault_needed > 20
    near = audit_game(pair(MU), 1000, MU, 1.0, DELTA, 0)
    assert near.has_power and "no power" not in near.power() and 2 < near.fault_needed < 3


def test_worlds_that_are_one_and_claims_beyond_reach_have_no_power():
    one = audit_game(pair(0.0), 100, MU, 1.0, DELTA, 0)
    assert one.outcome == "no power" and "the two worlds are one" in one.power()
    far = audit_game(pair(9.0, claimed=9.0), 100, 9.0, epsilon_of(9.0, DELTA), DELTA, 0)
    assert far.outcome == "no power" and "cannot refute mu = 9" in far.power()
    assert far.smallest_refutable == np.inf and far.epsilon > far.largest_refutable


def test_an_exact_claim_is_judged_at_delta_zero():
    """Retraining from a public start claims (0, 0): two worlds of one law pass, any difference falls."""
    assert not audit_game(normals(score=True), 500, 0.0, 0.0, 0.0, 0).refuted
    assert audit_game(normals(1.0, score=True), 500, 0.0, 0.0, 0.0, 0).refuted_by == ("trade-off",)


@pytest.mark.parametrize(
    ("game", "best"),
    [
        (normals(0.7, dim=100), {"logistic"}),  # the means differ, a little in every entry
        (normals(0.0, 2.0, dim=100), {"quadratic", "distance"}),  # only the spread differs
    ],
)
def test_a_distinguisher_is_learned_where_no_score_is_known(game, best):
    verdict = audit_game(game, 400, MU, 1.0, DELTA, 0)
    assert verdict.refuted and verdict.scores.name in best and verdict.mu_lower > 1.5


def test_single_entries_are_tried():
    def draw(world, trials, seed):
        seen = generator(seed, "entries", world).standard_normal((trials, 6))
        seen[:, 4] = np.abs(seen[:, 4]) * (1 - 2 * world)
        return seen

    verdict = audit_game(Game("entry", "tight", draw, None), 200, MU, 1.0, DELTA, 0)
    assert verdict.mu_lower > 2 and verdict.scores.name in ("entry 4", "logistic", "quadratic")


def test_learning_a_score_does_not_raise_false_alarms():
    """The worlds are one, 12 entries and three fitted scores compete, and (0, 0) is claimed: the sharpest claim."""
    game = normals(dim=12)
    alarms = sum(audit_game(game, 60, 0.0, 0.0, 0.0, seed).refuted for seed in range(120))
    assert alarms <= stats.binom.isf(0.01, 120, 0.05)


def test_learned_scores_survive_constant_entries():
    rows = np.zeros((20, 3))
    rows[:, 0] = np.arange(20)
    for _, score in learned_scores(rows, rows + np.array([5.0, 0.0, 0.0])):
        assert np.isfinite(score(rows)).all()


def test_verdicts_are_plain_json():
    plain = audit_game(pair(0.0), 50, MU, 1.0, DELTA, 0, method="m").to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["outcome"] == "no power" and plain["fault_needed"] is None and "scores" not in plain
    assert plain["ratio"] == 0.0 and plain["refuted_by"] == []


def test_too_few_trials_are_refused():
    with pytest.raises(UserError, match="trials = 19"):
        audit_game(pair(1.0), 19, MU, 1.0, DELTA, 0)


# --- white box ------------------------------------------------------------------------------------------------------


def test_the_exact_epsilon_of_a_pair():
    assert pair_epsilon(0.5, 0.25, DELTA) == epsilon_of(2.0, DELTA)
    assert pair_epsilon(0.0, 1.0, DELTA) == 0 and pair_epsilon(1.0, 1.0, 0.0) == np.inf


FRESH = np.random.default_rng(5).standard_normal((4, 500))


def test_fresh_noise_is_not_suspicious():
    alarms = sum(noise_law(np.random.default_rng(s).standard_normal((3, 200))).suspicious for s in range(200))
    assert alarms <= stats.binom.isf(0.01, 200, 0.05)
    assert noise_law(FRESH).variance == pytest.approx(np.mean(FRESH**2))


@pytest.mark.parametrize(
    "noise",
    [
        FRESH / 1.2,  # too small
        FRESH + 0.1,  # not centred
        np.sign(FRESH),  # of unit variance, and not Gaussian
        np.concatenate([FRESH, FRESH[2:3]]),  # used twice
        np.concatenate([FRESH, -FRESH[:1]]),  # used twice, turned
        np.zeros((2, 50)),  # left out
    ],
)
def test_noise_of_another_law_is_suspicious(noise):
    assert noise_law(noise).suspicious


def test_a_single_release_has_no_correlation():
    law = noise_law(FRESH[0])
    assert law.correlation == 0 and law.p_correlation == 1 and not law.suspicious
