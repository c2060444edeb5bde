"""How one client's contribution spreads: predicted by the mixing matrix, and measured, over rounds and hops."""

from __future__ import annotations

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedunlearn.plots.style import MUTED, PAPER, headline, horizontal_grid, look, new_figure, spread_apart
from fedunlearn.results.words import number

_HOPS = LinearSegmentedColormap.from_list("hops", ["#0b3c6f", "#2b7bba", "#44a58c", "#c9a227"])
SMALLEST = 1e-6
"""Influences below this are left out of the picture: they are float32 rounding."""


def influence_over_rounds(
    predicted: NDArray[np.float64], measured: NDArray[np.float64], graph: nx.Graph, client: int, *, rings: int = 6
) -> Figure:  # fmt: skip
    """Return the figure: a line and its dots for every number of hops from the client, averaged over those nodes.

    Args:
        predicted: ``[W^k]_ju``, the influence of client u on node j after k mixings, (rounds + 1, N).
        measured: its measured counterpart (rounds + 1, N); NaN for absent nodes.
        graph: vertices 0..N-1 on which the client was still there.
        client: the vertex u.
        rings: the largest number of hops that are told apart; what is farther away is one ring.
    """
    hops = nx.single_source_shortest_path_length(graph, client)
    ring = np.array([min(hops.get(i, rings), rings) for i in range(predicted.shape[1])])
    shown = sorted(set(ring.tolist()))
    gap = float(np.sqrt(np.nanmean(np.square(predicted - measured))))
    with look():
        figure = new_figure(8.0, 4.3)
        headline(
            figure, f"How far client {client}'s contribution travels",
            f"influence of its update on other nodes; lines: predicted by W, dots: measured (rms gap {number(gap, 2)})",
        )  # fmt: skip
        axes = figure.add_axes((0.072, 0.115, 0.74, 0.70))
        horizontal_grid(axes)
        axes.set_yscale("log")
        axes.tick_params(axis="y", which="minor", length=0)
        ends = []
        for h in shown:
            colour = _HOPS(h / max(shown[-1], 1))
            _ring(axes, predicted[:, ring == h].mean(axis=1), np.nanmean(measured[:, ring == h], axis=1), colour)
            ends.append((_title(h, rings), float(predicted[-1, ring == h].mean()), colour))
        axes.set_xlabel("rounds of mixing")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
        axes.set_xlim(0, max(len(predicted) - 1, 1) * 1.01)
        _end_labels(axes, ends, 1 / predicted.shape[1])
    return figure


def _ring(
    axes: Axes, line: NDArray[np.float64], dots: NDArray[np.float64], colour: tuple[float, float, float, float]
) -> None:
    rounds = np.arange(len(line))
    axes.plot(rounds, np.where(line > SMALLEST, line, np.nan), color=colour, linewidth=1.8, zorder=3)
    axes.plot(
        rounds, np.where(dots > SMALLEST, dots, np.nan), "o", color=colour, markersize=4.5, markeredgecolor=PAPER,
        markeredgewidth=0.7, zorder=4, clip_on=False,
    )  # fmt: skip


def _title(hops: int, rings: int) -> str:
    if hops == 0:
        return "the client"
    return f"{hops} hop{'' if hops == 1 else 's'}" if hops < rings else f"{hops} hops or more"


def _end_labels(axes: Axes, ends: list[tuple[str, float, tuple[float, float, float, float]]], level: float) -> None:
    """Name the lines at their ends, and mark the level 1/N at which a contribution has spread evenly."""
    low, high = (float(np.log10(y)) for y in axes.get_ylim())
    axes.axhline(level, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    ends = [*ends, ("1/N: even", level, to_rgba(MUTED))]
    heights = [(np.log10(max(value, SMALLEST)) - low) / (high - low) for _, value, _ in ends]
    for (title, _, colour), height, place in zip(ends, heights, spread_apart(heights, 0.065)):
        axes.annotate(
            title, (1.0, height), xycoords="axes fraction", xytext=(1.045, place), textcoords="axes fraction",
            va="center", ha="left", fontsize=9.5, fontweight="bold", color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 2, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip
