"""``fedunlearn audit``: try to refute what an experiment certifies; exit code 1 where that succeeds."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.cli.options import Overrides, Seed, console
from fedunlearn.cli.progress import progress_bar
from fedunlearn.cli.run import target
from fedunlearn.errors import UserError

SMALLEST = 20


def audit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Experiment in TOML, such as simulations/quickstart.toml.")
    ],
    trials: Annotated[
        int, typer.Option("--trials", metavar="N", help="Draws of each world, half of them to choose the attack.")
    ] = 1000,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="New folder for report and figure.")] = None,
    seed: Seed = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON; without --out no folder is written.")
    ] = False,
) -> None:
    """Attack the releases of an experiment, unlearned against retrained, and compare with what is certified.

    Exit code 1 if a claim is refuted. A claim that is not refuted is not proved: the report says what would have been
    noticed.
    """
    from fedunlearn.config import dump_toml, load_experiment

    if trials < SMALLEST:
        raise UserError(f"--trials {trials}: must be at least {SMALLEST}, for half of them choose the attack")
    experiment = load_experiment(file, [*(overrides or ()), *([f"seed={seed}"] if seed is not None else [])])
    folder = None if as_json and out is None else target(experiment, out, "-audit")

    from fedunlearn.audit.conduct import audit as conduct
    from fedunlearn.audit.report import audit_table, report, write_audit
    from fedunlearn.audit.settings import AuditSettings

    began = time.perf_counter()
    with progress_bar() as progress:
        found = conduct(experiment, AuditSettings(trials=trials), progress=progress)
    said = report(found, time.perf_counter() - began)
    figure = None if folder is None else write_audit(folder, found, said, dump_toml(experiment))
    if as_json:
        typer.echo(json.dumps(said))
    else:
        output = console()
        output.print(audit_table(said))
        if figure is not None:
            output.print(f"figure   {figure}", soft_wrap=True, markup=False)
        output.print(f"results  {folder}", soft_wrap=True, markup=False)
    if found.refuted:
        raise typer.Exit(1)
