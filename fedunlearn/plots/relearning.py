"""Relearning: the loss on the forget set while each model learns it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedunlearn.plots.style import FAINT, INK, MUTED, PAPER, colour_of, headline, look, new_figure, spread_apart
from fedunlearn.results.words import in_order, model_title, number


def relearning_curves(relearning: Mapping[str, Any]) -> Figure:
    """Return the figure: a line a model, the target as a dashed line, and a dot where a model first reaches it.

    Args:
        relearning: ``curves["relearning"]`` of an evaluation: steps (k,), target_loss, loss by model (k,).
    """
    steps = np.array(relearning["steps"], dtype=np.float64)
    losses = {name: np.array(relearning["loss"][name], dtype=np.float64) for name in in_order(relearning["loss"])}
    target = float(relearning["target_loss"])
    with look():
        figure = new_figure(8.0, 4.3)
        headline(
            figure, "Learning the forget set again",
            "mean loss on the forget set; a model that has forgotten is as slow as the retrained one",
        )  # fmt: skip
        axes = figure.add_axes((0.072, 0.115, 0.66, 0.72))
        axes.grid(axis="y", color=FAINT, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("steps of training on the forget set")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
        last = _last_of_interest(steps, losses, target)
        losses = {name: loss[steps <= last] for name, loss in losses.items()}
        steps = steps[steps <= last]
        axes.set_xlim(float(steps.min()), max(float(steps.max()), float(steps.min()) + 1) * 1.01)
        axes.axhline(target, color=MUTED, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
        for name, loss in losses.items():
            _line(axes, name, steps, loss, target)
        _limits(axes, [*losses.values(), np.array([target])])
        _end_labels(axes, {name: (steps, loss) for name, loss in losses.items()}, target)
    return figure


def reached(steps: np.ndarray, losses: np.ndarray, target: float) -> float | None:
    """Return after how many steps (k,) the loss (k,) first comes down to the target, or None.

    Between two steps the loss is taken to run straight.
    """
    there = np.flatnonzero(losses <= target)
    if not len(there):
        return None
    i = int(there[0])
    if i == 0 or not np.isfinite(losses[i - 1]):
        return float(steps[i])
    part = (losses[i - 1] - target) / (losses[i - 1] - losses[i])
    return float(steps[i - 1] + part * (steps[i] - steps[i - 1]))


def _last_of_interest(steps: np.ndarray, losses: Mapping[str, np.ndarray], target: float) -> float:
    """Return the last step that is drawn: all, or three times as many as the slowest model takes to the target."""
    took = [reached(steps, loss, target) for loss in losses.values()]
    if any(t is None for t in took):
        return float(steps[-1])
    return min(float(steps[-1]), max(10.0, 3 * max(t for t in took if t is not None)))


def _line(axes: Axes, name: str, steps: np.ndarray, losses: np.ndarray, target: float) -> None:
    dashes: Any = (0, (4, 2)) if name == "retrained" else (0, (1.2, 1.6)) if name == "control" else "solid"
    axes.plot(steps, losses, color=colour_of(name), linewidth=2, linestyle=dashes, zorder=4)
    if (took := reached(steps, losses, target)) is not None:
        axes.plot(
            [took], [min(target, float(losses[0]))], "o", color=colour_of(name), markersize=7, markeredgecolor=PAPER,
            markeredgewidth=1.1, zorder=6, clip_on=False,
        )  # fmt: skip


def _limits(axes: Axes, values: list[np.ndarray]) -> None:
    finite = np.concatenate([v[np.isfinite(v)] for v in values])
    low, high = float(finite.min()), float(finite.max())
    room = max(high - low, 1e-6)
    axes.set_ylim(max(0.0, low - 0.1 * room), high + 0.08 * room)


def _end_labels(axes: Axes, lines: Mapping[str, tuple[np.ndarray, np.ndarray]], target: float) -> None:
    """Name each line beside its end, with the steps that it took to the target."""
    low, high = axes.get_ylim()
    entries = [("target", target, MUTED, number(target))]
    for name, (steps, losses) in lines.items():
        finite = losses[np.isfinite(losses)]
        if not len(finite):
            continue
        took = reached(steps, losses, target)
        said = "not reached" if took is None else f"{number(took, 2)} step{'' if took == 1 else 's'}"
        entries.append((model_title(name), float(finite[-1]), colour_of(name), said))
    heights = [(value - low) / (high - low) for _, value, _, _ in entries]
    for (title, _, colour, said), height, place in zip(entries, heights, spread_apart(heights, 0.085)):
        axes.annotate(
            title, (1.0, height), xycoords="axes fraction", xytext=(1.045, place), textcoords="axes fraction",
            va="center", ha="left", fontsize=9.5, fontweight="bold" if title != "target" else "normal", color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 2, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip
        axes.annotate(
            said, (1.225, place), xycoords="axes fraction", va="center", ha="left", fontsize=9,
            color=INK if title != "target" else MUTED, annotation_clip=False,
        )  # fmt: skip
