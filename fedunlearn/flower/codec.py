"""Requests and replies as the content of Flower messages.

Parameters travel as one JSON string, arrays as their raw little-endian bytes beside their type and shape. That is twice
as fast as the ``.npy`` form Flower uses by default, keeps every bit of a NaN, and has no place for an object to hide.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedunlearn.errors import UserError
from fedunlearn.network.transport import Reply, Request

_HEAD, _ARRAYS = "fedunlearn", "arrays"
_RAW = "raw.little-endian"
_TYPES = frozenset(
    ["bool", "float16", "float32", "float64"] + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)


def encode_array(values: np.ndarray) -> Array:
    """Return an array of plain numbers, of any shape and layout, as a Flower array; TypeError for other types."""
    values = np.asarray(values)
    name = values.dtype.name
    if name not in _TYPES:
        raise TypeError(f"arrays of type {values.dtype} do not travel between hosts, only plain numbers")
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return Array(dtype=name, shape=tuple(values.shape), stype=_RAW, data=little.tobytes())


def decode_array(array: Array) -> np.ndarray:
    """Return what :func:`encode_array` was given as a writable array of its own; ValueError if it is malformed."""
    if array.stype != _RAW or array.dtype not in _TYPES:
        raise ValueError(f"cannot read an array of type {array.dtype!r} in form {array.stype!r}")
    dtype = np.dtype(array.dtype).newbyteorder("<")
    if len(array.data) != dtype.itemsize * prod(array.shape):
        raise ValueError(f"an array of shape {array.shape} and type {array.dtype} came with {len(array.data)} bytes")
    return np.ndarray(array.shape, dtype, buffer=bytearray(array.data))


def encode_request(request: Request) -> RecordDict:
    """Return a request as message content; TypeError for parameters that JSON cannot hold."""
    return _encode({"op": request.op, "params": json.dumps(request.params)}, request.arrays)


def decode_request(content: RecordDict) -> Request:
    """Return the request in a message's content."""
    head, arrays = _decode(content)
    return Request(str(head["op"]), json.loads(head["params"]), arrays)


def encode_reply(reply: Reply) -> RecordDict:
    """Return a reply as message content; TypeError for parameters that JSON cannot hold."""
    return _encode({"params": json.dumps(reply.params)}, reply.arrays)


def encode_error(error: UserError) -> RecordDict:
    """Return the content of a reply that says in one sentence why a request could not be carried out."""
    return _encode({"error": str(error)}, {})


def decode_reply(content: RecordDict) -> Reply:
    """Return the reply in a message's content; raises the host's UserError."""
    head, arrays = _decode(content)
    if "error" in head:
        raise UserError(head["error"])
    return Reply(json.loads(head["params"]), arrays)


def _encode(head: dict[str, str], arrays: dict[str, np.ndarray]) -> RecordDict:
    record = ArrayRecord({name: encode_array(values) for name, values in arrays.items()})
    return RecordDict({_HEAD: ConfigRecord({**head}), _ARRAYS: record})


def _decode(content: RecordDict) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    head, record = content.config_records[_HEAD], content.array_records[_ARRAYS]
    return dict(head), {name: decode_array(array) for name, array in record.items()}
