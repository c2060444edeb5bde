"""The flat-vector view of a torch module: a model is a function of one vector, so that a node can be a row."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from fedunlearn.errors import UserError
from fedunlearn.models import builders
from fedunlearn.models.checkpoint import file_sha256, read_checkpoint
from fedunlearn.models.settings import ModelSettings


class Model:
    """A network as a function of one flat parameter vector ``theta`` (dim,).

    ``spec`` is plain JSON; :meth:`from_spec` builds the same model from it in another process.

    Attributes:
        dim: number of parameters, the length of ``theta``.
        num_classes: number of logits.
        input_shape: shape of one stored sample: ``(height, width[, channels])`` or ``(inputs,)``.
        takes_images: whether :meth:`prepare` gives images ``(n, channels, height, width)`` rather than vectors.
        convex: whether the loss is convex in ``theta`` (softmax regression).
        shapes: shape of every parameter by name, in the order of ``theta`` (that of ``named_parameters``).
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.num_classes = int(spec["num_classes"])
        self.input_shape: tuple[int, ...] = tuple(spec["input_shape"])
        self.takes_images = builders.takes_images(spec["name"], self.input_shape)
        self.convex = spec["name"] == "softmax"
        self._template = builders.build_module(spec, seed=0)
        self.shapes = {name: tuple(p.shape) for name, p in self._template.named_parameters()}
        self._sizes = [math.prod(shape) for shape in self.shapes.values()]
        self._buffers = dict(self._template.named_buffers())
        self.dim = sum(self._sizes)

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Model:
        """Build the model that ``spec`` describes."""
        return cls(spec)

    def __repr__(self) -> str:
        return f"Model({self.spec['name']}, {self.dim} parameters, {self.num_classes} classes)"

    def initial(self, seed: int) -> NDArray[np.float32]:
        """Return the public start (dim,) float32: the checkpoint if there is one, else zeros for a convex model,
        else torch's usual initialisation drawn from ``seed``.

        UserError if the checkpoint cannot be read, does not fit, or has changed since the model was built.
        """
        path = self.spec["checkpoint"]
        if path is not None:
            if file_sha256(path) != self.spec["checkpoint_sha256"]:
                raise UserError(f"model.checkpoint = '{path}' has changed since the run was set up; start it again")
            return read_checkpoint(path, self.shapes)
        if self.convex:
            return np.zeros(self.dim, dtype=np.float32)
        return self.vector_of(builders.build_module(self.spec, seed)).numpy()

    @property
    def template(self) -> nn.Module:
        """The module itself, to be looked at only: its parameters are not those of any vertex."""
        return self._template

    def module(self) -> nn.Module:
        """Return a fresh torch module of this architecture; set its parameters with :meth:`load`."""
        return copy.deepcopy(self._template)

    def load(self, module: nn.Module, theta: Tensor | NDArray[Any]) -> nn.Module:
        """Copy ``theta`` (dim,) into a module made by :meth:`module`, and return it."""
        views = self.parameters_of(torch.as_tensor(theta))
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(views[name])
        return module

    def vector_of(self, module: nn.Module) -> Tensor:
        """Return a module's parameters as one detached vector (dim,)."""
        return torch.cat([p.detach().reshape(-1) for _, p in module.named_parameters()])

    def parameters_of(self, theta: Tensor) -> dict[str, Tensor]:
        """Return views of ``theta`` (dim,) by parameter name, each in its parameter's shape."""
        parts = theta.split(self._sizes)
        return {name: part.view(shape) for part, (name, shape) in zip(parts, self.shapes.items())}

    def prepare(self, inputs: NDArray[Any]) -> Tensor:
        """Return stored samples as the float32 tensor the model takes.

        Bytes become numbers in [0, 1] by the public constant 1/255; floating-point rows pass through. Images come
        out as ``(n, channels, height, width)`` for convolutional models and as ``(n, inputs)`` for models on vectors.
        """
        array = np.ascontiguousarray(inputs)
        x = torch.from_numpy(array if array.flags.writeable else array.copy())  # torch cannot mark memory as read-only
        x = x.to(torch.float32).div_(255.0) if x.dtype == torch.uint8 else x.to(torch.float32)
        if not self.takes_images:
            return x.flatten(1)
        return channels_last(x if x.dim() == 4 else x.unsqueeze(3))

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return the logits (n, num_classes) at ``theta`` (dim,) for prepared inputs; the dtype follows ``theta``.

        A pure function of both arguments: it can be differentiated, and mapped over rows of ``theta`` with ``vmap``.
        """
        x = x.to(theta.dtype)
        if self.convex:
            weights = self.parameters_of(theta)
            return nn.functional.linear(x, weights["weight"], weights.get("bias"))
        tensors = self.parameters_of(theta)
        for name, buffer in self._buffers.items():
            tensors[name] = buffer.to(theta.device, theta.dtype if buffer.is_floating_point() else buffer.dtype)
        return functional_call(self._template, tensors, (x,))


def channels_last(x: Tensor) -> Tensor:
    """Return images (n, height, width, channels) as (n, channels, height, width) over the same memory.

    Torch's own conversion leaves one-channel images alone, whose strides fit both layouts; convolutions then go on in
    the other layout, in which max pooling takes ten times as long.
    """
    count, height, width, channels = x.shape
    strides = (channels * height * width, 1, channels * width, channels)
    return x.contiguous().as_strided((count, channels, height, width), strides)


def build_model(settings: ModelSettings, num_classes: int, input_shape: tuple[int, ...]) -> Model:
    """Return the model of the settings for samples of ``input_shape``, the shape of what reaches it.

    Pass the data set's image shape for ``features = "raw"`` and the feature map's ``output_shape`` otherwise. Softmax
    regression has a bias on raw inputs only: the rows of the other feature maps already carry a constant entry.
    UserError for an unknown name, or a module of one's own or a checkpoint that does not fit.
    """
    spec: dict[str, Any] = {
        "name": settings.name,
        "num_classes": int(num_classes),
        "input_shape": [int(side) for side in input_shape],
        "bias": settings.features == "raw",
        "activation": settings.activation,
        "smelu_width": settings.smelu_width,
        "hidden": list(settings.hidden),
        "checkpoint": settings.checkpoint,
        "checkpoint_sha256": None if settings.checkpoint is None else file_sha256(settings.checkpoint),
    }
    model = Model(spec)
    if settings.checkpoint is not None:
        read_checkpoint(settings.checkpoint, model.shapes)  # a mistake is told before the run, not after its set-up
    return model
