"""From the name of a model to a torch module, and what a module of one's own must satisfy."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vmap

from fedunlearn.errors import UserError, listed, nearest
from fedunlearn.models.activations import activation
from fedunlearn.models.cnn import deep_cnn, leaf_cnn, small_cnn
from fedunlearn.models.dense import mlp, softmax_regression
from fedunlearn.models.resnet import ResNet18GN
from fedunlearn.models.settings import BUILT_IN
from fedunlearn.randomness import torch_seed

CONVOLUTIONAL = {"small-cnn": small_cnn, "deep-cnn": deep_cnn, "leaf-cnn": leaf_cnn, "resnet18-gn": ResNet18GN}
"""Built-in models that take images rather than vectors."""


def takes_images(name: str, input_shape: Sequence[int]) -> bool:
    """Return whether the model is handed images ``(channels, height, width)`` rather than vectors."""
    return name in CONVOLUTIONAL or (":" in name and len(input_shape) > 1)


def sample_shape(name: str, input_shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of one sample as the module sees it: ``(channels, height, width)`` or ``(inputs,)``.

    ``input_shape`` is that of one stored sample: ``(height, width)``, ``(height, width, channels)`` or ``(inputs,)``.
    """
    if not takes_images(name, input_shape):
        return (math.prod(input_shape),)
    if len(input_shape) == 1:
        raise UserError(
            f"model.name = '{name}' takes images, but what reaches it is a vector of {input_shape[0]} numbers; "
            "allowed on a table or with model.features = 'unit' or 'frozen': softmax, mlp, or a module of your own"
        )
    return (input_shape[2] if len(input_shape) == 3 else 1, input_shape[0], input_shape[1])


def build_module(spec: dict[str, Any], seed: int) -> nn.Module:
    """Build the module that a model's spec describes, its parameters drawn from ``seed``.

    The global generator of torch is left as it was. UserError when the name is unknown, when the images are too small,
    or when a module of one's own cannot be built or cannot be trained here.
    """
    name, classes, shape = spec["name"], spec["num_classes"], sample_shape(spec["name"], spec["input_shape"])

    def act() -> nn.Module:
        return activation(spec["activation"], spec["smelu_width"])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "initial-parameters"))
        if name == "softmax":
            return softmax_regression(shape[0], classes, spec["bias"])
        if name == "mlp":
            return mlp(shape[0], classes, spec["hidden"], act)
        if name in CONVOLUTIONAL:
            try:
                return CONVOLUTIONAL[name]((shape[0], shape[1], shape[2]), classes, act)
            except ValueError as error:
                raise UserError(f"model.name = '{name}' does not fit the data: {error}") from None
        if ":" in name:
            return _own_module(name, shape, classes)
    raise UserError(
        f"model.name = '{name}' is not a model{nearest(name, BUILT_IN)} "
        f"(allowed: {listed(BUILT_IN)}, 'package.module:Class')"
    )


def _own_module(path: str, shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Import ``package.module:Class`` (the current folder counts as importable), build it and check it."""
    where, _, class_name = path.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        maker = getattr(importlib.import_module(where), class_name)
    except AttributeError:
        raise UserError(f"model.name = '{path}': there is no '{class_name}' in the module '{where}'") from None
    except Exception as error:  # whatever a module of one's own raises while it is imported
        raise UserError(f"model.name = '{path}' cannot be imported: {error}") from None
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
    try:
        module = maker(input_shape=shape, num_classes=num_classes)
    except Exception as error:
        raise UserError(
            f"model.name = '{path}' could not be built as "
            f"{class_name}(input_shape={shape}, num_classes={num_classes}): {error}"
        ) from None
    if not isinstance(module, nn.Module):
        raise UserError(f"model.name = '{path}' gives a {type(module).__name__}, but a torch.nn.Module is needed")
    _check_own(path, module, shape, num_classes)
    return module


def _check_own(path: str, module: nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
    """Refuse a module whose training would not be a pure function of its parameters and the batch."""
    parameters = dict(module.named_parameters())
    if not parameters:
        raise UserError(f"model.name = '{path}' has no parameters to train")
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32 or not parameter.requires_grad:
            raise UserError(
                f"model.name = '{path}': parameter '{name}' must be float32 and trainable; "
                "keep fixed tensors as buffers (register_buffer) instead"
            )
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((3, *shape), generator=generator)
    try:
        with torch.no_grad():
            once, again = module.train()(x), module(x)
    except Exception as error:
        raise UserError(f"model.name = '{path}' fails on a batch of shape {tuple(x.shape)}: {error}") from None
    if not isinstance(once, torch.Tensor) or once.shape != (3, num_classes):
        got = tuple(once.shape) if isinstance(once, torch.Tensor) else type(once).__name__
        raise UserError(
            f"model.name = '{path}' must return logits (batch, {num_classes}), but gave {got} for a batch of 3"
        )
    after = dict(module.named_buffers())
    changed = [name for name in after if name not in before or not torch.equal(after[name], before[name])]
    if changed:
        raise UserError(
            f"model.name = '{path}': training changes the buffers {listed(changed)} (as BatchNorm does), "
            "which no deletion could undo; use GroupNorm or LayerNorm instead"
        )
    if not torch.equal(once, again):
        raise UserError(f"model.name = '{path}' gives random outputs in training mode; take layers like Dropout out")
    try:
        stacked = {name: torch.stack([p.detach(), p.detach()]) for name, p in parameters.items()}
        vmap(lambda p: functional_call(module, p, (x,)))(stacked)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"model.name = '{path}' does not work under torch.func.vmap: {reason}") from None
