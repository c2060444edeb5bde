"""What a run writes down of requests that are refused or answered together, and that refusals change no number."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from fedunlearn.results.table import summary_table
from tests.small_runs import numbers, releases, run

ASKED = [
    {"level": "client", "client": 2},
    {"level": "sample", "client": 1, "count": 2, "at": 1.0},
    {"level": "sample", "client": 0, "count": 1, "at": 1.5},
]
FALSE = [{"level": "client", "client": 0, "by": 1}, {"level": "sample", "client": 2, "count": 1, "at": 1.0}]
POLICY = {"ownership": "refuse", "duplicates": "refuse", "window": 1.0}


def comparable(summary):
    """Return the numbers of a run, without the places that its requests had in the experiment."""
    left = {key: value for key, value in numbers(summary).items() if key != "refused"}
    asked = [{k: v for k, v in entry["request"].items() if k != "asked"} for entry in left["requests"]]
    return left | {"requests": [{**e, "request": r} for e, r in zip(left["requests"], asked, strict=True)]}


def test_refused_requests_are_written_down_and_change_no_number(tmp_path):
    mixed = [ASKED[0], FALSE[0], FALSE[1], ASKED[1], ASKED[2]]
    asked = run(tmp_path / "asked", requests=ASKED, policy=POLICY)
    false = run(tmp_path / "false", requests=mixed, policy=POLICY)
    refused = false.summary["refused"]
    assert [(entry["number"], entry["rule"], entry["by"]) for entry in refused] == [
        (1, "ownership", 1), (2, "duplicates", 2),
    ]  # fmt: skip
    assert [entry["request"]["asked"] for entry in false.summary["requests"]] == [[0], [3, 4]]
    assert [entry["request"]["askers"] for entry in false.summary["requests"]] == [[2], [1, 0]]
    assert comparable(false.summary) == comparable(asked.summary) and not asked.summary["refused"]
    assert releases(false.folder) == releases(asked.folder)


def test_a_run_whose_requests_are_all_refused_is_a_run_without_requests(tmp_path):
    found = run(tmp_path / "run", requests=FALSE[:1], policy=POLICY)
    assert found.summary["requests"] == [] and len(found.summary["refused"]) == 1


def test_the_table_of_a_run_says_what_was_refused():
    text = StringIO()
    Console(file=text, width=80).print(summary_table(run(requests=FALSE[:1], policy=POLICY).summary))
    assert "Refused: 1 request" in text.getvalue() and "asks for what is not its own" in text.getvalue()
