"""Accuracies, average gap and tug of war against scikit-learn and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score

from fedunlearn.evaluation.gap import average_gap, gaps, tug_of_war
from fedunlearn.evaluation.outputs import Outputs
from fedunlearn.randomness import generator

shares = st.lists(st.floats(0, 1), min_size=1, max_size=4).map(lambda values: dict(enumerate(values)))
SETS = ("forget", "retain", "test")


def right(correct: int, n: int = 10) -> Outputs:
    """Outputs of two classes, right about the first ``correct`` of n samples."""
    labels = np.arange(n) % 2
    logits = np.eye(2)[np.where(np.arange(n) < correct, labels, 1 - labels)]
    return Outputs(logits, labels, np.arange(n), np.zeros(n, np.int64))


def by_hand() -> dict[str, dict[str, Outputs]]:
    counts = {"original": (10, 9, 8), "unlearned": (5, 8, 7), "retrained": (7, 9, 8), "control": (6, 9, 8)}
    return {model: {s: right(k) for s, k in zip(SETS, numbers)} for model, numbers in counts.items()}


def test_scores_worked_out_by_hand():
    mia = {"original": 0.1, "unlearned": 0.6, "retrained": 0.4, "control": 0.45}
    found = {measure.name: measure for measure in gaps(by_hand(), mia).measures}
    # gaps of the unlearned model: forget .2, retain .1, test .1, attack .2; of the original: .3, 0, 0, .3
    assert found["average_gap_from_retrained"].unlearned.value == pytest.approx(0.15)
    assert found["average_gap_from_retrained"].original.value == pytest.approx(0.15)
    assert found["average_gap_of_accuracies_from_retrained"].unlearned.value == pytest.approx(0.4 / 3)
    assert found["tug_of_war_like_retrained"].unlearned.value == pytest.approx(0.8 * 0.9 * 0.9)
    assert found["tug_of_war_like_retrained"].original.value == pytest.approx(0.7)
    assert found["tug_of_war_mia_like_retrained"].unlearned.value == pytest.approx(0.8 * 0.9 * 0.9)
    assert found["tug_of_war_mia_like_retrained"].control.value == pytest.approx(0.95)
    assert found["average_gap_from_retrained"].control.value == pytest.approx(0.15 / 4)
    assert found["average_gap_from_retrained"].retrained is None
    assert found["accuracy_forget"].unlearned.value == 0.5
    assert found["error_forget"].unlearned.value == 0.5
    assert found["error_forget"].retrained.value == pytest.approx(0.3)


def test_accuracies_are_scikit_learns_and_their_intervals_clopper_and_pearsons():
    draw = generator(1, "test-gap")
    labels = {which: draw.integers(0, 4, 30) for which in (*SETS, "never_member")}
    models = ("original", "unlearned", "retrained", "control")
    rows, clients = np.arange(30), np.zeros(30, np.int64)
    answers = {m: {s: Outputs(draw.normal(size=(30, 4)), y, rows, clients) for s, y in labels.items()} for m in models}
    found = {measure.name: measure for measure in gaps(answers, None).measures}
    for model, sets in answers.items():
        for which, outputs in sets.items():
            estimate = getattr(found[f"accuracy_{which}"], model)
            expected = accuracy_score(outputs.labels, outputs.logits.argmax(1))
            assert estimate.value == pytest.approx(expected)
            exact = binomtest(round(expected * 30), 30).proportion_ci(0.95, method="exact")
            assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high))
        error = getattr(found["error_forget"], model)
        accuracy = getattr(found["accuracy_forget"], model)
        assert (error.value, error.low, error.high) == pytest.approx(
            (1 - accuracy.value, 1 - accuracy.high, 1 - accuracy.low)
        )


@given(shares)
def test_scores_stay_in_0_to_1_and_are_perfect_only_without_a_gap(gap):
    assert 0 <= average_gap(gap) <= 1 and 0 <= tug_of_war(gap) <= 1
    worst = max(gap.values())
    # one bad set cannot be hidden: ToW is at most 1 - the worst gap, and the average at least worst / number of sets
    assert tug_of_war(gap) <= 1 - worst + 1e-12
    assert average_gap(gap) >= worst / len(gap) - 1e-12


def test_a_model_like_the_retrained_one_is_perfect():
    answers = by_hand()
    answers["unlearned"] = answers["retrained"]
    found = {m.name: m for m in gaps(answers, {"unlearned": 0.3, "retrained": 0.3}).measures}
    assert found["average_gap_from_retrained"].unlearned.value == 0
    assert found["tug_of_war_like_retrained"].unlearned.value == 1
    assert found["tug_of_war_mia_like_retrained"].unlearned.value == 1
    assert found["average_gap_from_retrained"].original is None  # the attack has no value for it


def test_what_is_missing_is_refused_in_a_sentence():
    found = gaps(by_hand(), None)
    refused = {refusal.name: refusal.reason for refusal in found.refusals}
    assert set(refused) == {"accuracy_never_member", "average_gap_from_retrained", "tug_of_war_mia_like_retrained"}
    assert "no never-members" in refused["accuracy_never_member"]
    without = {model: sets for model, sets in by_hand().items() if model != "retrained"}
    found = gaps(without, None)
    assert any("retrained model, and there is none" in refusal.reason for refusal in found.refusals)
    assert {measure.name for measure in found.measures} == {
        "accuracy_forget", "error_forget", "accuracy_retain", "accuracy_test",
    }  # fmt: skip
    empty = {model: {**sets, "test": right(0, 0)} for model, sets in by_hand().items()}
    reasons = [refusal.reason for refusal in gaps(empty, None).refusals]
    assert "gaps need test samples, and there are none" in reasons
    assert "accuracy needs samples, and there are no test samples" in reasons


def test_mistakes_of_programmers_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        gaps(by_hand(), {"retrained": 55.0})
    answers = by_hand()
    answers["unlearned"]["test"] = answers["unlearned"]["test"].take(np.arange(10)[::-1])
    with pytest.raises(ValueError, match="different samples"):
        gaps(answers, None)
