"""The figure of the comparison: what a claim of epsilon costs, in accuracy and in messages, method by method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.certified_rows import Row
from fedunlearn.plots.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    PURPLE,
    SKY,
    VERMILLION,
    headline,
    look,
    new_figure,
    spread_apart,
)
from fedunlearn.results.words import number

COLOURS = {
    "retrain-equivalence": BLUE, "exact": BLUE, "single-node": SKY, "certifier": GREEN, "differential-privacy": PURPLE,
    "transcript": VERMILLION, "message": VERMILLION,
}  # fmt: skip
"""What the release is compared with, by colour; what has no certificate is grey."""
SAID = (
    ("retraining", BLUE), ("retraining, for one node's model alone", SKY),
    ("the same walk from a retrained model", GREEN),
    ("training without the deleted records", PURPLE),
    ("the same walk from the same trained model", VERMILLION), ("no certificate", MUTED),
)  # fmt: skip


def draw(lines: Mapping[str, Sequence[Row]]) -> Figure:
    """Return the figure of the rows of every file at several epsilons.

    Dashed lines are certificates that are not valid; a line without a certificate is grey and dotted.
    """
    with look():
        figure = new_figure(9.6, 5.2)
        headline(
            figure, "What a small ε costs: accuracy, or messages, or the claim",
            "Every method on one network, one data set and one request. Dashed: not valid. Dotted: no certificate.",
        )  # fmt: skip
        left, right = figure.add_axes((0.055, 0.205, 0.31, 0.62)), figure.add_axes((0.575, 0.205, 0.25, 0.62))
        _series(left, lines, "unlearned", 0.052)
        _series(right, lines, "messages", 0.13)
        _finish(left, right, lines)
        _legend(figure)
    return figure


def _value(row: Row, what: str) -> float | None:
    value: float | None = getattr(row, what)
    return None if value is None or (what == "messages" and value <= 0) else value


def _series(axes: Axes, lines: Mapping[str, Sequence[Row]], what: str, gap: float) -> None:
    """Draw one line a file, and its name at the right end, apart from the others."""
    ends: list[tuple[str, float, str]] = []
    for name, rows in lines.items():
        known = [(i, v) for i, row in enumerate(rows) if (v := _value(row, what)) is not None]
        if not known:
            continue
        last = rows[known[-1][0]]
        colour = COLOURS.get(last.kind, MUTED)
        style = ":" if last.valid is None else "-" if last.valid else (0, (4, 2))
        axes.plot(*zip(*known), color=colour, linestyle=style, linewidth=1.9, marker="o", markersize=3.4)
        place = math.log10(known[-1][1]) if what == "messages" else known[-1][1]
        ends.append((name, place, colour))
    places = spread_apart([place for _, place, _ in ends], gap)
    for (name, place, colour), shown in zip(ends, places):
        at = 10.0**shown if what == "messages" else shown
        true = 10.0**place if what == "messages" else place
        end = len(next(iter(lines.values()))) - 1
        axes.annotate(
            name, (end, true), xytext=(end + 0.45, at), textcoords="data", va="center", ha="left", fontsize=8.5,
            color=colour, annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)
            },
        )  # fmt: skip


def _finish(left: Axes, right: Axes, lines: Mapping[str, Sequence[Row]]) -> None:
    epsilons = _epsilons(lines)
    for axes in (left, right):
        axes.set_xticks(range(len(epsilons)), [number(e) for e in epsilons])
        axes.set_xlim(-0.2, len(epsilons) - 0.8)
        axes.set_xlabel("ε that was asked for")
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", length=0)
    left.set_ylim(0, 1)
    left.set_title("test accuracy of the release", fontsize=10, color=INK, loc="left", pad=8)
    right.set_yscale("log")
    ticks = (100, 1000, 10_000)
    right.set_yticks(ticks, labels=[number(t) for t in ticks])
    right.set_yticks([], minor=True)
    right.set_title("messages of the answer", fontsize=10, color=INK, loc="left", pad=8)


def _epsilons(lines: Mapping[str, Sequence[Row]]) -> list[float]:
    """Return the claims along the axis: those of a file whose every line has one."""
    for rows in lines.values():
        found = [row.epsilon for row in rows if row.epsilon is not None]
        if len(found) == len(rows):
            return found
    return [float(i) for i in range(max((len(rows) for rows in lines.values()), default=1))]


def _legend(figure: Figure) -> None:
    """Say what the colours mean, in two rows below the axes."""
    figure.text(
        0.012, 0.088, "The release is (ε, δ)-close to what would come from", fontsize=8.5, color=MUTED, va="top"
    )
    for place, (said, colour) in enumerate(SAID):
        at = (0.012 + 0.33 * (place // 2), 0.060 - 0.028 * (place % 2))
        figure.text(*at, said, fontsize=8.5, color=colour, va="top", fontweight="bold")
