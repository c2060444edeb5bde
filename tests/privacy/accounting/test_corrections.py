"""The constants of a broadcast correction: against brute force, against extreme cases, and against real problems."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.privacy import mu_of
from fedunlearn.privacy.accounting import corrections
from tests.unlearning.central import Central

G, L, M = corrections.SOFTMAX_GRADIENT, corrections.SOFTMAX_SMOOTHNESS, corrections.SOFTMAX_HESSIAN_LIPSCHITZ


def third_cumulant(p, z):
    return p @ (z - p @ z) ** 3


def test_third_derivative_of_the_softmax_loss():
    """Along a unit direction it is a third cumulant; two opposite logits at p = (3 + sqrt 3)/6 attain the bound."""
    assert pytest.approx(0.27217, abs=1e-5) == M == pytest.approx(math.sqrt(2) ** 3 / (6 * math.sqrt(3)))
    rng = np.random.default_rng(0)
    found = 0.0
    for _ in range(4000):
        k = int(rng.integers(2, 8))
        p, z = rng.dirichlet(np.full(k, rng.choice([0.1, 0.5, 2.0]))), rng.normal(size=k)
        found = max(found, abs(third_cumulant(p, z / np.linalg.norm(z))))
    assert 0.25 < found <= M
    worst = (3 + math.sqrt(3)) / 6
    attained = third_cumulant(np.array([worst, 1 - worst, 0]), np.array([1, -1, 0]) / math.sqrt(2))
    assert abs(attained) == pytest.approx(M, rel=1e-12)


def test_third_derivative_of_the_logistic_loss():
    z = np.linspace(-8, 8, 100001)
    s = 1 / (1 + np.exp(-z))
    assert np.max(np.abs(s * (1 - s) * (1 - 2 * s))) == pytest.approx(corrections.LOGISTIC_HESSIAN_LIPSCHITZ, rel=1e-8)
    assert pytest.approx(0.0962, abs=1e-4) == corrections.LOGISTIC_HESSIAN_LIPSCHITZ


def random_problem(rng, lam=0.0, clients=3, classes=3, inputs=3):
    parts = []
    for n in rng.integers(2, 7, size=clients):
        rows = rng.normal(size=(n, inputs))
        parts.append((rows / np.linalg.norm(rows, axis=1, keepdims=True), rng.integers(0, classes, n)))
    return parts, Central(parts, classes, "equal", lam)


def test_gradients_and_hessians_of_unit_rows_keep_to_the_constants():
    rng = np.random.default_rng(1)
    lipschitz = 0.0
    for _ in range(40):
        _, problem = random_problem(rng)
        x = 3 * rng.normal(size=9)
        y = x + 0.3 * rng.normal(size=9)
        assert np.linalg.norm(problem.gradient(x)) <= G
        assert np.linalg.norm(problem.hessian(x), 2) <= L
        change = np.linalg.norm(problem.hessian(x) - problem.hessian(y), 2)
        lipschitz = max(lipschitz, change / np.linalg.norm(x - y))
    assert 0.01 < lipschitz <= M
    even = Central([(np.array([[1.0]]), np.array([0]))], 2, "equal", 0.0)  # one record, two classes at p = 1/2
    assert np.linalg.norm(even.hessian(np.zeros(2)), 2) == pytest.approx(L)
    assert np.linalg.norm(even.gradient(np.array([-30.0, 30.0]))) == pytest.approx(G)
    along = np.array([1.0, -1.0]) / math.sqrt(2)
    at = math.log(2 + math.sqrt(3)) / math.sqrt(2) * along  # odds (3 + sqrt 3) : (3 - sqrt 3)
    slope = (even.hessian(at + 1e-4 * along) - even.hessian(at - 1e-4 * along)) / 2e-4
    assert np.linalg.norm(slope, 2) == pytest.approx(M, rel=1e-6)


# --- what a deletion can do to a gradient -----------------------------------------------------------------------------

counts = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=2, max_size=6).map(
    lambda pairs: [(min(m, n), n) for m, n in pairs]
)


@given(counts, st.sampled_from(["equal", "samples"]))
def test_deleted_weight_is_the_total_variation_of_the_weights(pairs, weighting):
    total, removed = sum(n for _, n in pairs), sum(m for m, _ in pairs)
    forgotten = [pair for pair in pairs if pair[0]]
    if removed == total:
        with pytest.raises(UserError, match="is not a deletion"):
            corrections.deleted_weight(forgotten, len(pairs), total, weighting)
        return
    left = sum(m < n for m, n in pairs)
    distance = 0.0
    for m, n in pairs:
        before = 1 / (len(pairs) * n) if weighting == "equal" else 1 / total
        after = 0.0 if m == n else (1 / (left * (n - m)) if weighting == "equal" else 1 / (total - removed))
        distance += (m * before + (n - m) * abs(after - before)) / 2
    assert corrections.deleted_weight(forgotten, len(pairs), total, weighting) == pytest.approx(distance, abs=1e-12)


@pytest.mark.parametrize("weighting", ["equal", "samples"])
def test_gradient_bounds_hold_anywhere_and_both_gradients_differ_by_what_is_not_seen(weighting):
    rng = np.random.default_rng(2)
    for trial in range(60):
        parts, _ = random_problem(rng, clients=4)
        lost = [int(rng.integers(0, len(y) + (i < 2))) for i, (_, y) in enumerate(parts)]
        kept = [(a[m:], y[m:]) for (a, y), m in zip(parts, lost) if m < len(y)]
        lam, total = 10.0 ** rng.uniform(-3, 0), sum(len(y) for _, y in parts)
        whole, retained = Central(parts, 3, weighting, lam), Central(kept, 3, weighting, lam)
        x = whole.minimiser() if trial % 2 else rng.normal(size=9)
        tau = np.linalg.norm(whole.gradient(x)) + 1e-12
        forgotten = [(m, len(y)) for m, (_, y) in zip(lost, parts) if m]
        weight = corrections.deleted_weight(forgotten, 4, total, weighting)
        seen, unseen = corrections.forget_gradient_bound(forgotten, 4, total, weighting, tau, gradient=G)
        gradient = retained.gradient(x)
        assert np.linalg.norm(gradient) <= corrections.retained_gradient_bound(weight, tau, gradient=G) * (1 + 1e-9)
        assert np.linalg.norm(gradient) <= (seen + unseen) * (1 + 1e-9)
        share = len(parts) / len(kept) if weighting == "equal" else total / (total - sum(lost))
        assert unseen == pytest.approx(share * tau)
        forget = gradient - share * whole.gradient(x)  # what the deleted records alone show
        assert np.linalg.norm(forget) <= seen * (1 + 1e-9)


def test_fisher_matrices_are_within_their_error_of_the_hessian():
    rng = np.random.default_rng(3)
    worst = dict.fromkeys(("fisher-diagonal", "empirical-fisher", "empirical-fisher-diagonal", "own"), 0.0)
    for _ in range(60):
        parts, problem = random_problem(rng, clients=int(rng.integers(1, 4)))
        x = 3 * rng.normal(size=9)
        hessian = problem.hessian(x)
        each = [(problem._probabilities(x)[i] - problem.hot[i])[:, None] * a for i, a in enumerate(problem.a)]
        flat = np.array([e.reshape(-1) for e in each])
        empirical = flat.T @ (flat * problem.w[:, None])
        found = {
            "fisher-diagonal": np.diag(np.diag(hessian)),
            "empirical-fisher": empirical,
            "empirical-fisher-diagonal": np.diag(np.diag(empirical)),
            "own": Central(parts[:1], 3, "equal", 0.0).hessian(x),
        }
        for kind, matrix in found.items():
            worst[kind] = max(worst[kind], np.linalg.norm(matrix - hessian, 2))
    for kind, error in worst.items():
        assert 0.05 < error <= corrections.curvature_error("auto" if kind == "own" else kind, kind == "own")
    assert corrections.curvature_error("auto", False, 0.3) == corrections.curvature_error("fisher", False, 0.3) == 0.3
    assert corrections.curvature_error("public", False) is None


def test_the_error_of_a_newton_step_keeps_to_its_bound():
    rng = np.random.default_rng(4)
    for _ in range(40):
        parts, _ = random_problem(rng, clients=4)
        lam = 10.0 ** rng.uniform(-2, 0)
        whole, retained = (Central(p, 3, "equal", lam) for p in (parts, parts[1:]))
        x = whole.minimiser()
        gradient, damping = retained.gradient(x), float(rng.choice([0.0, 0.1]))
        v = -np.linalg.solve(retained.hessian(x) + damping * np.eye(9), gradient)
        length = np.linalg.norm(v)
        assert length <= corrections.step_bound(np.linalg.norm(gradient), lam, damping=damping)
        left = np.linalg.norm(retained.gradient(x + v))
        assert left <= corrections.newton_residual(length, error=damping) + 1e-12
        distance = np.linalg.norm(x + v - retained.minimiser())
        moved = corrections.moved_residual(np.linalg.norm(gradient), length, lam)
        assert lam * distance <= moved + 1e-12
        assert lam * np.linalg.norm(x - v - retained.minimiser()) <= moved + 1e-12  # whatever the direction
        assert distance <= corrections.correction_sensitivity(left, 0.0, lam) + 1e-12


def test_a_large_correction_is_bounded_by_how_far_it_moved():
    """With lambda = 1e-3 and ten of 12,000 records the Newton error is 757 in the parameters, the way there 4.7."""
    slope = corrections.retained_gradient_bound(10 / 12_000, 0.0, gradient=G)
    step = corrections.step_bound(slope, 1e-3)
    assert corrections.newton_residual(step, error=0.0) / 1e-3 == pytest.approx(756, rel=2e-3)
    assert corrections.moved_residual(slope, step, 1e-3) / 1e-3 == pytest.approx(4.71, rel=2e-3)


def test_collapse_to_the_published_sensitivity():
    """Exact Hessian, exact optimum, sample weights, n >= 2m: at most 2 M G^2 m^2/(lam^3 n^2), equal at n = 2m."""
    for removed, total in ((5, 10), (5, 11), (1, 1000)):
        step = corrections.step_bound(removed * G / (total - removed), 0.1)
        mine = corrections.correction_sensitivity(corrections.newton_residual(step, error=0.0), 0.0, 0.1)
        published = corrections.sekhari_sensitivity(removed, total, 0.1, gradient=G, lipschitz=M)
        assert mine == pytest.approx(published, rel=1e-12) if total == 10 else mine < published
    assert corrections.sekhari_sensitivity(10, 1000, 0.1, gradient=1.0, lipschitz=1.0) == pytest.approx(0.2)


@given(st.integers(1, 400), st.integers(1, 400), st.floats(1e-9, 0.1), st.floats(1e-5, 1))
def test_the_radius_from_the_retained_gradient_is_the_smaller_one(removed, kept, tau, lam):
    total = removed + kept
    mine = corrections.step_bound(corrections.retained_gradient_bound(removed / total, tau, gradient=G), lam)
    assert mine <= corrections.sample_weight_radius(removed, total, tau, lam) * (1 + 1e-12)


def test_radius_for_sample_weights_of_one_record_among_5899():
    assert corrections.sample_weight_radius(1, 5899, 1e-6, 1e-3) == pytest.approx(0.48056, rel=1e-4)


def test_sensitivity_adds_both_gradients_and_both_disagreements():
    assert corrections.correction_sensitivity(3e-4, 1e-4, 0.01, 0.005) == pytest.approx(0.05)


@given(st.booleans(), st.integers(1, 50), st.floats(1e-4, 1), st.floats(0.01, 10))
def test_the_default_shares_come_out_at_the_target_noise(one_vector, releases, lam, sigma):
    public = corrections.budget(1.0, 1e-5, lam, target_sigma=sigma, one_vector=one_vector, releases=releases)
    distance = (public.tau + public.residual) / lam + 2 * public.consensus
    assert public.sensitivity == pytest.approx(distance)
    if public.tau > 1e-9:
        assert public.sigma == pytest.approx(sigma, rel=1e-9)
    assert math.sqrt(releases) * distance / public.sigma <= mu_of(1.0, 1e-5) * (1 + 1e-12)
    assert (public.consensus == 0.0) == one_vector


def test_what_is_given_is_kept_and_pays_in_noise():
    public = corrections.budget(
        1.0, 1e-5, 0.1, target_sigma=0.05, one_vector=False, tau=1e-3, residual=2e-3, consensus=0.01
    )
    assert (public.tau, public.residual, public.consensus) == (1e-3, 2e-3, 0.01)
    assert public.sigma == pytest.approx(0.05 / 0.268051, rel=1e-4)
    with pytest.raises(UserError, match=r"^lam = 0"):
        corrections.budget(1.0, 1e-5, 0.0, target_sigma=0.05, one_vector=True)
