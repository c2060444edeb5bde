"""The arrays of one host, shared by its worker processes through memory-mapped files.

Each array is one ``.npy`` file in the store's folder, so a worker, or a fresh process of the same host, needs the
folder's name and nothing else. The folder lies in shared memory where there is any. A large array that the host has no
room for (:meth:`Store.limit`) is a file in a second folder, on disk, with a link to it in the first; whoever goes
through such an array does it slice by slice and lets go of what lies behind.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fedunlearn.errors import UserError

_SHARED_MEMORY = Path("/dev/shm")
_PARSING = threading.Lock()
"""An array's header is a Python expression; threads that parse at once can end in a SystemError (cpython 106905)."""
_LARGE = 1 << 20
"""Bytes from which an array may be put on disk; smaller ones are not worth a file."""
_SLICE = 64 << 20
"""Bytes of an array on disk that are looked at together."""
_LINE = 64
"""Bytes of a cache line."""
_LIMITS = "limits"


def free_bytes(folder: Path) -> int:
    """Return the bytes that can still be written below ``folder``."""
    return shutil.disk_usage(folder).free


def scratch_folder(scratch: str | None) -> Path:
    """Return the folder for arrays on disk: ``runtime.scratch``, by default that of temporary files."""
    folder = Path(tempfile.gettempdir() if scratch is None else scratch).expanduser()
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"runtime.scratch = '{folder}' is not a folder that can be written to; name one that exists")
    return folder


def new_folder() -> Path:
    """Return a fresh private folder, in shared memory if there is any, else on disk."""
    if _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK):
        return Path(tempfile.mkdtemp(prefix="fedunlearn-", dir=_SHARED_MEMORY))
    return Path(tempfile.mkdtemp(prefix="fedunlearn-"))


