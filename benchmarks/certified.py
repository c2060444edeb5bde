"""Certified unlearning compared: one network, one data set, one request, every method, one table.

Runs the files of simulations/certified (or those named), each as it stands and without the training cache, checks
every certificate, and prints what each method claims, what the claim is worth, and what the answer did and took.
Seconds are this machine's; messages between vertices are the same everywhere.

    python -m benchmarks.certified                                    # about three minutes on two cores
    python -m benchmarks.certified --set topology.generator=ring      # what a sparse graph changes
    python -m benchmarks.certified --set 'requests=[{level="client", client=3}]'
    python -m benchmarks.certified --figure docs/figures/certified.png

With ``--comparison`` it prints the tables of a sweep of named points instead, whose finished points are not run again:

    python -m benchmarks.certified --comparison simulations/certified_comparison.toml --figure certificates.png
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.certified_rows import (
    CLAIMS,
    EFFECTS,
    Row,
    claim_cells,
    controls_of,
    effect_cells,
    markdown,
    refused,
    remarks,
    rows_of,
)

FOLDER = Path(__file__).resolve().parent.parent / "simulations" / "certified"
ORDER = ("retrain", "finetune", "newton", "rewind", "rr-du", "dp-sgd", "ddp")
"""Methods in the order of the table: exact, uncertified, then from strong claims to weak ones."""
EPSILONS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Claims for which the figure is drawn."""


def files(folder: Path = FOLDER) -> list[Path]:
    """Return the files of the comparison, in the order of the table; files on other models come last."""

    def place(path: Path) -> tuple[bool, int, str]:
        method = max((m for m in ORDER if path.stem.startswith(m)), key=len, default=ORDER[-1])
        return "-mlp" in path.stem, ORDER.index(method), path.stem

    return sorted(folder.glob("*.toml"), key=place)


def measure(path: Path, overrides: Sequence[str] = (), *, check: bool = True) -> tuple[list[Row], list[str]]:
    """Run a file and return its lines, and what its controls took; a refusal gives one line that says why.

    Without ``check`` nothing is written, so there is no certificate file to verify.
    """
    import fedunlearn
    from fedunlearn.config import load_experiment
    from fedunlearn.errors import UserError
    from fedunlearn.privacy import verify

    experiment = load_experiment(path, ["runtime.cache=false", *overrides])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run" if check else None
        try:
            summary = fedunlearn.run(experiment, out=out).summary
        except UserError as error:
            return [refused(path.stem, experiment.unlearning.method, str(error))], []
        verified = None if out is None else verify(out / "certificate.json").ok
    rows = rows_of(path.stem, summary, verified)
    return rows, [f"{path.stem}, {control}" for control in controls_of(summary)]


def sweep(paths: Sequence[Path], overrides: Sequence[str]) -> dict[str, list[Row]]:
    """Return, for every file on the convex model, its line at every epsilon of the figure."""
    found: dict[str, list[Row]] = {}
    for path in paths:
        if "-mlp" in path.stem or "-client" in path.stem:
            continue
        changes = ["runtime.workers=0", "runtime.cache=true", *overrides]
        lines = [measure(path, [*changes, f"privacy.epsilon={e}"], check=False)[0][0] for e in EPSILONS]
        found[path.stem] = lines
        say(f"{path.stem}: {', '.join('–' if r.unlearned is None else f'{r.unlearned:.3f}' for r in lines)}")
    return found


def say(text: str) -> None:
    """Write a line of progress, which is no part of the result."""
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    """Return the day and the machine in one line."""
    return (
        f"{date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )


def table(rows: Sequence[Row]) -> Any:
    """Return one table for the terminal, claims to the left and effects to the right."""
    return ruled(("", *CLAIMS[1:], *EFFECTS[1:]), [(*claim_cells(row), *effect_cells(row)[1:]) for row in rows])


def ruled(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> Any:
    """Return a table for the terminal, first column to the left and the others to the right."""
    from rich import box
    from rich.table import Table

    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    found.add_column(heads[0], no_wrap=True)
    for head in heads[1:]:
        found.add_column(head, justify="right", no_wrap=True)
    for cells in lines:
        found.add_row(*cells)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison; the exit code is 1 if a certificate was not verified."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="experiments (default: all of them)")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--markdown", action="store_true", help="the tables of docs/comparison.md")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="a change")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw accuracy and messages against epsilon instead")
    parser.add_argument("--comparison", type=Path, metavar="SWEEP", help="the tables of a sweep of named points")
    parser.add_argument("--out", type=Path, metavar="DIR", help="with --comparison: folder of its points")
    options = parser.parse_args(arguments)
    if options.comparison is not None:
        return compare(options)
    paths = options.files or files()
    if options.figure is not None:
        from benchmarks.certified_figure import draw
        from fedunlearn.plots.style import save

        save(draw(sweep(paths, options.overrides)), options.figure)
        say(f"figure   {options.figure}")
        return 0
    rows: list[Row] = []
    notes: list[str] = []
    for path in paths:
        began = time.perf_counter()
        lines, controls = measure(path, options.overrides)
        rows, notes = [*rows, *lines], [*notes, *controls]
        say(f"{path.stem}: {time.perf_counter() - began:.1f} s")
    show(rows, notes, as_json=options.json, as_markdown=options.markdown)
    return int(any(row.verified is False for row in rows))


def compare(options: argparse.Namespace) -> int:
    """Run what is missing of a sweep and print one table a task; exit code 1 if a certificate was not verified."""
    from rich.console import Console

    import fedunlearn
    from benchmarks import certified_comparison as comparison
    from fedunlearn.sweep import load_sweep, run_sweep

    plan = load_sweep(options.comparison, options.out)
    outcomes = run_sweep(
        plan,
        lambda experiment, folder, _: fedunlearn.run(experiment, out=folder),
        done=lambda outcome: say(f"{outcome.point.name}: {outcome.status}"),
    )
    lines = [line for o in outcomes for line in comparison.lines_of(o, plan.out / o.point.folder)]
    if options.figure is not None:
        from fedunlearn.plots.style import save

        save(comparison.figure(comparison.certificates_of(outcomes)), options.figure)
        say(f"figure   {options.figure}")
    if options.json:
        print(comparison.as_json(lines))
    for task, of_task in {} if options.json else comparison.tasks(lines).items():
        cells = [comparison.cells(line, task) for line in of_task]
        if options.markdown:
            print(f"**{task}**\n\n{markdown(comparison.HEADS, cells)}\n")
        else:
            Console(width=210).print(ruled((task, *comparison.HEADS[1:]), cells))
        for remark in remarks([line.row for line in of_task]):
            print(f"- {remark}")
        print()
    return int(any(line.row.verified is False for line in lines))


def show(rows: Sequence[Row], notes: Sequence[str], *, as_json: bool = False, as_markdown: bool = False) -> None:
    """Print the comparison in one of its three forms."""
    if as_json:
        print(json.dumps({"machine": machine(), "rows": [row.to_dict() for row in rows], "controls": list(notes)}))
        return
    if as_markdown:
        answered = [row for row in rows if row.seconds is not None]
        parts = [
            markdown(CLAIMS, [claim_cells(r) for r in rows]),
            markdown(EFFECTS, [effect_cells(r) for r in answered]),
        ]
        print("\n\n".join(parts))
    else:
        from rich.console import Console

        Console(width=210).print(table(rows))
    print(f"\n{machine()}")
    for line in (*remarks(rows), *notes):
        print(f"- {line}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    raise SystemExit(main())
