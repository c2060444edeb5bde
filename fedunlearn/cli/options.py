"""Options that several commands share, and the consoles they print to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, such as training.rounds=40. May be repeated."),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume", metavar="DIR", help="Go on with the run of this folder; with FILE begin it if there is none."
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of everything that is drawn.")]


def console(stderr: bool = False) -> Console:
    """Return a rich console on standard output or standard error."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def facts(title: str, rows: Mapping[str, Any]) -> Table:
    """Return a two-column table of names and values, each value made readable by :func:`readable`."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title) if title else None, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name.replace("_", " ").replace(".", " · "), Text(readable(name, value)))
    return table


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, with dotted names: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    rows: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows |= flat(value, f"{name}.")
        else:
            rows[name] = value
    return rows


def readable(name: str, value: Any) -> str:
    """Return a value as text; the last word of its name tells the unit (``bytes``, ``seconds``)."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if name.endswith("bytes"):
            return size(value)
        if name.endswith("seconds"):
            return duration(value)
        return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
    if isinstance(value, list | tuple):
        return ", ".join(readable("", entry) for entry in value) or "-"
    return str(value)


def size(number: float) -> str:
    """Return a number of bytes with a decimal unit: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.4g} TB"


def duration(seconds: float) -> str:
    """Return seconds as ``0.25 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
