"""Several runs side by side as tables for the terminal: as many columns as fit, the other runs below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedunlearn.results.measure_names import SECTIONS, interval_text, measure_title, value_text
from fedunlearn.results.words import model_title, number, seconds, share

_NAMES, _RUN = 28, 21
"""Least columns for the names of measures, and columns for a run."""


def compare_table(comparison: Mapping[str, Any], width: int = 100, *, everything: bool = True) -> RenderableType:
    """Return the printable comparison (:func:`fedunlearn.results.compare.compare_runs`) for so many columns of text.

    Without ``everything`` only the judged measures are printed, and how many others there are.
    """
    runs, more = comparison["runs"], 0
    if not everything:
        judged = [measure for measure in comparison["measures"] if measure["judged"]]
        more = len(comparison["measures"]) - len(judged)
        comparison = {**comparison, "measures": judged}
    across = max(1, min(len(runs), (min(width, 120) - _NAMES) // _RUN))
    blocks: list[RenderableType] = []
    for warning in comparison["warnings"]:
        blocks.append(Padding(Text(f"warning: {warning}", style="bold yellow"), (0, 0, 1, 0)))
    for first in range(0, len(runs), across):
        blocks += _block(comparison, runs[first : first + across])
    if more:
        blocks.append(Padding(Text(f"{more} further measures: --all prints them", style="dim"), (0, 0, 1, 0)))
    without = [run["label"] for run in runs if run["battery"] is None]
    if without:
        said = f"without an evaluation (fedunlearn evaluate RUN): {', '.join(without)}"
        blocks.append(Padding(Text(said, style="dim"), (0, 0, 1, 0)))
    return Group(*blocks)


def _block(comparison: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    table = _table([str(run["label"]) for run in runs])
    for name, cells in _facts(runs).items():
        if any(cell not in ("", "–") for cell in cells):
            table.add_row(name, *cells)
    blocks: list[RenderableType] = [Padding(table, (0, 0, 1, 0))]
    for section in SECTIONS:
        measures = [measure for measure in comparison["measures"] if measure["section"] == section]
        if not measures:
            continue
        table = _table([str(run["label"]) for run in runs])
        for measure in measures:
            found = [_cell(measure["runs"].get(run["label"])) for run in runs]
            table.add_row(measure_title(measure["name"]), *found)
        key = "unlearned / retrained; c: the control, where there is no retrained value"
        head = Text.assemble((section, "bold"), (f"   {key}", "dim"))
        blocks.append(Padding(Group(head, table), (0, 0, 1, 0)))
    return blocks


def _table(labels: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold", min_width=16, max_width=44)
    for label in labels:
        table.add_column(Text(label), justify="right", overflow="fold", vertical="bottom", max_width=_RUN - 1)
    return table


def _facts(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    def each(tell: Any) -> list[str]:
        return [tell(run) or "–" for run in runs]

    rows = {
        "method": each(lambda run: run["method"]),
        "topology": each(lambda run: run["topology"]),
        "seed": each(lambda run: str(run["seed"])),
        "last request": each(lambda run: run["requests"][-1] if run["requests"] else None),
        "certificate": each(_certificate),
    }
    for key, what in (("test_accuracy", "test"), ("forget_accuracy", "forget")):
        for model in ("original", "retrained", "unlearned"):
            rows[f"accuracy on {what}, {model_title(model)}"] = each(
                lambda run, model=model, key=key: share(run["models"].get(model, {}).get(key))
            )
    rows |= {
        "distance to retrained": each(lambda run: number(run["distance_to_retrained"])),
        "  before unlearning": each(lambda run: number(run["distance_before"])),
        "time to answer": each(lambda run: seconds(run["seconds"])),
        "retraining takes": each(lambda run: _times(run["times_cheaper"])),
        "evaluation": each(lambda run: run["battery"]),
    }
    return rows


def _certificate(run: Mapping[str, Any]) -> str:
    if (certificate := run["certificate"]) is None:
        return "none"
    valid = "valid" if certificate["valid"] else "NOT valid"
    return f"ε = {number(certificate['epsilon'])}, {valid}"


def _times(factor: float | None) -> str:
    return "–" if factor is None else f"{number(factor, 2)}×"


def _cell(columns: Mapping[str, Any] | None) -> Text:
    if columns is None:
        return Text("–")
    text = Text(value_text(columns["unlearned"]), style="bold")
    beside = columns["retrained"] or columns["control"]
    if beside is not None:
        mark = "" if columns["retrained"] is not None else "c "
        text.append(f" / {mark}{value_text(beside)}", style="not bold")
    if interval := interval_text(columns["unlearned"]):
        text.append(f"\n{interval}", style="not bold dim")
    return text
