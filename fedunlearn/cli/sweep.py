"""``fedunlearn sweep``: a small grid over the settings of one experiment, or a list of named points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedunlearn.cli.options import console, readable
from fedunlearn.cli.progress import progress_bar
from fedunlearn.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from fedunlearn.sweep import Outcome

# Column titles of the printed table, and the names in summary.csv that they show.
_COLUMNS = {
    "test\nacc.": "models.unlearned.test_accuracy",
    "re-\ntrained": "models.retrained.test_accuracy",
    "forget\nacc.": "models.unlearned.forget_accuracy",
    "ε": "requests.0.certificate.epsilon",
    "valid": "requests.0.certificate.valid",
    "distance": "requests.0.distance_to_retrained",
    "seconds": "requests.0.cost.seconds",
}


def sweep(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="TOML with base = an experiment, and a [grid] of lists or named [[points]]."
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder of all points.")] = None,
) -> None:
    """Run every combination of a grid, or every named point; what is finished is not run again."""
    from fedunlearn.sweep import load_sweep, run_sweep

    plan = load_sweep(file, out)
    total = len(plan.points)
    output = console()
    output.print(f"{plan.name}: {total} points in {plan.out}", soft_wrap=True, markup=False)
    told: list[Outcome] = []

    def run_point(experiment: Any, folder: Path, _: Any) -> Any:
        from fedunlearn.flower.local import run_local

        with progress_bar() as progress:
            return run_local(experiment, out=folder, progress=progress)

    def tell(outcome: Outcome) -> None:
        told.append(outcome)
        detail = f": {outcome.error}" if outcome.error else ""
        output.print(
            f"{len(told)}/{total} {outcome.status:7}{outcome.point.folder}{detail}", soft_wrap=True, markup=False
        )

    outcomes = run_sweep(plan, run_point, done=tell)
    output.print(outcome_table(plan.name, outcomes))
    output.print(f"summary  {plan.out / 'summary.csv'}", soft_wrap=True, markup=False)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise UserError(f"{len(failed)} of {total} points failed, the first with: {failed[0].error}")


def outcome_table(title: str, outcomes: Sequence[Outcome]) -> Table:
    """Return one row a point: its values of the grid, and the main numbers of its summary that any point has."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from fedunlearn.results.words import number, share
    from fedunlearn.sweep import numbers

    def written(name: str, value: Any) -> str:
        if isinstance(value, float):
            return share(value) if name.endswith("accuracy") else number(value)
        return readable(name, value)

    measured = [numbers(outcome.summary) for outcome in outcomes]
    shown = {column: name for column, name in _COLUMNS.items() if any(name in row for row in measured)}
    named = any(outcome.point.name for outcome in outcomes)
    # the changes of named points are as different as the points: their names say enough
    keys = [] if named else list(dict.fromkeys(key for outcome in outcomes for key in outcome.point.values))
    table = Table(
        title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    if named:
        table.add_column("point", overflow="fold", vertical="bottom")
    for key in keys:
        last = key.rpartition(".")[2]
        alone = sum(other.rpartition(".")[2] == last for other in keys) == 1
        table.add_column(Text((last if alone else key).replace("_", "_\n")), overflow="fold", vertical="bottom")
    for column in shown:
        table.add_column(column, justify="right", no_wrap=True, vertical="bottom")
    table.add_column("status", vertical="bottom")
    for outcome, row in zip(outcomes, measured, strict=True):
        cells = [outcome.point.folder[:-9]] if named else []  # without the hash
        cells += [written(key, outcome.point.values[key]) for key in keys]
        cells += [written(name, row.get(name)) for name in shown.values()]
        table.add_row(*map(Text, cells), outcome.status)
    return table
