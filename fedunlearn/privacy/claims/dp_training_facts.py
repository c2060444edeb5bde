"""The facts of a differentially private training, from which its certificates are made and can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedunlearn.errors import UserError, listed

RULE = "dp-training"
_GRANULARITIES = ("sample", "class", "client")
_EXTRACTORS = ("none", "public", "unverified")
_FLAGS = ("clipped_every_record", "fixed_divisor", "fresh_draws", "independent_coins", "public_start", "steps_fixed")


@dataclass(frozen=True)
class DpTrainingFacts:
    """What training did, and how many records were deleted since: the input of :func:`certify`.

    Attributes:
        method: name of the unlearning method.
        granularity: what the last request deleted: ``sample``, ``class`` or ``client``.
        sampling: how records entered a step; only ``poisson`` can be certified.
        rate: probability q of each record's coin, in (0, 1].
        steps: number of steps T, each with its coins and its noise.
        noise_multiplier: z, standard deviation of the noise on a sum in units of ``clip``.
        clip: bound C on the L2 norm of a record's contribution.
        forget_count: records deleted so far, over all requests.
        capacity: number of records that the noise was planned for.
        dim: number of parameters.
        clipped_every_record: every record's gradient was clipped by itself before the sum.
        fixed_divisor: sums were divided by a constant that depends on no record, never by the size of a sample.
        fresh_draws: every step drew noise of its own, once.
        independent_coins: every record had a coin of its own in every step.
        public_start: training started from a point that no record had touched.
        steps_fixed: the number of steps and the choice of the released vector did not depend on what was learned.
        extractor: ``none`` (features are a fixed rule per record), ``public`` or ``unverified``.
    """

    method: str
    granularity: str
    sampling: str
    rate: float
    steps: int
    noise_multiplier: float
    clip: float
    forget_count: int
    capacity: int
    dim: int
    clipped_every_record: bool
    fixed_divisor: bool
    fresh_draws: bool
    independent_coins: bool
    public_start: bool
    steps_fixed: bool
    extractor: str

    def __post_init__(self) -> None:
        """Refuse a word, flag or number that would be read as something it is not."""
        for name, allowed in (("granularity", _GRANULARITIES), ("extractor", _EXTRACTORS)):
            if (value := getattr(self, name)) not in allowed:
                raise UserError(f"facts.{name} = {value!r} is not allowed: it must be one of {listed(allowed)}")
        for name in ("method", "sampling"):
            if not isinstance(value := getattr(self, name), str):
                raise UserError(f"facts.{name} = {value!r} is not allowed: it must be a text")
        for name in _FLAGS:
            if not isinstance(value := getattr(self, name), bool):
                raise UserError(f"facts.{name} = {value!r} is not allowed: it must be true or false")
        for name, least in (("steps", 1), ("forget_count", 0), ("capacity", 1), ("dim", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise UserError(f"facts.{name} = {value!r} is not allowed: it must be a whole number from {least} on")
        for name, most in (("rate", 1.0), ("noise_multiplier", np.inf), ("clip", np.inf)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and 0 < value <= most and np.isfinite(value)):
                raise UserError(f"facts.{name} = {value!r} is not allowed: it must be a positive number up to {most:g}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the rule that turns these facts into a certificate."""
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in asdict(self).items()}
        return {"rule": RULE, **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DpTrainingFacts:
        """Return the facts that :meth:`to_dict` wrote into a certificate.

        Raises:
            UserError: if an entry is missing, unknown or ill-typed, or the rule is another one.
        """
        values = dict(plain)
        if (rule := values.pop("rule", None)) != RULE:
            raise UserError(f"facts.rule = {rule!r} is not known: it must be '{RULE}'")
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"facts do not describe a run: {str(error).split('__init__() ')[-1]}") from error
