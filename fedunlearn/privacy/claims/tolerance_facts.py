"""The facts of one answer to a deletion request, from which its certificate is made and can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from fedunlearn.errors import UserError, listed

RULE = "tolerance"
_CHOICES = {
    "granularity": ("sample", "class", "client"),
    "extractor": ("none", "public", "unverified"),
    "release": ("one-vector", "per-node", "shared-draw"),
    "start": ("released", "public", "secret"),
}
_FLAGS = (
    "l2_on_all_parameters",
    "convex_loss",
    "retained_objective",
    "retraining_always_stops",
    "softmax_loss",
    "features_bounded",
    "fresh_draw",
    "state_erased",
    "retained_messages_only",
)


@dataclass(frozen=True)
class RunFacts:
    """What a run did and saw when it answered one request: the input of ``certify``.

    Attributes:
        method: name of the unlearning method.
        granularity: what was deleted.
        lam: L2 coefficient of the objective.
        l2_on_all_parameters: the L2 term covers every parameter, bias included, and is not divided by the sample count.
        convex_loss: the data term is convex in the parameters for every record.
        retained_objective: the tested gradient was that of the retained data only, weighted by retained counts.
        retraining_always_stops: retraining by the same rule is proved to reach tau from its public start.
        tau: tolerance on the gradient norm.
        gradient_norm: gradient norm at the very vector that the noise was added to.
        gradient_dtype: arithmetic of that gradient.
        gradient_slack: bound on how far the tested gradient may be from the global one (T4); 0 for an all-reduce.
        rounding_bound: bound on the rounding error of that gradient (e64 of T3); None if there is none.
        softmax_loss: the data term is softmax cross-entropy of a linear head, for which T3 proves the rounding bound.
        features_bounded: every row was scaled to norm at most one in float64 by a rule of its own.
        dim: number of parameters.
        extractor: ``none`` (features are a fixed rule per record), ``public`` (trained on records that the code
            checked to be disjoint from the clients') or ``unverified``.
        release: ``one-vector`` (every row was overwritten by the one broadcast vector), ``per-node`` (each node
            releases its own model with its own draw) or ``shared-draw`` (one draw added to different rows).
        nodes: number of models released.
        consensus_bound: per-node release: public bound on the Frobenius norm of the rows' deviations from their mean.
        consensus_residual: per-node release: that norm in this run.
        fresh_draw: the noise was drawn for this release only.
        sigma_drawn: its standard deviation.
        start: what the search started from: the last ``released`` vector (or a function of it and retained data; an
            attempt from it that was abandoned counts too), a ``public`` start, or a ``secret`` noise-free vector.
        state_erased: noise-free vectors, noise and everything derived from deleted records were overwritten.
        retained_messages_only: every message of unlearning was computed from the start, retained data and public or
            fresh randomness.
        releases: with a secret start: how many successive releases the claim covers together.
        away: nodes that took no part in the answer, and hold an older model.
    """

    method: str
    granularity: Literal["sample", "class", "client"]
    lam: float
    l2_on_all_parameters: bool
    convex_loss: bool
    retained_objective: bool
    retraining_always_stops: bool
    tau: float
    gradient_norm: float
    gradient_dtype: str
    rounding_bound: float | None
    softmax_loss: bool
    features_bounded: bool
    dim: int
    extractor: Literal["none", "public", "unverified"]
    release: Literal["one-vector", "per-node", "shared-draw"]
    nodes: int
    fresh_draw: bool
    sigma_drawn: float
    start: Literal["released", "public", "secret"]
    state_erased: bool
    retained_messages_only: bool
    gradient_slack: float = 0.0
    consensus_bound: float = 0.0
    consensus_residual: float = 0.0
    releases: int = 1
    away: int = 0

    def __post_init__(self) -> None:
        """Refuse a word or flag that would be read as something it is not."""
        for name, allowed in _CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise UserError(f"facts.{name} = {value!r} is not allowed: it must be one of {listed(allowed)}")
        for name in _FLAGS:
            if not isinstance(value := getattr(self, name), bool):
                raise UserError(f"facts.{name} = {value!r} is not allowed: it must be true or false")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the rule that turns these facts into a certificate."""
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in asdict(self).items()}
        return {"rule": RULE, **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RunFacts:
        """Return the facts that :meth:`to_dict` wrote into a certificate.

        Raises:
            UserError: if an entry is missing or unknown, or they are not facts of a tolerance certificate.
        """
        values = dict(plain)
        if (rule := values.pop("rule", None)) != RULE:
            raise UserError(f"facts.rule = {rule!r} is not known: it must be '{RULE}'")
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"facts do not describe a run: {str(error).split('__init__() ')[-1]}") from error
