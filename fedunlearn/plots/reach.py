"""How far influence reaches: distance, membership signal and accuracy by hops from the client, and over rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from fedunlearn.plots.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    PAPER,
    PURPLE,
    VERMILLION,
    headline,
    horizontal_grid,
    look,
    new_figure,
    spread_apart,
)
from fedunlearn.results.words import number

HOPS = LinearSegmentedColormap.from_list("hops", ["#0b3c6f", "#2b7bba", "#44a58c", "#c9a227"])
_LOG_FROM = 30.0
"""From this ratio of the largest to the smallest number on, the axis is logarithmic."""
_FAR_BELOW = 30.0
"""A floor so many times below all that was measured is named with an arrow, not drawn: it would squeeze the rest."""
_LINES = 7
"""Distances from the client that are told apart in a panel over rounds."""
_WIDTH, _HEIGHT = 9.8, 3.9

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class _Line:
    key: str
    title: str
    colour: str
    dashes: Any = "solid"
    mark: str = "o"


_PANELS: tuple[tuple[str, tuple[_Line, ...]], ...] = (
    (
        "distance to retrained",
        (
            _Line("distance_before", "before", BLUE),
            _Line("predicted", "predicted", PURPLE, (0, (1.2, 1.6)), ""),
            _Line("distance_after", "after", VERMILLION),
            _Line("distance_floor", "floor", MUTED, (0, (4, 2)), ""),
        ),
    ),
    (
        "forget loss below retrained: AUC",
        (
            _Line("membership_auc_before", "before", BLUE),
            _Line("membership_auc_after", "after", VERMILLION),
            _Line("membership_auc_floor", "floor", MUTED, (0, (4, 2)), ""),
        ),
    ),
    (
        "accuracy on the forget set",
        (
            _Line("forget_accuracy_before", "before", BLUE),
            _Line("forget_accuracy_after", "after", VERMILLION),
            _Line("forget_accuracy_retrained", "retrained", GREEN, (0, (4, 2)), ""),
        ),
    ),
)
_OVER_ROUNDS = (
    ("distance", "distance to retrained"),
    ("forget_accuracy_gap", "forget accuracy above retrained"),
    ("membership_auc", "forget loss below retrained: AUC"),
)


def reach_by_hop(network: Mapping[str, Any]) -> Figure | None:
    """Return the figure, a panel a quantity and a line a moment; None where nothing is known at two distances.

    The prediction comes scaled to the mean of what was measured: only its shape can be compared.

    Args:
        network: ``curves["network"]`` of an evaluation; client and by_hop are read.
    """
    table = network["by_hop"]
    hops = np.array(table["hop"], dtype=np.float64)
    panels = [(title, found) for title, lines in _PANELS if measured(found := _known(table, lines))]
    if len(hops) < 2 or not panels:
        return None
    with look():
        figure = new_figure(_WIDTH, _HEIGHT)
        client = network["client"]
        headline(
            figure, f"How far client {client}'s influence reaches",
            "mean over the nodes so many hops away; predicted: by the mixing matrix, same mean; floor: two retrainings",
        )  # fmt: skip
        for place, (title, lines) in enumerate(panels):
            axes = figure.add_axes(_box(place, len(panels)))
            draw_hops(axes, hops, title, lines, counts=table.get("count"))
    return figure


def measured(lines: Sequence[tuple[_Line, Vector]]) -> bool:
    """Return whether there is more than a prediction."""
    return any(line.key != "predicted" for line, _ in lines)


def hop_lines(by_hop: Mapping[str, Any]) -> list[tuple[_Line, Vector]]:
    """Return what is drawn of distances by hop: before, predicted and scaled to it, after, floor; known ones alone."""
    found = _known(by_hop, _PANELS[0][1])
    return found if measured(found) else []


def reach_over_rounds(network: Mapping[str, Any]) -> Figure | None:
    """Return the figure over rounds of training, a panel a quantity and a line a number of hops; None without rounds.

    Args:
        network: ``curves["network"]`` of an evaluation; client and rounds are read: for each quantity one row a round
            and in it one number a hop.
    """
    table = network.get("rounds")
    if not table or len(table["round"]) < 2:
        return None
    rounds, hops = np.array(table["round"], dtype=np.float64), [int(h) for h in table["hop"]]
    panels = [
        (key, title, values)
        for key, title in _OVER_ROUNDS
        if table.get(key) is not None and np.isfinite(values := _matrix(table[key])).any()
    ]
    if not panels:
        return None
    with look():
        figure = new_figure(_WIDTH, _HEIGHT)
        dots = "; dotted: predicted by the mixing matrix" if table.get("predicted") is not None else ""
        headline(
            figure, f"Client {network['client']}'s influence over the rounds of training",
            f"network with the client beside the retrained one, mean by hops from the client{dots}",
        )  # fmt: skip
        for place, (key, title, values) in enumerate(panels):
            axes = figure.add_axes(_box(place, len(panels)))
            foretold = table.get("predicted") if key == "distance" else None
            predicted = None if foretold is None else _matrix(foretold)
            floor = table.get(f"{key}_floor")
            _rounds_panel(axes, rounds, hops, title, values, predicted, None if floor is None else _matrix(floor))
    return figure


def _known(table: Mapping[str, Any], lines: Sequence[_Line]) -> list[tuple[_Line, Vector]]:
    found = []
    for line in lines:
        values = np.array(table.get(line.key) or [np.nan], dtype=np.float64)  # null becomes NaN
        if np.isfinite(values).any():
            found.append((line, np.where(values > 0, values, np.nan) if line.key == "predicted" else values))
    return found


def _matrix(rows: Sequence[Sequence[float | None]]) -> Vector:
    return np.array([[np.nan if x is None else float(x) for x in row] for row in rows], dtype=np.float64)


def _box(place: int, panels: int) -> tuple[float, float, float, float]:
    """Return where a panel stands, with room for names to its right."""
    left, right, names = 0.052, 0.006, 0.094
    width = (1 - left - right - panels * names - (panels - 1) * 0.038) / panels
    return left + place * (width + names + 0.038), 0.155, width, 0.60


def draw_hops(
    axes: Axes, hops: Vector, title: str, lines: Sequence[tuple[_Line, Vector]],
    counts: Sequence[int | None] | None = None, limits: tuple[float, float] | None = None,
) -> None:  # fmt: skip
    """Draw lines over hops into axes, with their names to the right; a prediction does not set the scale."""
    horizontal_grid(axes)
    axes.set_title(title, fontsize=10, color=INK, loc="left", pad=8)
    numbers = np.array([values for line, values in lines if line.key != "predicted"])
    limits = limits or _extent(without_far_floor(lines))
    begin = int(np.isfinite(numbers).any(axis=0).argmax())  # a client that has left is not there to be measured
    for line, values in lines:
        axes.plot(
            hops, values, color=line.colour, linewidth=1.9, linestyle=line.dashes, marker=line.mark or None,
            markersize=5.5, markeredgecolor=PAPER, markeredgewidth=0.8, zorder=4 if line.mark else 3,
            clip_on=line.key in ("predicted", "distance_floor"),
        )  # fmt: skip
    _scale(axes, limits, log=_by_orders(title, limits))
    axes.set_xlim(float(hops[begin]) - 0.12, float(hops[-1]) + 0.12)
    axes.set_xlabel("hops from the client" + (" (nodes)" if counts else ""))
    shown = list(range(begin, len(hops), 1 if len(hops) <= 7 else -(-len(hops) // 6)))
    labels = [f"{hops[k]:.0f}" + (f"\n({counts[k] or 0:.0f})" if counts else "") for k in shown]
    axes.set_xticks(hops[shown], labels=labels)
    axes.tick_params(axis="x", length=0)
    _names(axes, [(line.title, values, line.colour) for line, values in lines])


def _rounds_panel(
    axes: Axes, rounds: Vector, hops: Sequence[int], title: str, values: Vector, predicted: Vector | None,
    floor: Vector | None,
) -> None:  # fmt: skip
    horizontal_grid(axes)
    axes.set_title(title, fontsize=10, color=INK, loc="left", pad=8)
    limits = _extent(np.concatenate([values.ravel(), [] if floor is None else floor.ravel()]))
    limits = (max(limits[0], 1e-4 * limits[1]) if limits[0] > 0 else limits[0], limits[1])
    values = np.where(values > 0, values, np.nan) if _by_orders(title, limits) else values
    names: list[tuple[str, Vector, Any]] = []
    if floor is not None and np.isfinite(floor).any():
        mean = np.array([np.mean(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in floor])
        axes.plot(rounds, mean, color=MUTED, linewidth=1.6, linestyle=(0, (4, 2)), zorder=3)
        names.append(("floor", mean, MUTED))
    drawn = _some(len(hops))
    for place, k in enumerate(drawn):
        hop, colour = hops[k], HOPS(place / max(len(drawn) - 1, 1))
        axes.plot(rounds, values[:, k], color=colour, linewidth=1.8, zorder=4)
        if predicted is not None and np.isfinite(values[:, k]).any():
            axes.plot(rounds, predicted[:, k], color=colour, linewidth=1.2, linestyle=(0, (1.2, 1.6)), zorder=3)
        if np.isfinite(values[:, k]).any():
            names.append(("the client" if hop == 0 else f"{hop} hop{'' if hop == 1 else 's'}", values[:, k], colour))
    _scale(axes, limits, log=_by_orders(title, limits))
    axes.set_xlabel("round of training")
    if rounds[0] > 0 and rounds[-1] / rounds[0] > 10:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", which="minor", length=0)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, steps=[1, 2, 5, 10]))
    axes.set_xlim(float(rounds[0]), float(rounds[-1]))
    _names(axes, names)


def without_far_floor(lines: Sequence[tuple[_Line, Vector]]) -> Vector:
    """Return all numbers that set the scale: not a prediction, and no floor that lies far below everything else."""
    found = np.concatenate([v for line, v in lines if line.key not in ("predicted", "distance_floor")] or [np.zeros(0)])
    floor = np.concatenate([v for line, v in lines if line.key == "distance_floor"] or [np.zeros(0)])
    finite, low = found[np.isfinite(found)], floor[np.isfinite(floor)]
    far = len(finite) and len(low) and 0 <= float(low.min()) < float(finite.min()) / _FAR_BELOW
    return finite if far else np.concatenate([found, floor])


def _extent(values: Vector) -> tuple[float, float]:
    """Return the smallest and the largest number; of numbers that start at zero the smallest above it."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    if low == 0 and high > 0:
        low = max(float(finite[finite > 0].min()), 1e-3 * high) if high / finite[finite > 0].min() > _LOG_FROM else low
    return low, high


