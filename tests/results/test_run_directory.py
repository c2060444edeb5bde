"""A folder with the run's name is a whole run, whatever happened."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import example_run
import numpy as np
import pytest
from safetensors.numpy import load_file

from fedunlearn.errors import UserError
from fedunlearn.results import RunDirectory, is_run, read_run, read_summary
from fedunlearn.results.checkpoints import Checkpoints
from fedunlearn.results.run_names import REQUIRED, has_begun, unfinished

SETTINGS = 'schema = "fedunlearn/settings/1"\nname = "example"\n'


def fill(run: RunDirectory, seed: int = 0) -> None:
    run.write_settings(SETTINGS)
    run.write_summary({**example_run.summary(), "seed": seed})
    run.write_metrics(example_run.metrics())
    run.write_certificates([example_run.certificate()])
    run.write_ledger({"messages": 3, "bytes": 12})
    run.write_model("unlearned", np.arange(4.0), {"release": 1})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_run_reads_back(tmp_path):
    with RunDirectory.create(tmp_path / "deep" / "run") as run:
        fill(run)
        assert not (tmp_path / "deep" / "run").exists()
    assert names(tmp_path / "deep") == ["run"]
    found = read_run(tmp_path / "deep" / "run")
    assert found.summary["seed"] == 0
    assert found.metrics == example_run.metrics()
    theta, info = found.model("unlearned")
    assert theta.dtype == np.float32 and theta.tolist() == [0, 1, 2, 3]
    assert info == {"schema": "fedunlearn/model/1", "release": 1}


def test_every_file_names_its_schema(tmp_path):
    with RunDirectory.create(tmp_path / "run") as run:
        fill(run)
    for name in REQUIRED:
        assert "fedunlearn/" in (tmp_path / "run" / name).read_text()[:60], name


def test_an_interrupted_run_is_called_failed(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunDirectory.create(tmp_path / "run") as run:
        fill(run)
        raise KeyboardInterrupt
    assert names(tmp_path) == ["run.failed"]
    assert json.loads((tmp_path / "run.failed" / "failure.json").read_text())["error"] == "KeyboardInterrupt"
    assert not is_run(tmp_path / "run.failed")


def test_a_second_failure_replaces_the_first_and_nothing_else(tmp_path):
    for sentence in ("first", "second"):
        RunDirectory.create(tmp_path / "run").fail(sentence)
    assert names(tmp_path) == ["run.failed"]
    assert json.loads((tmp_path / "run.failed" / "failure.json").read_text())["error"] == "second"

    (tmp_path / "mine.failed").mkdir()
    (tmp_path / "mine.failed" / "thesis.txt").write_text("irreplaceable")
    left = RunDirectory.create(tmp_path / "mine").fail("third")
    assert (tmp_path / "mine.failed" / "thesis.txt").read_text() == "irreplaceable"
    assert left is not None and left.name.startswith("mine.partial-")


def test_an_incomplete_run_cannot_be_finished(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.write_settings(SETTINGS)
    with pytest.raises(RuntimeError, match=r"summary\.json"):
        run.finish()
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_may_be_named_and_any_other_may_not(tmp_path):
    (tmp_path / "empty").mkdir()
    with RunDirectory.create(tmp_path / "empty") as run:
        fill(run)
    assert is_run(tmp_path / "empty")
    with pytest.raises(UserError, match=r"empty' exists already \(allowed: a new or empty folder\)"):
        RunDirectory.create(tmp_path / "empty")


def test_overwriting_keeps_the_former_run_until_the_new_one_is_complete(tmp_path):
    with RunDirectory.create(tmp_path / "run") as run:
        fill(run, seed=1)
    with pytest.raises(ValueError), RunDirectory.create(tmp_path / "run", overwrite=True) as run:
        raise ValueError("diverged")
    assert read_summary(tmp_path / "run")["seed"] == 1
    with RunDirectory.create(tmp_path / "run", overwrite=True) as run:
        fill(run, seed=2)
    assert read_summary(tmp_path / "run")["seed"] == 2
    assert names(tmp_path) == ["run", "run.failed"]


def test_overwriting_refuses_what_is_not_a_run(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"")
    with pytest.raises(UserError, match="is not a run directory"):
        RunDirectory.create(tmp_path / "photos", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="exists already"):
        RunDirectory.create(tmp_path / "file")


def test_a_name_taken_meanwhile_keeps_both_results(tmp_path):
    slow = RunDirectory.create(tmp_path / "run")
    fill(slow, seed=1)
    with RunDirectory.create(tmp_path / "run") as fast:
        fill(fast, seed=2)
    with pytest.raises(UserError, match="the complete results are in"):
        slow.finish()
    assert read_summary(tmp_path / "run")["seed"] == 2
    assert read_summary(slow.path)["seed"] == 1


@pytest.mark.parametrize("place", ["file/run", "/proc/run", "x" * 300])
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: .+ \(allowed: a folder that you may write to\)") as error:
        RunDirectory.create(place)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["file"]


def test_equal_models_give_equal_files(tmp_path):
    digests = set()
    for k in range(8):
        run = RunDirectory.create(tmp_path / f"run{k}")
        path = run.write_model("m", np.linspace(0, 1, 7), {f"key{i}": i for i in range(20)})
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    assert list(load_file(path)) == ["theta"]


@pytest.mark.parametrize(
    ("name", "theta", "says"),
    [("../m", np.zeros(2), "name"), ("m", np.zeros((2, 2)), "flat"), ("m", np.array([np.nan]), "finite")],
)
def test_bad_models_are_refused(tmp_path, name, theta, says):
    with pytest.raises(ValueError, match=says):
        RunDirectory.create(tmp_path / "run").write_model(name, theta, {})


def test_reading_tells_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match=r"not a complete run: it has no settings\.toml, summary\.json"):
        read_run(tmp_path)
    with RunDirectory.create(tmp_path / "run") as run:
        fill(run)
    with pytest.raises(UserError, match=r"no such model \(allowed: unlearned\)"):
        read_run(tmp_path / "run").model("original")
    (tmp_path / "run" / "models" / "unlearned.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(UserError, match="not a readable safetensors file"):
        read_run(tmp_path / "run").model("unlearned")
    (tmp_path / "run" / "summary.json").write_text("{")
    with pytest.raises(UserError, match="is not a JSON file"):
        read_summary(tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text('{"schema": "fedunlearn/summary/7"}')
    with pytest.raises(UserError, match="schema = 'fedunlearn/summary/7'"):
        read_summary(tmp_path / "run")


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_stopped_run_is_taken_up_under_its_name_and_finished(tmp_path):
    stopped = RunDirectory.create(tmp_path / "run")
    stopped.write_settings(SETTINGS)
    stopped._release()  # its process is gone
    (stopped.path / ".summary.json.abcd").write_text("half of i")
    again = RunDirectory.resume(tmp_path / "run")
    assert again.path == stopped.path and again.out == tmp_path / "run" and again.read_settings() == SETTINGS
    assert names(again.path) == [".lock", "figures", "models", "settings.toml"]
    fill(again)
    again.finish()
    assert names(tmp_path) == ["run"] and not [name for name in names(tmp_path / "run") if name.startswith(".")]


def test_a_failed_run_is_taken_up_too_and_the_newest_of_several(tmp_path):
    for sentence in ("first", "second"):
        run = RunDirectory.create(tmp_path / "run")
        run.write_settings(SETTINGS)
        if sentence == "first":
            run.fail(sentence)
        else:
            run._release()
            os.utime(run.path, (2e9, 2e9))
    assert unfinished(tmp_path / "run") == run.path
    assert unfinished(tmp_path / "run.failed") == tmp_path / "run.failed"
    failed = RunDirectory.resume(tmp_path / "run.failed")
    assert failed.out == tmp_path / "run" and ".partial-" in failed.path.name
    assert not (failed.path / "failure.json").exists() and not (tmp_path / "run.failed").exists()


def test_a_run_that_is_going_on_is_locked_until_it_ends(tmp_path):
    going = RunDirectory.create(tmp_path / "run")
    going.write_settings(SETTINGS)
    with pytest.raises(UserError, match="still going on"):
        RunDirectory.resume(tmp_path / "run")
    going.fail("no power")
    assert RunDirectory.resume(tmp_path / "run").out == tmp_path / "run"


def test_what_cannot_be_taken_up_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no unfinished run of this name"):
        RunDirectory.resume(tmp_path / "run")
    (tmp_path / "thesis.failed").mkdir()
    with pytest.raises(UserError, match=r"has no settings\.toml"):
        RunDirectory.resume(tmp_path / "thesis.failed")
    assert not has_begun(tmp_path / "thesis")
    with RunDirectory.create(tmp_path / "run") as run:
        fill(run)
    with pytest.raises(UserError, match="is a finished run"):
        RunDirectory.resume(tmp_path / "run")
    (tmp_path / "run.failed").mkdir()
    (tmp_path / "run.failed" / "settings.toml").write_text(SETTINGS)
    with pytest.raises(UserError, match="exists already"):
        RunDirectory.resume(tmp_path / "run.failed")
    assert names(tmp_path / "run.failed") == ["settings.toml"]


def test_a_failure_that_can_be_resumed_is_not_replaced_by_the_next(tmp_path):
    first = RunDirectory.create(tmp_path / "run")
    Checkpoints.open(first.path, {"code": "c"}).write({"stage": 1}, "one")
    first.fail("first")
    second = RunDirectory.create(tmp_path / "run").fail("second")
    assert json.loads((tmp_path / "run.failed" / "failure.json").read_text())["error"] == "first"
    assert second is not None and ".partial-" in second.name and (second / "failure.json").is_file()


def test_a_finished_run_holds_no_checkpoint(tmp_path):
    with RunDirectory.create(tmp_path / "run") as run:
        fill(run)
        Checkpoints.open(run.path, {"code": "c"}).write({"stage": 1}, "one")
    assert "checkpoints" not in names(tmp_path / "run")


def test_a_folder_has_its_settings_from_the_first_moment(tmp_path, monkeypatch):
    assert not has_begun(tmp_path / "run")
    run = RunDirectory.create(tmp_path / "run", settings=SETTINGS)
    assert names(tmp_path) == [run.path.name] and run.read_settings() == SETTINGS and has_begun(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(
            "fedunlearn.results.run_directory.write_atomically", lambda *_: (_ for _ in ()).throw(OSError(28))
        )
        with pytest.raises(UserError, match="cannot be written"):
            RunDirectory.create(tmp_path / "full", settings=SETTINGS)
    assert names(tmp_path) == [run.path.name]
