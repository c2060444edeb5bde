"""What deletions chosen to hurt do to a class: coalitions of growing size against deletions drawn at random."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedunlearn.plots.style import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    PURPLE,
    VERMILLION,
    headline,
    horizontal_grid,
    look,
    new_figure,
    spread_apart,
)

_STRATEGIES = {
    "random": ("random samples", MUTED),
    "boundary": ("those it is least sure of", PURPLE),
    "harm": ("those predicted to hurt", BLUE),
    "class": ("all of the class", VERMILLION),
}
"""Strategies in the order of drawing: what they are called, and their colour."""
_PANELS = (("class", "accuracy on the class"), ("everybody", "accuracy on all test samples"))
_WIDTH, _HEIGHT = 9.6, 3.9


def harm_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Return two panels over the size of the coalition: accuracy on the attacked class, and on everything.

    A line is the mean over seeds of the retrained network, before noise; the open dot beside it is what is released,
    with noise; the bar spans the seeds of the retrained network.

    Args:
        rows: of ``benchmarks.malicious_requests``: size, strategy, and ``measured[model][where]``, (accuracy, loss),
            for the models ``before noise-free``, ``retrained noise-free`` and ``after``.
    """
    sizes = sorted({int(row["size"]) for row in rows})
    with look():
        figure = new_figure(_WIDTH, _HEIGHT)
        headline(
            figure, "Deletions chosen to hurt, against as many drawn at random",
            "line and bar: retrained without them, mean and range over seeds; open dot: the released answer; "
            "dashed: before",
        )  # fmt: skip
        for place, (where, title) in enumerate(_PANELS):
            axes = figure.add_axes((0.045 + 0.5 * place, 0.135, 0.285, 0.63))
            _panel(axes, rows, sizes, where)
            axes.set_title(title, fontsize=10, fontweight="bold", color=INK, loc="left", pad=8)
            axes.set_xlabel("clients in the coalition, of 20")
    return figure


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], sizes: Sequence[int], where: str) -> None:
    horizontal_grid(axes)
    before = [_values(rows, size, "random", "before noise-free", where) for size in sizes]
    at = np.arange(len(sizes), dtype=np.float64)
    axes.plot(at, [statistics.fmean(values) for values in before], color=INK, linewidth=1, linestyle=(0, (3, 2.5)))
    ends = {}
    for rank, (strategy, (_, colour)) in enumerate(_STRATEGIES.items()):
        shifted = at + 0.07 * (rank - 1.5)
        found = [_values(rows, size, strategy, "retrained noise-free", where) for size in sizes]
        means = [statistics.fmean(values) for values in found]
        released = [statistics.fmean(_values(rows, size, strategy, "after", where)) for size in sizes]
        axes.vlines(shifted, [min(v) for v in found], [max(v) for v in found], color=colour, linewidth=1.2, alpha=0.55)
        axes.plot(shifted, means, color=colour, linewidth=1.6, marker="o", markersize=4)
        axes.plot(shifted, released, linestyle="", marker="o", markersize=7.5, mfc="none", mec=colour, mew=1.1)
        ends[strategy] = means[-1]
    low, high = axes.get_ylim()
    places = sorted(ends, key=lambda strategy: ends[strategy])
    for strategy, y in zip(places, spread_apart([ends[s] for s in places], 0.072 * (high - low)), strict=True):
        name, colour = _STRATEGIES[strategy]
        axes.text(at[-1] + 0.2, y, name, color=colour, fontsize=9, va="center", ha="left")
    axes.set_xticks(at, [str(size) for size in sizes])
    axes.set_xlim(-0.25, len(sizes) - 0.83)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.spines["bottom"].set_color(FAINT)


def _values(rows: Sequence[Mapping[str, Any]], size: int, strategy: str, model: str, where: str) -> list[float]:
    return [
        float(row["measured"][model][where][0]) for row in rows if row["size"] == size and row["strategy"] == strategy
    ]
