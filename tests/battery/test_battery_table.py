"""The printed evaluation: whole at 80 columns, every number beside what it is read against, and what stands out."""

from __future__ import annotations

import io
from dataclasses import asdict

import example_evaluation as example
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedunlearn.battery.table import evaluation_table, judged, side_of_original, standing_out
from fedunlearn.evaluation.measure import Estimate, Measure
from fedunlearn.results.measure_names import SECTIONS, interval_text, measure_title, value_text


def printed(evaluation, width: int = 100, **options) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(evaluation_table(evaluation, **options))
    return console.file.getvalue()


def flat(evaluation, **options) -> str:
    return " ".join(printed(evaluation, 200, **options).split())


@pytest.mark.parametrize("width", [80, 100, 180])
def test_nothing_is_cut_off(width):
    text = printed(example.evaluation(), width, explain=True)
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= min(width, 100)
    for measure in example.evaluation()["measures"]:
        for column in ("original", "unlearned", "retrained", "control"):
            assert value_text(measure[column]) in text and interval_text(measure[column]) in text


def test_head_sections_refusals_and_time_are_told():
    said = flat(example.evaluation())
    for piece in (
        "femnist_newton evaluation (full) of newton, seed 0",
        "client 17 leaves with 158 samples; samples: forget 158, retain 400, test 399, never-member 250",
        "loss AUC: forget below test 0.612 0.523 0.519 0.507 0.582–0.642 0.493–0.553",
        "LiRA TPR at FPR 0.01: forget above never-member",
        "0.813 0.00213 – 0.012",
        "forgetting score is not given: it needs at least 64 models of each kind, and there are 16",
        "62.5 s in all: models 1.5 s, shadow models 61.0 s",
    ):
        assert piece in said, piece
    sections = {m.section for m in (*example.measures(), *example.found().refusals)}
    for name, question in SECTIONS.items():
        assert (f"{name} {question}" in said) == (name in sections)


def test_explanations_are_printed_on_demand():
    reads = "The control says how far two seeds are apart."
    assert reads in flat(example.evaluation(), explain=True) and reads not in flat(example.evaluation())


def test_a_battery_without_control_says_so():
    bare = [{**measure, "control": None} for measure in example.evaluation()["measures"]]
    assert "There is no control with quick" in flat(example.evaluation("quick", measures=bare))
    assert "There is no control" not in flat(example.evaluation())


def test_what_stands_out_is_listed_and_nothing_else():
    evaluation = example.evaluation()
    assert [m["name"] for m in standing_out(evaluation)] == ["lira_tpr_at_fpr_0.01_forget_above_never_member"]
    said = flat(evaluation).partition("What stands out")[2]
    assert (
        "On the side of the original, as if less had been forgotten than by retraining: · LiRA TPR at FPR 0.01: forget "
        "above never-member: 0.094 (0.054–0.134) is above retrained 0.011 and control 0.013, original 0.181"
    ) in said
    assert "1 of 4 measures with an interval lies to one side" in said
    assert measure_title("loss_auc_forget_below_test") not in said


def test_what_a_measure_means_is_told_once_for_its_kind_and_up_to_its_first_clause():
    low, high = Estimate(0.3, 0.2, 0.35), Estimate(0.1)
    reads = "mean KL(retrained‖model) in nats (natural logarithms); the interval covers samples"
    two = [asdict(Measure(name, "distance", reads, high, low, high, None)) for name in ("kl_a", "kl_b")]
    said = flat(example.evaluation(measures=two))
    assert said.count("Mean KL(retrained‖model) in nats ") == 1 and "natural logarithms" not in said


def test_nothing_may_stand_out():
    evaluation = example.evaluation(measures=[asdict(example.measures()[0])])
    assert "None of 1 measures with an interval lie to one side" in flat(evaluation)
    assert "nothing can: no measure has an interval" in flat(example.evaluation(measures=[]))


def test_measures_beyond_retraining_and_without_an_original_stand_apart():
    low, high = Estimate(0.3, 0.2, 0.35), Estimate(0.5, 0.45, 0.55)
    beyond = Measure("a_auc", "membership", "a", Estimate(0.9), low, high, high)
    alone = Measure("b_auc", "membership", "b", None, low, high, None)
    evaluation = example.evaluation(measures=[asdict(beyond), asdict(alone)])
    assert [side_of_original(measure) for measure in standing_out(evaluation)] == [False, None]
    said = flat(evaluation)
    assert "nearer to it than another seed comes: · a AUC: 0.300 (0.200–0.350) is below retrained 0.500 and" in said
    assert "with no original to compare: · b AUC: 0.300 (0.200–0.350) is below retrained 0.500" in said


shares = st.floats(0, 1)


@given(shares, shares, shares, shares, st.booleans())
def test_standing_out_means_that_the_interval_lies_to_one_side(a, b, retrained, control, both):
    low, high = sorted((a, b))
    measure = Measure(
        "x", "membership", "x", Estimate(0.5), Estimate((low + high) / 2, low, high), Estimate(retrained),
        Estimate(control) if both else None,
    )  # fmt: skip
    evaluation = {"measures": [asdict(measure)]}
    others = [retrained, control] if both else [retrained]
    outside = all(x < low for x in others) or all(x > high for x in others)
    assert bool(standing_out(evaluation)) == outside and len(judged(evaluation)) == 1
