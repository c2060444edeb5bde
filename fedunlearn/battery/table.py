"""An evaluation as a table for the terminal: whole at 80 columns, and no wider than 100."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedunlearn.results.evaluation_schema import COLUMNS
from fedunlearn.results.measure_names import SECTIONS, interval_text, measure_title, value_text
from fedunlearn.results.words import seconds

_WIDTH = 98
_VERDICTS = (
    ("stands out", "models", "Told from retraining, chance over models or writers included:"),
    (
        "stands out",
        "one seed",
        "Told from retraining, as far as one other seed shows; a reason to look, not a finding:",
    ),
    ("not told apart", None, "Not told from retraining, where the original is:"),
    ("cannot tell", None, "Cannot tell:"),
)
_NOT_ALL = (
    "Judged are only measures that were named in advance, one a section. Among all numbers some lie outside by chance, "
    "for the samples of a model move together with its seed."
)
_TEXT_WIDTH = 92
"""Columns of running text at most."""


def evaluation_table(
    evaluation: Mapping[str, Any], *, explain: bool = False, everything: bool = True
) -> RenderableType:  # fmt: skip
    """Return an evaluation: a section for each question, what is not given and why, and what stands out.

    Args:
        evaluation: as in ``evaluation.json`` (:mod:`fedunlearn.results.evaluation_schema`).
        explain: whether to print under every measure what its number means.
        everything: whether to print all measures, or only those that are judged.
    """
    run = evaluation["run"]
    title = Text.assemble(
        (run["name"], "bold"), (f"  evaluation ({evaluation['battery']}) of {run['method']}, seed {run['seed']}", "dim")
    )
    sets = ", ".join(f"{name.replace('_', '-')} {count:,}" for name, count in evaluation["samples"].items())
    about = Text(f"{run['requests'][-1]}; samples: {sets or 'none'}", style="dim")
    key = Text(
        "Read every number beside the retrained network's, which is what forgetting should give, and the control's: "
        "retrained once more with another seed. Second lines: 95 % intervals.",
        style="dim",
    )
    if not any(measure["control"] for measure in evaluation["measures"]):
        key.append(f" There is no control with {evaluation['battery']}: it takes another training.")
    blocks = [
        _section(name, evaluation, explain)
        for name in SECTIONS
        if any(entry["section"] == name for entry in (*evaluation["measures"], *evaluation["refusals"]))
    ]
    whole = Table.grid(expand=False)
    whole.add_column(max_width=_WIDTH, overflow="fold")
    shown = blocks if everything else [_first_lines(evaluation, explain)]
    for row in (title, about, Padding(_narrow(key), (1, 0, 0, 0)), *shown, _judgements(evaluation), _foot(evaluation)):
        whole.add_row(row)
    return whole


def _section(name: str, evaluation: Mapping[str, Any], explain: bool) -> RenderableType:
    measures = [measure for measure in evaluation["measures"] if measure["section"] == name]
    refusals = [refusal for refusal in evaluation["refusals"] if refusal["section"] == name]
    head = Text.assemble((name, "bold"), (f"   {SECTIONS[name]}", "dim"))
    parts: list[RenderableType] = [_narrow(head)]
    if measures:
        parts.append(Padding(_measures(measures, explain), (0, 0, 0, 2)))
    if refusals:
        notes = _bullets()
        for refusal in refusals:
            said = Text.assemble((f"{measure_title(refusal['name'])} is not given: ", ""), refusal["reason"])
            notes.add_row("·", said, style="yellow")
        parts.append(Padding(notes, (0, 0, 0, 2)))
    return Padding(Group(*parts), (1, 0, 0, 0))


def _measures(measures: Sequence[Mapping[str, Any]], explain: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), expand=True)
    table.add_column("", overflow="fold", min_width=16, ratio=1)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True, min_width=9, header_style="not bold dim")
    for measure in measures:
        title = Text(measure_title(measure["name"]))
        if explain:
            title.append(f"\n{measure['reads']}", style="dim")
        table.add_row(title, *(_cell(measure[column], column) for column in COLUMNS))
    return table


def _cell(estimate: Mapping[str, Any] | None, column: str) -> Text:
    text = Text(value_text(estimate), style="bold" if column == "unlearned" else "")
    if interval := interval_text(estimate):
        text.append(f"\n{interval}", style="not bold dim")
    return text


def _judgements(evaluation: Mapping[str, Any]) -> RenderableType:
    """Return what the measures that were named in advance say, by verdict."""
    parts: list[RenderableType] = [Text("What stands out", style="bold")]
    told = evaluation["judgements"]
    for verdict, grade, text in _VERDICTS:
        there = [entry for entry in told if entry["verdict"] == verdict and grade in (None, entry["grade"])]
        if there:
            notes = _bullets()
            for entry in there:
                side = {True: " (memory)", False: " (beyond retraining)", None: ""}[entry["memory"]]
                notes.add_row(
                    "·", Text.assemble((measure_title(entry["measure"]), "bold"), f"{side}: {entry['sentence']}")
                )
            parts += [Padding(_narrow(Text(text)), (0, 0, 0, 2)), Padding(notes, (0, 0, 0, 2))]
    if not told:
        parts.append(
            Padding(Text("nothing is judged: none of the measures named for it is there", style="dim"), (0, 0, 0, 2))
        )
    else:
        parts.append(Padding(_narrow(Text(_NOT_ALL, style="dim")), (0, 0, 0, 2)))
    return Padding(Group(*parts), (1, 0, 0, 0))


def _first_lines(evaluation: Mapping[str, Any], explain: bool) -> RenderableType:
    """Return the judged measures alone, and how many more there are."""
    names = [entry["measure"] for entry in evaluation["judgements"]]
    shown = [measure for measure in evaluation["measures"] if measure["name"] in names]
    parts: list[RenderableType] = [Padding(_measures(shown, explain), (0, 0, 0, 2))] if shown else []
    more, refused = len(evaluation["measures"]) - len(shown), len(evaluation["refusals"])
    text = f"{more} further numbers: --all prints them, evaluation.csv has them."
    if refused:
        text += f" {refused} {'is' if refused == 1 else 'are'} not given; --all says why."
    parts.append(Padding(_narrow(Text(text, style="dim")), (0, 0, 0, 2)))
    return Padding(Group(*parts), (1, 0, 0, 0))


def _bullets() -> Table:
    notes = Table.grid(padding=(0, 1))
    notes.add_column()
    notes.add_column(overflow="fold", max_width=_TEXT_WIDTH)
    return notes


def _foot(evaluation: Mapping[str, Any]) -> RenderableType:
    spent = dict(evaluation["seconds"])
    total = spent.pop("total", sum(spent.values()))
    parts = ", ".join(f"{name.replace('_', ' ')} {seconds(value)}" for name, value in spent.items())
    return Padding(_narrow(Text(f"{seconds(total)} in all{': ' if parts else ''}{parts}", style="dim")), (1, 0, 0, 0))


def _narrow(text: Text) -> RenderableType:
    """Return running text no wider than is easy to read."""
    grid = Table.grid()
    grid.add_column(max_width=_TEXT_WIDTH, overflow="fold")
    grid.add_row(text)
    return grid
