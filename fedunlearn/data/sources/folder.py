"""One's own images: a folder with one sub-folder a class, or one a client with one a class in each."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data.settings import DataSettings
from fedunlearn.data.sources.base import SourceData, encode, locate, one_line
from fedunlearn.errors import UserError

HOW = "set data.path to a folder with one sub-folder of .png or .jpg images a class, or client/class in two levels"
_ENDINGS = {".png", ".jpg", ".jpeg"}
_GREY_MODES = {"1", "L", "LA", "I", "I;16", "F"}


def load_folder(settings: DataSettings) -> SourceData:
    """Read ``path/<class>/*.png`` or ``path/<client>/<class>/*.png`` (.jpg too), all of one size.

    A first level named exactly train and test is the source's own split instead of clients. Images are kept in grey
    if all of them are grey, else all become RGB; hidden files and files of other kinds are passed over.
    """
    root = locate(settings, None, HOW)
    if not root.is_dir():
        raise UserError(f"data.path = '{settings.path}' is a file, but source 'folder' reads a folder: {HOW}")
    top = _folders(root)
    if not top:
        raise UserError(f"data.path = '{settings.path}' has no sub-folder; {HOW}")
    flat = any(_images(folder) for folder in top)
    if flat:
        entries = [("", c.name, file) for c in top for file in _images(c)]
    else:
        entries = [(first.name, c.name, file) for first in top for c in _folders(first) for file in _images(c)]
    if not entries:
        raise UserError(f"data.path = '{settings.path}' holds no .png or .jpg image; {HOW}")
    labels, class_names = encode(label for _, label, _ in entries)
    inputs = _read_all([file for *_, file in entries])
    firsts = [first for first, *_ in entries]
    provenance = f"images of the folder {root.name}"
    if flat:
        return SourceData(inputs, labels, class_names, provenance)
    if set(firsts) == {"train", "test"}:
        return SourceData(inputs, labels, class_names, provenance, is_test=np.array([f == "test" for f in firsts]))
    owner, client_names = encode(firsts)
    return SourceData(inputs, labels, class_names, provenance, owner=owner, client_names=client_names)


def _folders(folder: Path) -> list[Path]:
    return [p for p in _entries(folder) if p.is_dir()]


def _images(folder: Path) -> list[Path]:
    return [p for p in _entries(folder) if p.suffix.lower() in _ENDINGS and p.is_file()]


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted, without hidden entries."""
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({one_line(error)})") from None


def _read_all(files: list[Path]) -> NDArray[np.uint8]:
    """Return all images as (n, H, W) or (n, H, W, 3); UserError for a damaged one or another size."""
    modes, sizes = zip(*(_header(file) for file in files))
    for file, size in zip(files, sizes):
        if size != sizes[0]:
            raise UserError(
                f"{file} is {size[0]}×{size[1]} pixels, but {files[0].name} is {sizes[0][0]}×{sizes[0][1]}: "
                "all images must have one size"
            )
    width, height = sizes[0]
    grey = set(modes) <= _GREY_MODES
    out = np.empty((len(files), height, width) if grey else (len(files), height, width, 3), dtype=np.uint8)
    for i, file in enumerate(files):
        out[i] = _pixels(file, grey)
    return out


def _header(file: Path) -> tuple[str, tuple[int, int]]:
    return _opened(file, lambda image: (image.mode, image.size))


def _pixels(file: Path, grey: bool) -> NDArray[np.uint8]:
    def convert(image: Any) -> NDArray[np.uint8]:
        if grey and image.mode in ("I", "I;16", "F"):
            # Sixteen-bit scans: Pillow's own conversion to 8 bits cuts off at 255 instead of scaling.
            values = np.asarray(image, dtype=np.float64)
            return np.rint(np.clip(values / 65535, 0, 1) * 255).astype(np.uint8)
        return np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)

    return _opened(file, convert)


def _opened(file: Path, use: Any) -> Any:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return use(image)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError,
            Image.DecompressionBombWarning) as error:  # fmt: skip
        raise UserError(f"{file} is not a readable image ({one_line(error)})") from None
