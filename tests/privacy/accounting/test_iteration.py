"""Shifted coupling: golden numbers, laws, a brute-force search for the best schedule, and exact laws on the line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from fedunlearn.errors import UserError
from fedunlearn.privacy.accounting.iteration import (
    best_steps,
    mu_with_decay,
    mu_without_decay,
    renyi_of,
    shifted_coupling,
    taut_string,
)
from fedunlearn.privacy.gaussian import delta_of, epsilon_of

Schedule = tuple[float, list[float], list[float], list[float]]


@st.composite
def schedules(draw: st.DrawFn, *, decay: bool = True) -> Schedule:
    steps = draw(st.integers(1, 12))
    start = draw(st.floats(0.01, 5))
    drifts = draw(st.lists(st.floats(0, 2), min_size=steps, max_size=steps))
    noise = st.one_of(st.just(0.0), st.floats(0.05, 3))
    sigmas = draw(st.lists(noise, min_size=steps, max_size=steps))
    factors = draw(st.lists(st.floats(0.3, 1), min_size=steps, max_size=steps)) if decay else [1.0] * steps
    return start, drifts, sigmas, factors


# --- golden numbers --------------------------------------------------------------------------------------------------


def test_golden_numbers() -> None:
    assert mu_without_decay(1, 0.1, 0.5, 10) == pytest.approx(1.26491, abs=5e-6)
    assert mu_with_decay(1, 0.1, 0.5, 12, 0.9) == pytest.approx(0.908778, abs=5e-7)
    assert epsilon_of(mu_without_decay(1, 0.1, 0.5, 10), 1e-5) == pytest.approx(5.76, abs=0.005)


@pytest.mark.parametrize("steps", [1, 2, 12, 60])
@pytest.mark.parametrize(("start", "drift", "sigma"), [(1.0, 0.1, 0.5), (0.2, 0.3, 1.0), (3.0, 0.0, 2.0)])
def test_recursion_agrees_with_closed_forms(start: float, drift: float, sigma: float, steps: int) -> None:
    flat = shifted_coupling(start, [drift] * steps, [sigma] * steps)
    assert flat.gaps[-1] / math.sqrt(flat.variances[-1]) == pytest.approx(mu_without_decay(start, drift, sigma, steps))
    for rho in (0.0, 0.5, 0.99):
        decaying = shifted_coupling(start, [drift] * steps, [sigma] * steps, [rho] * steps)
        end = decaying.gaps[-1] / math.sqrt(decaying.variances[-1])
        assert end == pytest.approx(mu_with_decay(start, drift, sigma, steps, rho))


def test_more_steps_than_the_best_number_do_not_help() -> None:
    start, drift, sigma = 2.0, 0.13, 0.7
    best = best_steps(start, drift)
    assert best in (15, 16)
    assert shifted_coupling(start, [drift] * 50, [sigma] * 50).step == best
    # the square cannot fall below 4 B_0 s / sigma^2, and the integer comes close to it
    lowest = math.sqrt(4 * start * drift) / sigma
    assert lowest <= mu_without_decay(start, drift, sigma, best) <= lowest * 1.001
    assert best_steps(0.1, 5.0) == 1


def test_decay_has_the_best_prefix_that_calculus_finds() -> None:
    """With ``2 C_0 < S`` the best q is ``1 - 2 C_0/S``, and ``mu^2 = 2 C_0 (2 S - 2 C_0)(1 - rho^2)/sigma^2``."""
    rho, drift, sigma, start = 0.999, 0.01, 0.3, 4.0
    pull = drift / (1 - rho)
    found = shifted_coupling(start, [drift] * 5000, [sigma] * 5000, [rho] * 5000)
    assert found.mu == pytest.approx(math.sqrt(start * (2 * pull - start) * (1 - rho * rho)) / sigma, rel=1e-5)
    assert rho**found.step == pytest.approx(1 - start / pull, abs=2e-3)
    # from farther away there is no inner optimum: the end is best, and mu tends to S sqrt(1 - rho^2)/sigma
    far = shifted_coupling(3 * pull, [drift] * 9000, [sigma] * 9000, [rho] * 9000)
    assert far.step > 6000
    assert far.mu == pytest.approx(pull * math.sqrt(1 - rho * rho) / sigma, rel=1e-3)


# --- laws ------------------------------------------------------------------------------------------------------------


@given(schedules())
@settings(deadline=None)
def test_least_over_prefixes(schedule: Schedule) -> None:
    found = shifted_coupling(*schedule)
    ends = [shifted_coupling(schedule[0], *(part[:t] for part in schedule[1:])) for t in range(1, len(schedule[1]) + 1)]
    values = [end.gaps[-1] / math.sqrt(end.variances[-1]) if end.variances[-1] else math.inf for end in ends]
    assert found.mu == min(values)
    assert all(before.mu >= after.mu for before, after in pairwise(ends))  # later steps cost nothing


@given(schedules(), st.floats(0.3, 1))
@settings(deadline=None)
def test_contracting_more_is_never_worse(schedule: Schedule, factor: float) -> None:
    start, drifts, sigmas, factors = schedule
    looser = shifted_coupling(start, drifts, sigmas, factors).mu
    assert shifted_coupling(start, drifts, sigmas, [rho * factor for rho in factors]).mu <= looser * (1 + 1e-12)


@given(schedules(), st.floats(0.1, 10))
@settings(deadline=None)
def test_units_do_not_matter(schedule: Schedule, unit: float) -> None:
    start, drifts, sigmas, factors = schedule
    scaled = shifted_coupling(start * unit, [s * unit for s in drifts], [s * unit for s in sigmas], factors)
    assert scaled.mu == pytest.approx(shifted_coupling(*schedule).mu)


def test_taut_string_ends_at_the_least_over_prefixes() -> None:
    """Merging at T costs at least what the least prefix costs, and at the best T exactly that."""
    rng = np.random.default_rng(0)
    infeasible = 0
    for _ in range(400):
        steps = int(rng.integers(1, 15))
        start, drifts = float(rng.uniform(0.05, 3)), rng.exponential(0.3, steps)
        sigmas = rng.exponential(1.0, steps) * (rng.random(steps) < 0.7)
        factors = rng.uniform(0.7, 1, steps) if rng.random() < 0.5 else np.ones(steps)
        shared = shifted_coupling(start, drifts, sigmas, factors)
        strings = [taut_string(start, drifts[:t], sigmas[:t], factors[:t]) for t in range(1, steps + 1)]
        assert min(strings) == pytest.approx(shared.mu, rel=1e-12)
        end = shared.gaps[-1] / math.sqrt(shared.variances[-1]) if shared.variances[-1] > 0 else math.inf
        assert strings[-1] >= end * (1 - 1e-12)
        infeasible += strings[-1] > end * (1 + 1e-9)
    assert infeasible > 100  # in many schedules the straight line would have asked for shifts larger than the gap


@given(schedules())
@settings(deadline=None, max_examples=60)
def test_taut_string_is_the_gift_wrapped_hull(schedule: Schedule) -> None:
    """Another algorithm: from each knot on, go on along the least slope."""
    start, drifts, sigmas, factors = schedule
    scale = np.cumprod(factors)
    gaps = start + np.concatenate([[0.0], np.cumsum(np.asarray(drifts) / scale)])
    variances = np.concatenate([[0.0], np.cumsum((np.asarray(sigmas) / scale) ** 2)])
    if sigmas[-1] == 0:
        sigmas[-1], variances[-1] = 1.0, variances[-1] + scale[-1] ** -2
    here, v, a, total = -1, 0.0, 0.0, 0.0
    while here < len(drifts):
        slopes = [
            (gaps[t] - a) / (variances[t] - v) if variances[t] > v else math.inf for t in range(here + 1, len(gaps))
        ]
        here = here + 1 + int(np.argmin(slopes))
        total += (gaps[here] - a) ** 2 / (variances[here] - v)
        v, a = variances[here], gaps[here]
    assert taut_string(start, drifts, sigmas, factors) == pytest.approx(math.sqrt(total), rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_no_schedule_of_shifts_is_cheaper(seed: int) -> None:
    """Search over all shifts a_t with a gap that never becomes negative and closes at the end."""
    rng = np.random.default_rng(seed)
    steps, start = 5, 1.0
    drifts, sigmas = rng.uniform(0, 0.6, steps), rng.uniform(0.3, 1.5, steps)
    gaps = start + np.cumsum(drifts)
    bound = taut_string(start, drifts, sigmas)
    found = minimize(
        lambda a: float(np.sum((a / sigmas) ** 2)),
        np.full(steps, gaps[-1] / steps),
        bounds=[(0, None)] * steps,
        constraints=[
            {"type": "ineq", "fun": lambda a: (gaps - np.cumsum(a))[:-1]},
            {"type": "eq", "fun": lambda a: gaps[-1] - a.sum()},
        ],
        method="SLSQP",
    )
    assert found.success
    assert math.sqrt(found.fun) == pytest.approx(bound, rel=1e-4)


def test_without_noise_nothing_is_hidden() -> None:
    assert shifted_coupling(1, [0.1] * 3, [0.0] * 3).mu == math.inf
    assert taut_string(1, [0.1] * 3, [0.0] * 3) == math.inf
    assert taut_string(1, [0.1, 0.1], [1.0, 0.0]) == math.inf  # the last drift comes after the last noise
    assert shifted_coupling(1, [0.1, 0.1], [1.0, 0.0]).mu == pytest.approx(1.1)
    together = shifted_coupling(0, [0.1] * 3, [0.0] * 3)
    assert (together.mu, together.step) == (0.0, 0)  # shared maps keep equal states equal


def test_renyi_is_that_of_two_gaussians() -> None:
    x = np.linspace(-30, 30, 200_001)
    mu, alpha = 1.3, 2.5
    log_p, log_q = -((x - mu) ** 2) / 2, -(x**2) / 2
    integrand = np.exp(alpha * log_p + (1 - alpha) * log_q) / math.sqrt(2 * math.pi)
    numeric = math.log(np.trapezoid(integrand, x)) / (alpha - 1)
    assert renyi_of(mu, alpha) == pytest.approx(numeric)


# --- the exact law on the line ---------------------------------------------------------------------------------------


def exact_delta(
    starts: tuple[float, float], maps: Sequence[Callable[[NDArray], NDArray]], sigma: float, epsilon: float
) -> float:
    """Return the exact delta after noisy steps along shared maps, by integration on a grid (both directions)."""
    x = np.arange(-7, 7, 0.02)
    density = [np.exp(-(((x - maps[0](np.array([start]))) / sigma) ** 2) / 2) for start in starts]
    density = [row / row.sum() for row in density]
    for step in maps[1:]:
        kernel = np.exp(-(((x[None, :] - step(x)[:, None]) / sigma) ** 2) / 2)
        kernel /= kernel.sum(axis=1, keepdims=True)
        density = [row @ kernel for row in density]
    p, q = density
    g = math.exp(epsilon)
    return float(max(np.maximum(p - g * q, 0).sum(), np.maximum(q - g * p, 0).sum()))


def test_exact_law_with_repelling_drift() -> None:
    bound = delta_of(shifted_coupling(1, [0.1] * 10, [0.5] * 10).mu, 1.0)
    exact = exact_delta((-0.5, 0.5), [lambda x: x + 0.05 * np.sign(x)] * 10, 0.5, 1.0)
    assert bound == pytest.approx(0.227, abs=5e-4)
    assert exact == pytest.approx(0.065, abs=2e-3)


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 2.0])
@pytest.mark.parametrize("rho", [1.0, 0.8])
@pytest.mark.parametrize("steps", [1, 3, 6])
def test_exact_law_is_below_the_bound(epsilon: float, rho: float, steps: int) -> None:
    drift, sigma = 0.2, 0.6
    for pull in (np.sign, np.sin, lambda x: np.ones_like(x)):
        maps = [lambda x, pull=pull: rho * x + drift / 2 * pull(x)] * steps
        bound = delta_of(shifted_coupling(1, [drift] * steps, [sigma] * steps, [rho] * steps).mu, epsilon)
        exact = exact_delta((-0.5, 0.5), maps, sigma, epsilon)
        assert exact <= bound + 1e-4  # the grid is that fine
        if steps == 1 and pull is np.sign:  # one step that pushes apart is two Gaussians
            assert exact == pytest.approx(bound, abs=1e-4)


def test_worlds_pushed_apart_attain_the_straight_line() -> None:
    """Maps that differ by a constant: two Gaussians, as far apart as the straight line says where that is feasible."""
    drifts, sigmas = [0.3, 0.3, 0.3], [0.5, 0.5, 0.5]
    spread = math.sqrt(sum(s * s for s in sigmas))
    assert taut_string(1, drifts, sigmas) == pytest.approx(1.9 / spread)
    # here most noise comes before most drift, and shifts must not run ahead of the gap
    assert taut_string(0.1, [0.1, 1.7], [2.0, 0.5]) > 1.9 / math.hypot(2.0, 0.5) * 1.5


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_bad_numbers() -> None:
    for bad in ((-1, [0.1], [1.0]), (1, [-0.1], [1.0]), (1, [0.1], [math.nan]), (1, [0.1, 0.1], [1.0])):
        with pytest.raises(UserError):
            shifted_coupling(*bad)
        with pytest.raises(UserError):
            taut_string(*bad)
    with pytest.raises(UserError, match="contraction"):
        taut_string(1, [0.1], [1.0], [0.0])
    with pytest.raises(UserError, match="contraction = 1"):
        mu_with_decay(1, 0.1, 1, 3, 1.0)
    with pytest.raises(UserError, match="steps = 0"):
        mu_without_decay(1, 0.1, 1, 0)
    with pytest.raises(UserError, match="both must be positive"):
        best_steps(0, 1)
    with pytest.raises(UserError, match="alpha"):
        renyi_of(1, 0.5)
