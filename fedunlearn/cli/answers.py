"""What the questions of ``fedunlearn certify`` print: facts and tables for people, the same numbers as JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from fedunlearn.cli.options import console, facts
from fedunlearn.errors import UserError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON with all digits.")]
Delta = Annotated[float, typer.Option("--delta", metavar="D", help="Delta, between 0 and 1.")]


@dataclass(frozen=True)
class Rows:
    """A table of an answer: one mapping a row, all with the same keys, which are the column titles."""

    title: str
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Answer:
    """The answer to one question: what was given, what follows, tables, and remarks that decide nothing."""

    question: str
    given: Mapping[str, Any]
    computed: Mapping[str, Any]
    tables: Sequence[Rows] = ()
    notes: Sequence[str] = field(default=())

    @property
    def schema(self) -> str:
        """Name of the JSON format."""
        return f"fedunlearn/certify-{self.question}/1"


def tell(answer: Answer, as_json: bool) -> None:
    """Print an answer; in JSON, names are in snake case and a number that is not finite is null."""
    if as_json:
        plain = {
            "schema": answer.schema,
            "given": answer.given,
            "computed": answer.computed,
            "tables": [{"title": table.title, "rows": list(table.rows)} for table in answer.tables],
            "notes": list(answer.notes),
        }
        typer.echo(json.dumps(_plain(plain), allow_nan=False))
        return
    from rich.table import Table
    from rich.text import Text

    output = console()
    output.print(facts("given", {key: _shown(value) for key, value in answer.given.items() if value is not None}))
    if answer.computed:
        output.print()
        output.print(facts("computed", {key: _shown(value) for key, value in answer.computed.items()}))
    for table in answer.tables:
        drawn = Table(title=Text(table.title), title_justify="left")
        for column in table.rows[0] if table.rows else ():
            drawn.add_column(column, overflow="fold")
        for row in table.rows:
            drawn.add_row(*(Text(_shown(cell)) for cell in row.values()))
        output.print()
        output.print(drawn)
    for note in answer.notes:
        output.print()
        output.print(Text(note))


def positive(**options: float | None) -> None:
    """Raise UserError for an option that is given and is not a finite number above zero."""
    for name, value in options.items():
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{_option(name)} {value:g}: must be a number greater than 0")


def not_negative(**options: float | None) -> None:
    """Raise UserError for an option that is given and is not a finite number of at least zero."""
    for name, value in options.items():
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"{_option(name)} {value:g}: must be a number that is not negative")


def between(least: float, most: float, **options: float | None) -> None:
    """Raise UserError for an option that is given and lies outside ``[least, most]``."""
    for name, value in options.items():
        if value is not None and not least <= value <= most:
            raise UserError(f"{_option(name)} {value:g}: must be a number from {least:g} to {most:g}")


def probability(delta: float | None, name: str = "delta") -> None:
    """Raise UserError if a delta is given and does not lie strictly between 0 and 1."""
    if delta is not None and not 0 < delta < 1:
        raise UserError(f"{_option(name)} {delta:g}: must be a number greater than 0 and less than 1")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return "infinite" if math.isinf(value) else f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(entry) for entry in value)
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {re.sub(r"[^a-z0-9]+", "_", key.lower()).strip("_"): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
