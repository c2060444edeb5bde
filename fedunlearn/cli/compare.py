"""``fedunlearn compare``: finished runs side by side, with what the battery found about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.cli.options import console
from fedunlearn.errors import UserError

CSV, JSON, FIGURE = "compare.csv", "compare.json", "compare.png"


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of finished runs.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="New folder for compare.csv, compare.json, compare.png.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print every measure, not only the judged ones.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Put finished runs side by side: method, certificate, accuracies, distance, cost, and what evaluate found.

    Numbers can be compared only between runs of the same data, seed and forget set; a warning says where they differ.
    """
    from fedunlearn.results.compare import compare_runs

    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out}: is there already; name a new folder, or remove this one first")
    found = compare_runs(runs)
    if out is not None:
        from fedunlearn.plots.compare_runs import compare_figure
        from fedunlearn.plots.style import save
        from fedunlearn.results.compare import comparison_csv
        from fedunlearn.results.files import cannot_write, readable_json, write_atomically

        try:
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(out / CSV, comparison_csv(found).encode())
            write_atomically(out / JSON, readable_json(found).encode())
        except OSError as error:
            raise cannot_write(out, error) from None
        save(compare_figure(found), out / FIGURE)
    if as_json:
        for warning in found["warnings"]:
            typer.echo(f"warning: {warning}", err=True)
        typer.echo(json.dumps(found))
        return

    from fedunlearn.results.compare_table import compare_table

    output = console()
    output.print(compare_table(found, output.width, everything=everything))
    if out is not None:
        output.print(f"figure   {out / FIGURE}", soft_wrap=True, markup=False)
        output.print(f"results  {out}", soft_wrap=True, markup=False)
