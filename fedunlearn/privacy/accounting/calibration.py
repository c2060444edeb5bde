"""Calibration of any accountant: noise, steps or capacity for a wanted (epsilon, delta).

Each function takes the events as a function of the number that is sought, finds the edge with
:mod:`fedunlearn.privacy.accounting.invert` on a quick upper bound, and lets the deciding accountant and its second
opinion judge the result. What is returned was seen to keep the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from fedunlearn.privacy.accounting.events import Event, PoissonSampledGaussian
from fedunlearn.privacy.accounting.invert import load_for, noise_for, steps_for
from fedunlearn.privacy.accounting.opinions import epsilon_of_events

N = TypeVar("N", int, float)


def noise_for_events(
    events_at: Callable[[float], Sequence[Event]], epsilon: float, delta: float, *, start: float = 1.0
) -> float:
    """Return the smallest noise, to about one part in 10^4, at which the events keep (epsilon, delta).

    Args:
        events_at: the events as a function of the noise (its standard deviation, or a noise multiplier).
        epsilon, delta: the claim.
        start: where the search begins.

    Raises:
        UserError: if no noise is enough, or delta is out of range.
        Contradiction: if a second opinion excludes the answer's epsilon.
    """
    quick = _quick(events_at, delta)
    noise = noise_for(quick, epsilon, start=start, relative=1e-4)
    while epsilon_of_events(events_at(noise), delta).epsilon > epsilon:  # by a rounding error at most
        noise *= 1 + 1e-4
    return noise


def load_for_events(
    events_at: Callable[[int], Sequence[Event]],
    epsilon: float,
    delta: float,
    *,
    what: str = "steps",
    limit: int = 10**7,
) -> int:
    """Return the largest count (steps, releases, deleted records) at which the events keep (epsilon, delta); 0 if none.

    Raises:
        UserError: if delta is out of range.
        Contradiction: if a second opinion excludes the answer's epsilon.
    """
    count = load_for(_quick(events_at, delta), epsilon, what=what, limit=limit)
    while count and epsilon_of_events(events_at(count), delta).epsilon > epsilon:
        count -= 1
    return count


def steps_for_events(
    events_at: Callable[[int], Sequence[Event]],
    epsilon: float,
    delta: float,
    *,
    what: str = "steps",
    limit: int = 10**7,
) -> int:
    """Return the smallest count (contracting steps, hops, rewound rounds) at which a falling epsilon is low enough.

    Raises:
        UserError: if no count up to ``limit`` is enough, or delta is out of range.
        Contradiction: if a second opinion excludes the answer's epsilon.
    """
    count = steps_for(_quick(events_at, delta), epsilon, what=what, limit=limit)
    while epsilon_of_events(events_at(count), delta).epsilon > epsilon:
        count += 1
    return count


def sampled_noise(epsilon: float, delta: float, rate: float, steps: int, *, group: int = 1) -> float:
    """Return the noise multiplier of Poisson-sampled noisy sums for (epsilon, delta) and a group of deleted records."""
    return noise_for_events(lambda noise: [PoissonSampledGaussian(noise, rate, steps, group)], epsilon, delta)


def sampled_steps(epsilon: float, delta: float, rate: float, noise_multiplier: float, *, group: int = 1) -> int:
    """Return how many noisy sums over Poisson-sampled batches (epsilon, delta) allows; 0 if not one."""
    return load_for_events(lambda steps: [PoissonSampledGaussian(noise_multiplier, rate, steps, group)], epsilon, delta)


def sampled_capacity(
    epsilon: float, delta: float, rate: float, noise_multiplier: float, steps: int, *, limit: int = 10**4
) -> int:
    """Return how many records may be deleted before a trained model exceeds (epsilon, delta); 0 if not one."""
    return load_for_events(
        lambda group: [PoissonSampledGaussian(noise_multiplier, rate, steps, group)],
        epsilon,
        delta,
        what="group",
        limit=limit,
    )


def _quick(events_at: Callable[[N], Sequence[Event]], delta: float) -> Callable[[N], float]:
    return lambda value: epsilon_of_events(events_at(value), delta, second=False, coarse=True).epsilon
