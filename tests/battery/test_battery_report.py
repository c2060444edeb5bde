"""What is written into a run: all of it or nothing, and nothing of an earlier evaluation stays behind."""

from __future__ import annotations

import json
from types import SimpleNamespace

import example_evaluation as example
import example_run
import pytest

from fedunlearn.battery import report as module
from fedunlearn.battery.report import FIGURE_FILES, figures, refuse_lower, report, write_evaluation
from fedunlearn.battery.settings import BatterySettings
from fedunlearn.errors import UserError
from fedunlearn.evaluation.measure import Found
from fedunlearn.results.evaluation_schema import evaluation_csv, read_evaluation


def conducted(folder, level: str = "full", found: Found | None = None):
    """Return what conducting a battery hands back, made up."""
    return SimpleNamespace(
        found=found or example.found(), run=SimpleNamespace(path=folder, summary=example_run.summary()),
        settings=BatterySettings(level=level), settings_sha256="f" * 64, samples={"forget": 158, "test": 399},
        seconds={"models": 1.5}, retold={"same": True, "largest_difference": 0.0, "reason": None}, cached=[],
    )  # fmt: skip


def test_the_report_says_whose_it_is(tmp_path):
    said = report(conducted(tmp_path))
    assert said["run"] == {
        "name": "femnist_newton", "seed": 0, "method": "newton", "requests": ["client 17 leaves with 158 samples"],
        "settings_sha256": "f" * 64,
    }  # fmt: skip
    assert said["battery"] == said["settings"]["level"] == "full" and said["settings"]["shadows"] == 16
    assert said["samples"] == {"forget": 158, "test": 399} and said["retold"]["same"] is True
    assert [measure["name"] for measure in said["measures"]] == [measure.name for measure in example.measures()]
    assert said["versions"]["python"] and json.loads(json.dumps(said)) == said


def test_everything_is_written_and_read_back(tmp_path):
    said = report(conducted(tmp_path))
    drawn = write_evaluation(tmp_path, said)
    assert {path.name for path in drawn} == set(FIGURE_FILES)
    assert all(path.stat().st_size > 10_000 for path in drawn)
    assert read_evaluation(tmp_path) == said
    assert (tmp_path / "evaluation.csv").read_text() == evaluation_csv(said)
    assert {p.name for p in tmp_path.iterdir()} == {"evaluation.json", "evaluation.csv", "figures"}
    assert {p.name for p in (tmp_path / "figures").iterdir()} == set(FIGURE_FILES)


def test_figures_of_an_earlier_evaluation_go_and_those_of_the_run_stay(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "accuracy.png").write_bytes(b"the run's own")
    for name in FIGURE_FILES:
        (tmp_path / "figures" / name).write_bytes(b"old")
    quick = Found(example.measures(), (), {"relearning": example.relearning()})
    (only,) = write_evaluation(tmp_path, report(conducted(tmp_path, "quick", quick)))
    there = {p.name for p in (tmp_path / "figures").iterdir()}
    assert there == {"accuracy.png", "evaluation-relearning.png"} and only.read_bytes() != b"old"


def test_where_drawing_fails_nothing_changes(tmp_path, monkeypatch):
    write_evaluation(tmp_path, report(conducted(tmp_path, "quick", Found())))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def broken(figure, path):
        path.write_bytes(b"half")
        raise UserError("the disk is full")

    monkeypatch.setattr(module, "save", broken)
    with pytest.raises(UserError, match="disk is full"):
        write_evaluation(tmp_path, report(conducted(tmp_path)))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_place_that_cannot_be_written_to_is_one_sentence(tmp_path):
    (tmp_path / "figures").write_text("a file in the way")
    with pytest.raises(UserError, match="cannot be written"):
        write_evaluation(tmp_path, report(conducted(tmp_path)))


def test_only_figures_with_curves_are_drawn():
    assert figures(example.evaluation(curves={})) == {}
    still = {**example.network(rounds=False)}
    assert "evaluation-rounds.png" not in figures(example.evaluation(curves={"network": still}))


@pytest.mark.parametrize(
    ("there", "asked", "refused"),
    [("full", "quick", True), ("full", "standard", True), ("standard", "quick", True), ("quick", "quick", False),
     ("standard", "full", False), ("quick", "standard", False)],
)  # fmt: skip
def test_a_lower_level_does_not_replace_a_higher_one(tmp_path, there, asked, refused):
    refuse_lower(tmp_path, asked)
    write_evaluation(tmp_path, report(conducted(tmp_path, there, Found())))
    if not refused:
        return refuse_lower(tmp_path, asked)
    with pytest.raises(UserError, match=f"--battery {there}, which says more than '{asked}' would; --replace"):
        refuse_lower(tmp_path, asked)


def test_an_evaluation_that_cannot_be_read_is_not_replaced_unasked(tmp_path):
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(UserError, match=r"schema = None .*; --replace writes a new one over it"):
        refuse_lower(tmp_path, "full")
