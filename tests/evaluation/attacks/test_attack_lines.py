"""The lines of one attack: names, numbers, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.evaluation.attacks import areas, roc
from fedunlearn.evaluation.attacks.attack_lines import Comparison, models_of, resolved, score_lines
from fedunlearn.randomness import generator

OF = Comparison("loss", "forget_below_test", "loss", "has a smaller loss", "test", "simple")


def pairs(forget=30, test=120):
    draw = generator(1, "test-attack-lines")
    return {
        model: (draw.normal(shift, 1, forget), draw.normal(0, 1, test))
        for model, shift in (("original", 2), ("retrained", 0))
    }


def test_every_line_holds_the_number_of_its_model():
    given = pairs()
    found = score_lines(OF, given, (0.1, 0.01), seed=4)
    names = ["loss_auc_forget_below_test", "loss_balanced_accuracy_forget_below_test"]
    names += [f"loss_tpr_at_fpr_{rate}_forget_below_test" for rate in (0.1, 0.01)]
    assert [measure.name for measure in found.measures] == names
    for model, pair in given.items():
        area, accuracy, first, second = (getattr(measure, model) for measure in found.measures)
        assert (area.value, (area.low, area.high)) == (areas.auc(*pair), areas.auc_interval_of(*pair))
        assert accuracy == roc.balanced_accuracy(*pair, seed=4)
        assert (first, second) == (roc.tpr_at(*pair, 0.1).tpr, roc.tpr_at(*pair, 0.01).tpr)
    for measure in found.measures:
        assert measure.unlearned is measure.control is None
        assert measure.samples == {"forget": 30, "test": 120}
        assert measure.reads.endswith("not 0.5")
    assert not found.refusals


def test_curves_say_what_they_compare():
    curves = score_lines(OF, pairs(), ()).curves["roc"]
    assert [(c["group"], c["label"], c["positives"], c["negatives"]) for c in curves] == [
        ("simple, original", "loss, original", "original forget", "original test"),
        ("simple, retrained", "loss, retrained", "retrained forget", "retrained test"),
    ]
    assert [c["auc"] for c in curves] == [areas.auc(*pair) for pair in pairs().values()]
    assert {c["smallest_fpr"] for c in curves} == {1 / 120}


def test_without_a_seed_there_is_no_balanced_accuracy():
    assert [m.name for m in score_lines(OF, pairs(), ()).measures] == ["loss_auc_forget_below_test"]


def test_realised_rates_are_told_and_with_ties_model_by_model():
    (_, line) = score_lines(OF, pairs(), (0.01,)).measures
    assert "(realised: 0.00833 [0.00021, 0.046]; 120 samples resolve 0.0083 at best)" in line.reads
    given = pairs()
    given["retrained"] = (given["retrained"][0], np.zeros(120))
    (_, line) = score_lines(OF, given, (0.01,)).measures
    assert "realised: original 0.00833 [0.00021, 0.046], retrained 0 [0, 0.03];" in line.reads


@pytest.mark.parametrize("sizes", [(1, 120), (30, 1)])
def test_a_single_sample_gives_a_refusal(sizes):
    found = score_lines(OF, pairs(*sizes), (), seed=1)
    assert not found.measures
    assert not found.curves
    (refusal,) = found.refusals
    assert refusal.name == "loss_auc_forget_below_test"
    assert refusal.reason.endswith(f"and there are {sizes[0]} and {sizes[1]}")


def test_usual_rates_that_cannot_be_resolved_are_refused_by_name():
    told, found = resolved((), 399, "test", "forget_below_test")
    assert told == (0.1, 0.01)
    (refusal,) = found.refusals
    assert refusal.name == "tpr_at_fpr_0.001_forget_below_test"
    assert refusal.reason == "a false positive rate of 0.001 needs at least 1000 test samples, and there are 399"
    assert resolved((), 5, "test", "x")[0] == ()
    assert len(resolved((), 5, "test", "x")[1].refusals) == 3


def test_stated_rates_are_taken_or_refused_to_the_user():
    assert resolved((0.05,), 20, "test", "x")[0] == (0.05,)
    with pytest.raises(UserError, match=r"of 0\.04 needs at least 25 non-members, and there are 20"):
        resolved((0.05, 0.04), 20, "test", "x")


def test_models_come_in_the_order_of_the_columns():
    assert models_of({"control": 0, "retrained": 0, "original": 0}) == ["original", "retrained", "control"]
