"""Of what kind an array or a parameter of a message must be, and what of a message is refused."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import numpy as np

from fedunlearn.paths import is_plain_name

LARGEST = 2**63
MOST_SLOTS = 64
SLOTS = frozenset(f"past-{slot}" for slot in range(MOST_SLOTS))
"""Names of the rows of past rounds that a host keeps for late messages: at most as many as ``faults.max_delay``."""
_KINDS_OF_STORE = frozenset(
    ["theta", "momentum", "alive", "keep", "seed", "halo", "weights", "vector", "partial", "numbers", "checkpoint",
     "past", "border", "probabilities", "points", "inputs", "labels", "sample_ids", "offsets", "order", "block",
     "limits"]
)  # fmt: skip
"""First words of the names of a host's own arrays and tables: nothing can be put under such a name."""


_DIGEST = re.compile(r"[0-9a-f]{64}")


class Refused(Exception):
    """What is wrong with a part of a message."""


# --- arrays --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """What an array must be: its type, its shape, and what its entries are.

    In a shape ``n`` is the number of vertices of the block, ``N`` of the network, ``d`` of parameters; a number is
    itself; any other letter stands for any length, the same in the whole message. ``low <= entry < high`` where given
    (``high`` may be a letter).
    """

    dtype: str
    shape: tuple[str | int, ...]
    finite: bool = True
    low: int | None = None
    high: str | int | None = None
    rising: bool = False

    def check(self, name: str, array: np.ndarray, sizes: dict[str, int]) -> None:
        """Raise Refused if an array is not like that; binds the letters that ``sizes`` does not hold yet."""
        if array.dtype != np.dtype(self.dtype):  # which is of this machine's byte order
            raise Refused(f"array '{name}' is of type {array.dtype}, not {self.dtype}")
        if array.ndim != len(self.shape):
            raise Refused(f"array '{name}' has shape {array.shape}, not ({', '.join(map(str, self.shape))})")
        for length, letter in zip(array.shape, self.shape):
            if length != (letter if isinstance(letter, int) else sizes.setdefault(letter, length)):
                raise Refused(f"array '{name}' has shape {array.shape}, not ({', '.join(map(str, self.shape))})")
        if self.finite and array.dtype.kind == "f" and not all_finite(array):
            raise Refused(f"array '{name}' holds a value that is not a finite number")
        if not array.size:
            return
        if self.low is not None and array.min() < self.low:
            raise Refused(f"array '{name}' holds {array.min()}, less than {self.low}")
        if self.high is not None:
            bound = self.high if isinstance(self.high, int) else sizes[self.high]
            if array.max() >= bound:
                raise Refused(f"array '{name}' holds {array.max()}, not less than {bound}")
        if self.rising and (array[1:] <= array[:-1]).any():
            raise Refused(f"array '{name}' is not strictly increasing")


def all_finite(array: np.ndarray) -> bool:
    """Return whether all entries are finite; a sum tells in one pass, and only a sum that is not is looked at again."""
    if array.size < 64:
        return bool(np.isfinite(array).all())
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(array.sum(dtype=array.dtype)) or bool(np.isfinite(array).all())


def check_arrays(
    arrays: Mapping[str, np.ndarray], needed: Mapping[str, Spec], optional: Mapping[str, Spec], sizes: dict[str, int]
) -> None:
    missing = [name for name in needed if name not in arrays]
    unknown = [name for name in arrays if name not in needed and name not in optional]
    if missing or unknown:
        raise Refused(f"it lacks the array '{missing[0]}'" if missing else f"it has no array '{unknown[0][:60]}'")
    for name, array in arrays.items():
        (needed.get(name) or optional[name]).check(name, array, sizes)


# --- parameters ----------------------------------------------------------------------------------------------------


def fits(value: Any, kind: Any) -> bool:
    """Return whether a JSON value is of an annotated type; whole numbers are floats too, floats are finite."""
    if kind is Any:
        return True
    if kind is None or kind is type(None):
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e308  # no NaN either
    if kind is str:
        return isinstance(value, str) and len(value) <= 10_000
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str | int) and value in inner
    if origin is list:
        if inner[0] is int and isinstance(value, list):  # lists of ids are long
            return all(type(each) is int for each in value) and all(abs(each) < 2**63 for each in value)
        return isinstance(value, list) and all(fits(each, inner[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    return False


def check_params(params: Any, kinds: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> None:
    optional = optional or {}
    if not isinstance(params, dict):
        raise Refused("its parameters are not a table")
    for name in kinds:
        if name not in params:
            raise Refused(f"it lacks the parameter '{name}'")
    for name, value in params.items():
        if name not in kinds and name not in optional:
            raise Refused(f"it has no parameter '{str(name)[:60]}'")
        kind = kinds[name] if name in kinds else optional[name]
        if not fits(value, kind):
            raise Refused(f"parameter '{name}' = {repr(value)[:60]} is of the wrong kind")


def at_least(params: Mapping[str, Any], **least: int) -> None:
    for name, bound in least.items():
        value = params.get(name)
        if value is not None and not bound <= value < LARGEST:
            raise Refused(f"parameter '{name}' = {str(value)[:30]} is out of range")


def check_ids(name: str, values: Sequence[int] | None, num_nodes: int) -> None:
    """Refuse a list of vertices that is not strictly increasing or names vertices that do not exist."""
    if values is None:
        return
    ids = np.asarray(values, dtype=np.int64)
    if len(ids) and (ids[0] < 0 or ids[-1] >= num_nodes or (ids[1:] <= ids[:-1]).any()):
        raise Refused(f"parameter '{name}' is not a list of different vertices in ascending order")


def is_digest(value: Any) -> bool:
    """Return whether a value is a SHA-256 in hexadecimal."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def is_free(name: Any) -> bool:
    """Return whether an array can be put on a host under a name: a plain one, and not that of an array of its own."""
    return is_plain_name(name) and name.replace("-", ".").partition(".")[0] not in _KINDS_OF_STORE
