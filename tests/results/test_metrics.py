"""The metrics table reads back to the last bit, and bad files are told by line."""

from __future__ import annotations

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.results import MetricRow, node_scope, read_metrics
from fedunlearn.results.metrics import metrics_csv, node_of

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
rows = st.builds(MetricRow, st.integers(0, 10**6), words, words, words, words, words, st.floats(allow_nan=False))


@given(st.lists(rows, max_size=6))
def test_rows_read_back_exactly(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("metrics") / "metrics.csv"
    path.write_text(metrics_csv(table), encoding="utf-8")
    assert read_metrics(path) == table


def test_the_file_is_plain_csv_below_one_comment():
    text = metrics_csv([MetricRow(5, "train", "original", "test", "average", "accuracy", 0.1)])
    first, rest = text.split("\n", 1)
    assert first == "# schema: fedunlearn/metrics/1"
    assert list(csv.DictReader(io.StringIO(rest))) == [
        {"round": "5", "phase": "train", "model": "original", "set": "test", "scope": "average", "metric": "accuracy",
         "value": "0.1"}
    ]  # fmt: skip


def test_not_a_number_survives(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(metrics_csv([MetricRow(0, "", "", "", "", "", math.nan)]))
    assert math.isnan(read_metrics(path)[0].value)


def test_scopes_of_nodes():
    assert node_of(node_scope(17)) == 17
    assert [node_of(scope) for scope in ("average", "nodes-mean", "node:", "node:x", "edge:1")] == [None] * 5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("round,phase\n", "first line is 'round,phase'"),
        ("# schema: fedunlearn/metrics/1\nround,phase\n", "line 2 does not name the columns"),
        ("# schema: fedunlearn/metrics/1\nround,phase,model,set,scope,metric,value\n1,a,b,c,d,e\n", "line 3"),
        ("# schema: fedunlearn/metrics/1\nround,phase,model,set,scope,metric,value\n1,a,b,c,d,e,good\n", "line 3"),
    ],
)
def test_a_damaged_file_is_told_by_line(tmp_path, content, says):
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(UserError, match=says):
        read_metrics(tmp_path / "metrics.csv")


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_metrics(tmp_path / "metrics.csv")
