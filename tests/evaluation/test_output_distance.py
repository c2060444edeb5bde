"""Distances of outputs against scipy, loops over samples, closed forms, and the laws that divergences obey."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, rel_entr
from scipy.stats import binomtest, ttest_1samp

from fedunlearn.evaluation.output_distance import (
    jensen_shannon,
    kl_divergence,
    mean_estimate,
    output_distances,
    zrf,
)
from fedunlearn.evaluation.outputs import Outputs
from fedunlearn.evaluation.rates import share_of
from fedunlearn.randomness import generator

logits = arrays(np.float64, (4, 3), elements=st.floats(-30, 30))


def outputs(values: np.ndarray, labels: np.ndarray | None = None, rows: np.ndarray | None = None) -> Outputs:
    n = len(values)
    labels = np.zeros(n, np.int64) if labels is None else labels
    return Outputs(values, labels, np.arange(n) if rows is None else rows, np.zeros(n, np.int64))


def world(seed: int, n: int = 40) -> dict[str, dict[str, Outputs]]:
    draw = generator(seed, "test-output-distance")
    labels = {which: draw.integers(0, 5, n) for which in ("forget", "retain", "test")}
    return {
        model: {which: outputs(draw.normal(0, 3, (n, 5)), y) for which, y in labels.items()}
        for model in ("original", "unlearned", "retrained", "control")
    }


@given(logits, logits)
def test_kl_is_scipys_relative_entropy(a, b):
    log_p, log_q = log_softmax(a, 1), log_softmax(b, 1)
    expected = rel_entr(np.exp(log_p), np.exp(log_q)).sum(1)
    np.testing.assert_allclose(kl_divergence(log_p, log_q), expected, rtol=1e-9, atol=1e-12)


@given(logits, logits)
def test_kl_is_not_negative_and_obeys_pinsker_so_only_equal_outputs_have_none(a, b):
    log_p, log_q = log_softmax(a, 1), log_softmax(b, 1)
    kl = kl_divergence(log_p, log_q)
    variation = np.abs(np.exp(log_p) - np.exp(log_q)).sum(1) / 2
    assert (kl >= 0).all()
    assert (variation <= np.sqrt(kl / 2) + 1e-7).all()


@given(logits, st.floats(-5, 5))
def test_equal_outputs_have_no_divergence_whatever_the_offset_of_their_logits(a, offset):
    log_p, log_q = log_softmax(a, 1), log_softmax(a + offset, 1)
    np.testing.assert_allclose(kl_divergence(log_p, log_q), 0, atol=1e-12)
    np.testing.assert_allclose(jensen_shannon(log_p, log_q), 0, atol=1e-12)


@given(logits, logits)
def test_jensen_shannon_is_symmetric_in_0_to_1_and_the_square_of_scipys_distance(a, b):
    log_p, log_q = log_softmax(a, 1), log_softmax(b, 1)
    found = jensen_shannon(log_p, log_q)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found, jensen_shannon(log_q, log_p), atol=1e-12)
    with np.errstate(invalid="ignore"):  # scipy takes roots of -1e-17 for equal rows
        expected = jensenshannon(np.exp(log_p), np.exp(log_q), base=2, axis=1) ** 2
    np.testing.assert_allclose(found, np.nan_to_num(expected), atol=1e-7)


def test_saturated_outputs_give_large_numbers_and_no_infinite_ones():
    sure, sure_of_other = log_softmax([[2000.0, 0, 0]], 1), log_softmax([[0, 2000.0, 0]], 1)
    assert kl_divergence(sure, sure_of_other)[0] == pytest.approx(2000)
    assert jensen_shannon(sure, sure_of_other)[0] == 1.0


def test_two_classes_in_closed_form():
    p, q = 0.7, 0.4
    log_p, log_q = np.log([[p, 1 - p]]), np.log([[q, 1 - q]])
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert kl_divergence(log_p, log_q)[0] == pytest.approx(expected)
    m = (p + q) / 2
    entropy = lambda x: -x * math.log2(x) - (1 - x) * math.log2(1 - x)  # noqa: E731
    assert jensen_shannon(log_p, log_q)[0] == pytest.approx(entropy(m) - (entropy(p) + entropy(q)) / 2)


def test_every_line_is_what_a_loop_over_samples_finds():
    answers = world(1)
    found = {measure.name: measure for measure in output_distances(answers).measures}
    lines = {f"kl_{way}_{s}" for way in ("retrained_to_model", "model_to_retrained") for s in answers["original"]}
    lines |= {f"total_variation_from_retrained_{s}" for s in ("forget", "test")}
    lines |= {"activation_distance_from_retrained_forget", "predicted_class_other_than_retrained_forget"}
    assert set(found) == lines
    for model in ("original", "unlearned", "control"):
        for which in ("forget", "retain", "test"):
            backward, forward, euclid, variation, other = [], [], [], [], []
            for i in range(40):
                p = np.exp(answers[model][which].logits[i])
                q = np.exp(answers["retrained"][which].logits[i])
                p, q = p / p.sum(), q / q.sum()
                backward.append(sum(q[c] * math.log(q[c] / p[c]) for c in range(5)))
                forward.append(sum(p[c] * math.log(p[c] / q[c]) for c in range(5)))
                euclid.append(math.dist(p, q))
                variation.append(max(abs(sum(p[c] - q[c] for c in range(5) if event >> c & 1)) for event in range(32)))
                other.append(list(p).index(max(p)) != list(q).index(max(q)))
            assert getattr(found[f"kl_retrained_to_model_{which}"], model).value == pytest.approx(np.mean(backward))
            assert getattr(found[f"kl_model_to_retrained_{which}"], model).value == pytest.approx(np.mean(forward))
            if which == "forget":
                line = getattr(found["activation_distance_from_retrained_forget"], model)
                assert line.value == pytest.approx(np.mean(euclid))
                share = getattr(found["predicted_class_other_than_retrained_forget"], model)
                assert share.value == np.mean(other)
            if which != "retain":
                line = getattr(found[f"total_variation_from_retrained_{which}"], model)
                assert line.value == pytest.approx(np.mean(variation))
    assert all(measure.retrained is None for measure in found.values())


def test_the_retrained_model_itself_has_no_distance():
    answers = world(2)
    answers["unlearned"] = answers["retrained"]
    assert all(measure.unlearned.value == 0 for measure in output_distances(answers).measures)


def test_intervals_are_students_and_clopper_pearsons():
    values = generator(3, "test-output-distance").gamma(2, 1, 25)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    estimate = mean_estimate(values)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
    assert mean_estimate(np.array([0.0, 0.0, 1.0])).low == 0.0
    assert mean_estimate(np.array([2.0])).low is None
    rate = share_of(np.arange(30) < 4)
    exact = binomtest(4, 30).proportion_ci(0.95, method="exact")
    assert (rate.low, rate.high) == pytest.approx((exact.low, exact.high))


def test_the_interval_covers_the_mean_as_often_as_it_says():
    draw = generator(4, "test-output-distance")
    hits = 0
    for _ in range(500):
        estimate = mean_estimate(draw.exponential(1, 100))
        hits += estimate.low <= 1 <= estimate.high
    assert 0.91 <= hits / 500 <= 0.98


def test_zrf_is_one_for_an_untrained_model_and_near_zero_for_a_sure_and_different_one():
    n = 6
    random = outputs(np.tile([30.0, 0, 0], (n, 1)))
    answers = {
        "original": {"forget": outputs(np.tile([0, 30.0, 0], (n, 1)))},
        "unlearned": {"forget": random},
        "retrained": {"forget": outputs(np.concatenate([random.logits[:3], np.tile([0, 0, 30.0], (3, 1))]))},
    }
    (line,) = zrf(answers, random).measures
    assert line.unlearned.value == pytest.approx(1)
    assert line.original.value == pytest.approx(0, abs=1e-9)
    assert line.retrained.value == pytest.approx(0.5)
    assert line.control is None


def test_zrf_is_what_scipy_finds():
    answers = world(5)
    random = outputs(generator(6, "test-output-distance").normal(0, 0.3, (40, 5)), answers["original"]["forget"].labels)
    (line,) = zrf(answers, random).measures
    for model, sets in answers.items():
        js = jensenshannon(sets["forget"].probabilities, random.probabilities, base=2, axis=1) ** 2
        assert getattr(line, model).value == pytest.approx(1 - js.mean())


def test_without_a_retrained_model_or_samples_there_is_a_refusal():
    answers = world(7)
    without = {model: sets for model, sets in answers.items() if model != "retrained"}
    found = output_distances(without)
    assert not found.measures and "retrained model" in found.refusals[0].reason
    empty = {model: {**sets, "retain": sets["retain"].take(np.arange(0))} for model, sets in answers.items()}
    found = output_distances(empty)
    assert {refusal.name for refusal in found.refusals} == {
        "kl_retrained_to_model_retain", "kl_model_to_retrained_retain",
    }  # fmt: skip
    assert len(found.measures) == 8
    nothing = outputs(np.zeros((0, 3)))
    assert zrf({"original": {"forget": nothing}}, nothing).refusals


def test_models_that_answer_different_samples_are_not_compared():
    answers = world(8)
    answers["unlearned"]["forget"] = answers["unlearned"]["forget"].take(np.arange(40)[::-1])
    with pytest.raises(ValueError, match="different samples"):
        output_distances(answers)
    with pytest.raises(ValueError, match="different samples"):
        zrf(answers, answers["original"]["forget"])
