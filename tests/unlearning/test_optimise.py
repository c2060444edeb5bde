"""Newton-CG and its safeguard on functions whose minimiser is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.unlearning.optimise import Stop, accelerated_gradient, conjugate_gradients, deflated, newton_cg


class Quadratic:
    def __init__(self, matrix: np.ndarray, b: np.ndarray) -> None:
        self.matrix, self.b = matrix, b

    def gradient(self, x):
        return self.matrix @ x - self.b

    def hvp(self, x, v):
        return self.matrix @ v


class Logistic:
    """L2 logistic regression, written independently of the package."""

    def __init__(self, seed: int, n: int, d: int, lam: float) -> None:
        rng = np.random.default_rng(seed)
        self.a = rng.normal(size=(n, d))
        self.a /= np.linalg.norm(self.a, axis=1, keepdims=True)
        self.y = np.sign(self.a @ rng.normal(size=d) + 0.3 * rng.normal(size=n))
        self.lam = lam

    def gradient(self, x):
        margin = self.y * (self.a @ x)
        return -(self.a * (self.y / (1 + np.exp(margin)))[:, None]).mean(0) + self.lam * x

    def hvp(self, x, v):
        p = 1 / (1 + np.exp(-self.a @ x))
        return self.a.T @ (p * (1 - p) * (self.a @ v)) / len(self.a) + self.lam * v


def positive_definite(seed: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(d, d)))
    return q @ np.diag(10.0 ** rng.uniform(-3, 0, d)) @ q.T


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_conjugate_gradients_solve_and_any_preconditioner_gives_the_same_answer(seed, d):
    matrix, b = positive_definite(seed, d), np.random.default_rng(seed + 1).normal(size=d)
    exact = np.linalg.solve(matrix, b)
    other = positive_definite(seed + 2, d)
    for precondition in (lambda v: v, lambda v: v / np.diag(matrix), lambda v: other @ v):
        x, _ = conjugate_gradients(lambda v: matrix @ v, b, 1e-10, 500, precondition)
        assert np.linalg.norm(x - exact) <= 1e-6 * (1 + np.linalg.norm(exact))


def test_the_inverse_as_preconditioner_needs_one_product():
    matrix = positive_definite(3, 8)
    x, pairs = conjugate_gradients(lambda v: matrix @ v, np.ones(8), 1e-9, 100, lambda v: np.linalg.solve(matrix, v))
    assert len(pairs) == 1 and np.allclose(matrix @ x, 1)


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(1e-4, 1e-1), st.floats(1e-10, 1e-3))
def test_both_methods_meet_the_rule_within_the_theorem_of_the_minimiser(seed, lam, tau):
    objective = Logistic(seed, 60, 5, lam)
    stop = Stop(tau)
    start = np.random.default_rng(seed).normal(size=5) * 10
    truth = newton_cg(objective, np.zeros(5), Stop(1e-14 / lam if lam < 1e-3 else 1e-13))
    for solution in (newton_cg(objective, start, stop), accelerated_gradient(objective, start, stop, 0.25 + lam, lam)):
        assert solution.met and np.linalg.norm(objective.gradient(solution.x)) <= tau
        assert np.linalg.norm(solution.x - truth.x) <= (tau + truth.bound) / lam


@given(st.integers(0, 10_000), st.integers(3, 12))
def test_deflation_is_exact_on_what_was_seen_and_stays_positive_definite(seed, d):
    matrix, b = positive_definite(seed, d), np.random.default_rng(seed + 1).normal(size=d)
    _, pairs = conjugate_gradients(lambda v: matrix @ v, b, 1e-8, 3, lambda v: v)
    other = positive_definite(seed + 2, d)
    precondition = deflated(lambda v: other @ v, pairs)
    dense = np.stack([precondition(e) for e in np.eye(d)], axis=1)
    assert np.abs(dense - dense.T).max() <= 1e-6 * np.abs(dense).max()
    assert np.linalg.eigvalsh((dense + dense.T) / 2).min() > 0
    for p, product in pairs:
        assert np.linalg.norm(precondition(product) - p) <= 1e-5 * np.linalg.norm(p)


def test_newton_on_a_quadratic_is_one_step():
    objective = Quadratic(positive_definite(0, 6), np.ones(6))
    solution = newton_cg(
        objective, np.zeros(6), Stop(1e-9), precondition=lambda v: np.linalg.solve(objective.matrix, v)
    )
    assert solution.met and solution.steps <= 2
    assert np.allclose(solution.x, np.linalg.solve(objective.matrix, np.ones(6)), atol=1e-5)


def test_limits_and_nan_never_count_as_met():
    objective = Logistic(0, 60, 5, 1e-4)
    assert not newton_cg(objective, np.full(5, 50.0), Stop(1e-12), max_steps=1).met
    assert not newton_cg(objective, np.full(5, 50.0), Stop(1e-12), max_products=2).met
    assert not newton_cg(objective, np.full(5, np.nan), Stop(1e-3)).met


def test_the_rule_adds_the_rounding_bound():
    objective = Quadratic(np.eye(2), np.zeros(2))
    x = np.array([3e-7, 4e-7])
    assert Stop(5.0001e-7).met(x, objective.gradient(x))
    assert not Stop(5.0001e-7, lambda x: 1e-9).met(x, objective.gradient(x))
    assert Stop(6e-7, lambda x: 1e-9).bound(x, objective.gradient(x)) == pytest.approx(5.01e-7)


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 12))
def test_former_directions_are_solved_exactly_and_any_base_stays_positive_definite(seed, d, count):
    matrix, base = positive_definite(seed, d), positive_definite(seed + 1, d)
    directions = (
        np.random.default_rng(seed).normal(size=(min(count, d), d)) * 10.0 ** -np.arange(min(count, d))[:, None]
    )
    apply = deflated(lambda v: base @ v, [(p, matrix @ p) for p in directions])
    inverse = np.stack([apply(e) for e in np.eye(d)], axis=1)
    assert np.allclose(inverse, inverse.T, rtol=0, atol=1e-6 * np.abs(inverse).max())
    assert np.linalg.eigvalsh((inverse + inverse.T) / 2).min() > -1e-9 * np.abs(inverse).max()
    if len(directions) == 1:
        assert np.allclose(apply(matrix @ directions[0]), directions[0], rtol=0, atol=1e-8)


def test_a_direction_without_curvature_is_left_out_of_the_next_preconditioner():
    matrix = positive_definite(0, 4)
    p = np.arange(1.0, 5.0)
    good, flat, broken = (p, matrix @ p), (np.zeros(4), np.zeros(4)), (p, np.full(4, np.nan))
    only = deflated(lambda v: v, [good])
    for pairs in ([good, flat], [broken, good], [good, (p, -p)]):
        assert np.array_equal(deflated(lambda v: v, pairs)(p), only(p))

    def base(v):
        return 2 * v

    assert deflated(base, [flat, broken]) is base


def test_the_safeguard_ends_at_a_gradient_step_of_which_its_theorem_speaks():
    """Where no point on the way may stop it, it takes its proved number of steps, and the rule holds with room."""
    points = []

    class Recorded(Quadratic):
        def gradient(self, x):
            points.append(x.copy())
            return super().gradient(x)

    class OnlyAtTheEnd(Stop):
        def met(self, x, gradient):
            return len(points) > steps + 1 and super().met(x, gradient)

    smoothness, strong, tau, start = 1.0, 1e-3, 1e-4, np.array([1.0, 1.0])
    objective = Recorded(np.diag([smoothness, strong]), np.zeros(2))
    first = np.linalg.norm(objective.matrix @ start)
    bound = 2 * smoothness * first**2 / strong / (tau / 2) ** 2
    steps = int(np.ceil(np.log(bound) / np.sqrt(strong / smoothness))) + 1
    solution = accelerated_gradient(objective, start, OnlyAtTheEnd(tau), smoothness, strong)
    assert solution.met and solution.steps == steps and len(points) == steps + 2
    last = points[steps - 1]
    assert np.array_equal(solution.x, last - objective.matrix @ last / smoothness)
    assert np.linalg.norm(solution.gradient) <= tau / 2
