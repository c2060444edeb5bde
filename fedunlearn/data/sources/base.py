"""What every source gives, and how sources find and read their files."""

from __future__ import annotations

import gzip
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data.settings import DataSettings
from fedunlearn.errors import UserError, listed
from fedunlearn.paths import confined

DATA_FOLDER = "FEDUNLEARN_DATA"
_HARMLESS = 256 << 20
"""Bytes that a compressed file may unpack to whatever its own size."""
_MOST_PACKED = 200
"""A larger file may unpack to this many times its size; images of one colour reach 1,000, data reach ten."""


@dataclass(frozen=True, eq=False)
class SourceData:
    """Samples as a source holds them, in any order.

    ``inputs`` (n, ...) uint8 images or float32 rows; ``labels`` int64 (n,). ``owner`` int64 (n,) is the client of each
    sample by its place in ``client_names``, or None for a pooled source. ``is_test`` bool (n,) is the source's own
    split, or None. ``generated`` clients, the last ones, were made up for lack of real ones.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    provenance: str
    owner: NDArray[np.int64] | None = None
    client_names: tuple[str, ...] = ()
    is_test: NDArray[np.bool_] | None = None
    synthetic: bool = False
    generated: int = 0


def default_path(file_name: str | None) -> Path | None:
    """Return the file of this name in the folder $FEDUNLEARN_DATA, or None if the variable or the name is not set."""
    folder = os.environ.get(DATA_FOLDER)
    return Path(folder).expanduser() / file_name if folder and file_name else None


def locate(settings: DataSettings, file_name: str | None, how_to_get: str) -> Path:
    """Return the path that the source reads: data.path, else the file of this name in $FEDUNLEARN_DATA.

    Raises UserError with ``how_to_get`` when there is no such file or folder.
    """
    if settings.path is not None:
        path = confined(settings.path, "data.path")
        if not path.exists():
            raise UserError(f"data.path = '{settings.path}' does not exist (source '{settings.source}': {how_to_get})")
        return path
    found = default_path(file_name)
    if found is None:
        raise UserError(f"data.source = '{settings.source}' needs a file: {how_to_get}")
    if not found.exists():
        raise UserError(f"data.source = '{settings.source}': {found} does not exist; {how_to_get}")
    return found


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return all arrays of an npz file; UserError if it is no npz, is damaged, or holds Python objects."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, not an npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_bomb(path, [(member.file_size, member.compress_size) for member in archive.infolist()])
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        if not all(isinstance(values, np.ndarray) for values in found.values()):
            raise ValueError("it holds files that are no arrays")
        return found
    except UserError:
        raise
    except Exception as error:  # zip, zlib, tokenizer and literal parser all raise their own kinds on damaged bytes
        raise UserError(f"{path} is not a readable npz file ({one_line(error)})") from None


def _refuse_bomb(path: Path, sizes: Sequence[tuple[int, int]]) -> None:
    """Raise UserError if what an archive unpacks to, by its own table, is beyond this machine or beyond belief."""
    unpacked, packed = sum(size for size, _ in sizes), sum(size for _, size in sizes)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if unpacked > memory:
        raise UserError(f"{path} unpacks to {unpacked / 2**30:.1f} GB, more than this machine's memory")
    if unpacked > _HARMLESS and unpacked > _MOST_PACKED * max(1, packed):
        raise UserError(f"{path} unpacks to {unpacked / 2**30:.1f} GB, {unpacked // max(1, packed)} times its size")


def unzipped(path: Path) -> bytes:
    """Return the content of a gzip file; ValueError where it unpacks to more than a sound file of its size would.

    EOFError, OSError and zlib.error as gzip raises them.
    """
    limit = max(_HARMLESS, _MOST_PACKED * path.stat().st_size)
    with gzip.open(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it unpacks to more than {_MOST_PACKED} times its size")
    return content


def require(arrays: dict[str, NDArray[Any]], names: Iterable[str], path: Path) -> None:
    """Raise UserError unless all the named arrays are there."""
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UserError(f"{path} has no array '{missing[0]}' (found: {listed(sorted(arrays)) or 'none'})")


def one_line(error: BaseException) -> str:
    """Return an error's first line, or its type when it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def as_images(images: NDArray[Any], what: str) -> NDArray[np.uint8]:
    """Return images (n, H, W[, C]) as uint8, converting integers of 0..255 and floats of 0..1; UserError otherwise."""
    if images.ndim not in (3, 4):
        raise UserError(f"{what} should be images of shape (n, H, W) or (n, H, W, C), not {images.shape}")
    if images.dtype == np.uint8 or not images.size:
        return np.ascontiguousarray(images, dtype=np.uint8)
    if images.dtype.kind == "f":
        return unit_to_uint8(images, what)
    if images.dtype.kind in "iu" and images.min() >= 0 and images.max() <= 255:
        return np.ascontiguousarray(images, dtype=np.uint8)
    raise UserError(f"{what} should be uint8, integers of 0 to 255 or floats of 0 to 1, not {images.dtype}")


def unit_to_uint8(values: NDArray[Any], what: str) -> NDArray[np.uint8]:
    """Return floats of 0..1 as uint8 0..255, rounded; UserError for NaN and for values outside."""
    if not np.isfinite(values).all():
        raise UserError(f"{what} holds a value that is not a finite number")
    if values.size and (values.min() < 0 or values.max() > 1):
        raise UserError(f"{what} holds values from {values.min():g} to {values.max():g} (allowed: 0 to 1)")
    return np.rint(values * 255).astype(np.uint8)


def as_labels(labels: NDArray[Any], count: int, num_classes: int | None, what: str) -> NDArray[np.int64]:
    """Return labels (count,) as int64; UserError if they are not integers, or outside 0..num_classes-1."""
    if labels.shape != (count,):
        raise UserError(f"{what} should have shape ({count},), one label a sample, not {labels.shape}")
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.rint(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iub":
        raise UserError(f"{what} should be whole numbers, not {labels.dtype}")
    labels = labels.astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= (2**31 if num_classes is None else num_classes)))
    if len(wrong):
        most = "" if num_classes is None else f" (allowed: 0 to {num_classes - 1})"
        raise UserError(f"{what} holds {labels[wrong[0]]} at place {wrong[0]}{most}")
    return labels


def as_split(split: NDArray[Any], count: int, what: str) -> NDArray[np.bool_]:
    """Return test marks (count,) from a split of 0 (train) and 1 (test), or of the words train and test."""
    if split.shape != (count,):
        raise UserError(f"{what} should have shape ({count},), one mark a sample, not {split.shape}")
    if split.dtype.kind in "biuf":
        test, train = split == 1, split == 0
    else:
        words = np.char.lower(split.astype(str))
        test, train = (words == "test") | (words == "1"), (words == "train") | (words == "0")
    unknown = np.flatnonzero(~(test | train))
    if len(unknown):
        raise UserError(f"{what} holds '{split[unknown[0]]}' at place {unknown[0]} (allowed: 0 or train, 1 or test)")
    return test


def encode(values: Iterable[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return (codes, names): the place of every word in the sorted names; whole numbers are sorted by value."""
    words = [str(v) for v in values]
    unique = set(words)
    try:
        names = sorted(unique, key=lambda w: (int(w), w))
    except ValueError:
        names = sorted(unique)
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[w] for w in words], dtype=np.int64), tuple(names)
