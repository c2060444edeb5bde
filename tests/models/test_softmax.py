"""Closed forms of softmax regression against automatic differentiation, finite differences and extended precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, hessian, vmap

from fedunlearn.models import softmax


def problem(n: int = 7, inputs: int = 4, classes: int = 3, bias: bool = False, seed: int = 0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, inputs))
    a /= np.linalg.norm(a, axis=1, keepdims=True) * (1 + 1e-12)
    theta = 2.0 * rng.normal(size=classes * (inputs + bias))
    return torch.from_numpy(theta), torch.from_numpy(a), torch.from_numpy(rng.integers(0, classes, n))


def reference_loss(theta, x, y, classes):
    inputs = x.shape[1]
    z = x @ theta[: classes * inputs].reshape(classes, inputs).T
    if len(theta) > classes * inputs:
        z = z + theta[classes * inputs :]
    return torch.nn.functional.cross_entropy(z, y, reduction="sum")


@pytest.mark.parametrize("bias", [False, True])
def test_closed_forms_equal_automatic_differentiation(bias):
    theta, x, y = problem(bias=bias)
    v = torch.from_numpy(np.random.default_rng(1).normal(size=len(theta)))
    dense = hessian(lambda t: reference_loss(t, x, y, 3))(theta)
    torch.testing.assert_close(softmax.gradient(theta, x, y, 3), grad(lambda t: reference_loss(t, x, y, 3))(theta))
    torch.testing.assert_close(softmax.hessian(theta, x, 3), dense)
    torch.testing.assert_close(softmax.hvp(theta, v, x, 3), dense @ v)
    each = softmax.per_sample_gradients(theta, x, y, 3)
    for i in range(len(y)):
        torch.testing.assert_close(each[i], softmax.gradient(theta, x[i : i + 1], y[i : i + 1], 3))
    torch.testing.assert_close(softmax.fisher_diagonal(theta, x, y, 3, "true"), dense.diagonal())
    torch.testing.assert_close(softmax.fisher_diagonal(theta, x, y, 3, "empirical"), each.square().sum(0))
    for kind, matrix in (("true", dense), ("empirical", each.T @ each)):
        blocks = softmax.class_blocks(theta, x, y, 3, kind)
        assert sorted(torch.cat([places for places, _ in blocks]).tolist()) == list(range(len(theta)))
        for places, block in blocks:
            torch.testing.assert_close(block, matrix[places][:, places])


def test_gradient_and_hvp_equal_central_differences():
    theta, x, y = problem(bias=True, seed=3)
    v = torch.from_numpy(np.random.default_rng(2).normal(size=len(theta)))
    h = 1e-5
    for i in range(len(theta)):
        step = torch.zeros_like(theta)
        step[i] = h
        slope = (reference_loss(theta + step, x, y, 3) - reference_loss(theta - step, x, y, 3)) / (2 * h)
        assert softmax.gradient(theta, x, y, 3)[i].item() == pytest.approx(slope.item(), abs=1e-8)
    difference = (softmax.gradient(theta + h * v, x, y, 3) - softmax.gradient(theta - h * v, x, y, 3)) / (2 * h)
    torch.testing.assert_close(softmax.hvp(theta, v, x, 3), difference, atol=1e-8, rtol=0)


def test_two_records_by_hand():
    # One input, two classes, W = (ln 3, 0): p = (3/4, 1/4) for a = 1, and (1/4, 3/4) for a = -1.
    theta, x = torch.tensor([np.log(3.0), 0.0], dtype=torch.float64), torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    g = softmax.gradient(theta, x, torch.tensor([0, 0]), 2)
    torch.testing.assert_close(g, torch.tensor([-0.25 + 0.75, 0.25 - 0.75], dtype=torch.float64))
    h = softmax.hessian(theta, x, 2)
    torch.testing.assert_close(h, torch.tensor([[0.375, -0.375], [-0.375, 0.375]], dtype=torch.float64))


def test_weighted_hessian_and_chunks(monkeypatch):
    theta, x, _ = problem(n=9, seed=5)
    w = torch.arange(9, dtype=torch.float64)
    expected = sum(w[i] * softmax.hessian(theta, x[i : i + 1], 3) for i in range(9))
    monkeypatch.setattr(softmax, "_CHUNK", 4)
    torch.testing.assert_close(softmax.hessian(theta, x, 3, weights=w), expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 5), st.integers(2, 5), st.booleans())
def test_hessian_is_symmetric_positive_semidefinite_and_blind_to_common_shifts(seed, n, inputs, classes, bias):
    theta, x, _ = problem(n, inputs, classes, bias, seed)
    h = softmax.hessian(theta, x, classes)
    assert torch.equal(h, h.T)
    assert torch.linalg.eigvalsh(h)[0] > -1e-12
    shift = torch.cat([torch.ones(classes * inputs), torch.ones(classes * bias)]).to(torch.float64)
    torch.testing.assert_close(softmax.hvp(theta, shift, x, classes), torch.zeros_like(theta), atol=1e-12, rtol=0)


def test_vmap_over_models():
    _, x, y = problem()
    rows = torch.from_numpy(np.random.default_rng(4).normal(size=(5, 12)))
    stacked = vmap(lambda t: softmax.gradient(t, x, y, 3))(rows)
    each = vmap(lambda t: softmax.per_sample_gradients(t, x, y, 3))(rows)
    products = vmap(lambda t: softmax.hvp(t, rows[0], x, 3))(rows)
    for i, row in enumerate(rows):
        torch.testing.assert_close(stacked[i], softmax.gradient(row, x, y, 3))
        torch.testing.assert_close(each[i], softmax.per_sample_gradients(row, x, y, 3))
        torch.testing.assert_close(products[i], softmax.hvp(row, rows[0], x, 3))


def extended_gradient(theta: np.ndarray, x: np.ndarray, y: np.ndarray, classes: int, weights: np.ndarray, lam: float):
    """The gradient of F in extended precision (64-bit mantissa), one record after the other."""
    w = theta.astype(np.longdouble).reshape(classes, -1)
    total = np.longdouble(lam) * w
    for a, label, weight in zip(x.astype(np.longdouble), y, weights.astype(np.longdouble)):
        z = w @ a
        e = np.exp(z - z.max())
        r = e / e.sum()
        r[label] -= 1
        total += weight * r[:, None] * a[None, :]
    return total.reshape(-1)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="needs extended-precision long doubles")
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("lam", [1e-5, 1e-2])
def test_rounding_bound_covers_the_true_error(scale, lam):
    worst = 0.0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        n, inputs, classes = 40, 33, 11
        x = rng.normal(size=(n, inputs))
        x /= np.linalg.norm(x, axis=1, keepdims=True) * (1 + 1e-12)
        y = rng.integers(0, classes, n)
        theta = scale * rng.normal(size=classes * inputs)
        weights = np.full(n, 1.0 / n)
        g = softmax.gradient(torch.from_numpy(theta), torch.from_numpy(x), torch.from_numpy(y), classes).numpy() / n
        g = g + lam * theta
        error = float(np.linalg.norm(g - extended_gradient(theta, x, y, classes, weights, lam)))
        bound = softmax.rounding_bound(theta, lam, n, inputs, classes)
        assert error <= bound < 1e-12 * (1 + scale)
        worst = max(worst, error / bound)
    assert worst > 1e-5  # the bound is a bound on this error, not on something else


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("clip", [1e-3, 0.6, 1e9])
def test_clipped_gradients_are_per_sample_gradients_cut_one_by_one(bias, clip):
    theta, x, y = problem(bias=bias)
    each = softmax.per_sample_gradients(theta, x, y, 3)
    by_hand = sum(g * min(1.0, clip / float(g.norm())) for g in each)
    both = softmax.gradients_at(torch.stack([theta, 2 * theta]), x, y, 3, clip)
    torch.testing.assert_close(both[0], by_hand)
    torch.testing.assert_close(both[1:], softmax.gradients_at(2 * theta[None], x, y, 3, clip))
    plain = softmax.gradients_at(torch.stack([theta, -theta]), x, y, 3)
    torch.testing.assert_close(plain, torch.stack([softmax.gradient(t, x, y, 3) for t in (theta, -theta)]))


def test_rounding_bound_by_hand_and_with_bias():
    theta = np.zeros(6)
    theta[:3] = [3.0, 0.0, 4.0]  # two classes, three inputs: norms 5 and 0
    u = 2.0**-53
    expected = 7 * u * 5 + 14 * u + 1.5 * 108 * u + 2 * u * (0.1 * 5 + 2)
    assert softmax.rounding_bound(theta, 0.1, 100, 3, 2) == pytest.approx(expected, rel=1e-8)
    # Two inputs and a bias: class 0 has (3, 0 | 0), class 1 has (4, 0 | 0).
    theta = np.array([3.0, 0.0, 4.0, 0.0, 0.0, 0.0])
    expected = 2 * (7 * u * 2 * 4 + 14 * u + 1.5 * 108 * u) + 2 * u * (0.1 * 5 + 4)
    assert softmax.rounding_bound(theta, 0.1, 100, 2, 2, row_norm=2.0) == pytest.approx(expected, rel=1e-8)


def test_float32_is_refused():
    with pytest.raises(ValueError, match="float64"):
        softmax.rounding_bound(torch.zeros(6), 0.1, 10, 3, 2)
    with pytest.raises(ValueError, match="float64"):
        softmax.gradient_norm_bound(torch.zeros(6), 1e-12)
    assert softmax.gradient_norm_bound(np.array([3.0, 4.0]), 1.0) == pytest.approx(6.0)
