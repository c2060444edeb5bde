"""Gradients of many rows at once, in closed form: softmax heads and perceptrons of linear layers.

Every row ``r`` has its own parameters and its own minibatch. Backpropagation through a linear layer ``z = W a + b``
gives ``dW = delta a^T`` and ``db = delta``, so what is returned are the factors ``delta`` and ``a`` of every layer: a
step is then one batched product a layer that never writes a gradient down, and the norm of a sample's gradient follows
from the norms of its factors. Samples run along the *last* axis, the layout in which all products are fastest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from fedunlearn.models.activations import SmeLU
from fedunlearn.models.model import Model

Factors = list[tuple[Tensor, Tensor]]
"""For every layer delta (r, outputs, b) and the layer's inputs a (r, inputs, b): the gradient is ``delta a^T``."""


@dataclass(frozen=True)
class DenseLayers:
    """A stack of linear layers with activations between them.

    Attributes:
        shapes: (outputs, inputs) of every layer.
        biases: whether a layer has a bias, which then follows its weights in a row.
        activations: what follows every layer but the last.
    """

    shapes: tuple[tuple[int, int], ...]
    biases: tuple[bool, ...]
    activations: tuple[nn.ReLU | SmeLU, ...]

    def parameters_of(self, theta: Tensor) -> list[Tensor]:
        """Return views of rows ``theta`` (r, d), in their order: weights (r, outputs, inputs), bias (r, outputs, 1)."""
        out, start = [], 0
        for (outputs, inputs), bias in zip(self.shapes, self.biases):
            out.append(theta[:, start : start + outputs * inputs].unflatten(1, (outputs, inputs)))
            start += outputs * inputs
            if bias:
                out.append(theta[:, start : start + outputs].unsqueeze(2))
                start += outputs
        return out

    def pairs(self, parameters: list[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
        """Return weights and bias (or None) of every layer, from what :meth:`parameters_of` returned."""
        left = iter(parameters)
        return [(next(left), next(left) if bias else None) for bias in self.biases]


@lru_cache(maxsize=4)
def dense_layers(model: Model) -> DenseLayers | None:
    """Return the layers of a model that is nothing but linear layers with ReLU or SmeLU between them, else None."""
    module = model.module()
    parts = list(module) if type(module) is nn.Sequential else [module]
    linear = [part for part in parts[::2] if type(part) is nn.Linear]
    between = [part for part in parts[1::2] if type(part) is nn.ReLU or type(part) is SmeLU]
    shapes = tuple((part.out_features, part.in_features) for part in linear)
    biases = tuple(part.bias is not None for part in linear)
    numbers = sum(outputs * (inputs + bias) for (outputs, inputs), bias in zip(shapes, biases))
    if len(linear) != len(between) + 1 or len(linear) + len(between) != len(parts) or numbers != model.dim:
        return None  # the last: a layer that comes twice shares its parameters
    return DenseLayers(shapes, biases, tuple(between))


def factors(
    layers: DenseLayers, parameters: list[Tensor], x: Tensor, y: Tensor, scale: Tensor, *,
    clip: float | None = None, bfloat16: bool = False,
) -> Factors:  # fmt: skip
    """Return the factors of ``sum_s scale_s grad l(theta_r; x_s, y_s)`` for every row r, in the dtype of ``x``.

    Args:
        layers: the model.
        parameters: what :meth:`DenseLayers.parameters_of` returns.
        x: (r, b, inputs) one minibatch a row.
        y: (r, b) labels, all of them valid, also where the scale is zero.
        scale: (r, b) weight of every sample in the sum.
        clip: with it, every sample's gradient is scaled down to a norm of at most that before it is weighted.
        bfloat16: multiply in bfloat16; logits, losses and activations stay in the dtype of ``x``.
    """

    def product(bias: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
        if not bfloat16:
            return torch.bmm(left, right) if bias is None else torch.baddbmm(bias, left, right)
        out = torch.bmm(left.bfloat16(), right.bfloat16()).to(x.dtype)
        return out if bias is None else out + bias

    pairs = layers.pairs(parameters)
    inputs, before = [x.transpose(1, 2)], []
    for i, (weight, bias) in enumerate(pairs):
        z = product(bias, weight, inputs[-1])
        if i < len(layers.activations):
            before.append(z)
            inputs.append(layers.activations[i](z))
    delta = torch.softmax(z, dim=1)
    label = y.unsqueeze(1)
    delta.scatter_add_(1, label, torch.full(label.shape, -1.0, dtype=delta.dtype, device=delta.device))
    if clip is None:
        delta *= scale.unsqueeze(1)
    deltas = [delta]
    for i in range(len(pairs) - 1, 0, -1):
        delta = product(None, pairs[i][0].transpose(1, 2), delta)
        delta = _through(layers.activations[i - 1], delta, before[i - 1])
        deltas.insert(0, delta)
    if clip is not None:
        squares = [
            d.square().sum(1) * (a.square().sum(1) + float(bias)) for d, a, bias in zip(deltas, inputs, layers.biases)
        ]
        norms = torch.stack(squares).sum(0).sqrt()
        scale = torch.clamp(clip / norms.clamp_min(1e-30), max=1.0) * scale
        deltas = [d * scale.unsqueeze(1) for d in deltas]
    return list(zip(deltas, inputs))


def _through(activation: nn.ReLU | SmeLU, delta: Tensor, z: Tensor) -> Tensor:
    """Return ``delta`` times the activation's derivative at ``z``: what automatic differentiation takes, joints too."""
    if isinstance(activation, SmeLU):
        return delta * ((z + activation.width) / (2.0 * activation.width)).clamp(0.0, 1.0)
    return torch.ops.aten.threshold_backward(delta, z, 0.0)
