"""What an audit saw: the trade-off between an observer's two errors beside the claimed one, and the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from fedunlearn.plots.style import COLOURS, FAINT, INK, MUTED, PAPER, SKY, headline, look, new_figure
from fedunlearn.results.words import number

Errors = NDArray[np.float64]
_ROW, _HEAD, _FOOT = 2.95, 0.75, 0.55
"""Height of one game, of the headline, and of the lowest axis label, in inches."""
BINS = 40
_ERRORS = ("false_positive", "false_negative")


@dataclass(frozen=True)
class AuditPanel:
    """One game: what is claimed, the scores (n,) of the counted trials, and the errors (m,) they give.

    ``errors`` holds ``false_positive`` (share of retrained scores above a threshold) and ``false_negative`` (share of
    unlearned scores not above it) over thresholds, each also with the endings ``_low`` and ``_high`` of its bounds.
    ``mu`` is None where the claim is about the one pair (epsilon, delta).
    """

    title: str
    verdict: str
    refuted: bool
    epsilon: float
    delta: float
    mu: float | None
    unlearned: Errors
    retrained: Errors
    threshold: float
    errors: Mapping[str, Errors]


def audit_figure(panels: Sequence[AuditPanel], title: str, subtitle: str = "") -> Figure:
    """Return the figure of an audit, one row a game: trade-off curve on the left, histogram of scores on the right.

    The shaded claim is where no observer can be if it is true: below the trade-off curve of Dong, Roth and Su (2022).
    """
    height = _HEAD + _ROW * len(panels) + _FOOT - 0.35
    with look():
        figure = new_figure(8.6, height)
        headline(figure, title, subtitle)
        for row, panel in enumerate(panels):
            bottom = (height - _HEAD - _ROW * (row + 1) + 0.55) / height
            left = figure.add_axes((0.075, bottom, 0.36, (_ROW - 0.95) / height))
            right = figure.add_axes((0.545, bottom, 0.425, (_ROW - 0.95) / height))
            _trade_off(left, panel, first=row == 0)
            _histograms(right, panel)
            verdict_colour = COLOURS["unlearned"] if panel.refuted else MUTED
            top = bottom + (_ROW - 0.95 + 0.26) / height
            figure.text(0.075, top, panel.title, fontsize=10, fontweight="bold", color=INK, va="center")
            figure.text(0.97, top, panel.verdict, fontsize=10, color=verdict_colour, va="center", ha="right")
    return figure


def claimed_curve(false_alarm: Errors, epsilon: float, delta: float, mu: float | None) -> Errors:
    """Return the smallest share of misses that a claim allows at every share of false alarms.

    ``Phi(Phi^-1(1 - a) - mu)`` for a Gaussian claim (Dong, Roth and Su 2022, eq. 6); for one pair the larger of
    ``1 - delta - e^epsilon a`` and ``e^-epsilon (1 - delta - a)``, and zero (Wasserman and Zhou 2010, Theorem 2.4).
    """
    if mu is not None:
        return np.asarray(ndtr(-ndtri(false_alarm) - mu))
    factor = np.exp(min(epsilon, 700.0))
    lines = (1 - delta - factor * false_alarm, (1 - delta - false_alarm) / factor)
    return np.maximum(np.maximum(*lines), 0.0)


def _trade_off(axes: Axes, panel: AuditPanel, first: bool) -> None:
    grid = np.linspace(0, 1, 401)
    claim = claimed_curve(grid, panel.epsilon, panel.delta, panel.mu)
    axes.fill_between(grid, 0, claim, color=FAINT, alpha=0.55, linewidth=0)
    axes.plot(grid, claim, color=MUTED, linewidth=1.2)
    errors = panel.errors
    low, high = (np.column_stack([errors[f"{of}_{end}"] for of in _ERRORS]) for end in ("low", "high"))
    axes.fill(*np.concatenate([low, high[::-1]]).T, color=SKY, alpha=0.45, linewidth=0)
    axes.plot(*(errors[of] for of in _ERRORS), color=COLOURS["original"], linewidth=1.6)
    at = (float((panel.retrained > panel.threshold).mean()), float((panel.unlearned <= panel.threshold).mean()))
    axes.plot(
        *at, "o", color=COLOURS["original"], markeredgecolor=PAPER, markersize=7, zorder=5, clip_on=False
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "", "0.5", "", "1"])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "", "0.5", "", "1"])
    axes.tick_params(length=0)
    axes.set_xlabel("share of retrained taken for unlearned")
    axes.set_ylabel("share of unlearned missed")
    name = f"ε = {number(panel.epsilon)}" + ("" if panel.mu is None else f", μ = {number(panel.mu)}")
    below: dict[str, Any] = {"fontsize": 8.5, "ha": "left", "va": "bottom", "transform": axes.transAxes}
    axes.text(0.03, 0.03, f"below the claim {name}:\nnobody, if it is true", color=MUTED, **below)
    if first:
        above = {**below, "ha": "right", "va": "top"}
        axes.text(0.98, 0.98, "measured, with exact bounds", color=COLOURS["original"], **above)


def _histograms(axes: Axes, panel: AuditPanel) -> None:
    both = np.concatenate([panel.unlearned, panel.retrained])
    low, high = float(both.min()), float(both.max())
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    tops = []
    for name, scores in (("retrained", panel.retrained), ("unlearned", panel.unlearned)):
        counts, _ = np.histogram(scores, edges)
        tops.append(counts.max())
        axes.stairs(counts / len(scores), edges, fill=True, color=COLOURS[name], alpha=0.25)
        axes.stairs(counts / len(scores), edges, color=COLOURS[name], linewidth=1.5, baseline=None)
    top = max(tops) / len(panel.unlearned) * 1.3
    axes.set_ylim(0, top)
    if low <= panel.threshold <= high:
        axes.axvline(panel.threshold, color=MUTED, linewidth=1, linestyle=(0, (3, 2)), ymax=0.84)
    for place, (name, align) in enumerate((("retrained", "left"), ("unlearned", "right"))):
        axes.text(place, 0.985, name, color=COLOURS[name], fontweight="bold", ha=align, va="top", fontsize=9,
                  transform=axes.transAxes)  # fmt: skip
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("score of a release (dashed: the chosen threshold)")
