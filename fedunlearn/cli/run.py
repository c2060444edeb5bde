"""``fedunlearn run``: one experiment from a file, or with ``--dry-run`` what it would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedunlearn.cli.options import Overrides, Resume, Seed, console, facts, flat
from fedunlearn.cli.progress import progress_bar
from fedunlearn.errors import UserError

if TYPE_CHECKING:
    from fedunlearn.config import Experiment


def run(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Experiment in TOML, such as simulations/quickstart.toml.")
    ] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="New folder for the results.")] = None,
    seed: Seed = None,
    device: Annotated[str | None, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")] = None,
    hosts: Annotated[
        int | None,
        typer.Option("--hosts", metavar="N", min=1, help="Hosts, each with a block of the graph."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="M", min=0, help="Worker processes in all; 0: none of their own.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print memory, time, messages and reachable epsilon, and stop.")
    ] = False,
    resume: Resume = None,
) -> None:
    """Train a network, answer its deletion requests, certify, and compare with retraining."""
    from fedunlearn.config import load_experiment

    changes = list(overrides or ())
    changes += [f"seed={seed}"] if seed is not None else []
    changes += [f"runtime.device={device}"] if device is not None else []
    changes += [f"runtime.hosts={hosts}"] if hosts is not None else []
    changes += [f"runtime.workers={workers}"] if workers is not None else []
    experiment = load_experiment(settings_of(file, resume), changes)
    if dry_run:
        from fedunlearn.simulation import estimate

        console().print(facts(f"{experiment.name}: what this run would take", flat(estimate(experiment))))
        return
    out, resume = begun_or_new(file, out, resume)
    folder = resume or target(experiment, out)

    from fedunlearn.flower.local import run_local

    with progress_bar() as progress:
        result = run_local(experiment, out=None if resume else folder, progress=progress, resume=resume)

    from fedunlearn.results.table import summary_table

    output = console()
    output.print(summary_table(result.summary))
    written_to = result.folder or folder
    for figure in sorted((written_to / "figures").glob("*.*")):
        output.print(f"figure   {figure}", soft_wrap=True, markup=False)
    output.print(f"results  {written_to}", soft_wrap=True, markup=False)


def settings_of(file: Path | None, resume: Path | None) -> Path:
    """Return the file of the settings: the one that is named, or that of the run that goes on."""
    if file is not None:
        return file
    if resume is None:
        raise UserError("FILE is missing: an experiment in TOML, or --resume with the folder of an unfinished run")
    from fedunlearn.results.run_names import SETTINGS, unfinished

    return unfinished(resume) / SETTINGS


def begun_or_new(file: Path | None, out: Path | None, resume: Path | None) -> tuple[Path | None, Path | None]:
    """Return ``out`` and ``resume`` as they are meant: with FILE, what has not begun is a new run of that name."""
    if resume is None:
        return out, None
    if out is not None:
        raise UserError(f"--out {out}: a run that is resumed keeps its name; leave --out away")
    from fedunlearn.results.run_names import has_begun

    return (resume, None) if file is not None and not has_begun(resume) else (None, resume)


def target(experiment: Experiment, out: Path | None, suffix: str = "") -> Path:
    """Return the folder that a run, or with a ``suffix`` what belongs to one, writes to; it does not exist yet.

    A folder asked for by ``--out`` must be new, for whoever asks for it will look there; the default and the file's own
    ``out`` get ``-2``, ``-3``, ... where they are taken.
    """
    if out is not None:
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise UserError(f"--out {out}: is there already; name a new folder, or remove this one first")
        return out
    wanted = Path((experiment.out or f"runs/{experiment.name}-{experiment.seed}") + suffix)
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder
