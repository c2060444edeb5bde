"""The facts of one answer by a broadcast correction, from which its certificate is made and can be made again."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from fedunlearn.errors import UserError, listed

RULE = "correction"


@dataclass(frozen=True)
class CorrectionFacts:
    """What a run did and saw when it answered one request by adding ``v`` and one noise vector to every model.

    Attributes:
        method, granularity: the method, and what was deleted.
        lam, dim: L2 coefficient on all parameters, and their number.
        convex_loss: the data term is convex in the parameters.
        softmax_rows: it is softmax cross-entropy on rows scaled to norm at most one in float64.
        extractor: as in a tolerance certificate: ``none``, ``public`` or ``unverified``.
        bound: ``measured``: the correction was accepted by the retained gradient after it; ``worst-case``: its error is
            bounded by constants.
        gradient: ``retained`` (of the retained data) or ``forget-set`` (of the deleted records).
        curvature: the matrix whose inverse was applied; ``auto``: the exact Hessian, by conjugate gradients.
        own_curvature: it was taken over the asking client's records instead of all retained ones.
        damping: added to it.
        weighting, clients, total, forgotten: weights, clients with data and records before the deletion, and
            ``(m_u, n_u)`` of every client that lost records.
        leavers: vertices that were taken out of the graph.
        nodes: vertices that were left.
        tau: public gradient norm at which training and retraining end.
        retraining_always_stops: they are proved to get there.
        first_answer: nothing was deleted before, so that the models still were those that training ended with.
        residual_bound: measured bound: public r_max.
        solve: worst-case bound: public relative residual of the linear system.
        gradient_norm: retained gradient before the correction, the norm as computed; None if nobody computed it.
        residual_norm: retained gradient after it (measured bound), or what is left of the linear system (worst case).
        rounding_bound: bound on the rounding error of these gradients; None if there is none.
        consensus_bound, consensus_residual: public bound c on every model's distance to the mean, and the largest in
            this run; both 0 where all nodes hold one vector.
        correction_norm: norm of v.
        clipped: v was shortened to a public radius.
        always_sent: the message is sent whether or not the correction is accepted, so that nothing follows from a run
            in which it was not.
        fell_back: the correction was not accepted and the network retrained.
        recovery: what the node did after the noise: ``none``, ``local`` steps on its own data, or a ``round`` of
            training with mixing.
        releases: how many answers the claim covers together.
        fresh_draw, sigma_drawn: the noise was drawn for this answer only; its standard deviation.
    """

    method: str
    granularity: Literal["sample", "class", "client"]
    lam: float
    dim: int
    convex_loss: bool
    softmax_rows: bool
    extractor: Literal["none", "public", "unverified"]
    bound: Literal["measured", "worst-case"]
    gradient: Literal["retained", "forget-set"]
    curvature: str
    own_curvature: bool
    damping: float
    weighting: Literal["equal", "samples"]
    clients: int
    total: int
    forgotten: tuple[tuple[int, int], ...]
    leavers: int
    nodes: int
    tau: float
    retraining_always_stops: bool
    first_answer: bool
    residual_bound: float
    solve: float
    gradient_norm: float | None
    residual_norm: float | None
    rounding_bound: float | None
    consensus_bound: float
    consensus_residual: float
    correction_norm: float
    clipped: bool
    always_sent: bool
    fell_back: bool
    recovery: Literal["none", "local", "round"]
    releases: int
    fresh_draw: bool
    sigma_drawn: float

    @property
    def one_vector(self) -> bool:
        """Whether all nodes held the same bits before the correction."""
        return self.consensus_bound == 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the rule that turns these facts into a certificate."""
        return plain_facts(self, RULE)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> CorrectionFacts:
        """Return the facts that :meth:`to_dict` wrote; UserError if an entry is missing, unknown or ill-typed."""
        values = dict(plain)
        pairs = values.get("forgotten")
        if isinstance(pairs, (list, tuple)):
            values["forgotten"] = tuple(tuple(pair) if isinstance(pair, (list, tuple)) else pair for pair in pairs)
        found: CorrectionFacts = facts_from(cls, values, RULE)
        if not all(
            isinstance(pair, tuple) and len(pair) == 2 and all(type(n) is int for n in pair) for pair in found.forgotten
        ):
            raise UserError("facts.forgotten is not allowed: it must be a list of pairs of whole numbers")
        return found


def plain_facts(facts: Any, rule: str) -> dict[str, Any]:
    """Return a facts dataclass as plain JSON values, numpy numbers included, with its rule."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        return [plain(entry) for entry in value] if isinstance(value, tuple) else value

    return {"rule": rule, **{field.name: plain(getattr(facts, field.name)) for field in fields(facts)}}


def facts_from(cls: type[Any], plain: Mapping[str, Any], rule: str) -> Any:
    """Return a facts dataclass from plain values, each checked against its field's type.

    Raises:
        UserError: if the rule is another one, or an entry is missing, unknown or ill-typed.
    """
    values = dict(plain)
    if (found := values.pop("rule", None)) != rule:
        raise UserError(f"facts.rule = {found!r} is not known: it must be '{rule}'")
    try:
        facts = cls(**values)
    except TypeError as error:
        raise UserError(f"facts do not describe a run: {str(error).split('__init__() ')[-1]}") from error
    for name, kind in get_type_hints(cls).items():
        if not _fits(value := getattr(facts, name), kind):
            allowed = listed(get_args(kind)) if get_origin(kind) is Literal else _WORDS.get(kind, "as a run wrote it")
            raise UserError(f"facts.{name} = {value!r} is not allowed: it must be {allowed}")
    return facts


_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is types.UnionType:
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple)
    if kind is type(None):
        return value is None
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
