"""The influence map: the graph before and after the answer, every node coloured by its distance to retraining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from fedunlearn.plots.layout import MOST_EDGES, dot_size, edge_look, layout
from fedunlearn.plots.style import FAINT, INK, MUTED, PAPER, VERMILLION, headline, look, new_figure
from fedunlearn.results.words import number

_MARGINS = (0.16, 0.09)
"""Room around the nodes, as shares of their range."""
_ASPECT = 0.415 * 9.6 / (0.76 * 4.6)
"""Width over height of the axes of one drawing."""
_SCALE = LinearSegmentedColormap.from_list("influence", ["#e4eef6", "#7fb4d9", "#2b7bba", "#0b3c6f"])
_WIDTH, _HEIGHT = 9.6, 4.6
_ROOM = 0.1
"""A label that comes nearer to another node than this, in units of the layout, is left out."""
_LOG_FROM = 12.0
"""From this ratio of the largest to the smallest distance on, the colours go by its logarithm."""

Vector = NDArray[np.float64]


def influence_map(network: Mapping[str, Any], places: NDArray[np.float64] | None = None) -> Figure | None:
    """Return the figure, or None where no node's distance before and after is known.

    Both drawings have one scale of colours; the median distance between two retrained networks, the floor that
    chance sets, is marked on it.

    Args:
        network: ``curves["network"]`` of an evaluation; client, nodes, edges, per_node are read.
        places: (N, 2) where the nodes are drawn; by default a layout of the graph.
    """
    before, after = (_values(network, f"distance_{when}") for when in ("before", "after"))
    if before is None or after is None:
        return None
    graph = nx.Graph()
    graph.add_nodes_from(range(int(network["nodes"])))
    graph.add_edges_from((int(i), int(j)) for i, j in network["edges"])
    where = layout(graph) if places is None else np.asarray(places, dtype=np.float64)
    client = None if network["client"] is None else int(network["client"])
    floor = _values(network, "distance_floor")
    norm = _norm(np.concatenate([before, after]))
    gone = client is not None and bool(np.isnan(after[client]))
    whose = "the deleted class" if client is None else f"client {client}"
    with look():
        figure = new_figure(_WIDTH, _HEIGHT)
        headline(
            figure, f"Where {whose}'s influence lies",
            "L2 distance of each node's model to the same node of the retrained network"
            + ("" if client is None else "; ring: the client")
            + ("" if floor is None else "; floor: of two retrainings"),
        )  # fmt: skip
        for left, title, values in ((0.012, "before", before), (0.445, "after", after)):
            axes = figure.add_axes((left, 0.03, 0.415, 0.76))
            axes.set_axis_off()
            axes.set_aspect("equal")
            finite = values[np.isfinite(values)]
            figure.text(left + 0.004, 0.825, title, fontsize=10.5, fontweight="bold", color=INK, va="center")
            figure.text(
                left + 0.004 + 0.0115 * len(title), 0.825, f"median {number(float(np.median(finite)))}", fontsize=9.5,
                color=MUTED, va="center",
            )  # fmt: skip
            _map(axes, graph, where, values, norm, client, gone=gone and title == "after")
        _bar(figure, norm, None if floor is None else float(np.nanmedian(floor)))
    return figure


def _values(network: Mapping[str, Any], name: str) -> Vector | None:
    """Return a quantity of all nodes (N,), NaN where there is none; None where no node has one."""
    found = network["per_node"].get(name)
    values = None if found is None else np.array(found, dtype=np.float64)  # null becomes NaN
    return None if values is None or not np.isfinite(values).any() else values


def _norm(values: Vector) -> Normalize:
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    positive = finite[finite > 0]
    if len(positive) and high / float(positive.min()) > _LOG_FROM:
        return LogNorm(max(float(positive.min()), high * 1e-4), high, clip=True)
    return Normalize(low, high if high > low else low + 1)


def _map(
    axes: Axes, graph: nx.Graph, places: Vector, values: Vector, norm: Normalize, client: int | None, gone: bool
) -> None:
    size = dot_size(len(graph)) * 0.62
    edges = np.array(list(graph.edges()), dtype=np.int64).reshape(-1, 2)
    if len(edges) <= MOST_EDGES:
        mine = (edges == (-1 if client is None else client)).any(axis=1) & gone
        axes.add_collection(LineCollection(list(places[edges[~mine]]), **edge_look(len(edges))))
        cut: dict[str, Any] = {"colors": VERMILLION, "linewidths": 0.9, "linestyles": (0, (3, 2.5)), "alpha": 0.6}
        axes.add_collection(LineCollection(list(places[edges[mine]]), **cut))
    shown = np.isfinite(values)
    # nodes far from their counterpart are drawn last, over the others
    order = np.flatnonzero(shown)[np.argsort(values[shown], kind="stable")]
    axes.scatter(
        places[order, 0], places[order, 1], c=values[order], cmap=_SCALE, norm=norm, s=size, edgecolors="#9db4c8",
        linewidths=0.5, zorder=3,
    )  # fmt: skip
    rest = ~shown
    if client is not None:
        rest[client] = False
    axes.scatter(places[rest, 0], places[rest, 1], c=PAPER, s=size, edgecolors=FAINT, linewidths=1, zorder=3)
    if client is not None:
        _client(axes, places, client, max(size, 40.0), gone, known=bool(shown[client]))
    axes.margins(*_MARGINS)


def _client(axes: Axes, places: Vector, client: int, size: float, gone: bool, known: bool) -> None:
    """Ring the client, or cross it out where it has left, and write its name where there is most room."""
    x, y = places[client]
    ring: dict[str, Any] = {"edgecolors": VERMILLION, "linewidths": 1.7, "zorder": 4}
    axes.scatter([x], [y], s=size * 1.7, c="none" if known else PAPER, **ring)
    if gone:
        axes.scatter([x], [y], s=size * 0.45, c=VERMILLION, marker="x", linewidths=1.7, zorder=5)
    side_x, side_y, room = _roomiest(places, client)
    if room < _ROOM:
        return
    away = 0.5 * np.sqrt(size * 1.7) + 4
    axes.annotate(
        f"client {client}{' left' if gone else ''}", (x, y), xytext=(side_x * away, side_y * away),
        textcoords="offset points", fontsize=9, fontweight="bold", color=VERMILLION, zorder=6,
        ha={-1: "right", 0: "center", 1: "left"}[side_x], va={-1: "top", 0: "center", 1: "bottom"}[side_y],
        bbox={"boxstyle": "round,pad=0.12", "fc": PAPER, "ec": "none", "alpha": 0.85},
    )  # fmt: skip


def _roomiest(places: Vector, node: int) -> tuple[int, int, float]:
    """Return the side of a node, as a pair of signs, on which a label comes least near to other nodes, and how near.

    A side on which the label would leave the axes to the left or right comes last.
    """
    others = np.delete(places, node, axis=0)
    if not len(others):
        return 0, 1, np.inf
    along = np.linspace(-0.22, 0.22, 7)[:, None] * (1.0, 0.0)
    centres = {(0, 1): (0.0, 0.15), (0, -1): (0.0, -0.15), (1, 0): (0.36, 0.0), (-1, 0): (-0.36, 0.0)}

    (low_x, low_y), (high_x, high_y) = places.min(axis=0), places.max(axis=0)
    wide, high = (1 + 2 * _MARGINS[0]) * (high_x - low_x), (1 + 2 * _MARGINS[1]) * (high_y - low_y)
    half = max(wide, _ASPECT * high) / 2

    def room(side: tuple[int, int]) -> float:
        points = places[node] + np.array(centres[side]) + along
        if np.abs(points[:, 0] - (low_x + high_x) / 2).max() > half:
            return -1.0
        return float(np.linalg.norm(points[:, None] - others[None], axis=2).min())

    best = max(centres, key=lambda side: round(room(side), 6))
    return *best, room(best)


def _bar(figure: Figure, norm: Normalize, floor: float | None) -> None:
    axes = figure.add_axes((0.912, 0.14, 0.018, 0.58))
    bar = Colorbar(axes, cmap=_SCALE, norm=norm)
    bar.outline.set_visible(False)
    axes.yaxis.set_minor_locator(NullLocator())
    if isinstance(norm, LogNorm):
        decades = np.log10(float(norm.vmax or 1.0) / float(norm.vmin or 1.0))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.tick_params(length=0, labelsize=9, pad=4)
    axes.set_title("distance", fontsize=9.5, color=MUTED, pad=8, loc="left")
    if floor is None or not np.isfinite(floor):
        return
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 1.0)
    if low <= floor <= high:
        axes.plot([-0.35, 1.0], [floor, floor], color=VERMILLION, linewidth=1.6, clip_on=False,
                  transform=axes.get_yaxis_transform())  # fmt: skip
    name = f"floor:\n{number(floor)}"
    axes.text(0, -0.055, name, transform=axes.transAxes, fontsize=9, va="top", ha="left", color=VERMILLION)  # fmt: skip
