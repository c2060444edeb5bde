"""Measures are called in words, and estimates are written so that none of their digits that matter is lost."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.results import measure_names
from fedunlearn.results.measure_names import interval_text, measure_title, value_text


def estimate(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def test_the_examples_are_true():
    assert doctest.testmod(measure_names).attempted > 0 and doctest.testmod(measure_names).failed == 0


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("mia_u_auc_forget_above_test", "MIA-U AUC: forget above test"),
        ("world_u_lira_auc_above_retrained", "world U-LiRA AUC above retrained"),
        ("forget_below_test", "forget below test"),
        ("accuracy_never_member", "accuracy (never-member)"),
        ("streisand_forget_loss_above_95_percent_of_test", "Streisand forget loss above 95 percent of test"),
        ("consensus_distance", "consensus distance"),
    ],
)
def test_titles(name, title):
    assert measure_title(name) == title


def test_numbers_and_intervals():
    assert value_text(None) == "–" and interval_text(None) == "" == interval_text(estimate(0.5))
    assert value_text(estimate(0.5)) == "0.500" and interval_text(estimate(0.5, 0.4321, 0.6)) == "0.432–0.600"
    assert value_text(estimate(0.00253, 0.0024, 0.0026)) == "0.00253"
    assert interval_text(estimate(0.00253, 0.00244, 0.00261)) == "0.0024–0.0026"
    assert interval_text(estimate(-0.02, -0.036, 0.0301)) == "-0.036, 0.03"
    assert value_text(estimate(18432.0)) == "18,432"


@given(st.floats(1e-6, 1e6))
def test_a_number_that_is_not_zero_is_not_written_as_zero(value):
    written = value_text(estimate(value))
    assert float(written.replace(",", "")) == pytest.approx(value, rel=0.05)
