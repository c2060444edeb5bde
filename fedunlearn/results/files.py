"""Small pieces all result files share: plain JSON values, whole-or-nothing writing, hashes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from fedunlearn.errors import UserError


def plain(value: Any) -> Any:
    """Return a value made of dicts, lists, strings, numbers, booleans and None, as JSON has them.

    Numbers that are not finite become None, for JSON has no word for them. Tables keep their order, sets are sorted.

    Raises:
        TypeError: if there is something else in it.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return value.as_posix()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, AbstractSet):
        return sorted(plain(entry) for entry in value)
    if isinstance(value, Sequence):
        return [plain(entry) for entry in value]
    raise TypeError(f"a {type(value).__name__} has no place in a JSON file")


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def readable_json(value: Any) -> str:
    """Return JSON for people: indented, in the order of the value."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def lined_json(table: Mapping[str, Any]) -> str:
    """Return JSON for long tables: one entry a line, and one line for each element of a list."""
    lines = []
    for key, value in plain(table).items():
        if isinstance(value, list) and value:
            text = "[\n    " + ",\n    ".join(_compact(entry) for entry in value) + "\n  ]"
        else:
            text = _compact(value)
        lines.append(f"  {_compact(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file's content in hexadecimal, 64 characters."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, *parts: bytes | memoryview, private: bool = False) -> None:
    """Write a file so that a reader, or a machine that loses power, finds the old content or all of the new one.

    ``parts`` follow each other in the file; with ``private`` its owner alone may read it.

    Raises:
        OSError: if it cannot be written; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666), "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder last, as fsync makes the content of a file; nothing where folders cannot be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cannot_write(path: Path | str, error: OSError) -> UserError:
    """Return the one sentence for a place that cannot be written to."""
    return UserError(f"'{path}' cannot be written: {error.strerror or error} (allowed: a folder that you may write to)")
