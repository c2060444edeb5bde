"""A cache of computed things under the hash of what they were computed from.

A key is the SHA-256 of canonical JSON, so whoever asks must put into it everything the value depends on, and nothing
else. One entry is one safetensors file: its arrays, and in the header a JSON table and a digest of both. An entry that
does not read back exactly as it was written is as good as none: it is built again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedunlearn.plain_text import parse_json
from fedunlearn.results.files import canonical_json, plain, write_atomically

SCHEMA = "fedunlearn/cache/1"
FOLDER_VARIABLE = "FEDUNLEARN_CACHE"
_KEY = "fedunlearn"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Entry:
    """A cached value: named arrays and a table of plain JSON values."""

    arrays: dict[str, NDArray[Any]]
    info: dict[str, Any] = field(default_factory=dict)


def content_key(content: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a value, 64 hexadecimal characters.

    Raises:
        TypeError: if the value holds something that JSON does not have.
    """
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def default_folder() -> Path:
    """Return $FEDUNLEARN_CACHE, or ``~/.cache/fedunlearn``."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "fedunlearn"


class ContentCache:
    """Entries in one folder, safe to share between processes: an entry is there as a whole or not at all."""

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder)

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key; None if there is none, or it is damaged or of another version."""
        path = self._path(key)
        try:
            with safe_open(str(path), framework="numpy") as file:
                header = parse_json((file.metadata() or {})[_KEY])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                entry = Entry(arrays, header["info"])
                whole = header["schema"] == SCHEMA and header["key"] == key and header["digest"] == _digest(entry)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        return entry if whole else None

    def part(self, key: str, name: str) -> NDArray[Any] | None:
        """Return one array of an entry without reading the others, unchecked; None if it cannot be read."""
        try:
            with safe_open(str(self._path(key)), framework="numpy") as file:
                return file.get_tensor(name)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any] | None = None) -> bool:
        """Store an entry, in place of an older one; return False where the folder cannot be written.

        Arrays are of type bool, uint8, int64, float32, float64 or another that safetensors knows.

        Raises:
            TypeError: if ``info`` holds something that JSON does not have.
        """
        entry = Entry({name: np.ascontiguousarray(array) for name, array in arrays.items()}, plain(info or {}))
        header = {"schema": SCHEMA, "key": key, "digest": _digest(entry), "info": entry.info}
        content = save(entry.arrays, metadata={_KEY: canonical_json(header)})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(key), content)
        except OSError:  # a cache that cannot be kept costs time, not a run
            return False
        return True

    def get_or_build(
        self, key: str, build: Callable[[], Mapping[str, NDArray[Any]]], info: Mapping[str, Any] | None = None
    ) -> Entry:
        """Return the entry of a key, built and stored if it is not there."""
        found = self.get(key)
        if found is not None:
            return found
        arrays = dict(build())
        self.put(key, arrays, info)
        return Entry(arrays, plain(info or {}))

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield key and table of every whole entry, by key: to list, or to find those that must be removed."""
        for key in self.keys():
            entry = self.get(key)
            if entry is not None:
                yield key, entry.info

    def keys(self) -> list[str]:
        """Return the keys of all entries, ascending; an entry need not be whole."""
        return sorted(path.stem for path in self.folder.glob(f"*{_SUFFIX}") if path.stem.isalnum())

    def trim(self, limit: int) -> None:
        """Delete the entries that were written first, until the others take ``limit`` bytes or fewer."""
        files = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in files) - limit
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            with suppress(OSError):
                path.unlink()
                excess -= size

    def remove(self, key: str) -> bool:
        """Delete an entry; return whether there was one."""
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            return False
        return True

    def _path(self, key: str) -> Path:
        if not key or not key.isalnum():
            raise ValueError(f"'{key}' is not a key of the cache")
        return self.folder / f"{key}{_SUFFIX}"


def _digest(entry: Entry) -> str:
    whole = hashlib.sha256(canonical_json(entry.info).encode())
    for name in sorted(entry.arrays):
        array = entry.arrays[name]
        whole.update(canonical_json([name, array.dtype.str, array.shape]).encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
