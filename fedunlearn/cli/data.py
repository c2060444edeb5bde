"""``fedunlearn data``: the sources of data, what one of them holds, and one part of it for each host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.cli.options import Overrides, console, facts, flat
from fedunlearn.cli.rooms import room_settings
from fedunlearn.errors import UserError

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


@app.command("split")
def split(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Experiment in TOML: its data, and its graph says who lies where.")
    ],
    hosts: Annotated[int, typer.Option("--hosts", metavar="N", min=1, help="Number of SuperNodes.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder for the parts.")],
    overrides: Overrides = None,
) -> None:
    """Write one file for each host, with the training samples of its own clients, and one with all other samples."""
    from fedunlearn.config import load_experiment
    from fedunlearn.data import Role, load_dataset
    from fedunlearn.data.split import split as write_parts
    from fedunlearn.topology import build_graph
    from fedunlearn.topology.partition import bounds, vertex_order

    experiment = load_experiment(file, list(overrides or ()))
    if experiment.data.parts is not None:
        raise UserError(f"data.parts = '{experiment.data.parts}' was split already; leave it out to split the whole")
    dataset = load_dataset(experiment.data)
    nodes = len(dataset.clients(Role.TRAIN))
    if hosts > nodes:
        raise UserError(f"--hosts {hosts} is more than the {nodes} nodes of the network (allowed: 1 to {nodes})")
    order = vertex_order(build_graph(experiment.topology, nodes, experiment.seed))
    for path in write_parts(dataset, [order[low:high] for low, high in bounds(nodes, hosts)], out, experiment.data):
        console().print(f"part     {path}", soft_wrap=True, markup=False)
