"""``fedunlearn certify`` and ``fedunlearn verify``: the arithmetic of a certificate, and the check of a written one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedunlearn.cli import certify_iterations, certify_questions, certify_training, certify_views, certify_walk
from fedunlearn.cli.answers import positive, probability
from fedunlearn.cli.options import console, facts
from fedunlearn.errors import UserError

app = typer.Typer(
    help="Compute what noise certifies; without a question, for one release.", invoke_without_command=True
)


@app.callback()
def certify(
    ctx: typer.Context,
    sensitivity: Annotated[
        float | None, typer.Option("--sensitivity", metavar="S", help="L2 sensitivity of the release.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option("--epsilon", metavar="E", help="Epsilon, greater than 0.")] = None,
    delta: Annotated[float | None, typer.Option("--delta", metavar="D", help="Delta, between 0 and 1.")] = None,
    sigma: Annotated[
        float | None, typer.Option("--sigma", metavar="X", help="Noise deviation on a coordinate.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with all digits.")] = False,
) -> None:
    """Compute the Gaussian noise that certifies (epsilon, delta); or, given the noise, what it certifies.

    Give the sensitivity and two of epsilon, delta and sigma: the third is computed, from the exact profile of the
    Gaussian mechanism (Balle and Wang 2018). The commands below answer other questions, each with options of its own.
    """
    if ctx.invoked_subcommand is not None:
        if any(value is not None for value in (sensitivity, epsilon, delta, sigma)) or as_json:
            raise UserError(f"certify {ctx.invoked_subcommand}: give its options after the name of the question")
        return
    if sensitivity is None:
        if (epsilon, delta, sigma).count(None) == 3 and not as_json:
            typer.echo(ctx.get_help())
            return
        raise UserError("certify: needs --sensitivity and exactly two of --epsilon, --delta and --sigma")
    from fedunlearn.privacy import gaussian

    positive(sensitivity=sensitivity, epsilon=epsilon, sigma=sigma)
    probability(delta)
    if (epsilon, delta, sigma).count(None) != 1:
        raise UserError("certify: needs --sensitivity and exactly two of --epsilon, --delta and --sigma")
    if sigma is None and epsilon is not None and delta is not None:
        asked, sigma = "sigma", gaussian.sigma_for(sensitivity, epsilon, delta)
    elif epsilon is None and sigma is not None and delta is not None:
        asked, epsilon = "epsilon", gaussian.epsilon_of(sensitivity / sigma, delta)
    elif sigma is not None and epsilon is not None:
        asked, delta = "delta", gaussian.delta_of(sensitivity / sigma, epsilon)
    numbers = {"sensitivity": sensitivity, "epsilon": epsilon, "delta": delta, "sigma": sigma}
    answer = {key: float(value) for key, value in numbers.items() if value is not None}
    answer["mu"] = sensitivity / answer["sigma"]
    if as_json:
        typer.echo(json.dumps({"schema": "fedunlearn/certify/1", "computed": asked, **answer}))
        return
    shown = {key: f"{value:.6g}" for key, value in answer.items()}
    shown[asked] = f"{answer[asked]:.6g}   (computed)"
    console().print(facts("", shown))


for _question in (
    certify_questions.releases,
    certify_questions.sampled,
    certify_questions.group,
    certify_training.rewind,
    certify_training.correction,
    certify_walk.walk,
    certify_iterations.iteration,
    certify_iterations.contraction,
    certify_questions.start,
    certify_views.views,
):
    app.command(_question.__name__)(_question)


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A certificate.json, or the folder of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Recompute every number of a certificate; exit code 1 if one of them is wrong."""
    from rich.table import Table
    from rich.text import Text

    from fedunlearn.privacy import verify as recompute

    path = file / "certificate.json" if file.is_dir() else file
    report = recompute(path)
    if as_json:
        typer.echo(json.dumps({"schema": "fedunlearn/verification/1", **report.to_dict()}))
    else:
        table = Table("certificate", "check", "claimed", "recomputed", "", title=Text(str(path)), title_justify="left")
        for check in report.checks:
            mark = Text("ok", style="green") if check.ok else Text("wrong", style="red")
            same = check.claimed == check.recomputed
            cells = (str(check.certificate), check.what, check.claimed, "same" if same else check.recomputed)
            table.add_row(*(Text(cell) for cell in cells), mark)
        output = console()
        output.print(table)
        for note in report.notes:
            output.print(f"note: {note}", markup=False)
        counted = f"{len(report.failures)} of {len(report.checks)} checks fail"
        output.print("verified: everything agrees" if report.ok else f"not verified: {counted}")
    if not report.ok:
        raise typer.Exit(1)
