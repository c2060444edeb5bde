"""What each person who left is still promised after all the releases that came later.

A record deleted at request s is hidden in the releases s, s+1, ..., R. Where each release started from the noise-free
model behind the one before (``secret``), they compose: the first leaver is exposed to all of them and the last to one
(docs/certificates.md, T5.2). Where each started from what was released, or from a public start, everything after
release s is computed from it, and nobody's certificate ever weakens (T5.3). Requests are numbered from 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian
from fedunlearn.privacy.accounting.events import Event
from fedunlearn.privacy.accounting.opinions import epsilon_of_events

T = TypeVar("T")

Start = Literal["secret", "released", "public"]
"""What each answer started from: noise-free models, the last release, or a start that never saw the data."""


@dataclass(frozen=True)
class Leaver:
    """One deleted person's promise: the request they left at, the releases that count, and their mu and epsilon."""

    request: int
    releases: int
    mu: float
    epsilon: float


def leavers(mus: Sequence[float], delta: float, start: Start = "secret") -> tuple[Leaver, ...]:
    """Return every leaver's promise at ``delta``, in the order of their requests.

    Args:
        mus: privacy number of each release, one a request.
        delta: strictly between 0 and 1.
        start: what each answer started from.

    Raises:
        UserError: if there are no releases or a number is out of range.
    """
    return tuple(leaver(mus, request, delta, start) for request in range(1, len(_given(mus)) + 1))


def leaver(mus: Sequence[float], request: int, delta: float, start: Start = "secret") -> Leaver:
    """Return the promise to the one who left at a request; arguments as for :func:`leavers`."""
    mu = mu_of_leaver(mus, request, start)
    return Leaver(request, len(exposed(mus, request, start)), mu, gaussian.epsilon_of(mu, delta))


def mu_of_leaver(mus: Sequence[float], request: int, start: Start = "secret") -> float:
    """Return ``sqrt(sum_{r >= request} mu_r^2)`` with secret starts, otherwise the mu of that release alone."""
    return gaussian.compose(exposed(mus, request, start))


def exposed(releases: Sequence[T], request: int, start: Start = "secret") -> Sequence[T]:
    """Return the part of the releases that the one who left at ``request`` is exposed to."""
    _given(releases)
    if not 1 <= request <= len(releases):
        raise UserError(f"request = {request} is not allowed: there were {len(releases)} requests, counted from 1")
    if start not in ("secret", "released", "public"):
        raise UserError(f"start = '{start}' is not allowed: it must be 'secret', 'released' or 'public'")
    return releases[request - 1 :] if start == "secret" else releases[request - 1 : request]


def epsilons_of_events(
    releases: Sequence[Sequence[Event]], delta: float, start: Start = "secret", second: bool = True
) -> tuple[float, ...]:
    """Return every leaver's epsilon where a release is a list of events of any kind, in the order of the requests.

    Raises:
        Contradiction: if a second opinion excludes an answer.
    """
    return tuple(
        epsilon_of_events([e for release in exposed(releases, request, start) for e in release], delta, second).epsilon
        for request in range(1, len(_given(releases)) + 1)
    )


def mu_for_each(releases: int, epsilon: float, delta: float, start: Start = "secret") -> float:
    """Return the mu that each of R planned releases may have so that nobody exceeds (epsilon, delta)."""
    if releases < 1:
        raise UserError(f"releases = {releases} is not allowed: it must be at least 1")
    largest = gaussian.mu_of(epsilon, delta)
    return largest / math.sqrt(releases) if start == "secret" else largest


def sigma_below(sensitivity: float, releases: int, epsilon: float, delta: float, start: Start = "secret") -> float:
    """Return the noise of each of R planned releases that keeps every leaver below (epsilon, delta).

    Args:
        sensitivity: largest distance of the two noise-free vectors of one release, in units of the parameters.
        releases: how many are planned.
    """
    if releases < 1:
        raise UserError(f"releases = {releases} is not allowed: it must be at least 1")
    return gaussian.sigma_for(sensitivity * (math.sqrt(releases) if start == "secret" else 1.0), epsilon, delta)


def factor_below(mus: Sequence[float], epsilon: float, delta: float, start: Start = "secret") -> float:
    """Return the factor by which the noise of all these releases must grow to keep every leaver below the claim.

    At most 1 where it is kept already.
    """
    worst = max(mu_of_leaver(mus, request, start) for request in range(1, len(_given(mus)) + 1))
    return worst / gaussian.mu_of(epsilon, delta)


def left_for_next(mus: Sequence[float], epsilon: float, delta: float, start: Start = "secret") -> float:
    """Return the mu that one more release may have without lifting any leaver above (epsilon, delta); 0 if none.

    With secret starts the first leaver decides; otherwise earlier leavers are not exposed to it at all.
    """
    largest = gaussian.mu_of(epsilon, delta)
    if start != "secret" or not mus:
        return largest
    used = mu_of_leaver(mus, 1, start)
    return math.sqrt(max(0.0, (largest - used) * (largest + used)))


def _given(releases: Sequence[T]) -> Sequence[T]:
    if not releases:
        raise UserError("releases = 0 is not allowed: a promise is about at least one release")
    return releases
