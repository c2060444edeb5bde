"""Derivatives of the data term: every form against a dense truth, on a convex and on a non-convex model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, hessian, jacrev, vmap

from fedunlearn.errors import UserError
from fedunlearn.models import (
    ModelSettings,
    build_model,
    fisher_blocks_sum,
    fisher_diagonal_sum,
    fisher_sum,
    gradient_sum,
    hessian_sum,
    hvp_sum,
    loss_sum,
    objective,
    per_sample_gradients,
)

MODELS = {
    "softmax": (ModelSettings(name="softmax"), (6,)),
    "softmax-unit": (ModelSettings(name="softmax", features="unit"), (6,)),
    "mlp": (ModelSettings(name="mlp", hidden=(4,), activation="smelu"), (6,)),
    "small-cnn": (ModelSettings(name="small-cnn", activation="smelu"), (4, 4)),
}


def case(name: str, n: int = 5):
    settings, shape = MODELS[name]
    model = build_model(settings, 3, shape)
    rng = np.random.default_rng(0)
    theta = torch.from_numpy(rng.normal(size=model.dim)) * (0.1 if name == "small-cnn" else 1.0)
    x = torch.from_numpy(rng.normal(size=(n, 1, *shape) if model.takes_images else (n, *shape)).astype(np.float32))
    return model, theta, x, torch.from_numpy(rng.integers(0, 3, n))


def plain_loss(model, x, y):
    return lambda t: F.cross_entropy(model.logits(t, x), y, reduction="sum")


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient(name):
    model, theta, x, y = case(name)
    p = model.logits(theta, x).softmax(1)
    assert loss_sum(model, theta, x, y).item() == pytest.approx(-p[torch.arange(len(y)), y].log().sum().item())
    g = gradient_sum(model, theta, x, y)
    assert g.dtype == torch.float64
    torch.testing.assert_close(g, grad(plain_loss(model, x, y))(theta))
    v = torch.from_numpy(np.random.default_rng(1).normal(size=model.dim))
    h = 1e-6
    slope = (loss_sum(model, theta + h * v, x, y) - loss_sum(model, theta - h * v, x, y)) / (2 * h)
    assert (g @ v).item() == pytest.approx(slope.item(), rel=1e-6, abs=1e-7)
    torch.testing.assert_close(gradient_sum(model, theta.float(), x, y), g.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_hvp_equals_the_dense_hessian_and_central_differences(name):
    model, theta, x, y = case(name)
    v = torch.from_numpy(np.random.default_rng(1).normal(size=model.dim))
    product = hvp_sum(model, theta, v, x, y)
    h = 1e-6
    difference = (gradient_sum(model, theta + h * v, x, y) - gradient_sum(model, theta - h * v, x, y)) / (2 * h)
    torch.testing.assert_close(product, difference, atol=1e-5, rtol=1e-5)
    if model.dim < 200:
        dense = hessian(plain_loss(model, x, y))(theta)
        torch.testing.assert_close(product, dense @ v)
        torch.testing.assert_close(hessian_sum(model, theta, x, y), dense)


@pytest.mark.parametrize("name", MODELS)
def test_per_sample_gradients_sum_to_the_gradient(name):
    model, theta, x, y = case(name)
    each = per_sample_gradients(model, theta, x, y)
    assert each.shape == (len(y), model.dim)
    torch.testing.assert_close(each.sum(0), gradient_sum(model, theta, x, y))
    torch.testing.assert_close(each[2], gradient_sum(model, theta, x[2:3], y[2:3]))


def slow_fisher(model, theta, x, y, kind):
    """The definition, one record and one class after the other."""
    total = torch.zeros((model.dim, model.dim), dtype=torch.float64)
    for a, b in zip(x, y):
        p = model.logits(theta, a[None])[0].softmax(0)
        scores = jacrev(lambda t, a=a: F.log_softmax(model.logits(t, a[None])[0], dim=0))(theta)
        for k in range(model.num_classes):
            weight = p[k] if kind == "true" else float(k == b)
            total += weight * torch.outer(scores[k], scores[k])
    return total


@pytest.mark.parametrize("kind", ["true", "empirical"])
@pytest.mark.parametrize("name", ["softmax", "softmax-unit", "mlp"])
def test_fisher_matrices_by_definition(name, kind):
    model, theta, x, y = case(name)
    expected = slow_fisher(model, theta, x, y, kind)
    torch.testing.assert_close(fisher_sum(model, theta, x, y, kind=kind), expected)
    torch.testing.assert_close(fisher_diagonal_sum(model, theta, x, y, kind=kind), expected.diagonal())
    blocks = fisher_blocks_sum(model, theta, x, y, kind=kind)
    assert sorted(torch.cat([places for places, _ in blocks]).tolist()) == list(range(model.dim))
    for places, block in blocks:
        torch.testing.assert_close(block, expected[places][:, places])


def test_true_fisher_is_the_hessian_for_softmax_and_not_for_a_network():
    model, theta, x, y = case("softmax")
    torch.testing.assert_close(fisher_sum(model, theta, x, y), hessian_sum(model, theta, x, y))
    model, theta, x, y = case("mlp")
    assert not torch.allclose(fisher_sum(model, theta, x, y), hessian_sum(model, theta, x, y), atol=1e-3)


@pytest.mark.parametrize("name", ["softmax", "mlp"])
def test_chunks_of_records_change_nothing(name, monkeypatch):
    model, theta, x, y = case(name)
    whole = [f(model, theta, x, y) for f in (gradient_sum, fisher_diagonal_sum)] + [hvp_sum(model, theta, theta, x, y)]
    monkeypatch.setattr(objective, "_RECORDS", 2)
    monkeypatch.setattr(objective, "_FACTOR_NUMBERS", 2 * model.dim * model.num_classes)
    parts = [f(model, theta, x, y) for f in (gradient_sum, fisher_diagonal_sum)] + [hvp_sum(model, theta, theta, x, y)]
    for a, b in zip(whole, parts):
        torch.testing.assert_close(a, b)


def test_no_records_give_zero():
    for name in ("softmax", "mlp"):
        model, theta, x, y = case(name)
        assert not gradient_sum(model, theta, x[:0], y[:0]).any()
        assert not hvp_sum(model, theta, theta, x[:0], y[:0]).any()


@pytest.mark.parametrize("name", ["softmax", "mlp"])
def test_vmap_over_models(name):
    model, theta, x, y = case(name)
    rows = torch.stack([theta, theta / 2])
    each = vmap(lambda t: per_sample_gradients(model, t, x, y))(rows)
    products = vmap(lambda t: hvp_sum(model, t, theta, x, y))(rows)
    for i in range(2):
        torch.testing.assert_close(each[i], per_sample_gradients(model, rows[i], x, y))
        torch.testing.assert_close(products[i], hvp_sum(model, rows[i], theta, x, y))


def test_too_large_matrices_and_unknown_kinds_are_refused():
    model = build_model(ModelSettings(name="mlp"), 62, (784,))
    theta, x, y = torch.zeros(model.dim), torch.zeros((1, 784)), torch.zeros(1, dtype=torch.int64)
    for call in (hessian_sum, fisher_sum, fisher_blocks_sum):
        with pytest.raises(UserError, match="rows, but at most 8192 are kept in memory; use"):
            call(model, theta, x, y)
    with pytest.raises(ValueError, match="'true' or 'empirical'"):
        fisher_diagonal_sum(model, theta, x, y, kind="diagonal")
