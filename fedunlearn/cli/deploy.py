"""``fedunlearn deploy``: one experiment on a real Flower deployment of this machine, made and ended by one command."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from fedunlearn.cli.options import Overrides, Seed, console
from fedunlearn.cli.run import target
from fedunlearn.errors import UserError


def deploy(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Experiment in TOML, such as simulations/quickstart.toml.")
    ],
    hosts: Annotated[int, typer.Option("--hosts", metavar="N", min=1, help="Number of SuperNodes.")] = 2,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="New folder for the results.")] = None,
    seed: Seed = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Files made by `fedunlearn data split`, one a host.")
    ] = None,
) -> None:
    """Run an experiment on a SuperLink with TLS and SuperNodes with keys, all on this machine, and end them again."""
    from fedunlearn.config import load_experiment

    changes = list(overrides or ())
    changes += [f"seed={seed}"] if seed is not None else []
    experiment = load_experiment(file, changes)  # a mistake is told before anything is started
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    folder = target(experiment, out)
    output = console()

    from fedunlearn.flower.deployment import deploy as on_this_machine

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        on_this_machine(file, changes, folder, hosts, lambda line: output.print(line, markup=False), data=data)
    finally:
        signal.signal(signal.SIGTERM, before)

    from fedunlearn.results.reading import read_summary
    from fedunlearn.results.table import summary_table

    output.print(summary_table(read_summary(folder)))
    output.print(f"results  {folder}", soft_wrap=True, markup=False)
