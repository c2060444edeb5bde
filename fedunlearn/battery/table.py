"""An evaluation as a table for the terminal: whole at 80 columns, and no wider than 100."""

from __future__ import annotations

import re
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
_SIDES = {
    True: "On the side of the original, as if less had been forgotten than by retraining:",
    False: "On the other side, beyond the retrained network or nearer to it than another seed comes:",
    None: "Beside the retrained network, with no original to compare:",
}
_TEXT_WIDTH = 92
"""Columns of running text at most."""


def evaluation_table(evaluation: Mapping[str, Any], *, explain: bool = False) -> RenderableType:
    """Return a whole evaluation: a section for each question, what is not given and why, and what stands out.

    Args:
        evaluation: as in ``evaluation.json`` (:mod:`fedunlearn.results.evaluation_schema`).
        explain: whether to print under every measure what its number means.
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
    for row in (title, about, Padding(_narrow(key), (1, 0, 0, 0)), *blocks, _stand_outs(evaluation), _foot(evaluation)):
        whole.add_row(row)
    return whole


def standing_out(evaluation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the measures whose unlearned interval holds neither the retrained value nor the control's.

    Both must lie on the same side of it: an unlearned number between those of two retrained networks is one that
    retraining gives. Where only one of the two exists it decides alone.
    """
    return [measure for measure in judged(evaluation) if _outside(measure) != 0]


def judged(evaluation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the measures that could stand out: an unlearned interval, and a number to hold against it."""
    return [
        measure
        for measure in evaluation["measures"]
        if interval_text(measure["unlearned"]) and (measure["retrained"] or measure["control"])
    ]


def side_of_original(measure: Mapping[str, Any]) -> bool | None:
    """Return whether a measure that stands out does so on the side of the original; None where there is no original.

    On the other side forgetting has gone further than retraining, or a distance to the retrained network is smaller
    than that between two retrained ones.
    """
    if measure["original"] is None:
        return None
    others = [measure[name]["value"] for name in ("retrained", "control") if measure[name] is not None]
    return (measure["original"]["value"] - sum(others) / len(others)) * _outside(measure) > 0


def _outside(measure: Mapping[str, Any]) -> int:
    """Return 1 where the whole interval lies above what it is held against, -1 where it lies below, else 0."""
    interval = measure["unlearned"]
    others = [measure[name]["value"] for name in ("retrained", "control") if measure[name] is not None]
    if interval["low"] > max(others):
        return 1
    return -1 if interval["high"] < min(others) else 0


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


def _stand_outs(evaluation: Mapping[str, Any]) -> RenderableType:
    candidates, found = judged(evaluation), standing_out(evaluation)
    head = Text("What stands out", style="bold")
    if not candidates:
        nothing = Text("nothing can: no measure has an interval and something to hold it against", style="dim")
        return Padding(Group(head, Padding(nothing, (0, 0, 0, 2))), (1, 0, 0, 0))
    parts: list[RenderableType] = []
    for side, text in _SIDES.items():
        if there := [measure for measure in found if side_of_original(measure) is side]:
            parts += [_narrow(Text(text)), _stood_out(there)]
    count = f"{len(found) or 'None'} of {len(candidates)} measures with an interval"
    chance = (
        f"{count} {'lies' if len(found) == 1 else 'lie'} to one side of the retrained value and the control. One in "
        "twenty may do so by chance, and intervals cover the choice of samples, not that of the seed."
    )
    parts.append(_narrow(Text(chance, style="dim")))
    return Padding(Group(head, Padding(Group(*parts), (0, 0, 0, 2))), (1, 0, 0, 0))


def _stood_out(measures: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return a list of measures with their numbers, and after the last of a kind the beginning of what it means."""
    notes = _bullets()
    for place, measure in enumerate(measures):
        others = [f"{name} {value_text(measure[name])}" for name in ("retrained", "control") if measure[name]]
        where = "above" if _outside(measure) > 0 else "below"
        before = f", original {value_text(measure['original'])}" if measure["original"] else ""
        said = Text.assemble(
            (measure_title(measure["name"]), "bold"),
            f": {value_text(measure['unlearned'])} ({interval_text(measure['unlearned'])}) is {where} "
            f"{' and '.join(others)}{before}",
        )
        meaning = _first_clause(measure["reads"])
        if place + 1 == len(measures) or _first_clause(measures[place + 1]["reads"]) != meaning:
            said.append(f"\n{meaning}", style="dim")
        notes.add_row("·", said)
    return notes


def _first_clause(reads: str) -> str:
    """Return what a measure means up to its first semicolon, parenthesis or full stop."""
    clause = re.split(r";|\s\(|\.(?:\s|$)", reads, maxsplit=1)[0].strip()
    return clause[:1].upper() + clause[1:]


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
