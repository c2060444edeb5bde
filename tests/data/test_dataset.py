"""The data set's arithmetic of rows, its hash, and everything that validation refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedunlearn.data import FederatedDataset, Role
from fedunlearn.errors import UserError


def small() -> FederatedDataset:
    return FederatedDataset(
        name="small",
        inputs=np.arange(7 * 4, dtype=np.uint8).reshape(7, 2, 2),
        labels=np.array([0, 1, 0, 1, 1, 0, 1]),
        offsets=np.array([0, 3, 3, 5, 7]),
        is_test=np.array([False, True, False, False, True, False, False]),
        roles=np.array([Role.TRAIN, Role.UNUSED, Role.TRAIN, Role.NEVER_MEMBER], dtype=np.uint8),
        client_names=("a", "b", "c", "d"),
        class_names=("no", "yes"),
        provenance="by hand",
    )


def test_rows_and_clients() -> None:
    data = small()
    data.validate()
    assert (data.num_clients, data.num_classes, data.input_shape) == (4, 2, (2, 2))
    assert data.client_of.tolist() == [0, 0, 0, 2, 2, 3, 3]
    assert data.clients(Role.TRAIN).tolist() == [0, 2]
    assert data.clients(Role.PUBLIC).tolist() == []
    assert data.train_rows(0).tolist() == [0, 2] and data.test_rows(0).tolist() == [1]
    assert data.train_rows(1).tolist() == [] and data.test_rows(2).tolist() == [4]
    for client in (-1, 4):
        with pytest.raises(IndexError, match="does not exist"):
            data.train_rows(client)


def test_all_training_rows_are_those_of_the_train_clients_in_order() -> None:
    data = small()
    rows, offsets = data.all_train_rows()
    clients = data.clients(Role.TRAIN)
    assert rows.tolist() == [0, 2, 3] and offsets.tolist() == [0, 2, 3]
    for i, client in enumerate(clients):
        assert rows[offsets[i] : offsets[i + 1]].tolist() == data.train_rows(int(client)).tolist()


@pytest.mark.parametrize("field", ["inputs", "labels", "is_test", "roles"])
def test_hash_sees_every_array(field: str) -> None:
    data = small()
    changed = getattr(data, field).copy()
    changed.reshape(-1)[-1] ^= 1
    assert small().sha256() == data.sha256() != replace(data, **{field: changed}).sha256()


def test_hash_sees_offsets_and_names_but_not_provenance() -> None:
    data = small()
    assert replace(data, offsets=np.array([0, 3, 4, 5, 7])).sha256() != data.sha256()
    assert replace(data, client_names=("a", "b", "c", "e")).sha256() != data.sha256()
    assert replace(data, provenance="elsewhere").sha256() == data.sha256()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": np.array([0, 1, 0, 1, 1, 0, 2])}, r"row 6 has label 2 \(allowed: 0 to 1\)"),
        ({"labels": np.array([0, 1, 0, 1, 1, 0])}, "equally many"),
        ({"offsets": np.array([0, 3, 2, 5, 7])}, "offsets must rise"),
        ({"offsets": np.array([0, 3, 3, 5, 6])}, "offsets must rise"),
        ({"client_names": ("a",)}, "1 client names should be equally many"),
        ({"roles": np.array([0, 3, 0, 9], dtype=np.uint8)}, "a role is one of 0 to 3, not 9"),
        ({"roles": np.array([1, 3, 1, 2], dtype=np.uint8)}, "has no train client"),
        ({"roles": np.array([0, 0, 0, 2], dtype=np.uint8)}, r"train client 1 \('b'\) has no training sample"),
        ({"inputs": np.zeros((7, 3))}, "neither uint8 images"),
        ({"inputs": np.zeros((0, 2, 2), np.uint8)}, "has no samples"),
        ({"inputs": np.array([[0, 1]] * 6 + [[0, np.nan]], np.float32)}, "row 6, column 1 is nan"),
        ({"inputs": np.array([[np.inf, 1]] * 7, np.float32)}, "row 0, column 0 is inf"),
    ],
)
def test_validation_refuses_in_one_sentence(change: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        replace(small(), **change).validate()
    assert "\n" not in str(caught.value)
