"""Released models as files: one float32 vector, and one JSON table that says what it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedunlearn.errors import UserError
from fedunlearn.plain_text import parse_json
from fedunlearn.results.files import canonical_json

SCHEMA = "fedunlearn/model/1"
_KEY = "fedunlearn"


def vector_bytes(theta: NDArray[Any], info: Mapping[str, Any]) -> bytes:
    """Return a safetensors file with the tensor ``theta`` (d,) float32 and the table ``info`` in its header.

    The table is one JSON text under one key, for a header with several keys may order them differently from run to run,
    and equal models should give equal files.

    Raises:
        ValueError: if the vector is not flat or not finite in float32.
    """
    vector = np.ascontiguousarray(theta, dtype=np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError(f"a model file holds one flat vector of finite numbers, not one of shape {vector.shape}")
    return save({"theta": vector}, metadata={_KEY: canonical_json({"schema": SCHEMA, **info})})


def read_vector(path: Path | str) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Return the vector (d,) of a model file and its table.

    Raises:
        UserError: if the file cannot be read or is not a model file of this version.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            info = parse_json((file.metadata() or {}).get(_KEY, "{}"))
            schema = info.get("schema") if isinstance(info, dict) else None
            if schema != SCHEMA or list(file.keys()) != ["theta"]:
                raise UserError(f"{path}: schema = {schema!r} is not a model file (allowed: '{SCHEMA}')")
            if file.get_slice("theta").get_dtype() != "F32":
                raise UserError(f"{path}: holds no vector of float32 numbers, as a model file does")
            theta = file.get_tensor("theta")
            if theta.ndim != 1 or not np.isfinite(theta).all():
                raise UserError(f"{path}: holds no flat vector of finite numbers, as a model file does")
            return theta, info
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: is not a readable safetensors file ({error})") from None
