"""Runs side by side: nothing is lost, and what makes numbers incomparable is said."""

from __future__ import annotations

import csv
import io
import json

import example_evaluation
import pytest
import small_runs
from rich.console import Console

from fedunlearn.errors import UserError
from fedunlearn.results.compare import CSV_FIELDS, compare_runs, comparison_csv, distinct_labels, shared_measures
from fedunlearn.results.compare_table import compare_table
from fedunlearn.results.files import readable_json


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two comparable runs with evaluations, one of another seed, one of other data and another forget set."""
    base = tmp_path_factory.mktemp("runs")
    small_runs.run(base / "newton")
    small_runs.run(base / "tuned", unlearning={"method": "finetune"})
    small_runs.run(base / "seed4", seed=4, unlearning={"method": "finetune"})
    small_runs.run(base / "other", data={"clients": 5}, requests=[{"level": "client", "client": 1}])
    first = example_evaluation.evaluation()
    fewer = example_evaluation.evaluation("quick", measures=first["measures"][1:3], curves={})
    (base / "newton" / "evaluation.json").write_text(readable_json(first))
    (base / "tuned" / "evaluation.json").write_text(readable_json(fewer))
    return base


def test_a_comparison_says_what_the_runs_say(runs):
    found = compare_runs([runs / "newton", runs / "tuned"])
    newton, tuned = found["runs"]
    summary = json.loads((runs / "newton" / "summary.json").read_text())
    (request,) = summary["requests"]
    assert newton["label"] == "newton" and newton["method"] == "newton" and newton["topology"] == "ring, 6 nodes"
    assert newton["certificate"]["epsilon"] == request["certificate"]["epsilon"] == 1.0
    assert tuned["certificate"] is None and "fine-tuning" in tuned["certificate_reason"]
    for name in ("original", "retrained", "unlearned"):
        assert newton["models"][name]["test_accuracy"] == summary["models"][name]["test_accuracy"]
    assert newton["distance_to_retrained"] == request["distance_to_retrained"]
    assert newton["times_cheaper"] == request["retrain_cost"]["seconds"] / request["cost"]["seconds"]
    assert (newton["battery"], tuned["battery"]) == ("full", "quick") and found["warnings"] == []
    assert list(found["reach"]) == ["newton"] and json.loads(json.dumps(found)) == found


def test_measures_that_two_runs_have_are_compared(runs):
    found = compare_runs([runs / "newton", runs / "tuned", runs / "seed4"])
    names = [measure["name"] for measure in found["measures"]]
    assert names == [measure.name for measure in example_evaluation.measures()[1:3]]
    assert found["measures"][0]["runs"]["tuned"]["unlearned"]["value"] == 0.545
    assert set(found["measures"][0]["runs"]) == {"newton", "tuned"}
    assert shared_measures({"one": example_evaluation.evaluation()}) == []


def test_what_differs_is_one_sentence(runs):
    (seed,) = compare_runs([runs / "newton", runs / "seed4"])["warnings"]
    assert seed == "these runs differ in seed (newton: 3; seed4: 4), so their numbers are not comparable"
    (more,) = compare_runs([runs / "newton", runs / "other"])["warnings"]
    assert more.startswith("these runs differ in data (") and " and forget set (newton: client 2 leaves" in more
    assert "seed" not in more


def test_the_same_text_with_other_samples_is_another_forget_set(tmp_path):
    for name, places in (("a", [0, 1]), ("b", [2, 3])):
        ask = [{"level": "sample", "client": 2, "samples": places}]
        small_runs.run(tmp_path / name, requests=ask, unlearning={"method": "finetune"})
    (said,) = compare_runs([tmp_path / "a", tmp_path / "b"])["warnings"]
    assert said.startswith("these runs differ in forget set (all: client 2 deletes 2 of its samples)")


def test_mistakes_are_one_sentence(runs, tmp_path):
    for paths, says in (
        ([], "at least two runs, and none was named"),
        ([runs / "newton"], "at least two runs, and 1 was named"),
        ([runs / "newton", runs / "tuned", runs / "." / "newton"], "is named twice"),
        ([runs / "newton", tmp_path / "none"], "no such folder"),
        ([runs / "newton", tmp_path], "is not a complete run"),
    ):
        with pytest.raises(UserError, match=says):
            compare_runs(paths)


def test_labels_are_as_short_as_they_can_be(tmp_path):
    places = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c"]
    assert distinct_labels(places) == ["a/run", "b/run", f"{tmp_path.name}/c"]
    assert distinct_labels(places[1:]) == ["run", "c"]


def test_the_csv_has_every_number(runs):
    found = compare_runs([runs / "newton", runs / "tuned"])
    first, *lines = comparison_csv(found).splitlines()
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    assert first == "# schema: fedunlearn/compare-table/1" and tuple(rows[0]) == CSV_FIELDS
    table = {(r["run"], r["measure"], r["model"]): (r["value"], r["low"], r["high"]) for r in rows}
    assert len(table) == len(rows)
    lira = "lira_tpr_at_fpr_0.01_forget_above_never_member"
    assert table["tuned", lira, "unlearned"] == ("0.094", "0.054", "0.134")
    assert float(table["newton", "epsilon", ""][0]) == 1.0 and ("tuned", "epsilon", "") not in table
    retrained = found["runs"][1]["models"]["retrained"]["test_accuracy"]
    assert float(table["tuned", "test_accuracy", "retrained"][0]) == retrained


def printed(found, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(compare_table(found, width))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_table_is_whole_at_every_width(runs, width):
    found = compare_runs([runs / name for name in ("newton", "tuned", "seed4", "other")])
    text = printed(found, width)
    assert "…" not in text and max(len(line.rstrip()) for line in text.splitlines()) <= width
    flat = " ".join(text.split())
    for piece in ("warning: these runs differ in", "ε = 1, valid", "0.094 / 0.011", "0.054–0.134", "seed4", "other"):
        assert piece in flat, piece
    assert "without an evaluation (fedunlearn evaluate RUN): seed4, other" in flat
