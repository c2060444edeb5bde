"""Released models as files: one float32 vector, and one JSON table that says what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedunlearn.errors import UserError
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
            info = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if info.get("schema") != SCHEMA or list(file.keys()) != ["theta"]:
                raise UserError(f"{path}: schema = {info.get('schema')!r} is not a model file (allowed: '{SCHEMA}')")
            return file.get_tensor("theta"), info
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: is not a readable safetensors file ({error})") from None
