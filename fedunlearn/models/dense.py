"""Models on vectors: softmax regression and the multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn


def softmax_regression(num_inputs: int, num_classes: int, bias: bool) -> nn.Module:
    """Return one linear layer; its parameters are all zero, the public start of every convex run."""
    layer = nn.Linear(num_inputs, num_classes, bias=bias)
    nn.init.zeros_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(num_inputs: int, num_classes: int, hidden: Sequence[int], act: Callable[[], nn.Module]) -> nn.Module:
    """Return linear layers of the given hidden widths with an activation after each of them."""
    layers: list[nn.Module] = []
    width = num_inputs
    for size in hidden:
        layers += [nn.Linear(width, size), act()]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, num_classes))
