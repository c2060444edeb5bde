"""The topology, with every node coloured by how far its model moved."""

from __future__ import annotations

import math
from typing import Any

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedunlearn.plots.layout import MOST_EDGES, dot_size, edge_look, layout
from fedunlearn.plots.style import FAINT, INK, MUTED, PAPER, VERMILLION, headline, look, new_figure
from fedunlearn.results.words import number

_SCALE = LinearSegmentedColormap.from_list("moved", ["#d6e6f2", "#7fb4d9", "#2b7bba", "#0b3c6f"])
_CROWDED = 400
"""Vertices above which no place of the drawing is free of them."""


def topology_moved(
    graph: nx.Graph, moved: NDArray[np.float64], alive: NDArray[np.bool_] | None = None,
    leaver: int | tuple[int, ...] | None = None, *, title: str = "How far each node's model moved",
    subtitle: str = "L2 distance between a node's trained model and its model after the requests",
) -> Figure:  # fmt: skip
    """Return the figure of a graph with coloured vertices.

    Args:
        graph: vertices 0..N-1; give the graph with the leaver's edges, and they are drawn dashed.
        moved: a number a vertex (N,); NaN where there is none.
        alive: (N,) who is still there; by default everybody but the leavers.
        leaver: the vertex, or vertices, that the request took out.
        title, subtitle: the lines above.
    """
    leavers = () if leaver is None else (leaver,) if isinstance(leaver, int) else tuple(leaver)
    present = np.ones(len(graph), dtype=bool) if alive is None else np.asarray(alive, dtype=bool).copy()
    present[list(leavers)] = False
    values = np.where(present, np.asarray(moved, dtype=np.float64), np.nan)
    with look():
        figure = new_figure(7.6, 5.2)
        headline(figure, title, subtitle)
        axes = figure.add_axes((0.02, 0.03, 0.80, 0.85))
        axes.set_axis_off()
        axes.set_aspect("equal")
        places = layout(graph)
        size = dot_size(len(graph))
        _edges(axes, graph, places, present)
        norm = _norm(values)
        shown = present & np.isfinite(values)
        axes.scatter(
            places[shown, 0],
            places[shown, 1],
            c=values[shown],
            cmap=_SCALE,
            norm=norm,
            s=size,
            edgecolors=PAPER,
            linewidths=0.9,
            zorder=3,
        )
        rest = present & ~shown
        axes.scatter(places[rest, 0], places[rest, 1], c=PAPER, s=size, edgecolors=FAINT, linewidths=1, zorder=3)
        _departed(axes, graph, places, present, leavers, size)
        axes.margins(0.06)
        if shown.any():
            _scale(figure, values[shown], norm)
    return figure


def _edges(axes: Axes, graph: nx.Graph, places: NDArray[np.float64], present: NDArray[np.bool_]) -> None:
    ends = np.array(list(graph.edges()), dtype=np.int64).reshape(-1, 2)
    intact = present[ends].all(axis=1) if len(ends) else np.zeros(0, dtype=bool)
    if len(ends) > MOST_EDGES:
        return
    axes.add_collection(LineCollection(list(places[ends[intact]]), **edge_look(len(ends))))
    cut: dict[str, Any] = {"colors": VERMILLION, "linewidths": 0.9, "linestyles": (0, (3, 2.5)), "alpha": 0.6}
    axes.add_collection(LineCollection(list(places[ends[~intact]]), **cut))


