"""How far rewinding ends from retraining, step by step over a public schedule, on one node or on many.

docs/certificates.md 4f. Step t of node i adds up the gradients of the *present* records among the ids that a public
schedule gives it, divides by the number of ids (fixed: a deleted id leaves a hole), and adds the L2 term:

    x_i <- x_i - (eta_t / b_it) sum_present grad l_r(x_i) - eta_t lambda x_i,   then rows are mixed, x <- W x, in some.

The run on all records and the run on the retained ones start together and use the same schedule. Let m_it of the b_it
ids be deleted, G bound every record's gradient, and d_t bound the *sum over nodes* of the distances of their rows in
the two runs. Doubly stochastic mixing does not increase that sum, so

    d_{t+1} = min { kappa d_t + eta G S_t,   |1 - eta lambda| d_t + eta G S_t + 2 eta G P_t,   2 R N }

with ``S_t = sum_i m_it/b_it`` before the rewind point and 0 from it on, and ``P_t = sum_i (b_it - m_it)/b_it``. The
mean of the rows, which is what is released, moves by at most ``d_T / N``. The factor kappa depends on the loss:

===================  =====================================  ===========================  =============================
row                  loss of a record                       kappa                        needs
===================  =====================================  ===========================  =============================
``strongly-convex``  convex, gradient L-Lipschitz,          1 - eta lambda               eta (L + 2 lambda) <= 2
                     unclipped; lambda > 0
``convex``           convex, gradient L-Lipschitz,          1                            eta L <= 2 (lambda = 0)
                     unclipped; lambda = 0
``smooth``           gradient L-Lipschitz, clipped or not   abs(1 - eta lambda)+ eta L   nothing
``clipped``          any, gradients clipped to G            none: the second entry only  nothing
===================  =====================================  ===========================  =============================

A clipped gradient of a convex loss need not be the gradient of any convex function, which is why clipping that acts
leaves only the last two rows. Distances are in units of the parameters, G and L per parameter and squared parameter.

Rows are rounded when they are stored and when they are mixed. The two runs round alike until they differ; from then on
a step adds ``2 r N B``, where r is the relative rounding error of a row in a step and B bounds the norm of every row,
``B <- max{B, min{|1 - eta lambda| B + eta G, R}}``, starting at the norm of the public start.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, get_args

from fedunlearn.errors import UserError, listed

Row = Literal["strongly-convex", "convex", "smooth", "clipped"]
Runs = tuple[tuple[int, float], ...]
"""A sequence of numbers, one a step, run-length encoded: (how many steps, the number)."""


@dataclass(frozen=True)
class Descent:
    """A public recipe, and what the deletions so far take out of its schedule.

    Attributes:
        row: which row of the table above the loss belongs to.
        rates: eta of every step.
        shares: S of every step: over all nodes, the sum of deleted ids over ids of the step's batch.
        nodes: N, all of which take every step.
        l2: lambda.
        gradient: G.
        smoothness: L; None in the row ``clipped``.
        radius: R of a projection of every row after every step; None without one.
        offset: a bound on how far the rows that the replay starts from may each be from those that training had there.
        rounding: r, largest rounding error of a row in one step over the norm of the row; 0 for exact arithmetic.
        start_norm: norm of the public start.
    """

    row: Row
    rates: Runs
    shares: Runs
    nodes: int
    l2: float
    gradient: float
    smoothness: float | None = None
    radius: float | None = None
    offset: float = 0.0
    rounding: float = 0.0
    start_norm: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and a step size that breaks the row's condition."""
        if self.row not in get_args(Row):
            raise UserError(f"row = '{self.row}' is not known (allowed: {listed(get_args(Row))})")
        if self.nodes < 1:
            raise UserError(f"nodes = {self.nodes} is not allowed: it must be at least 1")
        for name, least in (
            ("l2", 0.0), ("offset", 0.0), ("rounding", 0.0), ("start_norm", 0.0), ("gradient", math.ulp(0.0))
        ):  # fmt: skip
            if not least <= (value := getattr(self, name)) < math.inf:
                raise UserError(f"{name} = {value} is not allowed: it must be finite and at least {least:g}")
        if self.radius is not None and not 0 < self.radius < math.inf:
            raise UserError(f"radius = {self.radius} is not allowed: it must be a positive finite number")
        if length(self.rates) != length(self.shares):
            raise UserError(
                f"rates of {length(self.rates)} steps and shares of {length(self.shares)} do not belong together"
            )
        for _, share in self.shares:
            if not 0 <= share <= self.nodes:
                raise UserError(f"a share of {share} is not allowed: it must lie between 0 and nodes = {self.nodes}")
        for _, rate in self.rates:
            if not 0 < rate < math.inf:
                raise UserError(f"a rate of {rate} is not allowed: it must be a positive finite number")
            factor(self.row, rate, self.l2, self.smoothness)

    @property
    def steps(self) -> int:
        """T, the number of steps of the whole training."""
        return length(self.rates)


def factor(row: Row, rate: float, l2: float, smoothness: float | None) -> float | None:
    """Return kappa of a row at a step size; None where the row has none.

    Raises:
        UserError: if the step size breaks the row's condition, or a constant of the row is missing.
    """
    if row == "clipped":
        return None
    if smoothness is None or not 0 <= smoothness < math.inf:
        raise UserError(f"smoothness = {smoothness} is not allowed for a {row} loss: it must be a finite bound")
    if row == "smooth":
        return abs(1.0 - rate * l2) + rate * smoothness
    if (row == "strongly-convex") != (l2 > 0):
        raise UserError(f"l2 = {l2:g} is not allowed for a {row} loss: it must be {'above 0' if l2 == 0 else '0'}")
    largest = largest_rate(smoothness, l2)
    if rate > largest * (1 + 1e-12):
        raise UserError(
            f"lr = {rate:g} is too large for the {row} bound of a rewind: two runs may drift apart (allowed: up to "
            f"{largest:.6g})"
        )
    return 1.0 - rate * l2


