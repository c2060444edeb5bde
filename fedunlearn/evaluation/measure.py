"""What the battery hands back: numbers that stand beside what they must be read against, and refusals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from fedunlearn.errors import UserError

Section = Literal[
    "membership", "shadows", "distance", "populations", "relearning", "backdoor", "network", "side effects"
]
COLUMNS = ("original", "unlearned", "retrained", "control")
"""The models that a number is given for: before the request, after its answer, trained again without the deleted data,
and trained again once more with another seed. *control* says how much of a number is chance of training."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, where one is known; the interval is of samples unless ``reads`` says otherwise.

    Raises ValueError for a number or a limit that is not finite.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high) if x is not None):
            raise ValueError(f"an estimate must be finite, not {self.value} in [{self.low}, {self.high}]")


@dataclass(frozen=True)
class Measure:
    """One line of the battery: a number of up to four models.

    Attributes:
        name: what is measured, with its direction where there is one, such as ``loss_auc_forget_below_test``.
        section: where the line is printed.
        reads: one sentence that says what the number means and which value says that nothing is left.
        original, unlearned, retrained, control: see :data:`COLUMNS`; None where the number does not exist. A distance
            to the retrained model has no ``retrained``, and its ``control`` is the floor that chance sets.
        samples: how many of what the number rests on, such as ``{"forget": 148, "test": 399}``.
    """

    name: str
    section: Section
    reads: str
    original: Estimate | None = None
    unlearned: Estimate | None = None
    retrained: Estimate | None = None
    control: Estimate | None = None
    samples: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A number that was asked for and is not given, with one sentence that says why and what would be needed."""

    name: str
    section: Section
    reason: str


@dataclass(frozen=True)
class Found:
    """What one part of the battery found: lines, refusals, and tables of plain numbers for the figures."""

    measures: tuple[Measure, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    curves: dict[str, Any] = field(default_factory=dict)


def together(parts: Iterable[Found]) -> Found:
    """Return several parts as one; curves of the same name must be lists, which are joined.

    Raises ValueError when two lines have one name, or two curves that are not lists.
    """
    measures: list[Measure] = []
    refusals: list[Refusal] = []
    curves: dict[str, Any] = {}
    for part in parts:
        measures += part.measures
        refusals += part.refusals
        for name, curve in part.curves.items():
            if name not in curves:
                curves[name] = curve
            elif isinstance(curve, list) and isinstance(curves[name], list):
                curves[name] = curves[name] + curve
            else:
                raise ValueError(f"two parts of the battery hand back curves '{name}'")
    names = [measure.name for measure in measures]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two lines of the battery have the name {sorted(twice)[0]}")
    return Found(tuple(measures), tuple(refusals), curves)


def refuse_few(name: str, have: int, need: int, what: str) -> None:
    """Raise UserError, one sentence, when there are fewer samples than a number needs."""
    if have < need:
        raise UserError(f"{name} needs at least {need} {what}, and there are {have}")
