"""The gradient of a plain chain of layers, written out as a fixed sequence of tensor operations.

A tape computes what autograd computes for an ``nn.Sequential`` of convolutions, max pooling, ReLU, SmeLU, flattening
and linear layers under the cross-entropy loss. It builds no graph, accumulates nothing, and writes the gradients
straight into views of one flat vector. Images go through the network in oneDNN's own memory layout, where channels lie
in blocks of 16 and pooling takes half the time it takes on channels-last tensors. Between two calls a tape holds no
samples, nor anything computed from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedunlearn.models.activations import SmeLU
from fedunlearn.models.model import Model

_aten: Any = torch.ops.aten  # kernels of backward passes have no other name in Python


class Tape:
    """Computes gradients at ``theta`` (d,) into ``gradient`` (d,): the memory that :func:`tape_of` was given."""

    def __init__(self, layers: list[_Layer], gradient: Tensor, blocked: bool) -> None:
        self._layers, self._gradient, self._blocked = layers, gradient, blocked
        self._first = min(i for i, layer in enumerate(layers) if isinstance(layer, _Convolution | _Linear))

    @torch.no_grad()
    def differentiate(self, x: Tensor, y: Tensor, divisor: int | None = None) -> None:
        """Write the gradient of ``sum_i cross_entropy(x_i, y_i) / divisor``; the divisor is b if none is given.

        ``x`` (b, ...) are inputs as :meth:`Model.prepare` gives them, ``y`` (b,) int64 their labels.
        """
        if not len(y):
            self._gradient.zero_()
            return
        saved = []
        if self._blocked:
            x = x.contiguous().to_mkldnn()
        for layer in self._layers:
            x, kept = layer.forward(x)
            saved.append(kept)
        # The two steps autograd takes for the loss, so that their roundings are the same.
        grad = torch.zeros_like(x).scatter_(1, y[:, None], -1.0 / (len(y) if divisor is None else divisor))
        grad = _aten._log_softmax_backward_data(grad, torch.log_softmax(x, 1), 1, x.dtype)
        for i in range(len(self._layers) - 1, self._first - 1, -1):
            grad = self._layers[i].backward(grad, saved.pop(), i > self._first)


def tape_of(model: Model, theta: Tensor, gradient: Tensor, *, blocked: bool | None = None) -> Tape | None:
    """Return the tape of a model that reads ``theta`` (d,) and writes ``gradient`` (d,), on a CPU.

    None where there is none: the model is no plain chain of layers that a tape knows. ``blocked`` says whether images
    take oneDNN's layout; by default they do where it exists (float32, and a torch built with oneDNN) and pays.
    """
    chain = _chain(model.template)
    if chain is None:
        return None
    weights, gradients = model.parameters_of(theta), model.parameters_of(gradient)
    layers: list[_Layer] = []
    used = 0
    flat = not model.takes_images
    for name, module in chain:
        mine = [f"{name}.{kind}".lstrip(".") for kind, _ in module.named_parameters()]
        if not all(key in weights for key in mine):
            return None  # two layers share a tensor
        used += len(mine)
        if not _fits(module, flat):
            return None
        flat = flat or isinstance(module, nn.Flatten)
        parts = [part for key in mine for part in (weights[key], gradients[key])]
        layers.append(_LAYERS[type(module)](module, *parts))
    if used != len(weights) or not flat:
        return None
    for i in range(1, len(layers)):
        if isinstance(layers[i], _Flatten) and isinstance(layers[i - 1], _ReLU | _SmeLU):
            layers[i - 1 : i + 1] = layers[i], layers[i - 1]  # the same numbers, and sooner out of oneDNN's layout
    channels = [layer.layer.out_channels for layer in layers if isinstance(layer, _Convolution)]
    if blocked is None:
        full = all(count % 16 == 0 for count in channels)  # with 24 channels oneDNN's layout is the slower one
        blocked = full and theta.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    return Tape(layers, gradient, blocked and bool(channels))


def _chain(module: nn.Module) -> list[tuple[str, nn.Module]] | None:
    """Return the layers of a module that does nothing but apply them one after the other, with their names."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(m, kind) for m in module.modules() for kind in hooks):
        return None
    if type(module) is nn.Linear:
        return [("", module)]
    if type(module).forward is not nn.Sequential.forward:
        return None
    layers = list(module.named_children())
    return layers if len(layers) == len(module) and all(type(m) in _LAYERS for _, m in layers) else None  # type: ignore[arg-type]


def _fits(module: nn.Module, flat: bool) -> bool:
    """Return whether a layer does here what its tape entry does: on vectors if ``flat``, else on images."""
    if isinstance(module, nn.Conv2d):
        return not flat and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if isinstance(module, nn.MaxPool2d):
        return not flat and not module.return_indices
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    return flat if isinstance(module, nn.Linear) else True


