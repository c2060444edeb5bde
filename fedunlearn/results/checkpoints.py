"""Checkpoints of a run that is being made: files that are whole and of this very run, or not used at all.

One checkpoint is one safetensors file: arrays, among them a table as JSON text, and in the header schema, number,
identity of the run, a sentence that says what it is, and the SHA-256 over all of that. It is written under another name
first. The two newest whole ones are kept, and beside them what secret noise was drawn for. Their folder is for its
owner alone (mode 0700), for rows know what may be deleted.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fedunlearn.errors import UserError
from fedunlearn.plain_text import parse_json
from fedunlearn.results.files import cannot_write, canonical_json, fsync_folder, write_atomically
from fedunlearn.results.states import Arrays, put_together, taken_apart

SCHEMA = "fedunlearn/checkpoint/1"
GENERATIONS = 2
FOLDER, IDENTITY = "checkpoints", "run.json"
_KEY, _TABLE = "fedunlearn", "table"
_NAME = re.compile(r"checkpoint-(\d{6})\.safetensors")
_TYPES = {
    "|b1": "BOOL", "|u1": "U8", "|i1": "I8", "<u2": "U16", "<i2": "I16", "<u4": "U32", "<i4": "I32", "<u8": "U64",
    "<i8": "I64", "<f2": "F16", "<f4": "F32", "<f8": "F64",
}  # fmt: skip
"""Numpy's names of types, and those of safetensors."""


class Damaged(Exception):
    """A file that cannot be used; the message is one sentence that names it."""


@dataclass(frozen=True)
class Kept:
    """What a checkpoint holds: its number, the sentence that was written with it, and its value."""

    number: int
    what: str
    value: Any


