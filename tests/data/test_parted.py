"""What is not here cannot be read: not by a row, not as a whole, not by accident."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.data import DataSettings, FederatedDataset, Role, describe, load_dataset
from fedunlearn.data.parted import AbsentDataError, HeldRows, parted
from fedunlearn.data.split import split
from fedunlearn.errors import UserError

VALUES = np.random.default_rng(0).integers(0, 255, (12, 3, 2)).astype(np.uint8)


def held(rows: list[int]) -> Any:
    return HeldRows(12, np.array(rows, np.int64), VALUES[rows], lambda row: AbsentDataError(f"row {row}"))


@given(st.sets(st.integers(0, 11), max_size=11), st.lists(st.integers(-12, 11), max_size=8))
def test_rows_that_are_here_are_those_of_the_array_and_others_raise(there: set[int], asked: list[int]) -> None:
    rows = held(sorted(there))
    key = np.array(asked, np.int64)
    absent = [a for a in asked if a % 12 not in there]
    if absent:
        with pytest.raises(AbsentDataError, match=f"row {absent[0] % 12}$"):
            rows[key]
    else:
        assert np.array_equal(rows[key], VALUES[key]) and np.array_equal(rows[key, 1], VALUES[key, 1])
    mask = np.isin(np.arange(12), key)
    if set(np.flatnonzero(mask)) <= there:
        assert np.array_equal(rows[mask], VALUES[mask])


def test_slices_and_single_rows() -> None:
    rows = held([3, 4, 5, 9])
    assert (
        np.array_equal(rows[3:6], VALUES[3:6])
        and np.array_equal(rows[9], VALUES[9])
        and rows[4, 2, 1] == VALUES[4, 2, 1]
    )
    assert rows[0:0].shape == (0, 3, 2) and rows.shape == VALUES.shape and len(rows) == 12 and rows.nbytes == 24
    for key in (2, slice(3, 7), -1, slice(None)):
        with pytest.raises(AbsentDataError):
            rows[key]
    with pytest.raises(IndexError):
        rows[12]


@pytest.mark.parametrize(
    "whole",
    [
        np.asarray, np.unique, lambda x: np.isfinite(x), lambda x: x == 3, lambda x: np.ones(12) == x, list, bool,
        lambda x: x.astype(float), lambda x: x.sum(), lambda x: np.concatenate([x, x]), lambda x: x.copy(), iter,
        lambda x: np.ascontiguousarray(x), lambda x: 3 in x, lambda x: x.tobytes(), lambda x: x < 1, np.bincount,
    ],
)  # fmt: skip
def test_the_array_as_a_whole_raises(whole: Callable[[Any], Any]) -> None:
    with pytest.raises(AbsentDataError, match="row 0"):
        whole(held([3]))


def test_nothing_can_be_written() -> None:
    rows = held([3])
    with pytest.raises(TypeError):
        rows[3] = 0
    data = parted(np.array([0]), VALUES[:1].copy(), np.array([1]), **_structure())
    with pytest.raises(ValueError, match="read-only"):
        data.inputs[0][0] = 1  # a view, were it writable


def _structure() -> dict[str, Any]:
    return {
        "name": "few", "offsets": np.array([0, 1, 2]), "client_names": ("ann", "bob"), "is_test": np.zeros(2, bool),
        "roles": np.zeros(2, np.uint8), "class_names": ("x", "y"), "provenance": "", "whole": "abc",
    }  # fmt: skip


def test_an_error_names_the_client() -> None:
    data = parted(np.array([0]), VALUES[:1].copy(), np.array([1]), **_structure())
    assert data.labels[0] == 1 and data.sha256() == "abc" and not data.is_whole and data.client_of.tolist() == [0, 1]
    with pytest.raises(UserError, match=r"data set 'few': the samples of client 1 \('bob'\) lie on another host"):
        data.labels[np.array([0, 1])]


def test_the_conductor_knows_all_but_the_training_samples(tmp_path: Path) -> None:
    settings = DataSettings(source="digits", clients=6)
    whole = load_dataset(settings)
    split(whole, [np.arange(4), np.arange(4, 6)], tmp_path / "parts", settings)
    mine: FederatedDataset = load_dataset(settings.model_copy(update={"parts": str(tmp_path / "parts/conductor.npz")}))
    rows, offsets = whole.all_train_rows()
    assert len(mine.parts) == 2 and mine.sha256() == whole.sha256() and mine.input_shape == whole.input_shape
    for name in ("offsets", "is_test", "roles"):
        assert np.array_equal(getattr(mine, name), getattr(whole, name))
    assert all(map(np.array_equal, mine.all_train_rows(), (rows, offsets)))
    others = np.setdiff1d(np.arange(len(whole.labels)), rows)
    assert np.array_equal(mine.inputs[others], whole.inputs[others])
    assert np.array_equal(mine.labels[others], whole.labels[others])
    for client in whole.clients(Role.TRAIN):
        for row in whole.train_rows(int(client)):
            for values in (mine.inputs, mine.labels):
                with pytest.raises(AbsentDataError, match=f"client {client} "):
                    values[row]
    told = describe(settings.model_copy(update={"parts": str(tmp_path / "parts" / "conductor.npz")}))
    assert told["samples_per_class"] is None and told["samples"] == len(whole.labels)
