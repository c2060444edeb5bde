"""MNIST and CIFAR-10 from files: npz in the usual layouts, and MNIST's own IDX format."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data.settings import DataSettings
from fedunlearn.data.sources.base import (
    SourceData,
    as_images,
    as_labels,
    as_split,
    locate,
    one_line,
    read_npz,
    require,
    unzipped,
)
from fedunlearn.errors import UserError, listed

MNIST_FILE, CIFAR_FILE = "mnist.npz", "cifar10_12k.npz"
HOW_MNIST = (
    f"set data.path to an npz or to a folder of IDX files (train-images-idx3-ubyte.gz, ...), "
    f"or FEDUNLEARN_DATA to the folder of {MNIST_FILE}; 'mnist-5k' needs no file"
)
HOW_CIFAR = f"set data.path to an npz of images and labels, or FEDUNLEARN_DATA to the folder of {CIFAR_FILE}"

_CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TWO_PARTS = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def load_mnist(settings: DataSettings) -> SourceData:
    """Read MNIST (LeCun et al. 1998) from an npz or from a folder of the four IDX files, gzipped or not."""
    path = locate(settings, MNIST_FILE, HOW_MNIST)
    if path.is_dir():
        arrays = {name: read_idx(_idx_file(path, name)) for name in _TWO_PARTS[0]}
    else:
        arrays = read_npz(path)
    return _image_set(arrays, path, tuple("0123456789"), f"MNIST from {path.name}")


def load_cifar10(settings: DataSettings) -> SourceData:
    """Read CIFAR-10 (Krizhevsky 2009), whole or a part, from an npz with images (n, 32, 32, 3)."""
    path = locate(settings, CIFAR_FILE, HOW_CIFAR)
    return _image_set(read_npz(path), path, _CIFAR_NAMES, f"CIFAR-10 from {path.name}")


def _image_set(arrays: dict[str, NDArray[Any]], path: Path, names: tuple[str, ...], provenance: str) -> SourceData:
    """Return the images of one of three layouts: images/labels[/split], train_images/..., x_train/...."""
    if "classes" in arrays:
        names = tuple(str(name) for name in arrays["classes"])
    for keys in _TWO_PARTS:
        if keys[0] in arrays:
            require(arrays, keys, path)
            parts = [as_images(arrays[key], f"{path}: '{key}'") for key in keys[::2]]
            if parts[0].shape[1:] != parts[1].shape[1:]:
                raise UserError(
                    f"{path}: training images {parts[0].shape} and test images {parts[1].shape} differ in size"
                )
            labels = [
                as_labels(arrays[key].reshape(-1), len(part), len(names), f"{path}: '{key}'")
                for key, part in zip(keys[1::2], parts)
            ]
            is_test = np.repeat([False, True], [len(part) for part in parts])
            return SourceData(np.concatenate(parts), np.concatenate(labels), names, provenance, is_test=is_test)
    require(arrays, ("images", "labels"), path)
    images = as_images(arrays["images"], f"{path}: 'images'")
    split = as_split(arrays["split"], len(images), f"{path}: 'split'") if "split" in arrays else None
    numbers = as_labels(arrays["labels"].reshape(-1), len(images), len(names), f"{path}: 'labels'")
    return SourceData(images, numbers, names, provenance, is_test=split)


def _idx_file(folder: Path, name: str) -> Path:
    """Return the IDX file of 'train_images' and the like, under the names it is spread by."""
    part, kind = name.split("_")
    stem = f"{'train' if part == 'train' else 't10k'}-{kind}"
    rank = 3 if kind == "images" else 1
    candidates = [f"{stem}{mark}idx{rank}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for candidate in candidates:
        if (folder / candidate).is_file():
            return folder / candidate
    raise UserError(f"{folder} holds none of {listed(candidates)}")


def read_idx(path: Path) -> NDArray[Any]:
    """Return the array of an IDX file (http://yann.lecun.com/exdb/mnist): magic, sizes, values, big-endian."""
    try:
        raw = unzipped(path) if path.suffix == ".gz" else path.read_bytes()
        zeros, code, rank = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{rank}I", raw, 4)
        if zeros != 0 or code not in _IDX_TYPES:
            raise ValueError("the first bytes are not those of an IDX file")
        values = np.frombuffer(raw[4 + 4 * rank :], dtype=np.dtype(_IDX_TYPES[code]))
        return values.reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{path} is not a readable IDX file ({one_line(error)})") from None
