"""Values of a running program as plain JSON and named arrays, and back: what a checkpoint holds.

Lists, tuples, tables, numbers, texts, arrays and dataclasses come back as what they were: every float with its bits,
tables in their order. Reading makes dataclasses of the classes that the reader names, and nothing else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
_KINDS = "biuf"
"""Kinds of numpy types that are kept: booleans, whole numbers, floating point."""


def taken_apart(value: Any) -> tuple[Any, Arrays]:
    """Return a value as plain JSON, and the arrays in it by the names that the JSON refers to.

    Raises:
        TypeError: if there is something else in it.
    """
    arrays: Arrays = {}
    return _plain(value, arrays), arrays


def put_together(plain: Any, arrays: Arrays, classes: Iterable[type]) -> Any:
    """Return the value that :func:`taken_apart` was given; its dataclasses are among ``classes``.

    Raises:
        ValueError: if the table is malformed, or names an array or a class that is not there.
    """
    return _value(plain, arrays, {each.__name__: each for each in classes})


def _plain(value: Any, arrays: Arrays) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item(), arrays)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _KINDS:
            raise TypeError(f"an array of {value.dtype} has no place in a checkpoint")
        name = f"array-{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, list):
        return [_plain(entry, arrays) for entry in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(entry, arrays) for entry in value]}
    if isinstance(value, dict):
        return {"dict": [[_plain(key, arrays), _plain(entry, arrays)] for key, entry in value.items()]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [[each.name, _plain(getattr(value, each.name), arrays)] for each in dataclasses.fields(value)]
        return {"class": type(value).__name__, "fields": fields}
    raise TypeError(f"a {type(value).__name__} has no place in a checkpoint")


def _value(plain: Any, arrays: Arrays, classes: dict[str, type]) -> Any:
    if plain is None or isinstance(plain, (bool, str, int, float)):
        return plain
    if isinstance(plain, list):
        return [_value(entry, arrays, classes) for entry in plain]
    if isinstance(plain, dict) and plain:
        tag, content = next(iter(plain.items()))
        if tag in _READERS and (len(plain) == 1 or tag == "class"):
            try:
                if tag == "class":
                    fields = {name: _value(entry, arrays, classes) for name, entry in plain["fields"]}
                    return classes[content](**fields)
                return _READERS[tag](content, lambda entry: _value(entry, arrays, classes), arrays)
            except (KeyError, TypeError) as error:
                raise ValueError(f"the entry '{tag}' of a checkpoint is malformed ({error})") from None
    raise ValueError("a checkpoint holds an entry of an unknown kind")


_READERS: dict[str, Callable[[Any, Callable[[Any], Any], Arrays], Any]] = {
    "float": lambda content, read, arrays: float(content),
    "array": lambda content, read, arrays: arrays[content],
    "tuple": lambda content, read, arrays: tuple(read(entry) for entry in content),
    "dict": lambda content, read, arrays: {read(key): read(entry) for key, entry in content},
    "class": lambda content, read, arrays: None,
}
