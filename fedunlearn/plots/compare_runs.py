"""Several runs side by side: a dot and an interval a run for every measure, and how far influence reaches in each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedunlearn.plots.reach import draw_hops, hop_lines, without_far_floor
from fedunlearn.plots.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    PAPER,
    PURPLE,
    SKY,
    VERMILLION,
    headline,
    look,
    new_figure,
)
from fedunlearn.results.measure_names import measure_title, value_text
from fedunlearn.results.words import number

MOST = 18
"""Measures that are drawn at most."""
RUNS = (BLUE, VERMILLION, PURPLE, SKY, "#8a6d00", INK)
"""Colours of runs; green is left to the retrained network."""
_WIDTH, _COLUMNS = 10.0, 3
_ROW, _PLAIN = 0.17, 0.62
"""Height of a run's row in a panel, and of everything else of a panel, in inches."""
_REACH = 2.6


def compare_figure(comparison: Mapping[str, Any]) -> Figure:
    """Return the figure of a comparison (:func:`fedunlearn.results.compare.compare_runs`).

    In every panel a row a run: the unlearned value with its interval as a dot, the retrained value as a green tick, the
    control's as a grey one. Below them, for runs with an evaluation of the network, the distance by hop.
    """
    labels = [str(run["label"]) for run in comparison["runs"]]
    measures = drawn_measures(comparison)
    panels = measures or _accuracy_panels(comparison)
    reach = {label: table for label, table in comparison["reach"].items() if hop_lines(table)}
    rows = math.ceil(len(panels) / _COLUMNS)
    panel = _PLAIN + _ROW * len(labels)
    head = 0.95 + 0.22 * math.ceil(len(labels) / 3)
    reach_rows = math.ceil(len(reach) / _COLUMNS)
    height = head + rows * panel + reach_rows * (_REACH + 0.35) + 0.1
    with look():
        figure = new_figure(_WIDTH, height)
        left_out = len(comparison["measures"]) - len(measures)
        more = f"; {left_out} more in compare.csv" if left_out and measures else ""
        headline(
            figure, "Runs side by side",
            f"dot: unlearned, with 95 % interval; green tick: retrained; grey tick: control{more}",
        )  # fmt: skip
        _names(figure, labels, height)
        for place, entry in enumerate(panels):
            row, column = divmod(place, _COLUMNS)
            top = head + row * panel
            axes = figure.add_axes(
                (0.022 + column * 0.331, 1 - (top + panel - 0.28) / height, 0.292, (panel - 0.56) / height)
            )  # fmt: skip
            _panel(axes, entry, labels)
        limits = _common([hop_lines(table) for table in reach.values()])
        for place, (label, table) in enumerate(reach.items()):
            row, column = divmod(place, _COLUMNS)
            top = head + rows * panel + row * (_REACH + 0.35) + 0.42
            box = (0.052 + column * 0.331, 1 - (top + _REACH - 0.62) / height, 0.185, (_REACH - 0.85) / height)
            hops = np.array(table["hop"], dtype=np.float64)
            axes = figure.add_axes(box)
            draw_hops(axes, hops, "distance to retrained", hop_lines(table), table.get("count"), limits)
            axes.set_title(
                f"distance: {_cut(label, 24)}", fontsize=9.5, color=_colour(labels.index(label)), loc="left", pad=8,
                fontweight="bold",
            )  # fmt: skip
    return figure


