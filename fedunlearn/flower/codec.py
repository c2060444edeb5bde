"""Requests and replies as the content of Flower messages.

Parameters travel as one JSON string, arrays as their raw little-endian bytes beside their type and shape. That is twice
as fast as the ``.npy`` form Flower uses by default, keeps every bit of a NaN, and has no place for an object to hide.
A request travels with those that are to be carried out before it. Every message says where it belongs: to which
session, from or to which of its hosts, and which in their sequence it is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedunlearn.errors import UserError
from fedunlearn.network.transport import Reply, Request
from fedunlearn.plain_text import parse_json

_HEAD, _ARRAYS = "fedunlearn", "arrays"
_RAW = "raw.little-endian"
_MALFORMED = (KeyError, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)
"""What taking a message apart raises where it is not of this form."""
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


@dataclass(frozen=True)
class Address:
    """Where a message belongs: the session, a host of it by its number, and its place in the sequence to that host."""

    session: str
    host: int
    sequence: int


def encode_request(request: Request, address: Address) -> RecordDict:
    """Return a request as message content; TypeError for parameters that JSON cannot hold."""
    parts = [*request.before, request]
    return _encode(address, [[part.op, part.params] for part in parts], [part.arrays for part in parts])


def decode_request(content: RecordDict) -> tuple[Request, Address]:
    """Return the request in a message's content, and where it belongs; UserError if it is no request of this form."""
    try:
        address, heads, arrays = _decode(content)
        *before, last = [Request(str(op), params, part) for (op, params), part in zip(heads, arrays)]
    except _MALFORMED as error:
        raise UserError(f"a host was sent a message that is no request ({_one_line(error)})") from None
    return replace(last, before=tuple(before)), address


def encode_reply(reply: Reply, address: Address) -> RecordDict:
    """Return a reply as message content; TypeError for parameters that JSON cannot hold."""
    parts = [*reply.before, reply]
    return _encode(address, [part.params for part in parts], [part.arrays for part in parts])


def encode_error(error: UserError, address: Address) -> RecordDict:
    """Return the content of a reply that says in one sentence why a request could not be carried out."""
    return _encode(address, [], [], error=str(error))


def decode_reply(content: RecordDict) -> tuple[Reply, Address]:
    """Return the reply in a message's content, and where it belongs; raises the host's UserError.

    UserError also if it is no reply of this form.
    """
    try:
        address, heads, arrays = _decode(content)
        fault = content.config_records[_HEAD].get("error")
        before = [Reply(params, part) for params, part in zip(heads, arrays)]
        last = before.pop() if fault is None else Reply()
    except _MALFORMED as error:
        raise UserError(f"a host sent a message that is no reply ({_one_line(error)})") from None
    if fault is not None:
        raise UserError(str(fault))
    return replace(last, before=tuple(before)), address


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200] or type(error).__name__


def _encode(address: Address, heads: list[Any], arrays: list[dict[str, np.ndarray]], **more: str) -> RecordDict:
    """Return the content: one JSON text for all parts, and their arrays, named by the number of their part."""
    head = {**asdict(address), "parts": json.dumps(heads), **more}
    named = {f"{i}/{name}": encode_array(a) for i, part in enumerate(arrays) for name, a in part.items()}
    return RecordDict({_HEAD: ConfigRecord({**head}), _ARRAYS: ArrayRecord(named)})


def _decode(content: RecordDict) -> tuple[Address, list[Any], list[dict[str, np.ndarray]]]:
    head, record = content.config_records[_HEAD], content.array_records[_ARRAYS]
    heads: list[Any] = parse_json(str(head["parts"]), finite=False)
    if not isinstance(heads, list):
        raise ValueError("its parts are no list")
    arrays: list[dict[str, np.ndarray]] = [{} for _ in heads]
    for name, array in record.items():
        part, _, plain = name.partition("/")
        if not part.isdecimal():
            raise ValueError(f"the array '{name[:60]}' belongs to no part")
        arrays[int(part)][plain] = decode_array(array)
    address = Address(str(head["session"]), int(head["host"]), int(head["sequence"]))  # type: ignore[arg-type]
    return address, heads, arrays
