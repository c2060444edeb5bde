from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from fedunlearn.evaluation.effects.calibration import (
    BINS,
    adaptive_calibration_error,
    brier_scores,
    calibration_error,
    calibration_measures,
    equal_mass,
    equal_width,
)
from fedunlearn.evaluation.outputs import Answers, Outputs


def _outputs(count: int, seed: int, classes: int = 3, sure: float = 2.0) -> Outputs:
    """Outputs of a model whose probabilities are true at ``sure = 1``, and overconfident above."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(count, classes))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return Outputs(sure * logits, labels, np.arange(count), np.zeros(count, np.int64))


def test_the_error_with_equal_widths_by_a_loop() -> None:
    outputs = _outputs(200, 0)
    total = 0.0
    for b in range(15):
        inside = [
            (bool(logits.argmax() == label), float(p.max()))
            for logits, label, p in zip(outputs.logits, outputs.labels, outputs.probabilities)
            if b / 15 < p.max() <= (b + 1) / 15
        ]
        if inside:
            accuracy, confidence = (np.mean([pair[k] for pair in inside]) for k in (0, 1))
            total += len(inside) / 200 * abs(accuracy - confidence)
    assert calibration_error(outputs) == pytest.approx(total, abs=1e-12) and total > 0.01


def test_the_error_with_equal_masses_by_slices() -> None:
    outputs = _outputs(150, 1)
    order = np.argsort(outputs.probabilities.max(1))
    right, sure = outputs.correct[order].astype(float), outputs.probabilities.max(1)[order]
    total = sum(abs(right[i : i + 10].mean() - sure[i : i + 10].mean()) / 15 for i in range(0, 150, 10))
    assert adaptive_calibration_error(outputs) == pytest.approx(total, abs=1e-12)


def test_bins_at_their_edges() -> None:
    assert equal_width(np.array([0.0, 0.25, 0.2500001, 0.5, 1.0]), 4).tolist() == [0, 0, 1, 1, 3]
    assert equal_mass(np.array([0.9, 0.1, 0.1, 0.5, 0.2]), 2).tolist() == [1, 0, 0, 1, 0]
    assert np.ptp(np.bincount(equal_mass(np.random.default_rng(0).random(100), BINS))) <= 1


def test_scores_are_scikit_learns() -> None:
    binary = _outputs(80, 2, classes=2)
    one_class = brier_score_loss(binary.labels, binary.probabilities[:, 1])  # of one of the two classes
    assert brier_scores(binary).mean() == pytest.approx(2 * one_class)
    three = _outputs(80, 3)
    assert three.loss.mean() == pytest.approx(log_loss(three.labels, three.probabilities, labels=[0, 1, 2]))
    assert brier_scores(three).min() >= 0 and brier_scores(three).max() <= 2


def _answers(count: int = 400) -> Answers:
    models = {"original": 1.0, "unlearned": 4.0, "retrained": 1.0, "control": 1.1}
    return {
        name: {"test": _outputs(count, 4, sure=sure), "forget": _outputs(count // 8, 5, sure=sure)}
        for name, sure in models.items()
    }


def test_an_overconfident_model_is_found_and_the_control_is_not() -> None:
    found = calibration_measures(_answers(), seed=1)
    lines = {measure.name: measure for measure in found.measures}
    assert len(lines) == 10 and not found.refusals
    gap = lines["calibration_error_above_retrained_test"]
    assert gap.unlearned is not None and gap.unlearned.low is not None and gap.unlearned.low > 0.05
    assert gap.control is not None and gap.control.low is not None and gap.control.high is not None
    assert gap.control.low <= 0 <= gap.control.high and gap.retrained is None
    error = lines["calibration_error_test"]
    assert error.unlearned is not None and error.unlearned.value == calibration_error(_answers()["unlearned"]["test"])
    assert lines["brier_score_forget"].samples == {"forget": 50}
    for measure in found.measures:
        for estimate in (measure.original, measure.unlearned, measure.retrained, measure.control):
            if estimate is not None:
                assert estimate.low is not None and estimate.high is not None
                assert estimate.low <= estimate.value <= estimate.high


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    (loss,) = (m for m in calibration_measures(_answers(), 1).measures if m.name == "negative_log_likelihood_test")
    values = _answers()["retrained"]["test"].loss
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert loss.retrained is not None and loss.retrained.low is not None and loss.retrained.high is not None
    assert loss.retrained.value - loss.retrained.low == pytest.approx(half, rel=0.12)
    assert loss.retrained.high - loss.retrained.value == pytest.approx(half, rel=0.12)


def test_the_interval_of_the_error_covers_the_truth_of_a_calibrated_model() -> None:
    """Its true error is 0, which the plain percentile interval, always above the upward-biased number, never holds."""
    below = 0
    for seed in range(20):
        calm = _outputs(300, 100 + seed, sure=1.0)
        (line,) = (
            m
            for m in calibration_measures({"unlearned": {"test": calm}, "retrained": {"test": calm}}, seed).measures
            if m.name == "calibration_error_test"
        )
        assert line.unlearned is not None and line.unlearned.low is not None
        below += line.unlearned.low < 0.015
    assert below >= 17


def test_same_seed_same_numbers_and_few_samples_are_refused() -> None:
    assert calibration_measures(_answers(), 1) == calibration_measures(_answers(), 1)
    assert calibration_measures(_answers(), 1) != calibration_measures(_answers(), 2)
    found = calibration_measures(_answers(160), 1)
    assert [refusal.name for refusal in found.refusals] == ["calibration_error_forget"]
    assert "need at least 30 forget samples, and there are 20" in found.refusals[0].reason
