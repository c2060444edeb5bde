"""``fedunlearn deploy``: one experiment on a real Flower deployment of this machine, made and ended by one command."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from fedunlearn.cli.options import Overrides, Resume, Seed, console
from fedunlearn.cli.run import begun_or_new, settings_of, target
from fedunlearn.errors import UserError


def deploy(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Experiment in TOML, such as simulations/quickstart.toml.")
    ] = None,
    hosts: Annotated[int, typer.Option("--hosts", metavar="N", min=1, help="Number of SuperNodes.")] = 2,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="New folder for the results.")] = None,
    seed: Seed = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Files made by `fedunlearn data split`, one a host.")
    ] = None,
    resume: Resume = None,
) -> None:
    """Run an experiment on a SuperLink with TLS and SuperNodes with keys, all on this machine, and end them again."""
    from fedunlearn.config import load_experiment
    from fedunlearn.results.run_names import finished_name, unfinished

    changes = list(overrides or ())
    changes += [f"seed={seed}"] if seed is not None else []
    settings = settings_of(file, resume)
    experiment = load_experiment(settings, changes)  # a mistake is told before anything is started
    if not settings.is_file():
        raise UserError(f"{settings}: no such file")
    out, resume = begun_or_new(file, out, resume)
    folder = target(experiment, out) if resume is None else finished_name(unfinished(resume))
    output = console()

    from fedunlearn.flower.deployment import deploy as on_this_machine

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        on_this_machine(
            settings, changes, folder, hosts, lambda line: output.print(line, markup=False), data=data, resume=resume
        )
    finally:
        signal.signal(signal.SIGTERM, before)

    from fedunlearn.results.reading import read_summary
    from fedunlearn.results.table import summary_table

    output.print(summary_table(read_summary(folder)))
    output.print(f"results  {folder}", soft_wrap=True, markup=False)
