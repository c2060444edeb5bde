"""ROC curves of membership attacks on log-log axes, where the few false alarms that matter can be seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from fedunlearn.plots.style import FAINT, INK, MUTED, PAPER, SERIES, headline, look, new_figure
from fedunlearn.results.words import number

_MODELS = ("original", "unlearned", "retrained", "control")
_PANEL, _GAP, _LEFT, _RIGHT = 2.02, 0.20, 0.68, 0.12
"""Side of a panel, the gap to the next, and the margins, in inches."""
_TOP, _FAMILY, _LEGEND, _BELOW = 0.78, 0.30, 0.20, 0.52
"""Heights: of the headline, of a family's name, of a line of its legend, and of what stands below a panel."""
_DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.6)), (0, (1.2, 1.4)))
_SMALLEST = 1e-5

Curves = Sequence[Mapping[str, Any]]


def roc_curves(curves: Curves) -> Figure:
    """Return the figure: a row for each family of attacks, in it a panel for each model, all with the same axes.

    A group "simple, unlearned" is the family "simple" and the model "unlearned". The numbers in a panel are the areas
    under its curves, in the order of the legend. To the left of the smallest rate of false alarms that a panel's
    samples can resolve it is shaded: what is drawn there are members that score above every non-member.

    Args:
        curves: ``curves["roc"]`` of an evaluation; fpr, tpr, auc, label, group, smallest_fpr are read.
    """
    families = grouped(curves)
    columns = _columns(families)
    low = _lowest(curves)
    width = max(_LEFT + len(columns) * (_PANEL + _GAP) - _GAP + _RIGHT, 6.6)
    looks = {family: _looks(panels) for family, panels in families.items()}
    rows = {family: _legend_rows(list(looks[family]), width - _LEFT - _RIGHT) for family in families}
    heights = {
        family: (_FAMILY if family else 0.05) + _LEGEND * len(rows[family]) + 0.30 + _PANEL + _BELOW
        for family in families
    }
    height = _TOP + sum(heights.values())
    with look():
        figure = new_figure(width, height)
        headline(
            figure, "Can members be told?",
            "members found against false alarms; numbers: area; dotted: chance; grey: too few samples",
        )  # fmt: skip
        top = _TOP
        for family, panels in families.items():
            legend_at = top + (_FAMILY if family else 0.05)
            figure.text(
                _LEFT / width, 1 - (top + 0.12) / height, family, fontsize=11, fontweight="bold", va="center", color=INK
            )
            _legend(figure, rows[family], looks[family], legend_at, width, height)
            bottom = 1 - (top + heights[family] - _BELOW) / height
            for model, members in panels.items():
                left = (_LEFT + columns.index(model) * (_PANEL + _GAP)) / width
                axes = figure.add_axes((left, bottom, _PANEL / width, _PANEL / height))
                _panel(axes, model, members, looks[family], low)
                axes.set_xlabel("false alarms")
                if model == next(iter(panels)):
                    axes.set_ylabel("members found")
                else:
                    axes.tick_params(labelleft=False)
            top += heights[family]
    return figure


def grouped(curves: Curves) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    """Return the curves by family and model, models in the order in which they are shown everywhere."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for curve in curves:
        family, _, model = str(curve["group"]).rpartition(", ")
        if model not in _MODELS and family:
            family, model = str(curve["group"]), ""
        found.setdefault(family, {}).setdefault(model, []).append(curve)

    def place(model: str) -> int:
        return _MODELS.index(model) if model in _MODELS else -1

    return {family: {model: panels[model] for model in sorted(panels, key=place)} for family, panels in found.items()}


def short_label(curve: Mapping[str, Any]) -> str:
    """Return a curve's label without the model, which the panel is named after."""
    label, model = str(curve["label"]), str(curve["group"]).rpartition(", ")[2]
    return label.removesuffix(f", {model}")


def _columns(families: Mapping[str, Mapping[str, Any]]) -> list[str]:
    seen = list(dict.fromkeys(model for panels in families.values() for model in panels))
    known = [model for model in _MODELS if model in seen]
    others = [model for model in seen if model not in _MODELS]
    return [*known, *others] if not known else [*known, *(m for m in others if m)] + ([""] if "" in others else [])