class _Layer(Protocol):
    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return the layer's output, and what :meth:`backward` must know of this call."""

    def backward(self, grad: Tensor, saved: Any, wanted: bool) -> Tensor:
        """Write the gradients of the layer's parameters; return that of its input if it is ``wanted``."""


@dataclass(frozen=True)
class _Convolution:
    layer: nn.Conv2d
    weight: Tensor
    weight_gradient: Tensor
    bias: Tensor | None = None
    bias_gradient: Tensor | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        at = self.layer
        return F.conv2d(x, self.weight, self.bias, at.stride, at.padding, at.dilation, at.groups), x

    def backward(self, grad: Tensor, saved: Tensor, wanted: bool) -> Tensor:
        at, biased = self.layer, self.bias is not None
        to_input, to_weight, to_bias = _aten.convolution_backward(
            grad, saved, self.weight, [at.out_channels] if biased else None, at.stride, at.padding, at.dilation,
            False, [0, 0], at.groups, [wanted, True, biased],
        )  # fmt: skip
        self.weight_gradient.copy_(to_weight)
        if self.bias_gradient is not None:
            self.bias_gradient.copy_(to_bias)
        return to_input


@dataclass(frozen=True)
class _Linear:
    layer: nn.Linear
    weight: Tensor
    weight_gradient: Tensor
    bias: Tensor | None = None
    bias_gradient: Tensor | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.linear(x, self.weight, self.bias), x

    def backward(self, grad: Tensor, saved: Tensor, wanted: bool) -> Tensor:
        torch.mm(grad.t(), saved, out=self.weight_gradient)
        if self.bias_gradient is not None:
            torch.sum(grad, 0, out=self.bias_gradient)
        return grad.mm(self.weight) if wanted else grad


@dataclass(frozen=True)
class _Pooling:
    """Of equal numbers in a window the first in reading order is the maximum, in both layouts."""

    layer: nn.MaxPool2d

    def _window(self) -> tuple[Any, ...]:
        at = self.layer
        pairs = (
            [n, n] if isinstance(n, int) else list(n) for n in (at.kernel_size, at.stride, at.padding, at.dilation)
        )
        return (*pairs, at.ceil_mode)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if not x.is_mkldnn:
            pooled, places = _aten.max_pool2d_with_indices(x, *self._window())
            return pooled, (x, places)
        with torch.enable_grad():  # only then does oneDNN note, hidden in its result, which numbers were the largest
            pooled = _aten.mkldnn_max_pool2d(x.requires_grad_(), *self._window()).detach()
        return pooled, (x, pooled)

    def backward(self, grad: Tensor, saved: tuple[Tensor, Tensor], wanted: bool) -> Tensor:
        x, found = saved
        if x.is_mkldnn:
            return _aten.mkldnn_max_pool2d_backward(grad, found, x, *self._window())
        return _aten.max_pool2d_with_indices_backward(grad, x, *self._window(), found)


@dataclass(frozen=True)
class _ReLU:
    layer: nn.ReLU

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.relu()
        return x, x

    def backward(self, grad: Tensor, saved: Tensor, wanted: bool) -> Tensor:
        return _aten.threshold_backward(grad, saved, 0)


@dataclass(frozen=True)
class _SmeLU:
    layer: SmeLU

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        dense = x.to_dense() if x.is_mkldnn else x
        y = self.layer(dense)
        slope = (dense + self.layer.width).clamp_(0.0, 2.0 * self.layer.width).div_(2.0 * self.layer.width)
        return (y.to_mkldnn(), slope) if x.is_mkldnn else (y, slope)

    def backward(self, grad: Tensor, saved: Tensor, wanted: bool) -> Tensor:
        return (grad.to_dense() * saved).to_mkldnn() if grad.is_mkldnn else grad * saved


@dataclass(frozen=True)
class _Flatten:
    layer: nn.Flatten

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[torch.Size, bool]]:
        return (x.to_dense() if x.is_mkldnn else x).flatten(1), (x.shape, x.is_mkldnn)

    def backward(self, grad: Tensor, saved: tuple[torch.Size, bool], wanted: bool) -> Tensor:
        shape, blocked = saved
        grad = grad.view(shape)
        return grad.to_mkldnn() if blocked else grad


_LAYERS: dict[type[nn.Module], Any] = {
    nn.Conv2d: _Convolution, nn.Linear: _Linear, nn.MaxPool2d: _Pooling, nn.ReLU: _ReLU, SmeLU: _SmeLU,
    nn.Flatten: _Flatten,
}  # fmt: skip
