"""Forward passes for measuring: the same samples through many models, without gradients, in the form that is fastest.

Measured on one core with 500 images of 28 x 28. Small CNN: 25 ms a model by the call that training and certificates
use, 13 ms here. Softmax of 10 classes: 0.26 ms a model by itself, 0.08 ms in a product of 16 models; of 62 classes:
0.74 and 0.50 ms. A multilayer perceptron's layers are large enough by themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedunlearn.models import Model

STACK = 16
"""Softmax models whose weights are stacked into one product: those of the vertices with the same position // STACK."""
_SLICE = 100
"""Images of one pass: enough to be fast, few enough for the processor's cache."""
_BLOCKED = (nn.Conv2d, nn.MaxPool2d, nn.ReLU, nn.Flatten, nn.Linear)
"""Layers that oneDNN computes in its own layout, so that nothing is rearranged between them."""


class Forward:
    """The logits of any parameters of a model.

    Args:
        model: the model.
        device: where to compute.
    """

    def __init__(self, model: Model, device: torch.device | str = "cpu") -> None:
        self.model, self.device = model, torch.device(device)
        self._module = model.module().eval().to(self.device)
        self._parameters = dict(self._module.named_parameters())
        self._blocked = model.takes_images and self.device.type == "cpu" and _blocked(self._module)

    def prepare(self, inputs: NDArray[Any]) -> list[Tensor]:
        """Return stored samples (n, ...), n >= 1, as :meth:`logits` takes them, to be used for many models."""
        x = self.model.prepare(inputs).to(self.device)
        parts = list(x.split(_SLICE)) if self.model.takes_images else [x]
        return [part.to_mkldnn() for part in parts] if self._blocked else parts

    def logits(self, theta: Tensor, samples: list[Tensor]) -> Tensor:
        """Return the logits (n, classes) of prepared samples at ``theta`` (d,), both float32."""
        for name, view in self.model.parameters_of(theta.to(self.device)).items():
            self._parameters[name].data = view
        with torch.no_grad():
            parts = [self._module(x) for x in samples]
        return torch.cat([part.to_dense() if part.is_mkldnn else part for part in parts])

    def stacked_logits(self, rows: Tensor, samples: list[Tensor]) -> Tensor:
        """Return the logits (g, n, classes) of ``rows`` (g, d) of a softmax model, from one product.

        The last bits depend on g: whoever wants the same bits always asks for the same number of rows.
        """
        rows, classes = rows.to(self.device), self.model.num_classes
        size = self.model.shapes["weight"][1] * classes
        weights, bias = rows[:, :size].reshape(len(rows) * classes, -1), rows[:, size:]
        with torch.no_grad():
            together = F.linear(torch.cat(samples), weights, bias.reshape(-1) if bias.shape[1] else None)
        return together.view(-1, len(rows), classes).transpose(0, 1)


def _blocked(module: nn.Module) -> bool:
    layers = list(module) if isinstance(module, nn.Sequential) else [module]
    return torch.backends.mkldnn.is_available() and all(type(layer) in _BLOCKED for layer in layers)