def _looks(panels: Mapping[str, Curves]) -> dict[str, tuple[str, Any]]:
    """Return colour and dashes by label, the same in all panels of a family."""
    labels = list(dict.fromkeys(short_label(curve) for curves in panels.values() for curve in curves))
    return {
        label: (SERIES[i % len(SERIES)], _DASHES[i // len(SERIES) % len(_DASHES)]) for i, label in enumerate(labels)
    }


def _lowest(curves: Curves) -> float:
    """Return the lower end of both axes: half of the smallest rate that some panel resolves or some curve finds."""
    rates = [float(curve["smallest_fpr"]) for curve in curves]
    rates += [min((float(t) for t in curve["tpr"] if t > 0), default=1.0) for curve in curves]
    return max(min([*rates, 0.2]) / 2, _SMALLEST)


def _legend_rows(labels: Sequence[str], width: float) -> list[list[tuple[str, float]]]:
    """Return lines of a legend no wider than ``width`` inches: labels, and where each begins."""
    scratch = Figure(dpi=100)
    canvas = FigureCanvasAgg(scratch)
    rows: list[list[tuple[str, float]]] = [[]]
    at = 0.0
    for label in labels:
        with look():
            text = scratch.text(0, 0, label, fontsize=9, fontweight="bold")
            needs = 0.34 + text.get_window_extent(canvas.get_renderer()).width / 100 + 0.22
        if rows[-1] and at + needs > width:
            rows.append([])
            at = 0.0
        rows[-1].append((label, at))
        at += needs
    return rows


def _legend(
    figure: Figure, rows: Sequence[Sequence[tuple[str, float]]], looks: Mapping[str, tuple[str, Any]], top: float,
    width: float, height: float,
) -> None:  # fmt: skip
    axes = figure.add_axes((0, 0, 1, 1), zorder=-1)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for row, entries in enumerate(rows):
        y = top + 0.08 + row * _LEGEND
        for label, at in entries:
            colour, dashes = looks[label]
            axes.plot([_LEFT + at, _LEFT + at + 0.26], [y, y], color=colour, linestyle=dashes, linewidth=1.9)
            figure.text(
                (_LEFT + at + 0.33) / width, 1 - y / height, label, fontsize=9, fontweight="bold", color=colour,
                va="center",
            )  # fmt: skip


def _panel(axes: Axes, title: str, curves: Curves, looks: Mapping[str, tuple[str, Any]], low: float) -> None:
    axes.set(xscale="log", yscale="log", xlim=(low, 1.0), ylim=(low, 1.0))
    axes.set_title(title, fontsize=9.5, color=MUTED, loc="left", pad=5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=8))
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axis.set_minor_locator(LogLocator(subs=()))
    axes.tick_params(length=0)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    smallest = min(float(curve["smallest_fpr"]) for curve in curves)
    if smallest > low:
        axes.axvspan(low, smallest, color=FAINT, alpha=0.45, linewidth=0, zorder=0.5)
        ticks = ticks_with(smallest, low)
        axes.set_xticks(ticks, labels=[number(x, 2) for x in ticks])
        axes.set_xticks([], minor=True)
    axes.plot([low, 1], [low, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1.5)
    for curve in curves:
        colour, dashes = looks[short_label(curve)]
        fpr, tpr = steps(curve["fpr"], curve["tpr"], low)
        axes.plot(fpr, tpr, color=colour, linestyle=dashes, linewidth=1.6, zorder=3)
    _areas(axes, curves, looks)


def ticks_with(smallest: float, low: float) -> list[float]:
    """Return the smallest rate that is resolved, and the powers of ten that do not stand in its way."""
    near = 0.24 * abs(math.log10(low))  # the width of a label, in decades
    decades = [10.0**k for k in range(math.ceil(math.log10(low)), 1)]
    return [smallest, *(x for x in decades if abs(math.log10(x / smallest)) > near)]


def steps(fpr: Sequence[float], tpr: Sequence[float], low: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a curve as it is drawn: rates below ``low`` at ``low``, for a logarithmic axis has no zero."""
    return np.maximum(np.array(fpr, dtype=np.float64), low), np.maximum(np.array(tpr, dtype=np.float64), low)


def _areas(axes: Axes, curves: Curves, looks: Mapping[str, tuple[str, Any]]) -> None:
    """Write the areas in the lower right corner, where no curve better than chance goes, in the legend's order."""
    order = list(looks)
    ordered = sorted(curves, key=lambda curve: order.index(short_label(curve)), reverse=True)
    for place, curve in enumerate(ordered):
        axes.text(
            0.965, 0.04 + 0.082 * place, f"{float(curve['auc']):.2f}", transform=axes.transAxes, ha="right",
            va="baseline", fontsize=8.5, color=looks[short_label(curve)][0], fontweight="bold", zorder=5,
            bbox={"boxstyle": "round,pad=0.1", "fc": PAPER, "ec": "none", "alpha": 0.8},
        )  # fmt: skip