def drawn_measures(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the measures that get a panel, in their order: all, or of too many some of each section.

    Sections take turns; in each the measures that are judged come first, then those with an interval in most runs.
    """
    shown = [m for m in comparison["measures"] if any(run["unlearned"] is not None for run in m["runs"].values())]
    sections: dict[str, list[Mapping[str, Any]]] = {}
    for measure in shown:
        sections.setdefault(str(measure["section"]), []).append(measure)

    def rank(measure: Mapping[str, Any]) -> tuple[bool, int]:
        return not measure.get("judged"), -sum(
            (run["unlearned"] or {}).get("low") is not None for run in measure["runs"].values()
        )

    turns = zip_longest(*(sorted(measures, key=rank) for measures in sections.values()))
    kept = {measure["name"] for measure in [m for turn in turns for m in turn if m is not None][:MOST]}
    return [measure for measure in shown if measure["name"] in kept]


def _accuracy_panels(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the accuracies of the runs as if they were measures, for runs without evaluations."""
    panels: list[Mapping[str, Any]] = []
    for key, title in (("test_accuracy", "accuracy_test"), ("forget_accuracy", "accuracy_forget")):
        found: dict[str, Any] = {}
        for run in comparison["runs"]:
            values = {model: accuracies.get(key) for model, accuracies in run["models"].items()}
            found[run["label"]] = {
                model: None if values.get(model) is None else {"value": values[model], "low": None, "high": None}
                for model in ("original", "unlearned", "retrained", "control")
            }
        panels.append({"name": title, "runs": found})
    return panels


def _colour(place: int) -> str:
    return RUNS[place % len(RUNS)]


def _cut(label: str, most: int) -> str:
    """Return the end of a label, where runs differ."""
    return label if len(label) <= most else f"…{label[1 - most :]}"


def _names(figure: Figure, labels: Sequence[str], height: float) -> None:
    """Write the names of the runs in their colours, three a line."""
    for place, label in enumerate(labels):
        row, column = divmod(place, 3)
        figure.text(
            0.022 + column * 0.331, 1 - (0.72 + 0.22 * row) / height, f"●  {_cut(label, 34)}", fontsize=9.5,
            fontweight="bold", color=_colour(place), va="center", ha="left",
        )  # fmt: skip


def _panel(axes: Axes, measure: Mapping[str, Any], labels: Sequence[str]) -> None:
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    title = measure_title(str(measure["name"]))
    axes.set_title(title if len(title) <= 47 else f"{title[:46]}…", fontsize=8.8, color=INK, loc="left", pad=4)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.tick_params(axis="x", length=0, labelsize=8, pad=2)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    seen: list[float] = []
    for row, label in enumerate(labels):
        columns = measure["runs"].get(label)
        if columns is None:
            continue
        for name, colour in (("control", MUTED), ("retrained", GREEN)):
            if (entry := columns[name]) is not None:
                axes.plot([entry["value"]] * 2, [row - 0.36, row + 0.36], color=colour, linewidth=2, zorder=3)
                seen.append(float(entry["value"]))
        if (entry := columns["unlearned"]) is not None:
            seen += [float(entry[part]) for part in ("value", "low", "high") if entry[part] is not None]
            _dot(axes, row, entry, _colour(row))
            _value(axes, row, columns, _colour(row))
    low, high = (min(seen), max(seen)) if seen else (0.0, 1.0)
    room = max(high - low, 1e-3 * max(abs(high), abs(low)), 1e-9)
    axes.set_xlim(low - 0.06 * room, high + 0.30 * room)


def _dot(axes: Axes, row: int, entry: Mapping[str, Any], colour: str) -> None:
    if entry["low"] is not None and entry["high"] is not None:
        axes.plot([entry["low"], entry["high"]], [row, row], color=colour, linewidth=1.8, alpha=0.55, zorder=4)
    axes.plot(
        [entry["value"]], [row], "o", color=colour, markeredgecolor=PAPER, markeredgewidth=0.8, markersize=5.6, zorder=5
    )


def _value(axes: Axes, row: int, columns: Mapping[str, Any], colour: str) -> None:
    """Write the unlearned number to the right of all that a row shows."""
    shown = [entry for name, entry in columns.items() if entry is not None and name in ("retrained", "control")]
    ends = [float(entry["value"]) for entry in shown]
    ends += [float(columns["unlearned"][part]) for part in ("value", "high") if columns["unlearned"][part] is not None]
    axes.annotate(
        value_text(columns["unlearned"]), (max(ends), row), xytext=(5, 0), textcoords="offset points", va="center",
        ha="left", fontsize=8, color=colour, zorder=6,
    )  # fmt: skip


def _common(lines: Sequence[Any]) -> tuple[float, float] | None:
    """Return the range of all distances, so that panels can be compared; None without any."""
    values = [without_far_floor(one) for one in lines]
    numbers = np.concatenate([*(v[np.isfinite(v) & (v > 0)] for v in values), np.zeros(0)])
    return (float(numbers.min()), float(numbers.max())) if len(numbers) else None
