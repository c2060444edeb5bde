"""``fedunlearn evaluate``: what it asks the battery for, what it writes and prints, and its mistakes."""

from __future__ import annotations

import json
import shutil

import example_evaluation
import pytest
import small_runs
from typer.testing import CliRunner

from fedunlearn.battery import conduct
from fedunlearn.battery.settings import BatterySettings
from fedunlearn.cli import app, progress
from fedunlearn.cli.progress import Countdown, progress_bar
from fedunlearn.evaluation.measure import Found
from fedunlearn.results.reading import read_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return small_runs.run(tmp_path_factory.mktemp("runs") / "small", unlearning={"method": "finetune"}).folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "small")


@pytest.fixture
def call(run, monkeypatch):
    """Run the command on a copy of a small run, with a battery that only notes what it is asked for."""
    asked: list[BatterySettings] = []
    whole = example_evaluation.found()
    few = Found(whole.measures, whole.refusals, {"relearning": whole.curves["relearning"]})  # one figure is quick

    def evaluate(path, settings, *, progress):
        asked.append(settings)
        progress("battery", 0, 90)
        progress("models", 1, 1)
        progress("battery", 3, 3)
        return conduct.Evaluation(few, read_run(path), settings, "a" * 64, {"forget": 90}, {"models": 0.5}, None, [])

    monkeypatch.setattr(conduct, "evaluate", evaluate)
    monkeypatch.setenv("COLUMNS", "160")

    def invoke(*words, path=run):
        result = CliRunner().invoke(app, ["evaluate", str(path), *words])
        return result

    invoke.asked = asked
    return invoke


def test_an_evaluation_is_printed_and_written_into_the_run(call, run):
    result = call()
    assert result.exit_code == 0, result.output
    assert call.asked == [BatterySettings()] and call.asked[0].level == "standard"
    entries = json.loads((run / "evaluation.json").read_text())
    assert entries["run"]["method"] == "finetune" and entries["battery"] == "standard"
    assert (run / "evaluation.csv").read_text().startswith("# schema: fedunlearn/evaluation-table/1\n")
    for piece in ("small  evaluation (standard) of finetune, seed 3", "What stands out", "evaluation-relearning.png",
                  f"results  {run / 'evaluation.json'}"):  # fmt: skip
        assert piece in result.stdout
    assert "models: 1/1 in " in result.stderr and ", about 1 min 30 s left" in result.stderr
    assert "battery: in " in result.stderr
    assert "0.5 says that losses tell nothing." not in result.stdout
    assert "0.5 says that losses tell nothing." in call("--explain", "--all").stdout


def test_options_and_settings_reach_the_battery(call):
    words = ("--battery", "full", "--shadows", "4", "--fpr", "0.01", "--fpr", "0.1", "--seed", "7")
    result = call(*words, "--set", "relearn_steps=20", "--set", "backdoor=false")
    assert result.exit_code == 0, result.output
    assert call.asked[-1] == BatterySettings(
        level="full", shadows=4, false_positive_rates=(0.1, 0.01), seed=7, relearn_steps=20, backdoor=False
    )
    assert call("--set", "level=quick", "--replace").exit_code == 0 and call.asked[-1].level == "quick"


def test_json_is_the_file_alone(call, run):
    result = call("--json")
    assert json.loads(result.stdout) == json.loads((run / "evaluation.json").read_text())


def test_a_lower_level_needs_replace(call, run):
    assert call("--battery", "full").exit_code == 0
    refused = call("--battery", "quick")
    assert refused.exit_code == 2 and "holds an evaluation with --battery full" in refused.stderr
    assert len(call.asked) == 1, "nothing was measured"
    assert call("--battery", "quick", "--replace").exit_code == 0
    assert json.loads((run / "evaluation.json").read_text())["battery"] == "quick"
    assert call("--battery", "quick").exit_code == 0
    (run / "evaluation.json").write_text("{}")
    assert "--replace writes a new one over it" in call().stderr and call("--replace").exit_code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--battery", "fuul"], "level = \"fuul\" must be one of quick, standard, full, did you mean 'full'?"),
        (["--shadows", "1"], "shadows = 1 must be a whole number of at least 2"),
        (["--fpr", "1"], "a false positive rate lies strictly between 0 and 1, not 1"),
        (["--set", "shadow=3"], "shadow = 3 is not a known key, did you mean 'shadows'?"),
        (["--set", "shadows"], "--set shadows: needs the form key=value"),
    ],
)
def test_mistakes_in_options_are_one_sentence_and_exit_code_2(call, words, says):
    result = call(*words)
    assert result.exit_code == 2 and not call.asked
    assert says in result.stderr and len(result.stderr.strip().splitlines()) == 1


def not_writable(run):
    shutil.rmtree(run / "figures")
    (run / "figures").write_text("a file where figures should go")


def failed(run):
    (run / "failure.json").write_text('{"error": "interrupted"}')


def unfinished(run):
    (run / "ledger.json").unlink()


def other_schema(run):
    (run / "summary.json").write_text('{"schema": "fedunlearn/summary/99"}')


def without_requests(run):
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "requests": []}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (failed, "is a run that failed (interrupted)"),
        (unfinished, "is not a complete run: it has no ledger.json"),
        (other_schema, "schema = 'fedunlearn/summary/99' is not one this version reads"),
        (without_requests, "is a run without deletion requests"),
        (shutil.rmtree, "no such folder"),
        (not_writable, "cannot be written"),
    ],
)
def test_runs_that_cannot_be_evaluated_are_one_sentence_and_exit_code_2(call, run, spoil, says):
    spoil(run)
    result = call()
    assert result.exit_code == 2 and not call.asked
    assert says in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_a_run_that_is_going_on_is_refused(call, run, tmp_path):
    partial = run.rename(tmp_path / "small.partial-00ff00ff")
    result = call(path=partial)
    assert result.exit_code == 2 and "still going on or was stopped" in result.stderr


def test_the_whole_counts_down_between_reports():
    now = [0.0]
    countdown = Countdown(lambda: now[0])
    countdown.report(10, 100)
    assert countdown.left() == 90
    now[0] = 30.0
    assert countdown.left() == 60
    now[0] = 300.0
    assert countdown.left() == 0
    countdown.report(300, 310)
    assert countdown.left() == 10


def test_a_terminal_shows_the_whole_with_its_remaining_time(monkeypatch):
    import io

    from rich.console import Console

    screen = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(progress, "console", lambda stderr=False: screen)
    with progress_bar(whole="battery") as report:
        report("battery", 30, 100)
        report("models", 1, 4)
    shown = screen.file.getvalue()
    last = {line.split()[1]: line for line in shown.splitlines() if " left " in line}
    assert "30 %" in last["battery"] and "0:01:10" in last["battery"] and "/100" not in last["battery"]
    assert "1/4" in last["models"]


def test_an_error_ends_the_progress_and_travels_on():
    with pytest.raises(ZeroDivisionError), progress_bar(whole="battery"):
        raise ZeroDivisionError
