"""Inverting an accountant: the smallest noise, or the largest load, at which a monotone claim still holds.

Both searches ask only whether the claim holds and return a value at which it was *seen* to hold, so rounding and the
width of the last bracket fall on the safe side. The style follows ``mechanism_calibration`` of Google's dp_accounting:
bracket by doubling, then bisect.
"""

from __future__ import annotations

from collections.abc import Callable

from fedunlearn.errors import UserError

LIMIT = 1e15
"""Searches give up here: no noise, number of steps or group beyond it is of use."""


def smallest(
    holds: Callable[[float], bool],
    *,
    what: str = "value",
    start: float = 1.0,
    relative: float = 1e-12,
    floor: float = 1e-15,
    limit: float = LIMIT,
) -> float:
    """Return the smallest positive x at which ``holds`` is true, from above, for a claim that stays true as x grows.

    Args:
        holds: the claim as a function of x, false below some point and true above it.
        what: the name of x in error messages.
        start: where the bracketing begins, positive.
        relative: width of the last bracket relative to the answer; the answer is its upper end.
        floor: returned where the claim holds even there.
        limit: the largest x that is tried.

    Raises:
        UserError: if the claim fails up to ``limit``.
    """
    low = high = start
    if holds(start):
        while holds(low):
            if low <= floor:
                return low
            low, high = max(low / 2, floor), low
    else:
        while not holds(high):
            if high >= limit:
                raise UserError(f"no {what} up to {limit:g} is enough: the claim fails whatever its size")
            low, high = high, min(2 * high, limit)
    while high - low > relative * high and low < (middle := low + (high - low) / 2) < high:
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def largest(
    holds: Callable[[float], bool],
    *,
    what: str = "value",
    start: float = 1.0,
    relative: float = 1e-12,
    floor: float = 1e-15,
    limit: float = LIMIT,
) -> float:
    """Return the largest positive x at which ``holds`` is true, from below, for a claim that stays false once it fails.

    Arguments as for :func:`smallest`; ``limit`` is returned where the claim holds even there.

    Raises:
        UserError: if the claim fails down to ``floor``.
    """
    low = high = start
    if holds(start):
        while holds(high):
            if high >= limit:
                return high
            low, high = high, min(2 * high, limit)
    else:
        while not holds(low):
            if low <= floor:
                raise UserError(f"no {what} down to {floor:g} is small enough: the claim fails whatever its size")
            low, high = max(low / 2, floor), low
    while high - low > relative * high and low < (middle := low + (high - low) / 2) < high:
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def smallest_count(holds: Callable[[int], bool], *, what: str = "count", least: int = 1, limit: int = 10**9) -> int:
    """Return the smallest whole number, at least ``least``, at which a claim holds that stays true as it grows.

    Raises:
        UserError: if the claim fails up to ``limit``.
    """
    if holds(least):
        return least
    low, step = least, 1
    while not holds(high := min(low + step, limit)):
        if high >= limit:
            raise UserError(f"no {what} up to {limit} is enough: the claim fails whatever its size")
        low, step = high, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def largest_count(holds: Callable[[int], bool], *, what: str = "count", least: int = 1, limit: int = 10**9) -> int:
    """Return the largest whole number at which a claim holds that stays false once it fails; ``limit`` at most.

    Raises:
        UserError: if the claim fails at ``least`` already.
    """
    if not holds(least):
        raise UserError(f"{what} = {least} is too many already: the claim fails there")
    low, step = least, 1
    while low < limit and holds(high := min(low + step, limit)):
        low, step = high, 2 * step
    if low >= limit:
        return limit
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def noise_for(
    epsilon_at: Callable[[float], float], epsilon: float, *, start: float = 1.0, relative: float = 1e-6
) -> float:
    """Return the smallest noise at which an accountant, epsilon as a function of the noise, stays within ``epsilon``.

    Raises:
        UserError: if no noise is enough.
    """
    return smallest(lambda sigma: epsilon_at(sigma) <= epsilon, what="noise", start=start, relative=relative)


def load_for(epsilon_at: Callable[[int], float], epsilon: float, *, what: str = "steps", limit: int = 10**9) -> int:
    """Return the largest number of steps (or deleted records, or releases) that stays within ``epsilon``; 0 if none.

    ``epsilon_at`` must grow with its argument.
    """
    if epsilon_at(1) > epsilon:
        return 0
    return largest_count(lambda count: epsilon_at(count) <= epsilon, what=what, limit=limit)


def steps_for(epsilon_at: Callable[[int], float], epsilon: float, *, what: str = "steps", limit: int = 10**9) -> int:
    """Return the smallest number of steps (or hops, or rewound rounds) at which a falling epsilon reaches ``epsilon``.

    ``epsilon_at`` must fall with its argument.

    Raises:
        UserError: if no number up to ``limit`` is enough.
    """
    return smallest_count(lambda count: epsilon_at(count) <= epsilon, what=what, limit=limit)