def largest_rate(smoothness: float, l2: float) -> float:
    """Return the largest eta at which a step on a convex loss contracts by ``1 - eta lambda``: ``2/(L + 2 lambda)``."""
    return 2.0 / (smoothness + 2.0 * l2) if smoothness + l2 > 0 else math.inf


def distance(descent: Descent, rewound: int) -> float:
    """Return d_T after a rewind of the last ``rewound`` steps: the sum over nodes of their rows' distances.

    It also bounds the Frobenius norm of all rows' differences together, and the difference of any one row.

    Raises:
        UserError: if ``rewound`` is not between 0 and T.
    """
    return reduce(lambda _, d: d, path(descent, rewound), 0.0)


def path(descent: Descent, rewound: int) -> Iterator[float]:
    """Yield d_1 to d_T, the recursion of this module; the rewind point's ``offset`` is in all that follow it."""
    if not 0 <= rewound <= descent.steps:
        raise UserError(f"rewound = {rewound} is not allowed: it must lie between 0 and steps = {descent.steps}")
    at, nodes = descent.steps - rewound, descent.nodes
    d = descent.nodes * descent.offset if at == 0 else 0.0
    radius = math.inf if descent.radius is None else descent.radius
    ball, norm = 2.0 * radius * nodes, descent.start_norm
    for t, (rate, share) in enumerate(_steps(descent)):
        source = rate * descent.gradient * share if t < at else 0.0
        present = 2.0 * rate * descent.gradient * (nodes - share)
        kappa = factor(descent.row, rate, descent.l2, descent.smoothness)
        contracted = math.inf if kappa is None else kappa * d + source
        shrunk = abs(1.0 - rate * descent.l2)
        norm = max(norm, (1.0 + descent.rounding) * min(shrunk * norm + rate * descent.gradient, radius))
        d = min(contracted, shrunk * d + source + present, ball) if d or source else 0.0
        if d:
            d += 2.0 * descent.rounding * nodes * norm
        if t + 1 == at:
            d += nodes * descent.offset
        yield d


def average_distance(descent: Descent, rewound: int) -> float:
    """Return the sensitivity of the released mean of the rows, ``d_T / N``."""
    return distance(descent, rewound) / descent.nodes


def joint_distance(descent: Descent, rewound: int) -> float:
    """Return a bound on the Frobenius norm of all rows' differences, ``d_T``; each single row obeys it too."""
    return distance(descent, rewound)


def rewind_for(descent: Descent, allowed: float, candidates: Sequence[int] | None = None) -> int | None:
    """Return the smallest K of ``candidates`` (default: all) whose released mean is within ``allowed``; None if none.

    ``allowed = sigma mu(epsilon, delta)`` for a claim that is planned with noise sigma.
    """
    if candidates is not None:
        return next((k for k in sorted(candidates) if average_distance(descent, k) <= allowed), None)
    low, high = 0, descent.steps
    if average_distance(descent, high) > allowed:
        return None
    while low < high:  # rewinding farther never hurts: sources only go away
        middle = (low + high) // 2
        if average_distance(descent, middle) <= allowed:
            high = middle
        else:
            low = middle + 1
    return high


def gradient_only(descent: Descent) -> float:
    """Return ``2 G sum_t eta_t``, what gradients bounded by G allow of any loss, whatever is rewound."""
    return 2.0 * descent.gradient * sum(count * rate for count, rate in descent.rates)


def inverse_error(residual: float, rate: float, l2: float, smoothness: float, steps: int) -> float:
    """Return how far a walk back by ``steps`` steps may end from where training came by.

    One step is undone by solving ``x - eta grad(x) = y`` up to a remainder of norm ``residual``. The left side expands
    distances at least by ``1 - eta (L + lambda)``, so the error e obeys ``e <- (e + residual)/(1 - eta (L + lambda))``:
    it grows exponentially with the number of steps.

    Raises:
        UserError: if ``eta (L + lambda)`` is not below 1, where a step cannot be undone.
    """
    shrink = 1.0 - rate * (smoothness + l2)
    if not shrink > 0:
        raise UserError(
            f"lr = {rate:g} is too large to undo a step (allowed: below {1.0 / (smoothness + l2):.6g}, so that "
            "lr (L + l2) < 1)"
        )
    error = 0.0
    for _ in range(steps):
        error = (error + residual) / shrink
    return error


def runs(values: Sequence[float]) -> Runs:
    """Return a sequence run-length encoded."""
    out: list[tuple[int, float]] = []
    for value in map(float, values):
        if out and out[-1][1] == value:
            out[-1] = (out[-1][0] + 1, value)
        else:
            out.append((1, value))
    return tuple(out)


def length(encoded: Runs) -> int:
    """Return how many numbers a run-length encoded sequence has."""
    return sum(count for count, _ in encoded)


def _steps(descent: Descent) -> Iterator[tuple[float, float]]:
    expanded = (tuple(v for count, v in part for _ in range(count)) for part in (descent.rates, descent.shares))
    return zip(*expanded, strict=True)
