"""LiRA against scipy, by hand, and against the best test that there is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import norm

from fedunlearn.evaluation.attacks.areas import auc
from fedunlearn.evaluation.attacks.lira import FEW_MODELS, FLOOR, Gaussians, fit, lira_score, offline_score
from fedunlearn.evaluation.attacks.roc import tpr_at
from fedunlearn.randomness import generator

finite = st.floats(-30, 30)


def tables(models: int, samples: int):
    return st.lists(finite, min_size=models * samples, max_size=models * samples).map(
        lambda values: np.array(values).reshape(models, samples)
    )


def by_hand(phi, inside, outside):
    """LiRA of one sample with its own variances, one number at a time."""
    laws = [norm(np.mean(v), max(np.std(v, ddof=1), FLOOR)) for v in (inside, outside)]
    return laws[0].logpdf(phi) - laws[1].logpdf(phi)


def test_the_score_is_the_log_ratio_of_scipys_densities():
    draw = generator(1, "test-lira")
    inside, outside, phi = draw.normal(2, 1, (5, 4)), draw.normal(0, 2, (7, 4)), draw.normal(1, 2, 4)
    found = lira_score(phi, fit(inside, "example"), fit(outside, "example"))
    assert found == pytest.approx([by_hand(phi[i], inside[:, i], outside[:, i]) for i in range(4)], rel=1e-12)


def test_a_shared_variance_is_the_mean_of_the_samples_variances():
    margins = np.array([[0.0, 10.0], [2.0, 16.0]])  # variances 2 and 18 with the divisor K - 1
    law = fit(margins, "shared")
    assert law.mean.tolist() == [1.0, 13.0]
    assert law.deviation == pytest.approx([np.sqrt(10)] * 2)
    assert fit(margins, "example").deviation == pytest.approx(np.sqrt([2, 18]))


def test_few_models_share_the_variance_and_many_do_not():
    margins = generator(2, "test-lira").normal(0, [1, 5], (FEW_MODELS + 1, 2))
    assert len(set(fit(margins[:-1]).deviation)) == 1
    assert len(set(fit(margins).deviation)) == 2


def test_models_that_all_say_the_same_do_not_divide_by_zero():
    same, other = fit(np.full((3, 2), 1.5)), fit(np.full((4, 2), -1.0))
    assert same.deviation.tolist() == [FLOOR, FLOOR]
    assert np.isfinite(lira_score(np.array([1.5, -1.0]), same, other)).all()
    assert lira_score(np.array([1.5, 1.5]), same, same).tolist() == [0.0, 0.0]


def test_the_offline_score_has_the_order_of_carlinis_and_does_not_saturate():
    draw = generator(3, "test-lira")
    outside, phi = draw.normal(0, 2, (6, 5)), draw.normal(0, 3, 5)
    z = offline_score(phi, fit(outside, "example"))
    chances = [norm.cdf(phi[i], outside[:, i].mean(), outside[:, i].std(ddof=1)) for i in range(5)]
    assert ndtr(z) == pytest.approx(chances, rel=1e-12)
    sure = offline_score(np.array([10.0, 20.0]), Gaussians(np.zeros(2), np.ones(2)))
    assert sure[1] > sure[0] and ndtr(sure[0]) == ndtr(sure[1]) == 1


@given(tables(3, 2), tables(4, 2), tables(1, 2))
def test_swapping_the_worlds_turns_the_sign(inside, outside, target):
    one, two = fit(inside), fit(outside)
    assert np.array_equal(lira_score(target[0], one, two), -lira_score(target[0], two, one))


@given(tables(3, 1), tables(3, 1), finite, finite)
def test_with_equal_variances_the_score_rises_with_the_margin_towards_the_in_world(inside, outside, one, two):
    mean_in, mean_out = fit(inside).mean, fit(outside).mean
    laws = Gaussians(mean_in, np.ones(1)), Gaussians(mean_out, np.ones(1))
    low, high = sorted([one, two])
    change = float((lira_score(np.array([high]), *laws) - lira_score(np.array([low]), *laws))[0])
    assert change == pytest.approx((high - low) * (mean_in - mean_out)[0], abs=1e-9)


@given(tables(4, 3), tables(4, 3), tables(1, 3), finite)
def test_a_shift_of_all_margins_changes_nothing(inside, outside, target, shift):
    before = lira_score(target[0], fit(inside + 0.0), fit(outside + 0.0))
    after = lira_score(target[0] + shift, fit(inside + shift), fit(outside + shift))
    spread = min(fit(inside).deviation.min(), fit(outside).deviation.min())
    assert after == pytest.approx(before, rel=1e-6, abs=1e-9 * (1 + (100 / spread) ** 2))


@given(tables(2, 3), finite)
def test_the_offline_score_rises_with_the_margin(outside, margin):
    law = fit(outside)
    assert (offline_score(np.full(3, margin + 1), law) > offline_score(np.full(3, margin), law)).all()


def test_lira_reaches_the_power_of_the_best_test():
    """Samples of very different difficulty, a shift of 1.5 deviations: the best test at 5 % false positives finds
    Phi(Phi^-1(0.05) + 1.5) of the members (Neyman and Pearson); the bare margin finds far fewer."""
    draw = generator(4, "test-lira")
    n, models = 20_000, 60
    level = draw.normal(0, 5, n)
    law_in = fit(level + 1.5 + draw.standard_normal((models, n)))
    law_out = fit(level + draw.standard_normal((models, n)))
    members, others = level + 1.5 + draw.standard_normal(n), level + draw.standard_normal(n)
    attack = [lira_score(target, law_in, law_out) for target in (members, others)]
    best = norm.cdf(norm.ppf(0.05) + 1.5)
    found = tpr_at(*attack, 0.05).tpr.value
    # the cost of 60 fitted means is below 1.5 points, four errors of counting are below 1.5 points
    assert best - 0.03 <= found <= best + 0.015
    assert auc(*attack) == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.015)
    assert tpr_at(members, others, 0.05).tpr.value < best - 0.3


def test_known_laws_give_the_closed_form_within_counting_error():
    draw = generator(5, "test-lira")
    n, shift = 40_000, 1.0
    laws = Gaussians(np.full(n, shift), np.ones(n)), Gaussians(np.zeros(n), np.ones(n))
    members, others = (lira_score(draw.normal(m, 1, n), *laws) for m in (shift, 0.0))
    for rate in (0.1, 0.01):
        best = norm.cdf(norm.ppf(rate) + shift)
        slope = norm.pdf(norm.ppf(rate) + shift) / norm.pdf(norm.ppf(rate))
        error = np.sqrt((best * (1 - best) + slope**2 * rate * (1 - rate)) / n)
        assert abs(tpr_at(members, others, rate).tpr.value - best) < 4 * error


@pytest.mark.parametrize("margins", [np.zeros((1, 3)), np.zeros(3), np.zeros((3, 0))])
def test_too_few_models_are_refused(margins):
    with pytest.raises(ValueError, match="two models"):
        fit(margins)


def test_an_unknown_variance_is_refused():
    with pytest.raises(ValueError, match="not known"):
        fit(np.zeros((2, 2)), "pooled")
