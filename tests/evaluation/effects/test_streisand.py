from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from fedunlearn.evaluation.effects.streisand import (
    DIFFERENCE,
    ENTROPY,
    FORGET_ABOVE,
    loss_above,
    mean_difference,
    streisand_measures,
)
from fedunlearn.evaluation.measure import Found, Measure
from fedunlearn.evaluation.outputs import Answers, Outputs


def _outputs(count: int, seed: int, push: float = 0.0) -> Outputs:
    """Outputs that are right more often than not; ``push`` lowers the logit of the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, count)
    logits = rng.normal(size=(count, 5))
    logits[np.arange(count), labels] += 2 - push
    return Outputs(logits, labels, np.arange(count), np.zeros(count, np.int64))


def _answers(push: float, tests: int = 300) -> Answers:
    test = _outputs(tests, 0)
    forget = {"original": -2.0, "unlearned": push, "retrained": 0.0}
    answers = {name: {"test": test, "forget": _outputs(120, 1, p)} for name, p in forget.items()}
    return {**answers, "control": {"test": test, "forget": _outputs(120, 1, 0.02)}}  # type: ignore[return-value]


def _line(found: Found, name: str) -> Measure:
    return next(measure for measure in found.measures if measure.name == name)


def test_the_share_beyond_a_percentile_by_a_loop() -> None:
    forget, test = _outputs(50, 2, 1.0), _outputs(200, 3)
    threshold = sorted(test.loss.tolist())[189]  # 190 of 200 do not exceed it
    beyond = sum(loss > threshold for loss in forget.loss.tolist())
    assert loss_above(forget, test, 95).value == beyond / 50 and beyond > 3
    assert loss_above(test, test, 95).value == 0.05 and loss_above(test, test, 99).value == 0.01


def test_the_mean_difference_is_scipys() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=40), rng.normal(size=40) + 0.3
    ours, exact = mean_difference(first, second), ttest_rel(first, second).confidence_interval()
    assert ours.value == pytest.approx((first - second).mean())
    assert (ours.low, ours.high) == (pytest.approx(exact.low), pytest.approx(exact.high))


@pytest.mark.parametrize(("push", "sign"), [(4.0, 1), (-2.0, -1)])
def test_the_sign_tells_over_forgetting_from_what_is_left(push: float, sign: int) -> None:
    found = streisand_measures(_answers(push), seed=1)
    area, mean, tail = (
        _line(found, name) for name in (FORGET_ABOVE, DIFFERENCE, "streisand_forget_loss_above_95_percent_of_test")
    )
    assert area.unlearned is not None and area.unlearned.low is not None and area.unlearned.high is not None
    assert sign * (area.unlearned.value - 0.5) > 0.2 and not area.unlearned.low <= 0.5 <= area.unlearned.high
    assert area.control is not None and abs(area.control.value - 0.5) < 0.02 and area.retrained is None
    assert mean.unlearned is not None and sign * mean.unlearned.value > 0.3
    assert area.original is not None and area.original.value < 0.3
    assert tail.unlearned is not None and tail.retrained is not None
    assert sign * (tail.unlearned.value - tail.retrained.value) > 0
    assert not found.refusals and _line(found, ENTROPY).samples == {"forget": 120, "test": 300}


def test_the_area_by_all_pairs() -> None:
    answers = _answers(1.0)
    mine, ideal = (answers[name]["forget"].loss for name in ("unlearned", "retrained"))
    pairs = np.mean([(a > b) + 0.5 * (a == b) for a in mine for b in ideal])
    found = _line(streisand_measures(answers, 1), FORGET_ABOVE)
    assert found.unlearned is not None and found.unlearned.value == pytest.approx(pairs)


def test_a_percentile_that_cannot_be_told_is_refused() -> None:
    found = streisand_measures(_answers(0.0, tests=99), 1)
    (refusal,) = found.refusals
    assert refusal.reason == "the 99 percentile needs at least 100 test samples, and there are 99"
    lone: Answers = {name: {"test": _outputs(9, 0), "forget": _outputs(1, 1)} for name in ("unlearned", "retrained")}
    assert "at least two forget" in streisand_measures(lone, 1).refusals[0].reason
