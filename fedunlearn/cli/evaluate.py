"""``fedunlearn evaluate``: measure whether a finished run has really forgotten, beside the network trained again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedunlearn.cli.options import console
from fedunlearn.cli.progress import progress_bar

if TYPE_CHECKING:
    from fedunlearn.battery.settings import BatterySettings

WHOLE = "battery"
"""Phase under which the battery reports the whole of itself, in seconds."""


def evaluate(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a finished run, such as runs/quickstart-0.")
    ],
    battery: Annotated[
        str | None,
        typer.Option(
            "--battery", metavar="LEVEL", show_default=False,
            help="quick: the released models alone. standard: also the nodes of the network (default). "
            "full: also shadow models.",
        ),
    ] = None,
    shadows: Annotated[
        int | None, typer.Option("--shadows", metavar="N", help="full: pairs of shadow models.")
    ] = None,
    fpr: Annotated[
        list[float] | None,
        typer.Option("--fpr", metavar="RATE", help="Rate of false alarms to tell found members at. May be repeated."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as relearn_steps=50. May be repeated."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of the battery's own draws.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write over an evaluation that says more than this one would.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Print every measure, not only the judged ones.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Print under every number what it means.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json instead of tables.")] = False,
) -> None:  # fmt: skip
    """Measure what a finished run still knows of what it deleted; writes evaluation.json, a table and figures into it.

    Every number stands beside that of the retrained network, which is what forgetting should give, and of a control,
    retrained once more with another seed.
    """
    from fedunlearn.results.finished import finished_run

    options = {
        "level": battery, "shadows": shadows, "false_positive_rates": tuple(fpr) if fpr else None, "seed": seed
    }  # fmt: skip
    settings = battery_settings(overrides or (), options)
    finished_run(run, with_requests=True)

    from fedunlearn.battery.report import refuse_lower, refuse_unwritable, report, write_evaluation

    if not replace:
        refuse_lower(run, settings.level)
    refuse_unwritable(run)

    from fedunlearn.battery.conduct import evaluate as conduct

    with progress_bar(whole=WHOLE) as progress:
        found = conduct(run, settings, progress=progress)
    said = report(found)
    figures = write_evaluation(run, said)
    if as_json:
        typer.echo(json.dumps(said))
        return

    from fedunlearn.battery.table import evaluation_table
    from fedunlearn.results.evaluation_schema import EVALUATION, EVALUATION_TABLE

    output = console()
    output.print(evaluation_table(said, explain=explain, everything=everything))
    output.print()
    for figure in figures:
        output.print(f"figure   {figure}", soft_wrap=True, markup=False)
    output.print(f"table    {run / EVALUATION_TABLE}", soft_wrap=True, markup=False)
    output.print(f"results  {run / EVALUATION}", soft_wrap=True, markup=False)


def battery_settings(overrides: list[str] | tuple[str, ...], options: dict[str, Any]) -> BatterySettings:
    """Return the settings of the battery: defaults, changed by ``--set``, changed by the options that are not None.

    Raises:
        UserError: for a key or a value that there is not.
    """
    from pydantic import ValidationError

    from fedunlearn.battery.settings import BatterySettings
    from fedunlearn.overrides import Override, apply_overrides
    from fedunlearn.validation import explain

    changes = [Override.parse(text, BatterySettings) for text in overrides]
    table = apply_overrides({}, changes, "the battery")
    table |= {name: value for name, value in options.items() if value is not None}
    try:
        return BatterySettings.model_validate(table)
    except ValidationError as error:
        raise explain(error, BatterySettings, table, "battery") from None
