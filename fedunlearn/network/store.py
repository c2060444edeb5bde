"""The arrays of one host, shared by its worker processes through memory-mapped files.

Each array is one ``.npy`` file in the store's folder, so a worker, or a fresh process of the same host, needs the
folder's name and nothing else. The folder lies in shared memory where the machine has enough of it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

_SHARED_MEMORY = Path("/dev/shm")


def free_bytes(folder: Path) -> int:
    """Return the bytes that can still be written below ``folder``."""
    return shutil.disk_usage(folder).free


def new_folder(needed: int = 0) -> Path:
    """Return a fresh private folder, in shared memory if twice the ``needed`` bytes fit there, else on disk."""
    if _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK) and free_bytes(_SHARED_MEMORY) > 2 * needed:
        return Path(tempfile.mkdtemp(prefix="fedunlearn-", dir=_SHARED_MEMORY))
    return Path(tempfile.mkdtemp(prefix="fedunlearn-"))


class Store:
    """Named arrays in a folder. Opening the same folder in another process gives the same memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._open: dict[str, np.ndarray] = {}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._open:
            mapped = np.lib.format.open_memmap(self._path(name), mode="r+")
            self._open[name] = mapped.view(np.ndarray)  # the subclass makes every slice slower
        return self._open[name]

    def create(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """Make (or replace) an array of zeros and return it."""
        self._open.pop(name, None)
        temporary = self.folder / f".{name}.new.npy"
        np.lib.format.open_memmap(temporary, mode="w+", dtype=np.dtype(dtype), shape=shape)
        os.replace(temporary, self._path(name))
        return self[name]

    def put(self, name: str, values: np.ndarray) -> None:
        """Store a copy of ``values`` under ``name``."""
        values = np.asarray(values)
        target = self.create(name, values.shape, values.dtype)
        target[...] = values

    def drop(self, name: str) -> None:
        """Forget an array if it is there."""
        self._open.pop(name, None)
        self._path(name).unlink(missing_ok=True)

    def forget_handles(self) -> None:
        """Close what is open here, so that replaced arrays are opened anew."""
        self._open.clear()

    def write_json(self, name: str, value: Any) -> None:
        """Store a small description beside the arrays, atomically."""
        temporary = self.folder / f".{name}.new.json"
        temporary.write_text(json.dumps(value))
        os.replace(temporary, self.folder / f"{name}.json")

    def read_json(self, name: str) -> Any:
        """Return a description stored by :meth:`write_json`."""
        return json.loads((self.folder / f"{name}.json").read_text())

    def remove(self) -> None:
        """Delete the whole folder."""
        self._open.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