class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    Attributes:
        identity: what must be the same for a checkpoint to be one of this run.
        states: whether new checkpoints are wanted; what was drawn is stored in any case.
        damaged: a sentence for every file that was found and could not be used.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str], states: bool = True) -> None:
        self.folder, self.identity, self.states = folder, dict(identity), states
        self.damaged: list[str] = []
        self._bad, self._spent = set[int](), set[str]()

    @classmethod
    def open(cls, run: Path, identity: Mapping[str, str], *, states: bool = True) -> Checkpoints:
        """Return the checkpoints of the run in a folder, with a folder for them and an identity where they are new.

        Raises:
            UserError: if the folder cannot be made, or the run was begun with other code, settings, libraries or on
                another device: its numbers could not be continued.
        """
        folder = run / FOLDER
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            for leftover in folder.glob(".*"):
                leftover.unlink()
            if (folder / IDENTITY).is_file():
                return cls(folder, _same_run(folder / IDENTITY, identity), states)
            if _holds_work(folder):
                raise UserError(f"'{folder / IDENTITY}' is gone, so nobody can tell which run these checkpoints are of")
            whole = {**identity, "run": secrets.token_hex(16)}
            write_atomically(folder / IDENTITY, canonical_json(whole).encode(), private=True)
        except OSError as error:
            raise UserError(f"'{folder}' cannot be written: {error.strerror or error}") from None
        return cls(folder, whole, states)

    def confirm(self, inputs: Mapping[str, str]) -> None:
        """Add what enters the run to its identity where it is new, and compare it where the run goes on.

        Raises:
            UserError: if an input has changed, or the identity cannot be written.
        """
        path = self.folder / IDENTITY
        if not any(key in self.identity for key in inputs) and not _holds_work(self.folder):
            self.identity |= inputs
            try:
                write_atomically(path, canonical_json(self.identity).encode(), private=True)
            except OSError as error:
                raise cannot_write(path, error) from None
        _refuse_other(path, self.identity, inputs)

    def write(self, value: Any, what: str, *, alone: bool = False) -> int:
        """Store a value as the newest checkpoint and return its size in bytes; what is too old is deleted.

        Args:
            value: what :func:`fedunlearn.results.states.taken_apart` takes.
            what: a sentence for people: where the run was.
            alone: whether all older ones are deleted, not only damaged ones and those before the last.

        Raises:
            OSError: if it cannot be written; the older ones are then as they were.
            TypeError: if the value holds something that has no place in a checkpoint.
        """
        number = max((number for number, _ in _all_of(self.folder)), default=0) + 1
        size = self._write(self.folder / f"checkpoint-{number:06d}.safetensors", number, what, value)
        self._bad.discard(number)
        whole = sorted((old for old, _ in _all_of(self.folder) if old not in self._bad), reverse=True)
        self._delete(range(number) if alone else {*whole[GENERATIONS:], *self._bad})
        return size

    def newest(self, classes: tuple[type, ...]) -> Kept | None:
        """Return the newest checkpoint that is whole, with dataclasses among ``classes``; None if there is none.

        Those that are not whole are named in :attr:`damaged`.
        """
        for number, path in sorted(_all_of(self.folder), reverse=True):
            try:
                return self._read(path, number, classes)
            except Damaged as error:
                self.damaged.append(str(error))
                self._bad.add(number)
        return None

    def clear(self, before: int | None = None) -> None:
        """Delete all checkpoints, or those of smaller numbers than ``before``, and none of what was drawn."""
        self._delete(range(10**6 if before is None else before))

    def _delete(self, numbers: Container[int]) -> None:
        for number, path in _all_of(self.folder) if self.folder.is_dir() else ():
            if number in numbers:
                with suppress(OSError):
                    path.unlink()
        fsync_folder(self.folder)

    def draw(self, key: str, vector: NDArray[Any]) -> None:
        """Store what noise was drawn for, under a key that it is never drawn for again.

        Raises:
            OSError: if it cannot be written; nobody may receive it then.
        """
        self._write(self._drawn(key), 0, key, vector)

    def drawn(self, key: str) -> NDArray[Any] | None:
        """Return what was stored under a key, None if nothing was.

        Raises:
            UserError: if it cannot be read: somebody may have received it, and noise is not drawn twice.
        """
        path = self._drawn(key)
        if not path.exists():
            return None
        try:
            kept = self._read(path, 0, ())
            if kept.what == key and kept.value is None:
                raise Damaged(f"'{path}' was emptied, for a checkpoint had followed its release")
            if kept.what != key or not isinstance(kept.value, np.ndarray):
                raise Damaged(f"'{path}' holds something else")
        except Damaged as error:
            raise UserError(
                f"{error}: it may have been released, and noise is not drawn twice for the same state; start a new run"
            ) from None
        return np.array(kept.value)

    def has_drawn(self, key: str) -> bool:
        """Return whether something was stored under a key, whole or not, spent or not."""
        return self._drawn(key).exists()

    def spend(self, key: str) -> None:
        """Forget what was stored under a key, but not that it was: whoever asks for it is refused from now on.

        Raises:
            OSError: if that cannot be written; the vector is then as it was.
        """
        if key not in self._spent and self.has_drawn(key):
            self._write(self._drawn(key), 0, key, None)
        self._spent.add(key)

    def remove(self) -> None:
        """Delete all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- one file ----------------------------------------------------------------------------------------------------

    def _drawn(self, key: str) -> Path:
        return self.folder / f"drawn-{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"

    def _write(self, path: Path, number: int, what: str, value: Any) -> int:
        plain, arrays = taken_apart(value)
        table = np.frombuffer(json.dumps(plain, ensure_ascii=False, allow_nan=False).encode(), dtype=np.uint8)
        arrays = {_TABLE: table, **arrays}
        header = {"schema": SCHEMA, "number": number, "what": what, "identity": self.identity}
        entries: dict[str, Any] = {}
        offset = 0
        for name, array in arrays.items():
            end = offset + array.nbytes
            entries[name] = {
                "dtype": _TYPES[array.dtype.newbyteorder("<").str],
                "shape": list(array.shape),
                "data_offsets": [offset, end],
            }
            offset = end
        metadata = {_KEY: canonical_json({**header, "digest": _digest(header, arrays)})}
        text = json.dumps({"__metadata__": metadata, **entries}).encode()
        text += b" " * (-len(text) % 8)
        content = map(_bytes_of, arrays.values())
        write_atomically(path, len(text).to_bytes(8, "little"), text, *content, private=True)
        return 8 + len(text) + offset

    def _read(self, path: Path, number: int, classes: tuple[type, ...]) -> Kept:
        try:
            with safe_open(str(path), framework="numpy") as file:
                header = parse_json((file.metadata() or {})[_KEY], finite=False)
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            digest = header.pop("digest")
            schema, identity = header["schema"], header["identity"]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Damaged(f"'{path}' is damaged ({_short(error)})") from None
        if digest != _digest(header, arrays):
            raise Damaged(f"'{path}' is damaged (its content does not have the SHA-256 that its header names)")
        if schema != SCHEMA:
            raise Damaged(f"'{path}' is of schema {schema!r}, which this version does not read")
        if identity != self.identity:
            raise Damaged(f"'{path}' belongs to another run")
        if header["number"] != number:
            raise Damaged(f"'{path}' has the name of another checkpoint than it is")
        table = parse_json(arrays.pop(_TABLE).tobytes(), finite=False)
        try:
            return Kept(number, str(header["what"]), put_together(table, arrays, classes))
        except ValueError as error:
            raise Damaged(f"'{path}' cannot be used ({_short(error)})") from None


def holds_work(run: Path) -> bool:
    """Return whether there is something in a run's folder to go on from."""
    return (run / FOLDER).is_dir() and _holds_work(run / FOLDER)


def _holds_work(folder: Path) -> bool:
    return any(_all_of(folder)) or any(folder.glob("drawn-*"))


def _all_of(folder: Path) -> list[tuple[int, Path]]:
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return [(int(match[1]), path) for match, path in found if match]


def _same_run(path: Path, identity: Mapping[str, str]) -> dict[str, str]:
    """Return the identity of the run that was begun here; UserError if it is not the one that goes on."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        if not (isinstance(found, dict) and isinstance(found.get("run"), str)):
            raise ValueError("it names no run")
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read ({_short(error)}), so the run cannot be resumed") from None
    _refuse_other(path, found, identity)
    return found


def _refuse_other(path: Path, found: Mapping[str, str], identity: Mapping[str, str]) -> None:
    for key, value in identity.items():
        if found.get(key) != value:
            raise UserError(
                f"'{path.parent.parent}' cannot be resumed: its {key} is not what it was when it began (then "
                f"{_short(found.get(key))}, now {_short(value)}), and other numbers might come out; start a new run"
            )


def _bytes_of(array: NDArray[Any]) -> memoryview:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data


def _digest(header: Mapping[str, Any], arrays: Arrays) -> str:
    whole = hashlib.sha256(canonical_json(header).encode())
    for name in sorted(arrays):
        array = arrays[name]
        whole.update(canonical_json([name, array.dtype.newbyteorder("<").str, array.shape]).encode())
        whole.update(_bytes_of(array))
    return whole.hexdigest()


def _short(error: object) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 100 else f"{text[:97]}..."
