"""``fedunlearn compare``: a table, three files, and mistakes in one sentence."""

from __future__ import annotations

import json

import example_evaluation
import pytest
import small_runs
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.results.files import readable_json


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    small_runs.run(base / "one", unlearning={"method": "finetune"})
    small_runs.run(base / "two", seed=4, unlearning={"method": "finetune"})
    (base / "one" / "evaluation.json").write_text(readable_json(example_evaluation.evaluation()))
    (base / "two" / "evaluation.json").write_text(readable_json(example_evaluation.evaluation(curves={})))
    return base


@pytest.fixture
def call(runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *words: CliRunner().invoke(app, ["compare", str(runs / "one"), *map(str, words)])


def test_runs_are_printed_side_by_side_with_a_warning(call, runs):
    result = call(runs / "two")
    assert result.exit_code == 0, result.output
    for piece in ("one", "two", "finetune", "ring, 6 nodes", "differ in seed (one: 3; two: 4)", "0.094 / 0.011"):
        assert piece in result.stdout, piece


def test_out_gets_three_files(call, runs, tmp_path):
    out = tmp_path / "new" / "folder"
    result = call(runs / "two", "--out", out)
    assert result.exit_code == 0, result.output
    assert {p.name for p in out.iterdir()} == {"compare.csv", "compare.json", "compare.png"}
    assert (out / "compare.png").stat().st_size > 10_000 and str(out) in result.stdout
    written = json.loads((out / "compare.json").read_text())
    printed = call(runs / "two", "--json")
    assert json.loads(printed.stdout) == written and written["schema"] == "fedunlearn/compare/1"
    assert printed.stderr.startswith("warning: these runs differ in seed")


def test_mistakes_are_one_sentence_and_exit_code_2(call, runs, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for words, says in (
        ([], "compare needs at least two runs"),
        ([runs / "one"], "is named twice"),
        ([tmp_path / "none"], "no such folder"),
        ([tmp_path / "full"], "is not a complete run"),
        ([runs / "two", "--out", tmp_path / "full"], "is there already"),
        ([runs / "two", "--out", tmp_path / "full" / "file" / "x"], "cannot be written"),
    ):
        result = call(*words)
        assert result.exit_code == 2, words
        assert says in result.stderr and len(result.stderr.strip().splitlines()) == 1, result.stderr
