"""What faults did round by round, under the learning curve: who took part, which links and messages worked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from fedunlearn.plots.accuracy import curves
from fedunlearn.plots.style import (
    BLUE,
    INK,
    MUTED,
    PURPLE,
    VERMILLION,
    colour_of,
    headline,
    horizontal_grid,
    look,
    new_figure,
    spread_apart,
)
from fedunlearn.results.metrics import AVERAGE, NODES_MAX, NODES_MIN, MetricRow


def shares(by_round: Mapping[str, list[float]]) -> dict[str, NDArray[np.float64]]:
    """Return what worked in every round, as shares (rounds,) by the words for them; what never failed is left out.

    Args:
        by_round: ``faults.by_round`` of a summary.
    """
    column = {name: np.array(values, dtype=np.float64) for name, values in by_round.items()}
    found = {"nodes taking part": column["active"]}
    if column["sent"].any():
        if (column["links_up"] < 1).any():
            found["links that work"] = column["links_up"]
        missing = column["lost"] + column["late"]
        if missing.any():
            with np.errstate(invalid="ignore"):
                found["messages on time"] = 1 - missing / column["sent"]  # NaN where nobody sends
    return found


_COLOURS = {"nodes taking part": BLUE, "links that work": VERMILLION, "messages on time": PURPLE}


def faults_over_rounds(summary: Mapping[str, Any], rows: Iterable[MetricRow]) -> Figure:
    """Return the figure of a run with faults: the test accuracy of the nodes that take part, and what worked.

    Args:
        summary: as in summary.json, with the entry ``faults``.
        rows: metrics table, of which the learning curve of the original network is drawn.
    """
    faults, found = summary["faults"], curves(rows)
    worked = shares(faults["by_round"])
    rounds = np.array(faults["by_round"]["round"])
    with look():
        figure = new_figure(8.0, 5.2)
        headline(figure, "Training under faults", _subtitle(faults))
        upper = figure.add_axes((0.075, 0.50, 0.69, 0.355))
        lower = figure.add_axes((0.075, 0.095, 0.69, 0.33))
        for axes in (upper, lower):
            horizontal_grid(axes)
            axes.set_xlim(0, max(int(rounds[-1]) + 1, 1) * 1.015)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
        upper.set_xticklabels([])
        upper.set_title("test accuracy of the nodes taking part", fontsize=9, color=MUTED, loc="left", pad=4)
        lower.set_title("share, round by round; at the right: mean", fontsize=9, color=MUTED, loc="left", pad=4)
        if ("original", AVERAGE) in found:
            mean = found["original", AVERAGE]
            if ("original", NODES_MIN) in found:
                low, high = found["original", NODES_MIN], found["original", NODES_MAX]
                upper.fill_between(
                    low.rounds, low.values, high.values, color=colour_of("original"), alpha=0.14, linewidth=0
                )
            upper.plot(mean.rounds, mean.values, color=colour_of("original"), linewidth=2)
            entries = [("average model", float(mean.values[-1]), colour_of("original"))]
            if ("original", NODES_MIN) in found:
                entries += [("best node", float(high.values[-1]), MUTED), ("worst node", float(low.values[-1]), MUTED)]
            _ends(upper, entries)
        for name, values in worked.items():
            lower.plot(rounds + 0.5, values, color=_COLOURS[name], linewidth=1.6, drawstyle="steps-mid")
        lower.set_ylim(0, 1.04)
        lower.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        lower.set_xlabel("round")
        _ends(lower, [(name, float(np.nanmean(values)), _COLOURS[name]) for name, values in worked.items()], mean=True)
    return figure


def _subtitle(faults: Mapping[str, Any]) -> str:
    told = [f"{faults['active_mean']:.0%} of the nodes take part in a round", f"{faults['adoptions']:,} adoptions"]
    if faults["contraction"] is not None and faults["sent"]:
        told.append(f"a round leaves {faults['contraction']:.2f} of the disagreement")
    return "; ".join(told)


def _ends(axes: Axes, entries: list[tuple[str, float, str]], *, mean: bool = False) -> None:
    """Name the lines to the right of the axes, without overlaps: by their last value, or by their mean."""
    low, high = axes.get_ylim()
    figure = axes.get_figure(root=True)
    height = axes.get_position().height * float(figure.get_size_inches()[1])  # type: ignore[union-attr]
    places = spread_apart([value for _, value, _ in entries], gap=(high - low) * 0.19 / height)
    for (title, value, colour), place in zip(entries, places):
        text = f"{value:.0%}  {title}" if mean else f"{value:.3f}  {title}"
        axes.annotate(
            text, (1.0, value), xycoords=("axes fraction", "data"), xytext=(1.03, place),
            textcoords=("axes fraction", "data"), va="center", ha="left", fontsize=9.5,
            color=INK if colour == MUTED else colour, alpha=0.8 if colour == MUTED else 1.0, annotation_clip=False,
        )  # fmt: skip
