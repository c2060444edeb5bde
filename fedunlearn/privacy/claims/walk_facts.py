"""The facts of one walk of a token, from which its certificate is made and can be made again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from fedunlearn.errors import UserError, listed

RULE = "walk"
_CHOICES = {
    "granularity": ("sample", "class", "client"),
    "accounting": ("retrain", "conservative", "paper", "network-dp"),
    "alignment": ("exact", "lightweight"),
    "start": ("released", "secret", "public"),
    "extractor": ("none", "public", "unverified"),
}


@dataclass(frozen=True)
class WalkFacts:
    """What a walk did when it answered one request: the input of ``certify``.

    Attributes:
        method: name of the unlearning method.
        granularity: what was deleted.
        accounting: what is to be claimed. ``retrain``: the last token against the same walk from a model trained
            without the deleted data. ``conservative``: what the noisy visits add to what was known, composed.
            ``paper``: the same with the published factor ln N / N. ``network-dp``: the training walk itself, noisy at
            every hop, for whoever is deleted later.
        alignment: where the steps at visits come from: ``exact``, retained data; ``lightweight``, deleted data.
        hops: T, length of the walk; hops that only forward the token do not count.
        visits: hops, from 1, after whose step noise was added (``network-dp``: hops at which a node that holds
            deleted records had the token). Empty where the route is hidden: the claim is then about
            ``restart_probability`` alone.
        nodes: N, nodes of the network.
        lr: step size.
        clip: C, bound on the norm of every gradient that was followed.
        noise: standard deviation of the noise of a visit over ``lr``, in units of gradients.
        start: what the token was when it set out: the last ``released`` vector, a ``secret`` noise-free model, or a
            ``public`` point.
        start_radius: C_0, radius of the public ball for starts; 0 with a public start.
        start_projected: the start was projected onto the ball of that radius around a public point.
        ball_radius: radius of the public ball onto which each visit projected the token before its noise; None if
            there is none.
        trust_radius: radius of a ball around the trained model that visits projected onto; None if there is none.
        route_public: the route was drawn from public randomness and may be known to everyone.
        noise_after_step: at visits noise was the last thing, after step and public projection.
        clipped_everywhere: at every hop each followed gradient had norm at most ``clip``.
        plain_steps: steps were ``lr`` times such a gradient (and the L2 term), no momentum, no adaptive scaling.
        maps_shared: apart from lightweight steps at visits, each hop was a function of token, retained data and public
            randomness that the other world shares: route, batches, and settings.
        fresh_draw: every visit drew noise of its own, used once.
        state_erased: tokens, noise and all that was derived from deleted data were overwritten by the release.
        forget_count: deleted records, at least 1.
        client_count: records of the visited client before the deletion, at least 1.
        dim: number of parameters.
        extractor: ``none`` (features are a fixed rule per record), ``public`` (trained on records that the code
            checked to be disjoint from the clients') or ``unverified``.
        local_steps: gradient steps at a hop that is no visit.
        contraction: ``1 - lr l2`` where the L2 term stands outside the clip, else 1.
        restart_probability: p, probability that a hop is a visit, independent of all else; needed where the route is
            hidden and in paper accounting.
        complete_graph: every node is every other's neighbour, and a hop goes to each with the same probability.
        noise_every_hop: every hop added noise.
        convex_smooth: the objective is convex and ``lr`` at most ``2/smoothness``, so steps are non-expansive.
    """

    method: str
    granularity: Literal["sample", "class", "client"]
    accounting: Literal["retrain", "conservative", "paper", "network-dp"]
    alignment: Literal["exact", "lightweight"]
    hops: int
    visits: tuple[int, ...]
    nodes: int
    lr: float
    clip: float
    noise: float
    start: Literal["released", "secret", "public"]
    start_radius: float
    start_projected: bool
    ball_radius: float | None
    trust_radius: float | None
    route_public: bool
    noise_after_step: bool
    clipped_everywhere: bool
    plain_steps: bool
    maps_shared: bool
    fresh_draw: bool
    state_erased: bool
    forget_count: int
    client_count: int
    dim: int
    extractor: Literal["none", "public", "unverified"]
    local_steps: int = 1
    contraction: float = 1.0
    restart_probability: float | None = None
    complete_graph: bool = False
    noise_every_hop: bool = False
    convex_smooth: bool = False

    def __post_init__(self) -> None:
        """Refuse a value that would be read as something it is not."""
        for name, allowed in _CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise UserError(f"facts.{name} = {value!r} is not allowed: it must be one of {listed(allowed)}")
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if kind == "bool" and not isinstance(value, (bool, np.bool_)):
                raise UserError(f"facts.{field.name} = {value!r} is not allowed: it must be true or false")
            if kind == "int" and not (_is(value, Integral) and value >= 1):
                raise UserError(f"facts.{field.name} = {value!r} is not allowed: it must be a whole number from 1 on")
            if kind.startswith("float") and not _is_number(value, none_too=kind.endswith("None")):
                raise UserError(
                    f"facts.{field.name} = {value!r} is not allowed: it must be a number that is not negative"
                )
        if not (isinstance(self.visits, (tuple, list)) and all(_is(hop, Integral) for hop in self.visits)):
            raise UserError(f"facts.visits = {self.visits!r} is not allowed: it must be a list of hops")
        object.__setattr__(self, "visits", tuple(int(hop) for hop in self.visits))
        if any(not 1 <= hop <= self.hops for hop in self.visits) or list(self.visits) != sorted(set(self.visits)):
            raise UserError(f"facts.visits = {list(self.visits)} is not allowed: increasing hops from 1 to {self.hops}")
        if self.contraction > 1:
            raise UserError(f"facts.contraction = {self.contraction} is not allowed: it must not exceed 1")
        if self.restart_probability is not None and self.restart_probability > 1:
            raise UserError(f"facts.restart_probability = {self.restart_probability} is not allowed: it is above 1")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the rule that turns these facts into a certificate."""
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in asdict(self).items()}
        return {"rule": RULE, **plain, "visits": list(self.visits)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> WalkFacts:
        """Return the facts that :meth:`to_dict` wrote into a certificate.

        Raises:
            UserError: if an entry is missing, unknown or ill-typed, or they are not facts of a walk.
        """
        values = dict(plain)
        if (rule := values.pop("rule", None)) != RULE:
            raise UserError(f"facts.rule = {rule!r} is not known: it must be '{RULE}'")
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"facts do not describe a walk: {str(error).split('__init__() ')[-1]}") from error


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_number(value: Any, *, none_too: bool) -> bool:
    if value is None:
        return none_too
    return _is(value, Real) and value >= 0 and math.isfinite(value)