def _departed(
    axes: Axes, graph: nx.Graph, places: NDArray[np.float64], present: NDArray[np.bool_], leavers: tuple[int, ...],
    size: float,
) -> None:  # fmt: skip
    gone = ~present
    gone[list(leavers)] = False
    axes.scatter(
        places[gone, 0], places[gone, 1], c=PAPER, s=size, edgecolors=MUTED, linewidths=1, linestyles="dotted", zorder=3
    )
    for node in leavers:
        axes.scatter(
            [places[node, 0]],
            [places[node, 1]],
            c=PAPER,
            s=size * 1.15,
            edgecolors=VERMILLION,
            linewidths=1.6,
            zorder=4,
        )
        axes.scatter(
            [places[node, 0]], [places[node, 1]], c=VERMILLION, s=size * 0.3, marker="x", linewidths=1.6, zorder=5
        )
    lines = _along_edges(graph, places, leavers)
    crowded = len(places) > _CROWDED  # no side is free then: the label goes over the dots
    for node in leavers[:3]:
        x, y = _free_side(places, node, np.delete(places, node, axis=0), lines)
        away = (math.sqrt(size) / 2 + 4) * (0.6 if x and y else 1)
        axes.annotate(
            f"client {node} left", places[node], xytext=(x * away, y * away), textcoords="offset points",
            ha={-1: "right", 0: "center", 1: "left"}[x], va={-1: "top", 0: "center", 1: "bottom"}[y],
            fontsize=9.5, fontweight="bold", color=VERMILLION, zorder=6 if crowded else 2.5,
            bbox={"boxstyle": "round,pad=0.15", "fc": PAPER, "ec": "none", "alpha": 0.8},
        )  # fmt: skip


def _free_side(
    places: NDArray[np.float64], node: int, dots: NDArray[np.float64], lines: NDArray[np.float64]
) -> tuple[int, int]:
    """Return the side of a vertex, as a pair of signs, where a label keeps clear of dots and, less so, of lines."""
    # centres of the label in units of the layout, where it is about 0.38 wide
    offsets = {(x, y): (0.24 * x if y else 0.27 * x, 0.09 * y) for x in (0, 1, -1) for y in (1, -1, 0) if x or y}
    along = np.linspace(-0.19, 0.19, 7)[:, None] * (1.0, 0.0)

    def room(side: tuple[int, int]) -> float:
        points = places[node] + np.array(offsets[side]) + along
        clear = [
            np.linalg.norm(points[:, None] - obstacles[None], axis=2).min() - width
            for obstacles, width in ((dots, 0.06), (lines, 0.0))
            if len(obstacles)
        ]
        return min(clear, default=0.0)

    return max(offsets, key=lambda side: round(room(side), 6))


def _along_edges(graph: nx.Graph, places: NDArray[np.float64], nodes: tuple[int, ...]) -> NDArray[np.float64]:
    """Return points (k, 2) on the edges of some vertices."""
    points = [places[i] + t * (places[j] - places[i]) for i, j in graph.edges(nodes) for t in (0.3, 0.5, 0.7)]
    return np.array(points).reshape(-1, 2)


def _scale(figure: Figure, values: NDArray[np.float64], norm: Normalize) -> None:
    """Draw the colour scale, or one sentence where all nodes moved alike."""
    if _alike(values):
        text = f"every node\nmoved by\n{number(float(values.mean()))}"
        figure.text(0.86, 0.5, text, fontsize=9.5, color=INK, va="center", ha="left", linespacing=1.5)
        return
    bar = figure.add_axes((0.865, 0.22, 0.022, 0.48))
    colorbar = Colorbar(bar, cmap=_SCALE, norm=norm)
    colorbar.outline.set_visible(False)
    bar.tick_params(length=0, labelsize=9, pad=4)
    bar.set_title("moved", fontsize=9.5, color=MUTED, pad=8, loc="left")
    bar.text(0, -0.06, f"median {number(float(np.median(values)))}", transform=bar.transAxes, fontsize=9, color=MUTED,
             va="top", ha="left")  # fmt: skip


def _norm(values: NDArray[np.float64]) -> Normalize:
    finite = values[np.isfinite(values)]
    if not len(finite) or _alike(finite):
        middle = float(finite.mean()) if len(finite) else 0.0
        return Normalize(middle - 1, middle + 1)
    return Normalize(float(finite.min()), float(finite.max()))


def _alike(values: NDArray[np.float64]) -> bool:
    return float(np.ptp(values)) <= 1e-3 * float(np.abs(values).max())
