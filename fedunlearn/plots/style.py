"""One look for all figures: colours that colour-blind readers can tell apart, direct labels, no frames.

Figures are plain ``matplotlib.figure.Figure`` objects drawn without pyplot, so that drawing changes nothing global and
needs no display.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedunlearn.errors import UserError
from fedunlearn.results.words import is_control

SCHEMA = "fedunlearn/figure/1"
DPI = 150

INK, MUTED, FAINT, PAPER = "#1f2430", "#6b7280", "#d9dce1", "#ffffff"
BLUE, GREEN, VERMILLION, PURPLE, SKY = "#0072b2", "#009e73", "#d55e00", "#aa4499", "#56b4e9"
COLOURS = {"original": BLUE, "retrained": GREEN, "unlearned": VERMILLION}
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, SKY)
"""Okabe and Ito (2008), with a darker purple that stays readable as text on white."""

_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same figure on every machine
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelsize": 9.5,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.unicode_minus": True,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "mathtext.fontset": "dejavusans",
}


def colour_of(model: str) -> str:
    """Return the colour of a model, the same in every figure; controls are grey."""
    return MUTED if is_control(model) else COLOURS[model]


@contextmanager
def look() -> Iterator[None]:
    """Use the house style inside the block."""
    with matplotlib.rc_context(_RC):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def headline(figure: Figure, title: str, subtitle: str = "", *, left: float = 0.012) -> None:
    """Write a title and a quieter second line at the top left of a figure."""
    height = float(figure.get_size_inches()[1])
    figure.text(left, 1 - 0.10 / height, title, fontsize=12.5, fontweight="bold", va="top", ha="left", color=INK)
    if subtitle:
        figure.text(left, 1 - 0.37 / height, subtitle, fontsize=9.5, va="top", ha="left", color=MUTED)


def horizontal_grid(axes: Axes) -> None:
    """Put faint horizontal lines behind the data and take the vertical axis line away."""
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def spread_apart(places: Sequence[float], gap: float) -> list[float]:
    """Return places at least ``gap`` apart, in the same order, as near as possible to the wanted ones.

    Labels beside the ends of lines are put there. The result minimises the sum of squared moves: groups that touch are
    merged and centred, from below (pool adjacent violators on ``place - rank * gap``).
    """
    order = np.argsort(places, kind="stable")
    blocks: list[list[float]] = []  # each: [sum of shifted places, count]
    for rank, index in enumerate(order):
        blocks.append([places[index] - rank * gap, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    shifted = [total / count for total, count in blocks for _ in range(int(count))]
    result = [0.0] * len(places)
    for rank, index in enumerate(order):
        result[index] = shifted[rank] + rank * gap
    return result


def save(figure: Figure, path: Path) -> Path:
    """Write a figure and return the path; the suffix names the kind of image. Equal figures give equal PNG files.

    Raises UserError for a path that cannot be written and for a suffix that is no kind of image.
    """
    kind = path.suffix.lower()
    kinds = sorted(figure.canvas.get_supported_filetypes())
    if kind[1:] not in kinds:
        raise UserError(f"{path}: '{path.suffix}' is not a kind of image (allowed: {', '.join(kinds)})")
    metadata: Any = {"Software": None, "Schema": SCHEMA} if kind == ".png" else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, metadata=metadata)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    return path
