"""The tidy table of everything measured along a run: one number a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fedunlearn.errors import UserError

SCHEMA = "fedunlearn/metrics/1"

AVERAGE = "average"
"""Scope of the mean of all nodes' models (or of the released model): one model, evaluated once."""
NODES_MEAN, NODES_STD, NODES_MIN, NODES_MAX = "nodes-mean", "nodes-std", "nodes-min", "nodes-max"
"""Scopes of statistics over the nodes' own models, each evaluated alone."""


class MetricRow(NamedTuple):
    """One number. ``scope`` is :data:`AVERAGE`, a statistic over nodes, or ``node:<id>`` for one node's own model."""

    round: int
    phase: str
    model: str
    set: str
    scope: str
    metric: str
    value: float


def node_scope(node: int) -> str:
    """Return the scope of one node's own model."""
    return f"node:{node}"


def node_of(scope: str) -> int | None:
    """Return the node of a scope ``node:<id>``, or None for the other scopes."""
    name, _, number = scope.partition(":")
    return int(number) if name == "node" and number.isdigit() else None


def metrics_csv(rows: Iterable[MetricRow]) -> str:
    """Return the table as CSV text: a comment line with the schema, the column names, one line a row.

    Values have as many digits as it takes to read back the same float64.
    """
    text = io.StringIO()
    text.write(f"# schema: {SCHEMA}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(MetricRow._fields)
    for row in rows:
        writer.writerow([*row[:-1], repr(float(row.value))])
    return text.getvalue()


def read_metrics(path: Path | str) -> list[MetricRow]:
    """Return the rows of a ``metrics.csv``.

    Raises:
        UserError: if the file cannot be read or is not a metrics table of this version.
    """
    path = Path(path)
    try:
        first, _, rest = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if first != f"# schema: {SCHEMA}":
        raise UserError(f"{path}: the first line is {first[:60]!r} (allowed: '# schema: {SCHEMA}')")
    lines = csv.reader(io.StringIO(rest))
    if tuple(next(lines, ())) != MetricRow._fields:
        raise UserError(f"{path}: line 2 does not name the columns (allowed: {','.join(MetricRow._fields)})")
    rows = []
    for number, line in enumerate(lines, start=3):
        try:
            round_, phase, model, set_, scope, metric, value = line
            rows.append(MetricRow(int(round_), phase, model, set_, scope, metric, float(value)))
        except ValueError:
            raise UserError(f"{path}: line {number} is not a row of the table (it reads {','.join(line)!r})") from None
    return rows
