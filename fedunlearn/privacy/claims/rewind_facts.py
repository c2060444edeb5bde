"""The facts of one answer by rewinding, from which its certificate is made and can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from fedunlearn.errors import UserError, listed
from fedunlearn.privacy.accounting.replay import Descent, Row, Runs

RULE = "rewind"
ROUNDING = 2.0**-24
"""Largest relative error of one rounding to float32."""
_CHOICES: dict[str, tuple[str, ...]] = {
    "granularity": ("sample", "class", "client"),
    "row": get_args(Row),
    "gradient_bound_by": ("clipping", "softmax", "measured"),
    "extractor": ("none", "public", "unverified"),
    "start_rows": ("checkpoint", "walked-back", "public"),
}
_TEXTS = ("method",)
_FLAGS = (
    "softmax_loss",
    "features_bounded",
    "schedule_over_ids",
    "fixed_divisor",
    "plain_steps",
    "equal_steps",
    "float64_steps",
    "mixing_kept",
    "all_deletions_counted",
    "public_start",
    "noise_on_both_sides",
    "fresh_draw",
)
_COUNTS = ("rewound", "nodes", "deleted", "total", "dim", "roundings")
_NUMBERS = ("l2", "gradient_bound", "sigma_drawn", "offset", "start_norm")
_OPTIONAL = ("clip", "smoothness", "radius", "residual")
_RUNS = ("rates", "shares")


@dataclass(frozen=True)
class RewindFacts:
    """What a run did when it answered one request by rewinding: the input of ``certify``.

    Attributes:
        method: name of the unlearning method.
        granularity: what was deleted.
        row: row of the loss in docs/certificates.md 4f.
        rates: step size of every step of the training, run-length encoded: (how many steps, step size).
        shares: of every step, the sum over nodes of deleted ids over ids of the batch, run-length encoded.
        rewound: how many of the last steps were taken back and replayed.
        nodes: rows that train, and whose mean is released; those without retained data count too.
        l2: coefficient of the L2 term.
        gradient_bound: G, bound on the norm of every record's gradient.
        gradient_bound_by: what makes it one: per-record ``clipping``, a ``softmax`` head on rows of norm at most one
            (sqrt 2), or nothing but a maximum ``measured`` in the run.
        clip: the clipping norm, where there is clipping.
        smoothness: L, Lipschitz constant of a record's gradient; None in the row ``clipped``.
        radius: radius of the ball that every step was projected to; None without a projection.
        softmax_loss: the loss is softmax cross-entropy of a linear head.
        features_bounded: every row was scaled to norm at most one in float64 by a rule of its own.
        schedule_over_ids: batches are a public function of the seed and of all ids a client ever had.
        fixed_divisor: gradient sums are divided by the ids of the batch, present or not.
        plain_steps: no momentum, no reduced precision: a step is a function of the row and the batch.
        equal_steps: every row takes every step, also one all of whose records are deleted.
        float64_steps: local steps are computed in float64; rows are stored in float32 either way.
        roundings: how often an entry of a row is rounded to float32 in a step, at most.
        start_norm: norm of the public start.
        mixing_kept: rows are mixed by the same doubly stochastic matrices with and without the deletion.
        all_deletions_counted: ``shares`` counts everything deleted since the rows that the replay starts from were
            trained.
        public_start: training starts from a vector that no record has touched.
        noise_on_both_sides: training ends with a release by the same noise.
        start_rows: what the replay started from: the stored ``checkpoint``, rows ``walked-back`` from the end of
            training, or the ``public`` start of the whole training.
        offset: public bound on the distance of walked-back rows from those that training had; 0 otherwise.
        residual: largest remainder that undoing one step left; None unless rows were walked back.
        deleted, total: ids counted in ``shares``, and all ids of the schedule.
        dim: number of parameters.
        extractor: ``none`` (features are a fixed rule per record), ``public`` or ``unverified``.
        fresh_draw: the noise was drawn for this release only.
        sigma_drawn: its standard deviation, fixed before training.
    """

    method: str
    granularity: Literal["sample", "class", "client"]
    row: Row
    rates: Runs
    shares: Runs
    rewound: int
    nodes: int
    l2: float
    gradient_bound: float
    gradient_bound_by: Literal["clipping", "softmax", "measured"]
    clip: float | None
    smoothness: float | None
    radius: float | None
    softmax_loss: bool
    features_bounded: bool
    schedule_over_ids: bool
    fixed_divisor: bool
    plain_steps: bool
    equal_steps: bool
    float64_steps: bool
    roundings: int
    start_norm: float
    mixing_kept: bool
    all_deletions_counted: bool
    public_start: bool
    noise_on_both_sides: bool
    start_rows: Literal["checkpoint", "walked-back", "public"]
    offset: float
    residual: float | None
    deleted: int
    total: int
    dim: int
    extractor: Literal["none", "public", "unverified"]
    fresh_draw: bool
    sigma_drawn: float

    def __post_init__(self) -> None:
        """Refuse a word, flag or number that would be read as something it is not."""
        for name, allowed in _CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise UserError(f"facts.{name} = {value!r} is not allowed: it must be one of {listed(allowed)}")
        for names, check, kind in (
            (_TEXTS, lambda v: isinstance(v, str), "a text"),
            (_FLAGS, lambda v: isinstance(v, bool), "true or false"),
            (_COUNTS, _is_count, "a whole number, not negative"),
            (_NUMBERS, _is_number, "a number"),
            (_OPTIONAL, lambda v: v is None or _is_number(v), "a number, or null"),
            (_RUNS, _is_runs, "a list of pairs of a number of steps and a value"),
        ):
            for name in names:
                if not check(value := getattr(self, name)):
                    raise UserError(f"facts.{name} = {value!r} is not allowed: it must be {kind}")
        for name in _RUNS:
            object.__setattr__(self, name, tuple((int(n), float(v)) for n, v in getattr(self, name)))

    def descent(self) -> Descent:
        """Return the recipe as the recursion of docs/certificates.md 4f wants it; UserError if a condition fails."""
        return Descent(
            self.row, self.rates, self.shares, self.nodes, self.l2, self.gradient_bound, self.smoothness, self.radius,
            self.offset, self.roundings * ROUNDING, self.start_norm,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the rule that turns these facts into a certificate."""
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in asdict(self).items()}
        plain |= {name: [list(pair) for pair in plain[name]] for name in _RUNS}
        return {"rule": RULE, **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RewindFacts:
        """Return the facts that :meth:`to_dict` wrote into a certificate.

        Raises:
            UserError: if an entry is missing, unknown or of the wrong kind, or they are not facts of a rewind.
        """
        values = dict(plain)
        if (rule := values.pop("rule", None)) != RULE:
            raise UserError(f"facts.rule = {rule!r} is not known: it must be '{RULE}'")
        names = [field.name for field in fields(cls)]
        for name in names:
            if name not in values:
                raise UserError(f"facts.{name} is missing: a rewind certificate cannot be rebuilt without it")
        if unknown := sorted(set(values) - set(names)):
            raise UserError(f"facts.{unknown[0]} is not known to a rewind certificate")
        return cls(**values)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 0)


def _is_runs(value: object) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    pairs = [isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value]
    return all(pairs) and all(_is_count(count) and count > 0 and _is_number(number) for count, number in value)
