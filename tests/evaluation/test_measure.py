"""Estimates, and parts of the battery put together."""

from __future__ import annotations

import pytest

from fedunlearn.errors import UserError
from fedunlearn.evaluation.measure import COLUMNS, Estimate, Found, Measure, Refusal, refuse_few, together


def line(name):
    return Measure(name, "membership", "reads", unlearned=Estimate(0.5))


@pytest.mark.parametrize(
    "numbers", [(float("nan"),), (float("inf"), 0.0, 1.0), (0.0, float("-inf"), 1.0), (0.0, 0.0, float("nan"))]
)
def test_an_estimate_is_finite(numbers):
    with pytest.raises(ValueError, match="must be finite"):
        Estimate(*numbers)


def test_an_estimate_may_have_no_interval():
    assert (Estimate(1.0).low, Estimate(1.0).high) == (None, None)


def test_a_measure_has_the_columns_and_knows_none_of_them_at_first():
    assert [getattr(Measure("a", "distance", "b"), column) for column in COLUMNS] == [None] * 4


def test_parts_are_joined_in_order():
    refusal = Refusal("r", "shadows", "why")
    parts = [
        Found((line("a"),), curves={"roc": [1, 2], "relearning": {"steps": [0]}}),
        Found((line("b"),), (refusal,), {"roc": [3]}),
        Found(),
    ]
    joined = together(parts)
    assert [measure.name for measure in joined.measures] == ["a", "b"]
    assert joined.refusals == (refusal,)
    assert joined.curves == {"roc": [1, 2, 3], "relearning": {"steps": [0]}}
    assert parts[0].curves["roc"] == [1, 2]


def test_nothing_together_is_nothing():
    assert together([]) == Found()


def test_two_lines_of_one_name_are_a_mistake():
    with pytest.raises(ValueError, match="two lines of the battery have the name a"):
        together([Found((line("a"), line("b"))), Found((line("a"),))])


@pytest.mark.parametrize("curves", [({"x": 1}, {"y": 2}), ([1], {"y": 2}), ({"x": 1}, [2])])
def test_two_curves_of_one_name_must_be_lists(curves):
    with pytest.raises(ValueError, match="curves 'network'"):
        together(Found(curves={"network": curve}) for curve in curves)


def test_too_few_samples_are_told_with_both_numbers():
    refuse_few("the shadow attack", 16, 16, "pairs")
    with pytest.raises(UserError) as error:
        refuse_few("the shadow attack", 3, 16, "pairs")
    assert str(error.value) == "the shadow attack needs at least 16 pairs, and there are 3"
