"""The attack on whole writers: by hand, and over many worlds in which nothing was learned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from fedunlearn.evaluation.attacks.areas import auc, auc_interval_of
from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.attacks.user_level import (
    ADVANTAGE,
    P_VALUE,
    SHIFT,
    Writers,
    _advantage,
    rank_p_value,
    statistics,
    user_level,
)
from fedunlearn.evaluation.measure import Found
from fedunlearn.evaluation.outputs import Outputs
from fedunlearn.randomness import generator


def outputs(margins, clients) -> Outputs:
    """Outputs of two classes with the given margins; rows number the samples."""
    margins, clients = np.asarray(margins, dtype=float), np.asarray(clients)
    logits = np.stack([margins, np.zeros_like(margins)], axis=1)
    n = len(margins)
    return Outputs(logits, np.zeros(n, dtype=np.int64), np.arange(n) + 10 * int(clients[0]), clients)


def measures(found: Found) -> dict:
    return {measure.name: measure for measure in found.measures}


# two deleted writers (7 with two samples, 8 with one) and three never-members (1 with one sample, 2 and 3 with two)
FORGET, NEVER = [7, 7, 8], [1, 2, 2, 3, 3]
ANSWERS = {
    "original": {"forget": outputs([5, 7, 2], FORGET), "never_member": outputs([1, 3, 3, 2, 2], NEVER)},
    "retrained": {"forget": outputs([1, 3, 2], FORGET), "never_member": outputs([1, 3, 3, 2, 2], NEVER)},
}


def test_bare_margins_by_hand():
    found = measures(user_level(ANSWERS, None, [7]))
    # writer 7: 6 against 1, 3, 2 in the original, 2 in the retrained model
    assert found[SHIFT].original.value == pytest.approx(4)
    assert found[SHIFT].retrained.value == pytest.approx(0)
    assert found[P_VALUE].original.value == pytest.approx(1 / 4)  # nobody above: the smallest that three can show
    assert found[P_VALUE].retrained.value == pytest.approx(3 / 4)  # 3 above, 2 equal
    assert found[ADVANTAGE].original.value == 1 and found[ADVANTAGE].retrained.value == pytest.approx(0.5)
    assert found[ADVANTAGE].unlearned is None and found[ADVANTAGE].original.low is None
    assert found[P_VALUE].samples == {"deleted writers": 1, "never-members": 3}
    assert "0.25" in found[P_VALUE].reads and "bare" in found[P_VALUE].reads


def test_several_writers_share_the_p_value():
    found = measures(user_level(ANSWERS, None, [7, 8]))
    # writer 8: 2 against 1, 3 and 2: two at or above it, p = 3/4; writer 7: p = 1/4, times two
    assert found[P_VALUE].original.value == pytest.approx(2 / 4)
    assert found[ADVANTAGE].original.value == pytest.approx((1 + 0.5) / 2)
    assert found[SHIFT].original.value == pytest.approx((4 + 0) / 2)


def test_shadow_models_take_the_difficulty_away():
    shadow = {"forget": np.array([[1, 3, 2], [1, 5, 2]]), "never_member": np.array([[1, 3, 3, 2, 2]] * 2)}
    found = measures(user_level(ANSWERS, ShadowMargins(shadow, shadow, shadow), [7]))
    # 6 less (2 + 3) / 2; every control is at 0
    assert found[SHIFT].original.value == pytest.approx(3.5)
    assert found[SHIFT].retrained.value == pytest.approx(-0.5)
    assert found[P_VALUE].retrained.value == 1
    assert "2 models" in found[SHIFT].reads


def test_one_other_retrained_model_calibrates_where_there_are_no_shadow_models():
    control = {"forget": outputs([2, 2, 2], FORGET), "never_member": outputs([0, 3, 3, 2, 2], NEVER)}
    found = measures(user_level({**ANSWERS, "control": control}, None, [7]))
    # controls: 1, 0, 0 less the control model; the control itself is read against the retrained one
    assert found[SHIFT].original.value == pytest.approx(4 - 1 / 3)
    assert found[SHIFT].retrained.value == pytest.approx(0 - 1 / 3)
    assert found[SHIFT].control.value == pytest.approx(0 + 1 / 3)
    assert "one other model" in found[SHIFT].reads


def test_no_control_is_averaged_over_more_samples_than_the_deleted_writer():
    others = outputs(np.arange(6.0), [1, 1, 1, 1, 2, 2])
    one = statistics(outputs([9.0], [7]), np.array([9.0]), others, others.margin, [7])
    assert one.controls[0, 0] in (0, 1, 2, 3) and one.controls[0, 1] in (4, 5)
    three = statistics(outputs([9.0] * 3, [7] * 3), np.full(3, 9.0), others, others.margin, [7])
    assert three.controls[0, 0] * 3 == pytest.approx(round(three.controls[0, 0] * 3))
    assert three.controls[0, 1] == 4.5  # has only two: both
    again = statistics(outputs([1.0], [7]), np.array([1.0]), others, 10 * others.margin, [7])
    assert np.array_equal(again.controls, 10 * one.controls)  # the same samples under every model


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(0, 9))
def test_rank_p_value_against_counting(controls, value):
    p = rank_p_value(value, controls)
    assert p == (1 + len([c for c in controls if c >= value])) / (1 + len(controls))
    assert 1 / (len(controls) + 1) <= p <= 1
    assert rank_p_value(value + 1, controls) <= p


def test_the_advantage_is_the_area_and_its_interval_delongs():
    draw = generator(1, "test-user-level")
    deleted, controls = draw.normal(1, 1, 6), draw.normal(0, 1, 15)
    found = _advantage(Writers(deleted, np.tile(controls, (6, 1))))
    assert found.value == pytest.approx(auc(deleted, controls), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(auc_interval_of(deleted, controls), abs=1e-12)


def test_p_values_are_uniform_when_the_writer_was_never_learned():
    """1000 worlds: the deleted writer is one more draw of the never-members, calibrated by three models."""
    draw = generator(2, "test-user-level")
    controls, each = 9, 4
    clients = np.repeat(np.arange(controls) + 1, each)
    ranks = np.zeros(controls + 1)
    for _ in range(1000):
        level = draw.normal(0, 3, (controls + 1) * each)  # difficulty of the samples
        taste = np.repeat(draw.normal(0, 0.5, controls + 1), each)  # what this model makes of each writer
        margins, references = (
            level + taste + draw.normal(0, 1, level.shape),
            level + draw.normal(0, 1, (3, *level.shape)),
        )
        answers = {
            "retrained": {
                "forget": outputs(margins[:each], [99] * each),
                "never_member": outputs(margins[each:], clients),
            }
        }
        shadow = {"forget": references[:, :each], "never_member": references[:, each:]}
        p = measures(user_level(answers, ShadowMargins(shadow, shadow, shadow), [99]))[P_VALUE].retrained.value
        ranks[round(p * (controls + 1)) - 1] += 1
    assert ranks.sum() == 1000
    assert ((ranks - 100) ** 2 / 100).sum() < chi2.ppf(0.999, controls)


def test_controls_with_fewer_samples_make_the_test_careful():
    draw = generator(3, "test-user-level")
    clients = np.repeat(np.arange(19) + 1, 2)
    small = 0
    for _ in range(1500):
        forget, never = outputs(draw.normal(0, 1, 8), [99] * 8), outputs(draw.normal(0, 1, 38), clients)
        answers = {"retrained": {"forget": forget, "never_member": never}}
        p = measures(user_level(answers, None, [99]))[P_VALUE].retrained.value
        small += p <= 0.1
    assert small / 1500 < 0.1  # a thinned writer would give 0.1


def test_a_small_common_shift_of_a_writer_shows_that_no_single_sample_shows():
    draw = generator(4, "test-user-level")
    clients = np.repeat(np.arange(49) + 1, 60)
    never = draw.normal(0, 1, len(clients))
    answers = {
        name: {"forget": outputs(draw.normal(shift, 1, 60), [99] * 60), "never_member": outputs(never, clients)}
        for name, shift in (("original", 0.6), ("retrained", 0.0))
    }
    found = measures(user_level(answers, None, [99]))
    assert found[P_VALUE].original.value == pytest.approx(1 / 50)
    assert found[P_VALUE].retrained.value > 0.05
    assert auc(answers["original"]["forget"].margin, never) < 0.8


def test_what_cannot_be_told_is_refused_in_one_sentence():
    without = {name: {"forget": sets["forget"]} for name, sets in ANSWERS.items()}
    (refusal,) = user_level(without, None, [7]).refusals
    assert refusal.name == "user_level" and "never-members" in refusal.reason
    (refusal,) = user_level(ANSWERS, None, []).refusals
    assert "whole client" in refusal.reason
    with pytest.raises(ValueError, match="client 5 has no sample"):
        user_level(ANSWERS, None, [5])
