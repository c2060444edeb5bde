"""Seeded mutations: of bytes, of TOML texts, of nested plain values, and of arrays."""

from __future__ import annotations

import copy
import random
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

STRANGE: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, float("nan"),
    float("inf"), float("-inf"), True, False, "", " ", "x", "../x", "/etc/hostname", "~", "a/b", "..", ".", "\0", "é",
    "𝔘", "‮", "0-5", "rest", "5-", "-1", "1e9", "softmax", "os:system", "a.b:C", ".a:B",
    [], [[]], [1, 2], [-1], ["x"], {},
    {"x": 1}, {"method": "retrain"}, [{"level": "client", "client": 0}], "x" * 5000, None,
)  # fmt: skip
"""Values that do not belong where they are put: other types, extremes, paths, names of code."""

_TOKENS = (
    b"nan", b"inf", b"-1", b"0", b"1e999", b"99999999999999999999", b'"', b"'", b"[", b"]", b"[[", b"{", b"}", b"=",
    b"\n", b"#", b"\\u0000", b"\x00", b"\xff", b"true", b"[]", b"{}", b"2020-01-01", b"0x1F", b'"""', b"../",
    b"\xf0\x9f\x98\x80", b"9" * 5000, b"[" * 3000, b"a." * 500,
)  # fmt: skip
_VALUE = re.compile(rb"(?m)^(\s*[A-Za-z_.\"]+\s*=\s*)(.+)$")


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with one to four faults: bits flipped, pieces cut out, doubled, moved or overwritten."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(out) + 1)
        length = min(rng.choice((1, 1, 4, 16, 200)), len(out) - place)
        kind = rng.randrange(7)
        if kind == 0 and place < len(out):
            out[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[place : place + length]
        elif kind == 2:
            out[place:place] = out[place : place + length]
        elif kind == 3:
            out[place:place] = rng.choice(_TOKENS)
        elif kind == 4:
            out[place : place + length] = bytes(rng.randrange(256) for _ in range(length))
        elif kind == 5:
            del out[place:]
        else:
            out[place : place + length] = b"\0" * length
    return bytes(out)


def mutated_toml(content: bytes, rng: random.Random) -> bytes:
    """Return a TOML text with one to three faults in its lines, or in its bytes."""
    if rng.random() < 0.2:
        return mutated_bytes(content, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        lines = content.split(b"\n")
        place, kind = rng.randrange(len(lines)), rng.randrange(8)
        values = list(_VALUE.finditer(content))
        if kind <= 3 and values:  # another value
            found = rng.choice(values)
            new = _toml_value(rng) if rng.random() < 0.7 else rng.choice(values)[2]
            content = content[: found.start(2)] + new + content[found.end(2) :]
            continue
        if kind == 4:
            lines.pop(place)
        elif kind == 5:
            lines.insert(place, lines[rng.randrange(len(lines))])
        elif kind == 6:  # a key or a table that is not known, or one that is, elsewhere
            names = [b"zzz", b"lr", b"path", b"client", b"[data]", b"[x.y.z]", b"[[requests]]", b"[unlearning]",
                     b"out", b"checkpoint", b"scratch", b"name", b"seed", b"samples", b"count",
                     b"label", b"clients"]  # fmt: skip
            name = rng.choice(names)
            lines.insert(place, name if name.startswith(b"[") else name + b" = " + _toml_value(rng))
        else:
            rng.shuffle(lines)
        content = b"\n".join(lines)
    return content


def _toml_value(rng: random.Random) -> bytes:
    return _toml(rng.choice(STRANGE)).encode("utf-8")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value)
    if value is None:
        return '""'
    if isinstance(value, str):
        return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"


def mutated_value(value: Any, rng: random.Random) -> Any:
    """Return a nested plain value with one entry replaced, removed, doubled, renamed or moved."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return rng.choice(STRANGE)
    holder, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind <= 2:
        holder[key] = copy.deepcopy(rng.choice(STRANGE))
    elif kind == 3:
        del holder[key]
    elif kind == 4:
        other, entry = rng.choice(places)
        holder[key] = copy.deepcopy(other[entry])
    elif isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        holder[rng.choice(("zzz", "", "../x", str(key) + "_"))] = holder[key]
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


def mutated_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Return an array of another type, shape or size, or with entries that do not belong there."""
    kind = rng.randrange(7)
    if kind == 0:
        return array.astype(rng.choice(["float32", "float64", "int64", "int32", "bool", "uint8", "float16"]))
    if kind == 1:
        return array.reshape(-1)[: rng.randrange(array.size + 1)].copy()
    if kind == 2:
        return array[None].copy() if rng.random() < 0.5 else array.reshape(-1).copy()
    if kind == 3:
        return np.concatenate([array.reshape(-1), array.reshape(-1)[:1]])
    out = array.copy()
    if out.size:
        worst = [float("nan"), float("inf"), -float("inf"), 1e38] if out.dtype.kind == "f" else [-1, 2**40, 10**6, 0]
        if out.dtype.kind in "fi" and out.dtype.itemsize >= 4:
            out.reshape(-1)[rng.randrange(out.size)] = rng.choice(worst)
    return out


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the main thread if the block takes longer."""

    def late(*_: object) -> None:
        raise TimeoutError(f"it took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
