"""A folder that is no finished run is told apart in one sentence."""

from __future__ import annotations

import json
import shutil

import pytest
import small_runs

from fedunlearn.errors import UserError
from fedunlearn.results import RunDirectory
from fedunlearn.results.finished import finished_run


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return small_runs.run(tmp_path_factory.mktemp("runs") / "good", unlearning={"method": "finetune"}).folder


def said(path, **options) -> str:
    with pytest.raises(UserError) as error:
        finished_run(path, **options)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_a_finished_run_is_read(good):
    assert finished_run(good, with_requests=True).summary["name"] == "small"


def test_no_such_folder_names_one_that_is_there(good):
    assert "no such folder, did you mean" in said(good.with_name("goood")) and good.name in said(
        good.with_name("goood")
    )
    assert said(good / "nowhere" / "none").endswith("no such folder")


def test_files_other_folders_and_missing_files(good, tmp_path):
    assert "is a file" in said(good / "summary.json")
    assert "is not a complete run: it has no settings.toml" in said(tmp_path)
    copy = shutil.copytree(good, tmp_path / "copy")
    (copy / "metrics.csv").unlink()
    assert "it has no metrics.csv" in said(copy)


def test_failed_and_unfinished_runs(good, tmp_path):
    with pytest.raises(ZeroDivisionError), RunDirectory.create(tmp_path / "run"):
        raise ZeroDivisionError("nothing to divide by")
    assert "is a run that failed (nothing to divide by)" in said(tmp_path / "run.failed")
    (tmp_path / "run.failed" / "failure.json").write_text("[]")
    assert "is a run that failed (why is not written down)" in said(tmp_path / "run.failed")
    partial = shutil.copytree(good, tmp_path / "run.partial-0123abcd")
    assert "still going on or was stopped" in said(partial)


def test_another_schema_and_a_run_without_requests(good, tmp_path):
    other = shutil.copytree(good, tmp_path / "other")
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps({**summary, "requests": []}))
    assert finished_run(other).summary["requests"] == []
    assert "is a run without deletion requests" in said(other, with_requests=True)
    (other / "summary.json").write_text(json.dumps({**summary, "schema": "fedunlearn/summary/1"}))
    assert "schema = 'fedunlearn/summary/1' is not one this version reads" in said(other)
