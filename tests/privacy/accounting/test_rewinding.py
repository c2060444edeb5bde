"""The published bounds of rewinding, their inverses, and what they are worth."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.privacy import delta_of, sigma_for
from fedunlearn.privacy.accounting import rewinding
from fedunlearn.privacy.accounting.rewinding import OWN, THEOREM, Rewinding, bounds, capacity, growth, rewind_for

SMALL = Rewinding(steps=100, lr=0.01, deleted=10, total=1000, gradient=1.0, smoothness=1.0)

recipes = st.builds(
    Rewinding,
    steps=st.integers(1, 60),
    lr=st.floats(1e-3, 0.5),
    deleted=st.integers(1, 40),
    total=st.integers(50, 400),
    gradient=st.floats(0.1, 5.0),
    smoothness=st.floats(0.05, 2.0),
)


def named(setting, rewound):
    return {bound.name: bound.value for bound in bounds(setting, rewound)}


def test_golden_numbers():
    assert growth(SMALL, 50) == pytest.approx(1.0737406, abs=5e-8)
    assert named(SMALL, 50)[THEOREM] == pytest.approx(0.0214748, abs=5e-8)
    assert rewinding.published_sigma(named(SMALL, 50)[THEOREM], 1.0, 1e-5) == pytest.approx(0.104041, abs=5e-7)


def test_above_epsilon_one_the_noise_is_the_exact_gaussian():
    assert rewinding.published_sigma(1.0, 3.0, 1e-5) == sigma_for(1.0, 3.0, 1e-5)


def test_the_published_operating_point_is_vacuous():
    """Distances of 118.6 to 8.2 beside noise of 0.01: the best observer is right every time."""
    found = rewinding.plan(rewinding.eicu(), (0.10, 0.36, 0.74, 0.90, 0.99), 1.0, 1e-5, sigma=0.01)
    theorem = [plan.rows[0] for plan in found]
    assert [round(row.bound.value, 1) for row in theorem] == [118.6, 115.5, 97.6, 59.7, 8.2]
    assert all(row.worth.startswith("vacuous") for plan in found for row in plan.rows)
    assert all(row.epsilon > 1e5 for plan in found for row in plan.rows)
    # What gradients bounded by G allow is smaller than the theorem up to a rewind of nine tenths.
    assert [plan.best.bound.name for plan in found] == ["gradient only"] * 4 + ["retained data"]
    assert found[0].best.bound.value == pytest.approx(43.6, abs=0.01)


def test_noise_and_epsilon_of_a_plan_are_those_of_the_gaussian_profile():
    (plan,) = rewinding.plan(SMALL, (0.5,), 1.0, 1e-5, sigma=0.05)
    assert plan.rewound == 50
    for row in plan.rows:
        assert delta_of(row.bound.value / row.sigma, 1.0) == pytest.approx(1e-5, rel=1e-6)
        assert delta_of(row.bound.value / 0.05, row.epsilon) == pytest.approx(1e-5, rel=1e-6)
    (whole,) = rewinding.plan(SMALL, (1.0,), 1.0, 1e-5, sigma=0.05)
    assert all(row.sigma == row.mu == row.epsilon == 0 for row in whole.rows)


def two_runs(rng, setting, rewound):
    """Gradient descent on random losses with gradients bounded by G and L-Lipschitz: distance of the last models.

    A record's loss in a direction is ``-(G^2/L) cos(L u/G + phase)`` scaled to several orthogonal directions.
    """
    n, m, d = int(setting.total), int(setting.deleted), 3
    phases = rng.uniform(0, 2 * np.pi, (n, d))
    weights = rng.dirichlet(np.ones(d), n) ** 0.5  # unit vectors: coordinates are independent, so norms add in squares
    scale = setting.smoothness / setting.gradient

    def gradient(x, rows):
        return (setting.gradient * weights[rows] * np.sin(scale * x + phases[rows])).mean(0)

    everything, kept = np.arange(n), np.arange(m, n)
    a = b = np.zeros(d)
    for t in range(setting.steps):
        a = a - setting.lr * gradient(a, everything if t < setting.steps - rewound else kept)
        b = b - setting.lr * gradient(b, kept)
    return float(np.linalg.norm(a - b))


@settings(max_examples=40, deadline=None)
@given(recipes, st.floats(0, 1), st.integers(0, 10**6))
def test_every_bound_dominates_what_descent_does(setting, share, seed):
    rewound = round(share * setting.steps)
    true = two_runs(np.random.default_rng(seed), setting, rewound)
    assert all(true <= bound.value * (1 + 1e-9) for bound in bounds(setting, rewound))


@given(recipes)
def test_rewinding_farther_never_hurts_and_all_of_it_leaves_nothing(setting):
    assert growth(setting, setting.steps) == 0
    assert all(bound.value == 0 for bound in bounds(setting, setting.steps))
    path = [named(setting, k) for k in range(setting.steps + 1)]
    for name in (THEOREM, OWN):  # around the retained data the bound may rise at first
        assert all(a[name] * (1 + 1e-12) >= b[name] for a, b in pairwise(path))
    assert all(p[OWN] <= p[THEOREM] * (1 + 1e-12) for p in path)


@given(recipes, st.floats(1e-4, 10), st.sampled_from([OWN, THEOREM]))
def test_the_steps_to_rewind_reach_the_target(setting, allowed, bound):
    steps = rewind_for(setting, allowed, bound=bound)
    assert named(setting, steps)[bound] <= allowed
    first = next(k for k in range(setting.steps + 1) if named(setting, k)[bound] <= allowed)
    assert steps == first if bound == OWN else steps >= first  # exact, and the corollary: sufficient


@given(recipes, st.floats(1e-4, 10), st.floats(0, 1))
def test_the_capacity_is_the_largest_number_that_is_allowed(setting, allowed, share):
    rewound = round(share * setting.steps)
    found = capacity(setting, rewound, allowed)

    def least(m):
        values = Rewinding(setting.steps, setting.lr, m, setting.total, setting.gradient, setting.smoothness)
        return min(bound.value for bound in bounds(values, rewound))

    assert least(found) <= allowed
    assert found == setting.total - 1 or least(found + 1) > allowed


def test_assumptions_decide_which_bounds_there_are():
    bare = Rewinding(steps=10, lr=0.1, deleted=1, total=10, gradient=2.0)
    assert [bound.name for bound in bounds(bare, 5)] == ["gradient only"]
    ball = Rewinding(steps=10, lr=0.1, deleted=1, total=10, gradient=2.0, radius=0.7)
    assert rewinding.smallest(bounds(ball, 5)).value == 1.4
    with pytest.raises(UserError, match="smoothness"):
        growth(bare, 5)


def test_the_exponential_runs_out_of_numbers_without_an_error():
    wild = Rewinding(steps=10**6, lr=0.5, deleted=8, total=400, gradient=1.4, smoothness=0.5)
    assert math.isinf(named(wild, 10)[THEOREM])
    assert rewinding.smallest(bounds(wild, 10)).name == "gradient only"
    (plan,) = rewinding.plan(wild, (0.1,), 1.0, 1e-5, 0.1)
    assert plan.rows[0].worth.startswith("vacuous")


def test_the_utility_bound_covers_a_run_on_a_smooth_loss():
    """Quadratic losses on an interval: the sum of squared gradient norms of both phases, computed directly."""
    rng = np.random.default_rng(0)
    n, m, lr, steps, rewound = 50, 5, 0.4, 40, 10
    centres = rng.uniform(-1, 1, n)
    kept = centres[m:].mean()
    setting = Rewinding(steps, lr, m, n, gradient=2.0, smoothness=1.0)
    a, squares = 0.9, 0.0
    for _ in range(steps - rewound):
        squares += (a - kept) ** 2
        a -= lr * (a - centres.mean())
    for _ in range(rewound):
        a -= lr * (a - kept)
        squares += (a - kept) ** 2

    def loss(x):
        return 0.5 * ((x - centres[m:]) ** 2).mean()

    bound = rewinding.utility_bound(setting, rewound, loss(0.9) - loss(a))
    assert squares <= bound
    noisy = rewinding.utility_bound(setting, rewound, loss(0.9) - loss(a), dim=7, sigma=0.5)
    assert noisy == pytest.approx(bound + 2 * 7 * 0.25)
    with pytest.raises(UserError, match="too large for the utility bound"):
        rewinding.utility_bound(Rewinding(steps, 3.0, m, n, 2.0, 1.0), rewound, 1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Rewinding(10, 0.1, 10, 10, 1.0), "deleted = 10"),
        (lambda: Rewinding(10, -0.1, 1, 10, 1.0), "lr = -0.1"),
        (lambda: bounds(SMALL, 101), "rewound = 101"),
        (lambda: rewind_for(SMALL, 1.0, bound="projection"), "no formula"),
        (lambda: rewinding.plan(SMALL, (1.5,), 1.0, 1e-5, 0.1), "fraction = 1.5"),
    ],
)
def test_numbers_out_of_range_are_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()
