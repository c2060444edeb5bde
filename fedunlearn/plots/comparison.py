"""Original, retrained, unlearned and the controls side by side, a column for each set of samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedunlearn.plots.style import FAINT, GREEN, INK, MUTED, PAPER, colour_of, headline, look, new_figure
from fedunlearn.results.words import in_order, is_control, model_title

_PANELS = (
    ("test_accuracy", "test"),
    ("retain_accuracy", "retained data"),
    ("forget_accuracy", "forgotten data"),
    ("never_member_accuracy", "never-members"),
    ("membership_auc_forget_vs_test", "membership AUC"),
)
_AUC = "membership_auc_forget_vs_test"


def comparison(summary: Mapping[str, Any]) -> Figure:
    """Return the figure: one row a model, one panel a measurement, a dot with its value.

    The green line is the retrained network, the yardstick; bars in the first panel run from the worst to the best
    node. Accuracy panels share one scale, so distances can be compared between them; measurements that no model has
    are left out.

    Args:
        summary: as in ``summary.json``; ``models`` is read.
    """
    models = summary["models"]
    names = in_order(models)
    panels = [(key, title) for key, title in _PANELS if any(models[name].get(key) is not None for name in names)]
    with look():
        height = 1.45 + 0.36 * len(names)
        figure = new_figure(9.6, height)
        headline(
            figure, "Original, retrained, unlearned",
            "accuracy on each set of samples; green line: retrained network; bars: worst to best node; dashed: chance",
        )  # fmt: skip
        gap = 0.022
        left = (0.28 + 0.082 * max((len(name) for name in names), default=0)) / 9.6  # inches a letter, of the width
        width = (0.985 - left - gap * (len(panels) - 1)) / max(len(panels), 1)
        limits = _limits(models, [key for key, _ in panels if key != _AUC])
        for place, (key, title) in enumerate(panels):
            axes = figure.add_axes(
                (left + place * (width + gap), 0.36 / height, width, (height - 1.25) / height)
            )  # fmt: skip
            _panel(axes, key, title, models, names)
            axes.set_xlim(*(_limits(models, [key], around=0.5) if key == _AUC else limits))
            if place == 0:
                _names(axes, names)
    return figure


def _panel(axes: Axes, key: str, title: str, models: Mapping[str, Any], names: list[str]) -> None:
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_title(title, fontsize=10, color=INK, loc="left", pad=6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.3f}".rstrip("0").rstrip("."))
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    yardstick = models.get("retrained", {}).get(key)
    if yardstick is not None:
        axes.axvline(yardstick, color=GREEN, linewidth=1.1, alpha=0.7, zorder=1)
    if key == _AUC:
        axes.axvline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    for row, name in enumerate(names):
        value, colour = models[name].get(key), colour_of(name)
        if value is None:
            continue
        nodes = models[name].get("node_test_accuracy") if key == "test_accuracy" else None
        if nodes is not None and nodes["max"] > nodes["min"]:
            axes.plot([nodes["min"], nodes["max"]], [row, row], color=colour, linewidth=1.6, alpha=0.55, zorder=2)
        axes.plot(
            [value], [row], "o", color=PAPER if is_control(name) else colour, markeredgecolor=colour,
            markeredgewidth=1.5, markersize=6.5, zorder=3,
        )  # fmt: skip
        _value(axes, row, value, colour, max(value, nodes["max"]) if nodes is not None else value)


def _value(axes: Axes, row: int, value: float, colour: str, right: float) -> None:
    axes.annotate(
        f"{value:.3f}", (right, row), xytext=(7, 0), textcoords="offset points", va="center", ha="left", fontsize=9,
        color=colour, zorder=4, bbox={"boxstyle": "round,pad=0.12", "fc": PAPER, "ec": "none", "alpha": 0.85},
    )  # fmt: skip


def _names(axes: Axes, names: list[str]) -> None:
    for row, name in enumerate(names):
        axes.annotate(
            model_title(name), (0, row), xycoords=("axes fraction", "data"), xytext=(-10, 0),
            textcoords="offset points", ha="right", va="center", fontsize=9.5, color=colour_of(name),
            fontweight="normal" if is_control(name) else "bold",
        )  # fmt: skip


def _limits(models: Mapping[str, Any], keys: list[str], around: float | None = None) -> tuple[float, float]:
    """Return a range that holds all values, with room for the texts to the right of the rightmost dot."""
    values = [entry[key] for entry in models.values() for key in keys if entry.get(key) is not None]
    spreads = [entry.get("node_test_accuracy") for entry in models.values()] if "test_accuracy" in keys else []
    values += [spread[end] for spread in spreads if spread is not None for end in ("min", "max")]
    values += [around] if around is not None else []
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = max(high - low, 0.02)
    return low - 0.12 * room, high + 0.55 * room