def _scale(axes: Axes, limits: tuple[float, float], log: bool) -> None:
    """Set the range of the vertical axis, and write its ticks plainly."""
    low, high = limits
    if log:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.35, high * 1.35)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)
    else:
        room = max(high - low, 1e-3 * max(abs(high), 1e-9), 1e-12)
        axes.set_ylim(0 if 0 <= low < 0.5 * high else low - 0.08 * room, high + 0.08 * room)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _some(hops: int) -> list[int]:
    """Return which of so many lines are drawn: all, or of many the nearest and some farther away, the last included."""
    if hops <= _LINES:
        return list(range(hops))
    far = np.geomspace(3, hops - 1, _LINES - 3)
    return [0, 1, 2, *sorted({round(float(k)) for k in far})]


def _by_orders(title: str, limits: tuple[float, float]) -> bool:
    """Return whether a panel shows distances that differ by orders of magnitude."""
    return "distance" in title and limits[0] > 0 and limits[1] / limits[0] > _LOG_FROM


def _names(axes: Axes, lines: Sequence[tuple[str, Vector, Any]]) -> None:
    """Write the names of lines to the right of the axes, each at the height where its line ends or leaves the axes."""
    heights, titles = [], []
    for title, values, _ in lines:
        last = float(values[np.isfinite(values)][-1])
        display = axes.transData.transform((0.0, last))
        height = float(axes.transAxes.inverted().transform(display)[1])
        titles.append(title + (" ↓" if height < -0.02 else " ↑" if height > 1.02 else ""))
        heights.append(min(max(height, 0.0), 1.0))
    figure = axes.get_figure(root=True)
    assert figure is not None
    inches = axes.get_position().height * float(figure.get_size_inches()[1])
    for title, (_, _, colour), height, place in zip(titles, lines, heights, spread_apart(heights, 0.18 / inches)):
        axes.annotate(
            title, (1.0, height), xycoords="axes fraction", xytext=(1.075, place), textcoords="axes fraction",
            va="center", ha="left", fontsize=9, fontweight="bold", color=colour, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 1, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip
