"""Stacked gradients of linear layers, against automatic differentiation of one sample at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedunlearn.models import Model, ModelSettings, build_model, per_sample_gradients
from fedunlearn.models.stacked import dense_layers, factors

MODELS = {
    "softmax": {"name": "softmax"},
    "softmax without bias": {"name": "softmax", "features": "unit"},
    "relu": {"name": "mlp", "hidden": (7, 5)},
    "smelu": {"name": "mlp", "hidden": (6,), "activation": "smelu", "smelu_width": 0.3},
}


def built(name: str, inputs: int = 64) -> Model:
    return build_model(ModelSettings(**MODELS[name]), 4, (inputs,))


@pytest.mark.parametrize("name", MODELS)
def test_factors_are_the_gradient(name):
    model = built(name)
    layers = dense_layers(model)
    assert layers is not None
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn((3, model.dim), dtype=torch.float64, generator=generator)
    x = torch.randn((3, 5, 64), dtype=torch.float64, generator=generator)
    y = torch.randint(0, model.num_classes, (3, 5), generator=generator)
    scale = torch.rand((3, 5), dtype=torch.float64, generator=generator)
    norms = torch.cat([per_sample_gradients(model, theta[r], x[r], y[r]).norm(dim=1) for r in range(3)])
    clip = float(norms.median())
    found = factors(layers, layers.parameters_of(theta), x, y, scale, clip=clip)
    for r in range(3):
        parts = []
        for (delta, inputs), bias in zip(found, layers.biases):
            parts.append((delta[r] @ inputs[r].T).reshape(-1))
            if bias:
                parts.append(delta[r].sum(1))
        each = per_sample_gradients(model, theta[r], x[r], y[r])
        clipped = each * (clip / each.norm(dim=1)).clamp(max=1.0)[:, None]
        assert torch.allclose(torch.cat(parts), (clipped * scale[r][:, None]).sum(0), atol=1e-12)


def test_only_linear_layers_with_known_activations_take_closed_forms():
    layers = dense_layers(built("smelu", 784))
    assert layers is not None and (layers.shapes, layers.biases) == (((6, 784), (4, 6)), (True, True))
    assert dense_layers(build_model(ModelSettings(name="small-cnn"), 4, (28, 28))) is None
    twice = nn.Linear(784, 784)
    for other in (
        nn.Sequential(nn.Linear(784, 4), nn.Tanh(), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(784, 4), nn.ReLU()),
        nn.Sequential(nn.Linear(784, 9), nn.Linear(9, 4)),
        nn.Sequential(twice, nn.ReLU(), twice),
    ):
        odd = built("relu", 784)
        odd._template, odd.dim = other, sum(p.numel() for p in other.parameters())
        assert dense_layers(odd) is None
