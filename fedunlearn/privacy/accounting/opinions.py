"""The accountant that decides, and the second opinion that may contradict it.

Where every event is Gaussian, the exact profile decides. Where batches were sampled, the pessimistic loss distribution
(PLD) decides. Beside either stand upper and lower bounds computed another way: numerical integration of the definition,
Renyi divergences, opacus' PRV interval. An answer that these exclude is a fault of some accountant and raises
:class:`Contradiction`; nothing is reported then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian
from fedunlearn.privacy.accounting import integration, renyi
from fedunlearn.privacy.accounting import loss_distribution as losses
from fedunlearn.privacy.accounting.contraction import contraction_delta
from fedunlearn.privacy.accounting.events import (
    Contraction,
    Event,
    GaussianRelease,
    NoiseFree,
    PoissonSampledGaussian,
    PostProcessing,
    ShiftedIteration,
)
from fedunlearn.privacy.accounting.invert import smallest
from fedunlearn.privacy.accounting.iteration import shifted_coupling, taut_string

_SLACK = 1e-9  # relative; two float64 computations of the same number may differ by this


class Contradiction(Exception):
    """Two accountants exclude each other, so neither is believed; ``numbers`` holds what each of them said."""

    def __init__(self, message: str, numbers: Mapping[str, float]) -> None:
        super().__init__(message)
        self.numbers = dict(numbers)


@dataclass(frozen=True)
class Opinion:
    """What follows from a list of events.

    Attributes:
        epsilon, delta: the claim: one of them was asked for, the other is the answer.
        accountant: which one decided: ``profile``, ``pld`` or ``contraction``.
        exact: whether the events' own profile was evaluated; otherwise the answer is an upper bound.
        mu: privacy number of all events together where all are Gaussian, otherwise None.
        second: what the other accountants said about the number that was asked for, by name; ``prv lower`` and
            ``prv upper`` are an interval, ``rdp`` is an upper bound, ``integration`` another way to the same number.
    """

    epsilon: float
    delta: float
    accountant: str
    exact: bool
    mu: float | None = None
    second: Mapping[str, float] = field(default_factory=dict)


def epsilon_of_events(events: Iterable[Event], delta: float, second: bool = True, *, coarse: bool = False) -> Opinion:
    """Return the smallest epsilon at ``delta`` that the deciding accountant proves for all events together.

    Args:
        events: everything the observer saw that depends on the data in question.
        delta: strictly between 0 and 1; at least 1e-12 where batches were sampled.
        second: whether to ask the other accountants.
        coarse: use wider cells in the loss distribution: still an upper bound, usually within 0.2 % and up to ten
            times faster; for searches.

    Raises:
        UserError: if delta is out of range, or the events cannot be composed.
        Contradiction: if a second opinion excludes the answer.
    """
    if not 0 < delta < 1:
        raise UserError(f"delta = {delta} is not allowed: it must lie strictly between 0 and 1")
    return _epsilon(tuple(events), float(delta), bool(second), bool(coarse))


def delta_of_events(events: Iterable[Event], epsilon: float, second: bool = True) -> Opinion:
    """Return the smallest delta at ``epsilon`` that the deciding accountant proves for all events together.

    Raises:
        UserError: if epsilon is negative or not finite, or the events cannot be composed.
        Contradiction: if a second opinion excludes the answer.
    """
    if not (epsilon >= 0 and math.isfinite(epsilon)):
        raise UserError(f"epsilon = {epsilon} is not allowed: it must be a finite number that is not negative")
    return _delta(tuple(events), float(epsilon), bool(second))


def mu_of_events(events: Iterable[Event]) -> float | None:
    """Return the privacy number of all events together, or None where one of them is not Gaussian."""
    split = _split(tuple(events))
    return None if split.sampled or split.contraction else split.mu


@dataclass(frozen=True)
class _Split:
    """Events by accountant: one mu for all that is Gaussian, the sampled sums, at most one contraction."""

    mu: float
    exact: bool
    sampled: tuple[tuple[float, float, int, int], ...]
    contraction: Contraction | None


def _split(events: tuple[Event, ...]) -> _Split:
    mus: list[float] = []
    sampled: dict[tuple[float, float, int], int] = {}
    contractions: list[Contraction] = []
    exact = True
    for event in events:
        if isinstance(event, GaussianRelease):
            mus.append(_ratio(event.sensitivity * math.sqrt(event.count), event.sigma))
        elif isinstance(event, PoissonSampledGaussian):
            if event.rate == 0 or event.steps == 0:
                continue
            if event.rate == 1 or event.noise_multiplier == 0:
                mus.append(_ratio(event.group * math.sqrt(event.steps), event.noise_multiplier))
            else:
                key = (event.noise_multiplier, event.rate, event.group)
                sampled[key] = sampled.get(key, 0) + event.steps
        elif isinstance(event, ShiftedIteration):
            mus.append(_iteration_mu(event))
            exact = False
        elif isinstance(event, Contraction):
            contractions.append(event)
        elif isinstance(event, NoiseFree):
            mus.append(math.inf)
        elif not isinstance(event, PostProcessing):
            raise UserError(f"event = {event!r} is not known to any accountant: nothing can be said about it")
    if contractions and (len(contractions) > 1 or sampled or any(mu > 0 for mu in mus)):
        raise UserError("a Contraction cannot be composed with other events: its bound holds for one pair at a time")
    series = tuple((noise, rate, steps, group) for (noise, rate, group), steps in sorted(sampled.items()))
    return _Split(gaussian.compose(mus), exact, series, contractions[0] if contractions else None)


def _iteration_mu(event: ShiftedIteration) -> float:
    if event.maps_shared:
        return shifted_coupling(event.start, event.drifts, event.sigmas, event.contractions).mu
    return taut_string(event.start, event.drifts, event.sigmas, event.contractions)


@lru_cache(maxsize=1024)
def _epsilon(events: tuple[Event, ...], delta: float, second: bool, coarse: bool) -> Opinion:
    split = _split(events)
    if split.contraction is not None:
        return _contraction_epsilon(split.contraction, delta, second)
    if math.isinf(split.mu):
        return Opinion(math.inf, delta, "profile", False, math.inf)
    if not split.sampled:
        epsilon = gaussian.epsilon_of(split.mu, delta)
        others: dict[str, float] = {}
        if second:
            others["rdp"] = renyi.gaussian_curve(split.mu).epsilon(delta)
            others["integration"] = integration.epsilon_of(split.mu, delta)
            _at_most("profile", epsilon, "rdp", others["rdp"])
            _equal("profile", epsilon, "integration", others["integration"])
        return Opinion(epsilon, delta, "profile", split.exact, split.mu, others)
    _large_enough(delta)
    curve = _curve(split)
    bound = curve.epsilon(delta)
    interval = _interval(split, bound, coarse)
    epsilon = float(losses.pld_of(split.sampled, split.mu, interval=interval).get_epsilon_for_delta(delta))
    others = {"rdp": bound} if second else {}
    if second:
        # Both are upper bounds; the pessimistic rounding may cost a little more than the slack of the Renyi bound.
        _at_most("pld", epsilon * (1 - 0.01) - 10 * interval, "rdp", bound)
        if split.mu == 0 and all(group == 1 for *_, group in split.sampled):
            prv = losses.prv_interval([entry[:3] for entry in split.sampled], delta)
            if prv is not None:
                others["prv lower"], others["prv upper"] = prv
                _at_most("prv lower", prv[0], "pld", epsilon)
                _at_most("prv lower", prv[0], "rdp", bound)
    return Opinion(epsilon, delta, "pld", False, None, others)


@lru_cache(maxsize=1024)
def _delta(events: tuple[Event, ...], epsilon: float, second: bool) -> Opinion:
    split = _split(events)
    if split.contraction is not None:
        delta = _contraction_delta(split.contraction, epsilon)
        return Opinion(epsilon, delta, "contraction", False)
    if math.isinf(split.mu):
        return Opinion(epsilon, 1.0, "profile", False, math.inf)
    if not split.sampled:
        delta = gaussian.delta_of(split.mu, epsilon)
        others: dict[str, float] = {}
        if second:
            others["rdp"] = renyi.gaussian_curve(split.mu).delta(epsilon)
            others["integration"] = integration.delta_of(split.mu, epsilon)
            _at_most("profile", delta, "rdp", others["rdp"])
            _equal("profile", delta, "integration", others["integration"])
        return Opinion(epsilon, delta, "profile", split.exact, split.mu, others)
    curve = _curve(split)
    bound = curve.delta(epsilon)
    interval = _interval(split, max(epsilon, curve.epsilon(1e-5)), False)
    delta = float(losses.pld_of(split.sampled, split.mu, interval=interval).get_delta_for_epsilon(epsilon))
    if second:
        _at_most("pld", delta * (1 - 0.02) - losses.SMALLEST_DELTA, "rdp", bound)
    return Opinion(epsilon, delta, "pld", False, None, {"rdp": bound} if second else {})


def _curve(split: _Split) -> renyi.Curve:
    """Return the Renyi curve of all events, at orders where each of them has one."""
    alone = all(group == 1 for *_, group in split.sampled)
    largest = max(group for *_, group in split.sampled)
    orders = renyi.WHOLE_ORDERS if alone else renyi.orders_for_group(largest)
    total = renyi.gaussian_curve(split.mu, orders)
    for noise, rate, steps, group in split.sampled:
        one = renyi.sampled_curve(rate, noise, orders) if alone else _group_curve(rate, noise, group, orders)
        total = total + one.times(steps)
    return total


@lru_cache(maxsize=256)
def _group_curve(rate: float, noise: float, group: int, orders: tuple[float, ...]) -> renyi.Curve:
    return renyi.sampled_group_curve(rate, noise, group, orders)


def _interval(split: _Split, bound: float, coarse: bool) -> float:
    """Return a cell width fine against the answer and against one step's loss, and coarse enough to be quick.

    The excess of the rounded loss over the true one grows as the square of the width over the spread of one step's
    loss, about ``group rate / noise``: at a twentieth it is a few parts in ten thousand. Powers of two make the cached
    distributions of one step serve many questions.
    """
    spreads = [group * rate / noise for noise, rate, _, group in split.sampled]
    width = min(min(spreads) / (10 if coarse else 20), max(bound, 0.01) / (1e3 if coarse else 1e4))
    width = max(width, (bound + 1) * 1e-6, 1e-7)
    for noise, rate, _, group in split.sampled:
        width = max(width, losses.narrowest(noise, rate, group) * (10 if coarse else 1))
    return float(2.0 ** math.floor(math.log2(width)))


def _contraction_delta(event: Contraction, epsilon: float) -> float:
    start = 1.0 if event.start_ratio is None else gaussian.delta_of(event.start_ratio, epsilon)
    return contraction_delta(epsilon, event.ratio, event.steps, start)


def _contraction_epsilon(event: Contraction, delta: float, second: bool) -> Opinion:
    if event.steps == 0 and event.start_ratio is None:
        return Opinion(math.inf, delta, "contraction", False)
    epsilon = smallest(
        lambda value: _contraction_delta(event, value) <= delta, what="epsilon", relative=1e-12, floor=1e-12
    )
    others: dict[str, float] = {}
    if second and event.steps > 0:  # forgetting all steps but the last can only cost
        others["last step alone"] = gaussian.epsilon_of(event.ratio, delta)
        _at_most("contraction", epsilon - 1e-9, "last step alone", others["last step alone"])
    return Opinion(epsilon, delta, "contraction", False, None, others)


def _ratio(distance: float, sigma: float) -> float:
    if distance == 0:
        return 0.0
    return distance / sigma if sigma > 0 else math.inf


def _large_enough(delta: float) -> None:
    if delta < losses.SMALLEST_DELTA:
        raise UserError(
            f"delta = {delta} is not allowed where batches are sampled: the loss distribution is accurate from "
            f"{losses.SMALLEST_DELTA:g} on"
        )


def _at_most(name: str, value: float, other: str, bound: float) -> None:
    if value > bound * (1 + _SLACK) + _SLACK:
        raise Contradiction(
            f"{name} says {value:.9g}, but {other} proves at most {bound:.9g}: one of the two accountants is wrong",
            {name: value, other: bound},
        )


def _equal(name: str, value: float, other: str, same: float) -> None:
    if abs(value - same) > 1e-7 * max(abs(value), abs(same)) + 1e-10:
        raise Contradiction(
            f"{name} says {value:.9g} and {other} says {same:.9g} about one number: one of the two is wrong",
            {name: value, other: same},
        )
