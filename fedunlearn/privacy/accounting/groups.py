"""Several deleted records at once, or one after the other: what a certificate for one record is worth for m.

In the Gaussian profile the distance of the two worlds is what counts, and m records move a vector by at most m times
as much as one: mu grows by a factor m. Going through the pair (epsilon, delta) instead costs an exponential in delta.
All numbers are dimensionless.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian


def group_mu(mu: float, records: int) -> float:
    """Return ``m mu``: sensitivity m Delta under the same noise (Dong, Roth and Su 2022, on group privacy)."""
    return _count("records", records) * mu


def group_epsilon(mu: float, records: int, delta: float) -> float:
    """Return the epsilon at ``delta`` for m records deleted together, by the exact profile at ``m mu``."""
    return gaussian.epsilon_of(group_mu(mu, records), delta)


def group_of_pair(epsilon: float, delta: float, records: int) -> tuple[float, float]:
    """Return ``(m epsilon, m exp((m-1) epsilon) delta)``: what one pair alone says about m records.

    The definition chained over m neighbouring worlds, ``delta sum_{i<m} exp(i epsilon)`` bounded from above (Dwork and
    Roth 2014, on group privacy). Far above :func:`group_epsilon` where the mechanism is Gaussian; a delta of 1 or more
    says nothing.
    """
    m = _count("records", records)
    grown = math.log(m * delta) + (m - 1) * epsilon if delta > 0 else -math.inf
    return m * epsilon, math.exp(grown) if grown < 700 else math.inf


def chained_mu(mus: Iterable[float]) -> float:
    """Return ``sum mu_i``: the distance of the two ends of a chain of worlds, neighbours a mu_i apart.

    Gaussian trade-offs obey the triangle inequality in their mus (Dong, Roth and Su 2022, the proof of group privacy).
    One draw of noise is meant; :func:`fedunlearn.privacy.compose` is for several draws.
    """
    values = list(mus)
    for mu in values:
        if not mu >= 0:
            raise UserError(f"mu = {mu} is not allowed: it must be a number that is not negative")
    return math.fsum(values)


def cumulative(counts: Iterable[int]) -> tuple[int, ...]:
    """Return how many records have been deleted after each of several requests."""
    return tuple(accumulate(_count("records", count) for count in counts))


def sequential_mus(mu: float, counts: Iterable[int]) -> tuple[float, ...]:
    """Return the mu after each request, one model standing for all records deleted so far.

    Args:
        mu: of one deleted record.
        counts: records of each request.
    """
    return tuple(group_mu(mu, total) for total in cumulative(counts))


def capacity(mu: float, epsilon: float, delta: float) -> int:
    """Return the largest m for which m records deleted together stay within (epsilon, delta); 0 if one is too many."""
    if not mu > 0:
        raise UserError(f"mu = {mu} is not allowed: it must be positive, or there is no largest number of records")
    largest = gaussian.mu_of(epsilon, delta)
    count = math.floor(largest / mu * (1 + 1e-12))
    while count > 0 and count * mu > largest * (1 + 1e-12):
        count -= 1
    return count


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or value != int(value) or value < 1:
        raise UserError(f"{name} = {value} is not allowed: it must be a whole number of at least 1")
    return int(value)
