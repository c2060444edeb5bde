"""One's own table: a CSV with a header, or an npz of arrays."""

from __future__ import annotations

import csv
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data.settings import DataSettings
from fedunlearn.data.sources.base import (
    SourceData,
    as_images,
    as_split,
    encode,
    locate,
    one_line,
    read_npz,
)
from fedunlearn.errors import UserError, listed, nearest

HOW = "set data.path to a .csv with a header line or to an .npz, and data.label to the name of its labels"
SPLIT = "split"
_LARGEST = float(np.finfo(np.float32).max)
_FEATURE_NAMES = ("inputs", "features", "images", "x", "X", "data")


def load_table(settings: DataSettings) -> SourceData:
    """Read a table: data.label names the labels, data.client (if set) the clients, ``split`` (if there) train and test.

    CSV: all other columns are float32 features. npz: the features are the array 'inputs', 'features', 'images', 'x',
    'X' or 'data', else the only other one; uint8 arrays of three or four dimensions are images, anything else is
    flattened to float32 rows (n, p). Labels may be words or whole numbers.
    """
    path = locate(settings, None, HOW)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _from_npz(path, settings)
    if suffix in (".csv", ".txt"):
        return _from_csv(path, settings)
    raise UserError(f"data.path = '{settings.path}' ends in '{path.suffix}' (source 'table' reads .csv and .npz)")


def _from_csv(path: Path, settings: DataSettings) -> SourceData:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            columns = _columns(header, path, settings)
            special = sorted(columns.values())
            features = [i for i in range(len(header)) if i not in special]
            if not features:
                raise UserError(f"{path} has no feature column beside {listed(header[i] for i in special)}")
            values, words = array("f"), {name: [] for name in columns}  # type: ignore[var-annotated]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise UserError(f"{path}: line {reader.line_num} has {len(row)} fields, the header {len(header)}")
                values.extend(_numbers(row, features, header, f"{path}: line {reader.line_num}"))
                for name, column in columns.items():
                    words[name].append(row[column].strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a readable CSV file ({one_line(error)})") from None
    count = len(words[settings.label])
    inputs = np.frombuffer(values, dtype=np.float32).reshape(count, len(features)).copy()
    return _assemble(inputs, words, path, settings)


def _numbers(row: list[str], features: list[int], header: list[str], what: str) -> list[float]:
    numbers = []
    for column in features:
        try:
            number = float(row[column])
        except ValueError:
            raise UserError(f"{what}, column '{header[column]}' holds '{row[column]}', not a number") from None
        if not abs(number) <= _LARGEST:  # also refuses NaN
            raise UserError(f"{what}, column '{header[column]}' holds {row[column]}, not a finite number")
        numbers.append(number)
    return numbers


def _columns(names: list[str], path: Path, settings: DataSettings) -> dict[str, int]:
    """Return the places of the label, client and split columns (or arrays) that are there."""
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path} names the column '{twice}' twice")
    found = {}
    for key, name in (("label", settings.label), ("client", settings.client)):
        if name is None:
            continue
        if name not in names:
            raise UserError(
                f"data.{key} = '{name}' is not in {path}{nearest(name, names)} "
                f"(found: {listed(names[:20]) or 'nothing'})"
            )
        found[name] = names.index(name)
    if settings.label == settings.client:
        raise UserError(f"data.label and data.client both name '{settings.label}'")
    if SPLIT in names:
        found.setdefault(SPLIT, names.index(SPLIT))
    return found


def _from_npz(path: Path, settings: DataSettings) -> SourceData:
    arrays = read_npz(path)
    names = list(arrays)
    columns = _columns(names, path, settings)
    free = [name for name in names if name not in columns and name != "classes"]
    chosen = next((name for name in _FEATURE_NAMES if name in free), free[0] if len(free) == 1 else None)
    if chosen is None:
        raise UserError(f"{path} has no array 'inputs' for the features (found: {listed(names) or 'none'})")
    inputs = arrays[chosen]
    if inputs.ndim < 2 or inputs.dtype.kind not in "biuf":
        raise UserError(f"{path}: '{chosen}' should be numbers (n, p) or images, not {inputs.dtype} {inputs.shape}")
    if inputs.dtype == np.uint8 and inputs.ndim in (3, 4):
        inputs = as_images(inputs, f"{path}: '{chosen}'")
    else:
        inputs = _finite_rows(inputs, f"{path}: '{chosen}'")
    words: dict[str, Any] = {}
    for name in columns:
        values = arrays[name]
        if values.shape != (len(inputs),):
            raise UserError(f"{path}: '{name}' should have shape ({len(inputs)},) like '{chosen}', not {values.shape}")
        if values.dtype.kind == "f":
            if not (np.isfinite(values) & (values == np.rint(values))).all():
                raise UserError(f"{path}: '{name}' holds a value that is not a whole number")
            values = values.astype(np.int64)
        words[name] = values.astype(str).tolist()
    source = _assemble(inputs, words, path, settings)
    return _with_classes(source, arrays["classes"], path) if "classes" in arrays else source


def _with_classes(source: SourceData, classes: NDArray[Any], path: Path) -> SourceData:
    """Return the source with its classes named, and numbered, by the array ``classes`` of the file."""
    names = tuple(str(name) for name in classes.reshape(-1))
    places = {str(i): i for i in range(len(names))} | {name: i for i, name in enumerate(names)}
    if all(name.isdecimal() for name in source.class_names):
        places = {str(i): i for i in range(len(names))}
    unknown = [name for name in source.class_names if name not in places]
    if unknown:
        raise UserError(f"{path} has the label '{unknown[0]}', which its 'classes' do not name (they are {len(names)})")
    labels = np.array([places[name] for name in source.class_names], dtype=np.int64)[source.labels]
    return replace(source, labels=labels, class_names=names)


def _finite_rows(values: NDArray[Any], what: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(values.reshape(len(values), -1), dtype=np.float32)
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        raise UserError(f"{what} holds a value at row {bad[0][0]}, column {bad[0][1]} that is not a finite number")
    return rows


def _assemble(inputs: NDArray[Any], words: dict[str, list[str]], path: Path, settings: DataSettings) -> SourceData:
    if not len(inputs):
        raise UserError(f"{path} holds no sample")
    for name, column in words.items():
        if "" in column:
            raise UserError(f"{path}: '{name}' is empty for sample {column.index('')}")
    labels, class_names = encode(words[settings.label])
    owner, client_names = encode(words[settings.client]) if settings.client else (None, ())
    is_split = SPLIT in words and SPLIT not in (settings.label, settings.client)
    return SourceData(
        inputs=inputs,
        labels=labels,
        class_names=class_names,
        provenance=f"table {path.name}",
        owner=owner,
        client_names=client_names,
        is_test=as_split(np.array(words[SPLIT]), len(inputs), f"{path}: '{SPLIT}'") if is_split else None,
    )