class Store:
    """Named arrays in a folder. Opening the same folder in another process gives the same memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._open: dict[str, np.ndarray] = {}
        self._on_disk: dict[str, mmap.mmap] = {}
        self._limits: dict[str, Any] = {"room": None, "scratch": None, "disk": None}
        with suppress(FileNotFoundError):
            self._limits = self.read_json(_LIMITS)

    def limit(self, room: int | None, scratch: str | None = None) -> None:
        """Keep at most ``room`` bytes of arrays in the folder; large ones beyond go to files below ``scratch``."""
        self._limits |= {"room": room, "scratch": scratch}
        self.write_json(_LIMITS, self._limits)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def __contains__(self, name: str) -> bool:
        return name in self._open or self._path(name).exists()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._open:
            path = self._path(name)
            with _PARSING:
                mapped = np.lib.format.open_memmap(path, mode="r+")
            if path.is_symlink():
                self._on_disk[name] = mapped.base  # type: ignore[assignment]
            whole = mapped.view(np.ndarray)  # the subclass makes every slice slower
            with suppress(FileNotFoundError):
                whole = whole[:, : self.read_json(f"{name}.columns")]
            self._open[name] = whole
        return self._open[name]

    def peek(self, name: str) -> np.ndarray:
        """Return an array of another host's store, to be read now; OSError or ValueError where it cannot be."""
        with _PARSING:
            return np.lib.format.open_memmap(self._path(name), mode="r").view(np.ndarray)

    def create(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, *, aligned: bool = False) -> np.ndarray:
        """Make (or replace) an array of zeros and return it; UserError where even the disk has no place for it.

        ``aligned``: every row (n, d) begins at a cache line of its own, so that how it is computed with does not depend
        on its place; the array is then a view, and what fills the lines is never seen.
        """
        self._close(name)
        columns = self.folder / f"{name}.columns.json"
        if aligned:
            items = _LINE // np.dtype(dtype).itemsize
            self.write_json(f"{name}.columns", shape[1])
            shape = (shape[0], -(-shape[1] // items) * items)
        else:
            columns.unlink(missing_ok=True)
        place, size = self._path(name), int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        before = place.resolve() if place.is_symlink() else None
        if size < _LARGE or self._has_room(name, size):
            temporary = self.folder / f".{name}.new.npy"
            np.lib.format.open_memmap(temporary, mode="w+", dtype=np.dtype(dtype), shape=shape)
        else:
            temporary = self.folder / f".{name}.new.link"
            temporary.symlink_to(self._create_on_disk(name, shape, np.dtype(dtype), size))
        os.replace(temporary, place)
        if before is not None:
            before.unlink(missing_ok=True)
        return self[name]

    def _has_room(self, name: str, size: int) -> bool:
        room = self._limits["room"]
        if room is not None:
            others = (p for p in self.folder.glob("*.npy") if p.name != f"{name}.npy" and not p.is_symlink())
            if sum(p.stat().st_size for p in others) + size > room:
                return False
        return free_bytes(self.folder) > size

    def _create_on_disk(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> Path:
        with suppress(FileNotFoundError):  # another process of the same host may have made the folder meanwhile
            self._limits = self.read_json(_LIMITS)
        scratch = scratch_folder(self._limits["scratch"])
        if self._limits["disk"] is None:
            self._limits["disk"] = tempfile.mkdtemp(prefix="fedunlearn-", dir=scratch)
            self.write_json(_LIMITS, self._limits)
        descriptor, path = tempfile.mkstemp(prefix=f"{name}-", suffix=".npy", dir=self._limits["disk"])
        try:
            np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            # A mapped file on a full disk would end the process at some later write: its blocks are asked for now.
            os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
        except OSError:
            os.unlink(path)
            raise UserError(
                f"runtime.scratch = '{scratch}' has {free_bytes(scratch) / 2**30:.1f} GB left, too little for "
                f"'{name}' of {size / 2**30:.1f} GB; name a folder on a larger disk"
            ) from None
        finally:
            os.close(descriptor)
        return Path(path)

    # --- arrays on disk ----------------------------------------------------------------------------------------------

    def on_disk(self, name: str) -> bool:
        """Return whether the array lies in a file on disk."""
        return self._path(name).is_symlink()

    def slices(self, name: str) -> Iterator[slice]:
        """Go through the rows of an array in order, some megabytes at a time; what lies on disk is let go of behind."""
        array = self[name]
        step = max(1, _SLICE // max(1, array[:1].nbytes))
        for first in range(0, len(array), step):
            yield slice(first, min(first + step, len(array)))
            self.release()

    def pieces(self, name: str) -> int:
        """Return into how many commands work on the rows of an array is cut at least, so that each fits in memory."""
        return -(-self[name].nbytes // _SLICE) if name in self and self.on_disk(name) else 1

    def strip_floats(self, name: str) -> int:
        """Return how many floats of scratch a pass over all rows of an array should use at least.

        None in particular in memory; on disk every pass reads the whole file, so few passes with much scratch.
        """
        return max(_SLICE, (self._limits["room"] or 0) // 8) // 4 if self.on_disk(name) else 0

    def release(self) -> None:
        """Let go of the memory behind arrays on disk; the system keeps what it has memory for and writes the rest."""
        for mapped in self._on_disk.values():
            mapped.madvise(mmap.MADV_DONTNEED)

    # --- the rest ----------------------------------------------------------------------------------------------------

    def put(self, name: str, values: np.ndarray) -> None:
        """Store a copy of ``values`` under ``name``."""
        values = np.asarray(values)
        target = self.create(name, values.shape, values.dtype)
        if not values.ndim:
            target[...] = values
            return
        for part in self.slices(name):
            target[part] = values[part]

    def drop(self, name: str) -> None:
        """Forget an array if it is there."""
        self._close(name)
        place = self._path(name)
        if place.is_symlink():
            place.resolve().unlink(missing_ok=True)
        place.unlink(missing_ok=True)
        (self.folder / f"{name}.columns.json").unlink(missing_ok=True)

    def _close(self, name: str) -> None:
        self._open.pop(name, None)
        self._on_disk.pop(name, None)

    def forget_handles(self) -> None:
        """Close what is open here, so that replaced arrays are opened anew."""
        self._open.clear()
        self._on_disk.clear()

    def write_json(self, name: str, value: Any) -> None:
        """Store a small description beside the arrays, atomically."""
        temporary = self.folder / f".{name}.new.json"
        temporary.write_text(json.dumps(value))
        os.replace(temporary, self.folder / f"{name}.json")

    def read_json(self, name: str) -> Any:
        """Return a description stored by :meth:`write_json`."""
        return json.loads((self.folder / f"{name}.json").read_text())

    def remove(self) -> None:
        """Delete the whole folder, and the files on disk that belong to it."""
        self.forget_handles()
        with suppress(FileNotFoundError):
            disk = self.read_json(_LIMITS)["disk"]
            if disk is not None:
                shutil.rmtree(disk, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
