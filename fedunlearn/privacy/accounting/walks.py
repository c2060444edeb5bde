"""A token that walks over the network: what its noisy visits hide of the model it started from.

One model walks T hops. At every hop its holder takes a step along a gradient of retained data clipped to C; at the
visits of one node that step is followed by noise of standard deviation ``lr noise``. The other world is the same walk,
same route and same batches, from a model that never saw the deleted data. Starts projected onto a public ball of radius
C_0 are at most 2 C_0 apart, each hop adds at most 2 lr C, and the noise of the visits merges the worlds
(docs/certificates.md, T7 and T8). Three ways to deal with a random number of visits are here: the route is public and
drawn first (:func:`walk_mu`), the route stays hidden (:func:`hidden_route_delta`), or the walk goes on until it has
made a fixed number of visits (:func:`capped_walk_mu`).

``noise`` is in units of gradients, as ``clip``; ``start_radius`` and ``ball`` in units of the parameters; mu, epsilon
and delta are dimensionless. Hops are numbered from 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal, TypedDict

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian
from fedunlearn.privacy.accounting.contraction import contraction_delta
from fedunlearn.privacy.accounting.hidden_routes import hidden_route_delta, hidden_route_sigma
from fedunlearn.privacy.accounting.invert import smallest, smallest_count
from fedunlearn.privacy.accounting.iteration import Coupling, shifted_coupling, taut_string
from fedunlearn.privacy.accounting.transcripts import (
    network_dp_sigma,
    paper_epsilon,
    paper_sigma,
    quantile_sigma,
    transcript_delta,
    transcript_mu,
    transcript_sigma,
    visit_quantile,
)
from fedunlearn.privacy.certificate import NoCertificate

__all__ = [
    "Alignment",
    "capped_walk_mu",
    "hidden_route_delta",
    "hidden_route_sigma",
    "hops_for",
    "network_dp_sigma",
    "paper_epsilon",
    "paper_sigma",
    "quantile_sigma",
    "sigma_for_walk",
    "transcript_delta",
    "transcript_mu",
    "transcript_sigma",
    "visit_quantile",
    "walk_delta",
    "walk_mu",
]

Alignment = Literal["exact", "lightweight"]
"""Where the step at a visit comes from: ``exact``, from retained data; ``lightweight``, from the deleted data."""


class _Steps(TypedDict):
    local_steps: int
    contraction: float


def walk_mu(
    visits: Sequence[int],
    hops: int,
    clip: float,
    lr: float,
    noise: float,
    start_radius: float,
    ball: float | None = None,
    alignment: Alignment = "exact",
    *,
    local_steps: int = 1,
    contraction: float = 1.0,
) -> Coupling:
    """Return the privacy number of the last token for a route that is given (T8).

    Args:
        visits: hops after whose step noise is added, in increasing order, each in 1..hops.
        hops: T.
        clip: C, bound on the norm of every gradient that is followed.
        lr: step size.
        noise: standard deviation of a visit's noise over ``lr``.
        start_radius: C_0, radius of the public ball that the start was projected onto; 0 for a public start.
        ball: radius R of a public ball that the token is projected onto at every visit, after its step and before its
            noise. Whatever happened before, the worlds are at most 2 R apart there, so the best visit to begin with
            counts.
        alignment: with ``lightweight`` the steps at visits differ between the worlds, and merging waits for the last.
        local_steps: gradient steps at a hop that is no visit; a visit takes one.
        contraction: ``1 - lr l2`` where an L2 term outside the clip shrinks the token in every step, else 1.

    Raises:
        UserError: if a number is out of range or the visits are not increasing hops of the walk.
    """
    route = _checked_route(visits, hops)
    _check(clip=clip, lr=lr, noise=noise, start_radius=start_radius, contraction=contraction)
    if local_steps < 1 or contraction > 1:
        raise UserError(
            f"local_steps = {local_steps}, contraction = {contraction} are not allowed: "
            "at least 1 and at most 1, respectively"
        )
    here = set(route)
    counts = [1 if hop in here else local_steps for hop in range(1, hops + 1)]
    drifts = [2 * lr * clip * sum(contraction**k for k in range(count)) for count in counts]
    factors = [contraction**count for count in counts]
    sigmas = [lr * noise if hop in here else 0.0 for hop in range(1, hops + 1)]
    best = _merge(2 * start_radius, drifts, sigmas, factors, route, alignment)
    if ball is None:
        return best
    _check(ball=ball)
    for visit in route:
        # both worlds lie in the ball after this visit's step: begin here, with no drift left in the step itself
        tail = _merge(
            2 * ball,
            [0.0, *drifts[visit:]],
            sigmas[visit - 1 :],
            [1.0, *factors[visit:]],
            tuple(hop - visit + 1 for hop in route if hop >= visit),
            alignment,
        )
        if tail.mu < best.mu:
            gaps, variances = (*best.gaps[:visit], *tail.gaps[1:]), (*[0.0] * visit, *tail.variances[1:])
            best = Coupling(tail.mu, tail.step + visit - 1, gaps, variances)
    return best


def walk_delta(
    epsilon: float,
    visits: Sequence[int],
    hops: int,
    clip: float,
    lr: float,
    noise: float,
    start_radius: float,
    ball: float | None = None,
    alignment: Alignment = "exact",
    *,
    local_steps: int = 1,
    contraction: float = 1.0,
) -> float:
    """Return the delta at ``epsilon``, by merging or, with a ball and shared maps, by contraction if that is less.

    The contraction (docs/certificates.md, T-contraction) holds at this epsilon alone, with ``r = 2R/(lr noise)`` at
    each visit and anything in between. Arguments and errors as in :func:`walk_mu`.
    """
    steps = _Steps(local_steps=local_steps, contraction=contraction)
    coupling = walk_mu(visits, hops, clip, lr, noise, start_radius, ball, alignment, **steps)
    merged = gaussian.delta_of(coupling.mu, epsilon)
    if ball is None or alignment != "exact" or noise == 0:
        return merged
    return min(merged, contraction_delta(epsilon, 2 * ball / (lr * noise), len(visits)))


def sigma_for_walk(
    epsilon: float,
    delta: float,
    visits: Sequence[int],
    hops: int,
    clip: float,
    lr: float,
    start_radius: float,
    ball: float | None = None,
    alignment: Alignment = "exact",
    *,
    local_steps: int = 1,
    contraction: float = 1.0,
) -> float:
    """Return the least ``noise`` (in units of gradients) at which the last token is (epsilon, delta)-close.

    Raises:
        NoCertificate: if the walk never visits the noisy node, or no noise helps.
        UserError: if a number is out of range.
    """
    needed = gaussian.mu_of(epsilon, delta)
    if not visits:
        raise NoCertificate(f"none of the {hops} hops visits the node that adds noise, so no noise hides the start")

    steps = _Steps(local_steps=local_steps, contraction=contraction)

    def delta_at(noise: float) -> float:
        return walk_delta(epsilon, visits, hops, clip, lr, noise, start_radius, ball, alignment, **steps)

    unit = walk_mu(visits, hops, clip, lr, 1.0, start_radius, ball, alignment, **steps).mu
    if unit == 0:
        return 0.0
    if math.isinf(unit):
        raise NoCertificate("the worlds drift apart after the last noise, so no noise hides the difference")
    return smallest(lambda noise: delta_at(noise) <= delta, what="noise", start=unit / needed)


def hops_for(
    epsilon: float,
    delta: float,
    visits: Sequence[int],
    clip: float,
    lr: float,
    noise: float,
    start_radius: float,
    ball: float | None = None,
    *,
    local_steps: int = 1,
    contraction: float = 1.0,
) -> int:
    """Return the first hop after which the walk (exact alignment) may stop with the claim; later hops cost nothing.

    Args:
        visits: the noisy hops of a route that is long enough to choose from.
        epsilon, delta, clip, lr, noise, start_radius, ball, local_steps, contraction: as in :func:`sigma_for_walk`.

    Raises:
        NoCertificate: if no visit of the route suffices.
        UserError: if a number is out of range.
    """

    steps = _Steps(local_steps=local_steps, contraction=contraction)

    def reached(count: int) -> bool:
        route = visits[:count]
        return walk_delta(epsilon, route, route[-1], clip, lr, noise, start_radius, ball, **steps) <= delta

    if not visits or not reached(len(visits)):
        raise NoCertificate(
            f"{len(visits)} visits do not reach epsilon = {epsilon:g} at delta = {delta:g} with noise = {noise:g}"
        )
    return int(visits[smallest_count(reached) - 1])  # more visits never hurt: the least over prefixes decides


def capped_walk_mu(
    visits: int, gap_cap: int, clip: float, lr: float, noise: float, start_radius: float, *, local_steps: int = 1
) -> float:
    """Return mu of a walk that goes on until it made V visits, with at most H other hops before each of them (T8).

    By its v-th visit it has made at most ``v (H + 1)`` hops, so ``B <= 2 C_0 + 2 lr C v (H + 1)`` whatever the route;
    the H other hops count ``local_steps`` steps each.

    Raises:
        UserError: if a number is out of range.
    """
    if visits < 1 or gap_cap < 0:
        raise UserError(f"visits = {visits}, gap_cap = {gap_cap} are not allowed: at least 1 and at least 0")
    _check(clip=clip, lr=lr, noise=noise, start_radius=start_radius)
    drift = 2 * lr * clip * (gap_cap * local_steps + 1)
    return shifted_coupling(2 * start_radius, [drift] * visits, [lr * noise] * visits).mu


def _merge(
    start: float,
    drifts: list[float],
    sigmas: list[float],
    factors: list[float],
    route: tuple[int, ...],
    alignment: Alignment,
) -> Coupling:
    """Return the coupling of a walk; with steps at visits that differ, merged at the last visit."""
    shared = shifted_coupling(start, drifts, sigmas, factors)
    if alignment == "exact":
        return shared
    if not route:
        return replace(shared, mu=0.0 if start == 0 else math.inf, step=0)
    last = route[-1]
    return replace(shared, mu=taut_string(start, drifts[:last], sigmas[:last], factors[:last]), step=last)


def _checked_route(visits: Sequence[int], hops: int) -> tuple[int, ...]:
    route = tuple(int(hop) for hop in visits)
    if hops < 1:
        raise UserError(f"hops = {hops} is not allowed: a walk has at least 1")
    if any(not 1 <= hop <= hops for hop in route) or any(a >= b for a, b in pairwise(route)):
        raise UserError(f"visits = {list(route)} are not allowed: they must be increasing hops from 1 to {hops}")
    return route


def _check(**values: float) -> None:
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise UserError(f"{name} = {value} is not allowed: it must be a finite number that is not negative")
