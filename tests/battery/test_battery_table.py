"""The printed evaluation: whole at 80 columns, every number beside what it is read against, and what stands out."""

from __future__ import annotations

import io

import example_evaluation as example
import pytest
from rich.console import Console

from fedunlearn.battery.table import evaluation_table
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


def judged(measure: str, verdict: str, grade: str = "models", memory: bool | None = None) -> dict:
    return {
        "measure": measure,
        "verdict": verdict,
        "grade": grade,
        "memory": memory,
        "sentence": f"because of {measure}",
    }


def test_judgements_are_listed_by_verdict_with_their_reason():
    told = [
        judged("a_auc", "stands out", "models", True), judged("b_auc", "stands out", "one seed", False),
        judged("c_auc", "not told apart"), judged("d_auc", "cannot tell"),
    ]  # fmt: skip
    said = flat({**example.evaluation(), "judgements": told}).partition("What stands out")[2]
    places = [
        said.index(piece)
        for piece in (
            "chance over models or writers included: · a AUC (memory): because of a_auc",
            "a reason to look, not a finding: · b AUC (beyond retraining): because of b_auc",
            "where the original is: · c AUC: because of c_auc",
            "Cannot tell: · d AUC: because of d_auc",
            "Judged are only measures that were named in advance",
        )
    ]
    assert places == sorted(places)


def test_without_a_judged_measure_nothing_is_judged():
    assert "nothing is judged" in flat({**example.evaluation(), "judgements": []})


def test_the_short_table_has_the_judged_measures_and_counts_the_others():
    evaluation = example.evaluation()
    name = evaluation["measures"][0]["name"]
    short = flat({**evaluation, "judgements": [judged(name, "not told apart")]}, everything=False)
    assert measure_title(name) in short.partition("What stands out")[0]
    assert measure_title(evaluation["measures"][1]["name"]) not in short
    refused = len(evaluation["refusals"])
    assert f"{len(evaluation['measures']) - 1} further numbers: --all prints them" in short
    assert f"{refused} {'is' if refused == 1 else 'are'} not given; --all says why" in short
    assert "is not given: it needs" not in short
