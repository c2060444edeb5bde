"""Model clipping: golden numbers, laws, and the exact law on the line."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedunlearn.errors import UserError
from fedunlearn.privacy.accounting.contraction import contract, contraction_delta, contraction_steps, theta


def test_golden_numbers() -> None:
    assert theta(1, 2) == pytest.approx(0.50986, abs=5e-6)
    deltas = [contraction_delta(1, 2, steps) for steps in range(1, 7)]
    assert deltas == pytest.approx([0.510, 0.216, 0.0649, 0.00955, 2.5e-4, 2.6e-8], rel=0.03)
    assert [contraction_steps(1, 1e-5, r) for r in (1, 2, 4, 6)] == [3, 6, 40, 602]
    assert contraction_steps(1, 1e-5, 12, most=2000) is None


@pytest.mark.slow
def test_many_steps() -> None:
    assert contraction_steps(1, 1e-5, 8) == 24_096


@given(st.floats(0.01, 20), st.floats(0.05, 15))
@settings(deadline=None)
def test_theta_is_its_formula(epsilon: float, r: float) -> None:
    direct = norm.sf(epsilon / r - r / 2) - math.exp(epsilon + norm.logsf(epsilon / r + r / 2))
    assert theta(epsilon, r) == pytest.approx(direct, rel=1e-6, abs=1e-13)


@given(st.floats(0.05, 5), st.floats(0.2, 6), st.floats(1e-8, 1), st.floats(1e-8, 1))
@settings(deadline=None)
def test_a_step_is_monotone_and_shrinks(epsilon: float, r: float, one: float, other: float) -> None:
    """An upper bound may replace the delta before a step."""
    low, high = sorted((one, other))
    assert contract(epsilon, low, r) <= contract(epsilon, high, r) * (1 + 1e-9) + 1e-300
    assert contract(epsilon, high, r) < high
    assert contract(epsilon, high, r) <= contract(epsilon, high, 1.1 * r) * (1 + 1e-9)


@given(st.floats(0.1, 5), st.lists(st.floats(0.3, 5), min_size=1, max_size=5), st.floats(1e-4, 1))
@settings(deadline=None)
def test_steps_compose(epsilon: float, ratios: list[float], start: float) -> None:
    one_by_one = start
    for ratio in ratios:
        one_by_one = contraction_delta(epsilon, ratio, start_delta=one_by_one)
    assert contraction_delta(epsilon, ratios, start_delta=start) == pytest.approx(one_by_one)


def test_noisy_start_saves_steps() -> None:
    start = theta(1, 1.0)
    assert contraction_delta(1, 2, 3, start) < contraction_delta(1, 2, 3)
    steps = contraction_steps(1, 1e-5, 2, start)
    assert steps is not None
    assert contraction_delta(1, 2, steps, start) <= 1e-5 < contraction_delta(1, 2, steps - 1, start)


def test_extremes() -> None:
    assert contract(800, 1e-300, 2) == 0.0
    assert contract(1, 0.0, 2) == 0.0
    assert contraction_delta(1, 2, 0) == 1.0
    for call in (
        lambda: contraction_delta(0, 2, 1),
        lambda: contraction_delta(1, 2, -1),
        lambda: contraction_steps(1, 0, 2),
        lambda: contract(1, 1.5, 2),
        lambda: contraction_delta(1, -2, 1),
    ):
        with pytest.raises(UserError):
            call()


def _exact(steps: int, clip: float, sigma: float, drift: float, epsilon: float) -> float:
    """Return the exact delta of two worlds that start at the ends of the interval, on a grid."""
    x = np.arange(-5, 5, 0.01)

    def step(points: np.ndarray) -> np.ndarray:
        inside = np.clip(points, -clip, clip)
        return inside + drift * np.sign(inside)

    def law(start: float) -> np.ndarray:
        density = norm.pdf(x, step(np.array([start]))[0], sigma)
        kernel = norm.pdf(x[None, :], step(x)[:, None], sigma)
        density, kernel = density / density.sum(), kernel / kernel.sum(axis=1, keepdims=True)
        for _ in range(steps - 1):
            density = density @ kernel
        return density

    return float(np.maximum(law(clip) - math.exp(epsilon) * law(-clip), 0).sum())


def test_exact_law_is_below_the_bound() -> None:
    clip, sigma = 0.5, 0.5
    exact = [_exact(steps, clip, sigma, 0.0, 1.0) for steps in range(1, 5)]
    bounds = [contraction_delta(1, 2 * clip / sigma, steps) for steps in range(1, 5)]
    assert exact[0] == pytest.approx(bounds[0], rel=1e-3)  # the first step is two Gaussians
    assert all(mine <= bound * (1 + 1e-3) for mine, bound in zip(exact, bounds))
    assert exact[3] <= 1e-5 < exact[2]  # four steps would do, the bound asks for six
    for steps in (1, 2, 3):
        drifting = contraction_delta(1, (2 * clip + 2 * 0.1) / sigma, steps)
        assert _exact(steps, clip, sigma, 0.1, 1.0) <= drifting * (1 + 1e-3)
