"""Parameters as safetensors files: read one that was trained elsewhere, write one for others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedunlearn.errors import UserError, listed
from fedunlearn.paths import confined


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits; UserError if it cannot be read."""
    try:
        with confined(path, "model.checkpoint").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"model.checkpoint = '{path}' cannot be read: {error.strerror}") from None


def read_checkpoint(path: str | Path, shapes: Mapping[str, Sequence[int]]) -> NDArray[np.float32]:
    """Return the flat vector (dim,) float32 of a safetensors file.

    The file holds either one tensor ``theta`` (dim,), as a released model does, or one tensor for every parameter under
    the names of the module's ``state_dict``. ``shapes`` gives names and shapes in the order of the flat vector.
    UserError when the file is no safetensors file, or a name, a shape or a value does not fit.
    """
    try:
        tensors = load_file(str(confined(path, "model.checkpoint")))
    except (OSError, SafetensorError) as error:
        raise UserError(f"model.checkpoint = '{path}' is not a readable safetensors file: {error}") from None
    dim = sum(int(np.prod(shape)) for shape in shapes.values())
    if set(tensors) == {"theta"} and "theta" not in shapes:
        if tuple(tensors["theta"].shape) != (dim,):
            raise UserError(
                f"model.checkpoint = '{path}' holds a vector of shape {tuple(tensors['theta'].shape)}, "
                f"but this model has {dim} parameters"
            )
        parts = [tensors["theta"]]
    else:
        parts = _by_name(path, tensors, shapes)
    if not all(part.is_floating_point() for part in parts):
        raise UserError(f"model.checkpoint = '{path}' holds tensors that are not floating-point numbers")
    vector = torch.cat([part.to(torch.float32).reshape(-1) for part in parts]).numpy()
    if not np.isfinite(vector).all():
        raise UserError(f"model.checkpoint = '{path}' holds parameters that are not finite numbers")
    return vector


def _by_name(path: str | Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> list[Tensor]:
    missing = [name for name in shapes if name not in tensors]
    extra = [name for name in tensors if name not in shapes]
    if missing or extra:
        faults = [f"lacks {listed(missing)}"] * bool(missing) + [f"has the unknown {listed(extra)}"] * bool(extra)
        raise UserError(
            f"model.checkpoint = '{path}' {' and '.join(faults)}; "
            f"allowed: one tensor 'theta', or exactly the parameters {listed(shapes)}"
        )
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != tuple(shape):
            raise UserError(
                f"model.checkpoint = '{path}': parameter '{name}' has shape {tuple(tensors[name].shape)}, "
                f"but this model needs {tuple(shape)}"
            )
    return [tensors[name] for name in shapes]


def write_checkpoint(path: str | Path, parameters: Mapping[str, Tensor]) -> None:
    """Write named parameters as a safetensors file that :func:`read_checkpoint` and plain torch users can load."""
    tensors = {name: value.detach().to(torch.float32).contiguous().clone() for name, value in parameters.items()}
    save_file(tensors, str(path))
