"""evaluation.json: what is written is read back, and anything else is one sentence."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path

import example_evaluation as example
import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.evaluation.measure import COLUMNS as MEASURE_COLUMNS
from fedunlearn.evaluation.measure import Section
from fedunlearn.results.evaluation_schema import (
    COLUMNS,
    CSV_FIELDS,
    EVALUATION,
    EvaluationEntry,
    Sections,
    check_evaluation,
    evaluation_csv,
    read_evaluation,
)
from fedunlearn.results.fields import field_table
from fedunlearn.results.files import readable_json
from fedunlearn.results.measure_names import SECTIONS


def evaluation(level: str = "full", **changes):
    return example.evaluation(level, **changes)


def test_an_evaluation_is_read_back_as_it_was_written(tmp_path):
    assert read_evaluation(tmp_path) is None
    written = evaluation()
    assert next(iter(written)) == "schema" and written["schema"] == "fedunlearn/evaluation/1"
    (tmp_path / EVALUATION).write_text(readable_json(written))
    assert read_evaluation(tmp_path) == written == json.loads(readable_json(written))


def test_measures_keep_every_number_and_every_null():
    (measure,) = [m for m in evaluation()["measures"] if m["name"] == "l2_distance_to_retrained"]
    assert measure["unlearned"] == {"value": 0.00213, "low": None, "high": None} and measure["retrained"] is None
    assert {m["name"]: m for m in evaluation()["measures"]}.keys() == {m.name for m in example.measures()}
    first = example.measures()[0]
    assert evaluation()["measures"][0] == asdict(first)


def test_curves_may_be_missing_and_numbers_may_come_from_numpy():
    none = evaluation(curves={})
    assert none["curves"] == {}
    relearning = {**example.relearning(), "steps": np.arange(51), "target_loss": np.float32(0.5)}
    assert evaluation(curves={"relearning": relearning})["curves"]["relearning"]["steps"][-1] == 50
    assert evaluation(curves={"further": [1, 2]})["curves"] == {"further": [1, 2]}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"battery": "huge"}, "battery"),
        ({"measures": [{"name": "x", "section": "elsewhere", "reads": ""}]}, "measures.0.section"),
        ({"samples": {"forget": "many"}}, "samples.forget"),
        ({"curves": {"roc": [{"attack": "loss"}]}}, "curves.roc.0.label"),
        ({"schema": "fedunlearn/evaluation/0"}, "schema"),
    ],
)
def test_an_entry_of_another_kind_is_named(change, place):
    with pytest.raises(ValueError, match=f"evaluation.json: {place}"):
        check_evaluation({**evaluation(), **change})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not a JSON file"),
        ('{"schema": "fedunlearn/evaluation/9"}', "schema = 'fedunlearn/evaluation/9' is not one this version reads"),
        ("[]", "schema = None"),
        ('{"schema": "fedunlearn/evaluation/1"}', "evaluation.json: battery"),
    ],
)
def test_a_file_of_another_kind_is_one_sentence(tmp_path, text, says):
    (tmp_path / EVALUATION).write_text(text)
    with pytest.raises(UserError) as error:
        read_evaluation(tmp_path)
    assert says in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_the_table_has_one_row_a_number():
    found = evaluation()
    first, *lines = evaluation_csv(found).splitlines()
    assert first == "# schema: fedunlearn/evaluation-table/1"
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    assert tuple(rows[0]) == CSV_FIELDS
    given = [(m, c) for m in found["measures"] for c in COLUMNS if m[c] is not None]
    assert len(rows) == len(given) > 12
    for row, (measure, column) in zip(rows, given):
        entry = measure[column]
        assert (row["measure"], row["model"], row["section"]) == (measure["name"], column, measure["section"])
        assert float(row["value"]) == entry["value"]
        assert [row["low"], row["high"]] == ["" if entry[e] is None else repr(entry[e]) for e in ("low", "high")]
    assert rows[0]["samples"] == "forget=158 test=399"


def test_sections_and_columns_are_those_of_the_measures():
    from typing import get_args

    assert get_args(Sections) == get_args(Section) == tuple(SECTIONS)
    assert COLUMNS == MEASURE_COLUMNS


def test_every_field_is_described_and_the_documented_ones_are_those_of_the_schema():
    table = field_table(EvaluationEntry)
    assert "| None |" not in table and "`curves.roc[]`" in table
    docs = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
    assert table in docs.read_text(encoding="utf-8")
