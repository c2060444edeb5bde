"""Walks of a token: golden numbers, every route of a short walk, the exact law on the line, and inversions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedunlearn.errors import UserError
from fedunlearn.privacy import NoCertificate
from fedunlearn.privacy.accounting.contraction import contraction_delta
from fedunlearn.privacy.accounting.walks import (
    capped_walk_mu,
    hidden_route_delta,
    hidden_route_sigma,
    hops_for,
    sigma_for_walk,
    walk_delta,
    walk_mu,
)
from fedunlearn.privacy.gaussian import delta_of, mu_of

EARLY = (1, 3, 5, 20, 27, 34, 41, 48, 54, 60)
routes = st.integers(1, 30).flatmap(
    lambda hops: st.tuples(st.sets(st.integers(1, hops), min_size=1).map(sorted), st.just(hops))
)


# --- a route that is given -------------------------------------------------------------------------------------------


def test_golden_numbers() -> None:
    """10 visits in 60 hops: 4.43 at the end, 1.73 at the best prefix."""
    found = walk_mu(EARLY, 60, clip=1, lr=0.1, noise=10, start_radius=1)
    assert found.gaps[-1] / math.sqrt(found.variances[-1]) == pytest.approx(4.43, abs=0.005)
    assert found.mu == pytest.approx(1.73, abs=0.005)
    assert found.step == 5


@given(routes, st.floats(0, 2), st.floats(0.01, 1), st.floats(0.5, 20), st.floats(0.01, 3))
@settings(deadline=None)
def test_formula_of_the_walk(route: tuple[list[int], int], clip: float, lr: float, noise: float, start: float) -> None:
    visits, hops = route
    found = walk_mu(visits, hops, clip, lr, noise, start)
    values = [(2 * start + 2 * lr * clip * t) / (lr * noise * math.sqrt(v)) for v, t in enumerate(visits, start=1)]
    assert found.mu == pytest.approx(min(values))
    assert found.step in visits
    assert found.mu <= values[-1] * (1 + 1e-12)


@given(routes, st.floats(0.1, 2))
@settings(deadline=None)
def test_each_option_only_helps_or_only_costs(route: tuple[list[int], int], ball: float) -> None:
    visits, hops = route
    plain = walk_mu(visits, hops, 1, 0.1, 10, 1).mu
    assert walk_mu(visits, hops, 1, 0.1, 10, 1, ball).mu <= plain
    assert walk_mu(visits, hops, 1, 0.1, 10, 1, contraction=0.98).mu <= plain
    assert walk_mu(visits, hops, 1, 0.1, 10, 1, local_steps=3).mu >= plain
    last = walk_mu(visits, hops, 1, 0.1, 10, 1, alignment="lightweight").mu
    assert last >= plain * (1 - 1e-12)
    assert walk_mu(visits, hops, 1, 0.1, 10, 1, ball, "lightweight").mu <= last


def test_ball_lets_every_visit_begin_anew() -> None:
    """A single visit in a ball of radius R is a Gaussian of mu ``2R/(lr noise)``; later visits join in."""
    far = walk_mu((50,), 50, clip=1, lr=0.1, noise=10, start_radius=30, ball=0.7)
    assert far.mu == pytest.approx(2 * 0.7 / 1.0)
    assert far.step == 50
    assert far.gaps[far.step] / math.sqrt(far.variances[far.step]) == pytest.approx(far.mu)
    two = walk_mu((50, 52), 60, clip=1, lr=0.1, noise=10, start_radius=30, ball=2.0)
    assert two.mu == pytest.approx((4.0 + 2 * 0.2) / math.sqrt(2))
    assert two.step == 52
    assert (len(two.gaps), len(two.variances)) == (61, 61)


def test_lightweight_merges_at_the_last_visit() -> None:
    found = walk_mu(EARLY, 60, 1, 0.1, 10, 1, alignment="lightweight")
    assert found.step == 60
    assert found.mu > 1.73 * 2
    together = walk_mu((1, 2, 3), 9, 1, 0.1, 10, 1, alignment="lightweight")
    assert together.mu == pytest.approx(2.6 / math.sqrt(3))  # all visits in a row: the straight line is feasible
    # a public start: the worlds part at the visits alone, and noise at the same hop still cannot undo later drift
    public = walk_mu((1, 5), 9, 1, 0.1, 10, 0, alignment="lightweight")
    assert 0 < public.mu < found.mu
    assert walk_mu((), 9, 1, 0.1, 10, 1, alignment="lightweight").mu == math.inf
    assert walk_mu((), 9, 1, 0.1, 10, 0, alignment="lightweight").mu == 0
    assert walk_mu((1, 5), 9, 1, 0.1, 10, 0).mu == 0


def test_decay_and_local_steps_by_hand() -> None:
    """Hops 1 (three local steps) and 2 (a visit), rho = 0.9."""
    found = walk_mu((2,), 2, clip=1, lr=0.1, noise=10, start_radius=1, local_steps=3, contraction=0.9)
    after_one = 2 * 0.9**3 + 0.2 * (1 + 0.9 + 0.81)
    assert found.gaps[1:] == pytest.approx((after_one, 0.9 * after_one + 0.2))
    assert found.variances == pytest.approx((0, 0, 1))


def test_exact_law_of_a_walk_is_below_the_bound() -> None:
    """Three visits in seven hops on the line, every hop pushing away from the origin."""
    visits, hops, clip, lr, noise, start = (2, 4, 7), 7, 1.0, 0.05, 12.0, 0.5
    x = np.arange(-7, 7, 0.02)

    def push(points: np.ndarray, steps: int) -> np.ndarray:
        for _ in range(steps):
            points = points + lr * clip * np.sign(points)
        return points

    laws = []
    for begin in (-start, start):
        density = norm.pdf(x, push(np.array([begin]), 2)[0], lr * noise)
        density /= density.sum()
        for steps in (2, 3):
            kernel = norm.pdf(x[None, :], push(x, steps)[:, None], lr * noise)
            density = density @ (kernel / kernel.sum(axis=1, keepdims=True))
        laws.append(density)
    coupling = walk_mu(visits, hops, clip, lr, noise, start)
    for epsilon in (0.2, 1.0, 2.0):
        exact = np.maximum(laws[0] - math.exp(epsilon) * laws[1], 0).sum()
        assert exact <= delta_of(coupling.mu, epsilon) + 1e-6
        assert exact > 0.02 * delta_of(coupling.mu, epsilon)


# --- a random route --------------------------------------------------------------------------------------------------


def _every_route(hops: int, p: float, epsilon: float, clip: float, lr: float, noise: float, start: float) -> float:
    total = 0.0
    for chosen in itertools.product((False, True), repeat=hops):
        visits = [hop for hop, here in enumerate(chosen, start=1) if here]
        weight = p ** len(visits) * (1 - p) ** (hops - len(visits))
        total += weight * delta_of(walk_mu(visits, hops, clip, lr, noise, start).mu, epsilon)
    return total


@pytest.mark.parametrize("p", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("noise", [8.0, 40.0])
def test_hidden_route_against_every_route(p: float, noise: float) -> None:
    exact = _every_route(10, p, 1.0, 1, 0.1, noise, 1)
    bound = hidden_route_delta(1.0, 10, p, 1, 0.1, noise, 1)
    assert exact <= bound <= exact * 1.03 + 1e-15
    fine = hidden_route_delta(1.0, 10, p, 1, 0.1, noise, 1, points=20_000)
    assert exact <= fine * (1 + 1e-12) <= exact * 1.001 + 1e-15


def test_hidden_route_against_simulated_routes() -> None:
    hops, p, noise = 120, 0.15, 40.0
    rng = np.random.default_rng(1)
    routes = [np.flatnonzero(rng.random(hops) < p) + 1 for _ in range(1500)]
    sample = [delta_of(walk_mu(visits, hops, 1, 0.1, noise, 1).mu, 0.5) for visits in routes]
    bound = hidden_route_delta(0.5, hops, p, 1, 0.1, noise, 1)
    error = 4 * np.std(sample) / math.sqrt(len(sample))
    assert np.mean(sample) - error <= bound <= 1.03 * np.mean(sample) + error


def test_hidden_route_extremes() -> None:
    assert hidden_route_delta(1, 10, 0.1, 1, 0.1, 10, 0) == 0
    assert hidden_route_delta(1, 10, 0.0, 1, 0.1, 10, 1) == 1
    assert hidden_route_delta(1, 10, 0.1, 1, 0.1, 0, 1) == 1
    assert hidden_route_delta(1, 10, 0.1, 1, 0.1, 1e9, 1) == pytest.approx(0.9**10)
    with pytest.raises(UserError):
        hidden_route_delta(1, 0, 0.1, 1, 0.1, 1, 1)
    with pytest.raises(UserError):
        hidden_route_delta(1, 5, 0.1, -1, 0.1, 1, 1)


def test_noise_for_a_hidden_route() -> None:
    noise = hidden_route_sigma(1, 1e-3, 60, 0.2, 1, 0.1, 1)
    assert hidden_route_delta(1, 60, 0.2, 1, 0.1, noise, 1) <= 1e-3
    assert hidden_route_delta(1, 60, 0.2, 1, 0.1, 0.999 * noise, 1) > 1e-3
    assert hidden_route_sigma(1, 1e-3, 60, 0.2, 1, 0.1, 0) == 0
    with pytest.raises(NoCertificate, match="more hops"):
        hidden_route_sigma(1, 1e-5, 60, 0.1, 1, 0.1, 1)


@given(st.integers(1, 12), st.integers(0, 9), st.integers(0, 2**32))
@settings(deadline=None)
def test_capped_walk_covers_all_its_routes(visits: int, cap: int, seed: int) -> None:
    gaps = np.random.default_rng(seed).integers(0, cap, size=visits, endpoint=True)
    route = np.cumsum(gaps + 1)
    bound = capped_walk_mu(visits, cap, 1, 0.1, 10, 1)
    assert walk_mu(route, int(route[-1]), 1, 0.1, 10, 1).mu <= bound * (1 + 1e-12)
    slowest = np.arange(1, visits + 1) * (cap + 1)
    assert walk_mu(slowest, int(slowest[-1]), 1, 0.1, 10, 1).mu == pytest.approx(bound)
    assert walk_mu(slowest, int(slowest[-1]), 1, 0.1, 10, 1, local_steps=2).mu == pytest.approx(
        capped_walk_mu(visits, cap, 1, 0.1, 10, 1, local_steps=2)
    )


# --- inversions ------------------------------------------------------------------------------------------------------


@given(routes, st.floats(0.1, 10), st.floats(-8, -2), st.sampled_from(["exact", "lightweight"]))
@settings(deadline=None, max_examples=50)
def test_noise_is_the_least_that_suffices(
    route: tuple[list[int], int], epsilon: float, exponent: float, alignment: str
) -> None:
    visits, hops = route
    delta = 10.0**exponent
    noise = sigma_for_walk(epsilon, delta, visits, hops, 1, 0.1, 1, alignment=alignment)  # type: ignore[arg-type]
    found = walk_mu(visits, hops, 1, 0.1, noise, 1, alignment=alignment)  # type: ignore[arg-type]
    assert found.mu == pytest.approx(mu_of(epsilon, delta), rel=1e-9)
    assert delta_of(found.mu, epsilon) <= delta


def test_ball_contraction_needs_less_noise() -> None:
    merged = sigma_for_walk(1, 1e-5, EARLY, 60, 1, 0.1, 1)
    noise = sigma_for_walk(1, 1e-5, EARLY, 60, 1, 0.1, 1, ball=1.0)
    assert noise < merged / 5
    assert contraction_delta(1, 2 / (0.1 * noise), 10) <= 1e-5
    assert (
        walk_delta(1, EARLY, 60, 1, 0.1, noise, 1, 1.0)
        <= 1e-5
        < walk_delta(1, EARLY, 60, 1, 0.1, noise * 0.999, 1, 1.0)
    )
    # without shared maps the contraction does not apply
    lightweight = sigma_for_walk(1, 1e-5, EARLY, 60, 1, 0.1, 1, 1.0, "lightweight")
    assert lightweight == pytest.approx(2 * 1.0 / 0.1 / mu_of(1, 1e-5))


def test_no_noise_helps() -> None:
    with pytest.raises(NoCertificate, match="none of the 60 hops"):
        sigma_for_walk(1, 1e-5, (), 60, 1, 0.1, 1)
    assert sigma_for_walk(1, 1e-5, EARLY, 60, 1, 0.1, 0) == 0


def test_hops_for_a_claim() -> None:
    delta = 1e-5
    noise = sigma_for_walk(1, delta, EARLY[:2], 60, 1, 0.1, 1) * (1 + 1e-9)
    stop = hops_for(1, delta, EARLY, 1, 0.1, noise, 1)
    assert stop == 3
    for visits in range(1, len(EARLY) + 1):
        route = EARLY[:visits]
        assert (delta_of(walk_mu(route, route[-1], 1, 0.1, noise, 1).mu, 1) <= delta) == (route[-1] >= stop)
    with pytest.raises(NoCertificate, match="10 visits do not reach"):
        hops_for(1, delta, EARLY, 1, 0.1, 1.0, 1)


def test_bad_numbers() -> None:
    for visits in ((0,), (3, 2), (2, 2), (61,)):
        with pytest.raises(UserError, match="increasing hops"):
            walk_mu(visits, 60, 1, 0.1, 10, 1)
    with pytest.raises(UserError, match="clip = -1"):
        walk_mu((1,), 60, -1, 0.1, 10, 1)
    with pytest.raises(UserError, match="contraction"):
        walk_mu((1,), 60, 1, 0.1, 10, 1, contraction=1.1)
    with pytest.raises(UserError, match="gap_cap"):
        capped_walk_mu(1, -1, 1, 0.1, 10, 1)
    with pytest.raises(UserError, match="hops = 0"):
        walk_mu((), 0, 1, 0.1, 10, 1)
