"""Accuracy over rounds: the average model as a line, the single nodes as a band, the request as a vertical line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedunlearn.plots.style import MUTED, PAPER, colour_of, headline, horizontal_grid, look, new_figure, spread_apart
from fedunlearn.results.metrics import AVERAGE, NODES_MAX, NODES_MEAN, NODES_MIN, MetricRow
from fedunlearn.results.words import in_order, model_title


@dataclass(frozen=True)
class Curve:
    """Numbers over rounds: ``rounds`` (k,) ascending and ``values`` (k,)."""

    rounds: NDArray[np.int64]
    values: NDArray[np.float64]


def curves(rows: Iterable[MetricRow], metric: str = "accuracy", of: str = "test") -> dict[tuple[str, str], Curve]:
    """Return one curve for each (model, scope) found in a metrics table.

    Where a model has several phases, as the retrained one has for several requests, the last one counts.
    """
    points: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for row in rows:
        if row.metric == metric and row.set == of:
            points.setdefault((row.model, row.scope), {}).setdefault(row.phase, {})[row.round] = row.value
    found = {}
    for key, phases in points.items():
        last = list(phases.values())[-1]
        order = sorted(last)
        found[key] = Curve(np.array(order, dtype=np.int64), np.array([last[k] for k in order]))
    return found


def accuracy_over_rounds(
    rows: Iterable[MetricRow], *, request_at: int | None = None, request: str = "deletion request",
    subtitle: str = "test accuracy of the average model; band: the original's single nodes, worst to best",
) -> Figure:  # fmt: skip
    """Return the figure of a run's learning curves.

    Args:
        rows: metrics table; drawn are ``accuracy`` on ``test`` of scopes average, nodes-mean, nodes-min, nodes-max.
        request_at: round after which the request was answered; by default the last round of the original network.
        request: what was asked, in a few words.
        subtitle: second line.
    """
    found = curves(rows)
    models = in_order(dict.fromkeys(model for model, scope in found if scope == AVERAGE))
    with look():
        figure = new_figure(8.0, 4.3)
        headline(figure, "Accuracy over rounds", subtitle)
        axes = figure.add_axes((0.058, 0.115, 0.69, 0.70))
        horizontal_grid(axes)
        last = max((int(curve.rounds[-1]) for curve in found.values()), default=1)
        if ("original", NODES_MIN) in found and ("original", NODES_MAX) in found:
            _band(axes, found)
        for model in models:
            _line(axes, model, found[model, AVERAGE])
        if "original" in models or request_at is not None:
            at = request_at if request_at is not None else int(found["original", AVERAGE].rounds[-1])
            _request_line(axes, at, request, room_on_the_left=at > last / 2)
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:.2f}".rstrip("0").rstrip(".") if y else "0")
        axes.set_xlim(0, max(last, 1) * 1.015)
        _end_labels(axes, {model: found[model, AVERAGE] for model in models}, found.get(("original", NODES_MEAN)))
    return figure


def _band(axes: Axes, found: dict[tuple[str, str], Curve]) -> None:
    low, high = found["original", NODES_MIN], found["original", NODES_MAX]
    axes.fill_between(low.rounds, low.values, high.values, color=colour_of("original"), alpha=0.14, linewidth=0)
    if ("original", NODES_MEAN) in found:
        mean = found["original", NODES_MEAN]
        axes.plot(mean.rounds, mean.values, color=colour_of("original"), linewidth=1, alpha=0.55)


def _line(axes: Axes, model: str, curve: Curve) -> None:
    colour = colour_of(model)
    if len(curve.rounds) == 1:
        axes.plot(
            curve.rounds, curve.values, "o", color=colour, markersize=8, markeredgecolor=PAPER, markeredgewidth=1.2,
            zorder=6, clip_on=False,
        )  # fmt: skip
        return
    dashes = (0, (4, 2)) if model == "retrained" else "solid"
    axes.plot(curve.rounds, curve.values, color=colour, linewidth=2, linestyle=dashes, zorder=4)


def _request_line(axes: Axes, at: int, request: str, room_on_the_left: bool) -> None:
    axes.axvline(at, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    axes.annotate(
        request, (at, 0.03), xycoords=("data", "axes fraction"), xytext=(-6 if room_on_the_left else 6, 0),
        textcoords="offset points", ha="right" if room_on_the_left else "left", va="bottom", fontsize=9, color=MUTED,
    )  # fmt: skip


def _end_labels(axes: Axes, lines: dict[str, Curve], nodes: Curve | None) -> None:
    """Write each model's name and last value to the right of the axes, without overlaps."""
    entries = [(model_title(name), float(c.values[-1]), colour_of(name), True) for name, c in lines.items()]
    if nodes is not None:
        entries.append(("mean of nodes", float(nodes.values[-1]), colour_of("original"), False))
    low, high = axes.get_ylim()
    low, high = max(0.0, low), high + 0.06 * (high - low)  # room above for the topmost label
    axes.set_ylim(low, high)
    height = axes.get_position().height * float(axes.get_figure(root=True).get_size_inches()[1])  # type: ignore[union-attr]
    places = spread_apart([value for _, value, _, _ in entries], gap=(high - low) * 0.19 / height)
    for (title, value, colour, strong), place in zip(entries, places):
        axes.annotate(
            f"{value:.3f}  {title}", (1.0, value), xycoords=("axes fraction", "data"),
            xytext=(1.04, place), textcoords=("axes fraction", "data"), va="center", ha="left", fontsize=9.5,
            color=colour, fontweight="bold" if strong else "normal", alpha=1 if strong else 0.8,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 2, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip
