"""JSON and TOML from files and messages: plain values, or one ValueError, whatever the bytes are.

The parsers of the standard library build nothing but numbers, texts, lists and tables, so no text can run code. They
raise kinds of errors, though, that a reader does not expect: RecursionError on deep nesting, a bare ValueError on a
number of thousands of digits. And JSON as Python reads it knows NaN and Infinity, which no file of this project holds.
"""

from __future__ import annotations

import json
import tomllib
from typing import Any, NoReturn

__all__ = ["parse_json", "parse_toml"]

_DEEPEST = 64
"""Tables and lists within each other; the files of this project have fewer than ten."""


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Return the value of a JSON text (bytes: UTF-8); ValueError if it is not JSON.

    With ``finite`` also if it holds NaN or an infinity; without, for a reader who judges numbers itself.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        return _shallow(json.loads(text, parse_constant=_refuse if finite else None))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return the table of a TOML text; tomllib.TOMLDecodeError, a ValueError, if it is none."""
    try:
        table: dict[str, Any] = _shallow(tomllib.loads(text))
        return table
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise tomllib.TOMLDecodeError("it is nested too deeply") from None
    except ValueError as error:  # a number of more digits than Python converts, a date that does not exist
        raise tomllib.TOMLDecodeError(str(error).partition(";")[0]) from None


def _shallow(value: Any) -> Any:
    """Return a nested value; ValueError if it is nested so deeply that what walks through it would not come back."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
    return value


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")
