"""``fedunlearn data``: the sources of data, and what one of them holds."""

from __future__ import annotations

from typing import Annotated

import typer

from fedunlearn.cli.options import Overrides, console, facts, flat
from fedunlearn.cli.rooms import room_settings

app = typer.Typer(help="Sources of data.", no_args_is_help=True)


@app.command("list")
def list_sources() -> None:
    """List the sources of data and how to get them."""
    from rich.table import Table
    from rich.text import Text

    from fedunlearn.data import SOURCES

    table = Table("source", "what it is", "how to get it")
    for name, (what, how) in SOURCES.items():
        table.add_row(name, Text(what), Text(how))
    console().print(table)


@app.command("info")
def info(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A source, as `fedunlearn data list` names it.")],
    overrides: Overrides = None,
) -> None:
    """Load a source and describe it: clients, samples, classes, roles, content hash."""
    from fedunlearn.data import describe
    from fedunlearn.data.settings import DataSettings

    settings = room_settings(DataSettings, "data", {"source": name}, overrides or ())
    console().print(facts(name, flat(describe(settings))))
