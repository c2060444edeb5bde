"""FEMNIST with generated writers behind the real ones: sizes, roles, splits, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedunlearn.data import DataSettings, Role, describe, load_dataset
from fedunlearn.data.sources.writer_sizes import SAMPLES, WRITERS, femnist_sizes
from fedunlearn.errors import UserError
from tests.data.test_sources_femnist import COUNTS, glyphs, write_npz


def filled(tmp_path: Path, **changes) -> DataSettings:
    given = {"fill_writers": 7, "train_clients": "rest", **changes}
    return write_npz(tmp_path / "femnist.npz").model_copy(update=given)


def test_the_real_writers_come_first_unchanged(tmp_path: Path) -> None:
    data = load_dataset(filled(tmp_path))
    images, labels, _ = glyphs()
    assert data.num_clients == 7
    assert np.array_equal(data.inputs[:18], images) and np.array_equal(data.labels[:18], labels)
    assert np.diff(data.offsets)[:4].tolist() == list(COUNTS)
    assert data.client_names[4:] == ("synthetic writer 0", "synthetic writer 1", "synthetic writer 2")
    assert np.array_equal(data.is_test[:18], np.arange(18) % 3 == 2)  # the file's own split
    for client in (4, 5, 6):
        share = len(data.test_rows(client)) / (data.offsets[client + 1] - data.offsets[client])
        assert share == pytest.approx(0.1, abs=0.05)
    assert data.clients(Role.TRAIN).tolist() == list(range(7))


def test_real_writers_in_no_order_give_the_same_clients(tmp_path: Path) -> None:
    images, labels, writers = glyphs()
    mixed = np.random.default_rng(1).permutation(18)
    split = (np.arange(18) % 3 == 2).astype(np.uint8)
    settings = write_npz(
        tmp_path / "femnist.npz", images=images[mixed], labels=labels[mixed].astype(np.uint8), writers=writers[mixed],
        split=split[mixed],
    ).model_copy(update={"fill_writers": 6, "train_clients": "rest"})  # fmt: skip
    data = load_dataset(settings)
    for client in range(4):
        own = data.inputs[data.offsets[client] : data.offsets[client + 1]]
        assert {i.tobytes() for i in own} == {i.tobytes() for i in images[writers == client]}


def test_it_is_called_synthetic_where_generated_writers_take_part(tmp_path: Path) -> None:
    told = describe(filled(tmp_path))
    assert told["synthetic"] and told["name"] == "femnist and 3 synthetic writers"
    assert "4 writers; 3 more writers are generated glyphs, synthetic" in told["provenance"]
    real = load_dataset(filled(tmp_path, train_clients="0-3"))
    assert not real.synthetic and real.name == "femnist" and len(real.labels) == 18


def test_generated_writers_train_where_no_roles_are_named(tmp_path: Path) -> None:
    data = load_dataset(filled(tmp_path, train_clients="", fill_writers=9))
    alone = load_dataset(write_npz(tmp_path / "femnist.npz"))
    assert data.roles[:4].tolist() == alone.roles.tolist()
    assert (data.roles[4:] == Role.TRAIN).all()


def test_more_writers_never_change_those_that_were_there(tmp_path: Path) -> None:
    few, many = (load_dataset(filled(tmp_path, fill_writers=n)) for n in (6, 9))
    assert np.array_equal(few.inputs, many.inputs[: len(few.inputs)])
    other = load_dataset(filled(tmp_path, fill_writers=6, seed=1))
    assert np.array_equal(other.inputs[:18], few.inputs[:18])
    assert not np.array_equal(other.labels[18:40], few.labels[18:40])


def test_sizes_are_those_of_femnist() -> None:
    alone = femnist_sizes(WRITERS, 0)
    assert alone.mean() == pytest.approx(226.83, rel=0.02) and alone.std() == pytest.approx(88.94, rel=0.05)
    real = np.random.default_rng(0).integers(100, 183, 359)
    together = np.concatenate([real, femnist_sizes(WRITERS - 359, 0, real)])
    assert together.mean() == pytest.approx(SAMPLES / WRITERS, rel=0.02)
    assert together.std() == pytest.approx(88.94, rel=0.05)
    assert np.array_equal(femnist_sizes(50, 0, real), femnist_sizes(3000, 0, real)[:50])
    odd = femnist_sizes(100, 0, np.full(10, 10**6))  # more samples than FEMNIST has: nothing is left to infer
    assert np.array_equal(odd, femnist_sizes(100, 0)) and odd.min() >= 10


def test_writers_alone_can_be_as_unequal_as_femnist() -> None:
    data = load_dataset(DataSettings(source="writers", writers=40, samples_per_writer="femnist"))
    assert np.array_equal(np.diff(data.offsets), femnist_sizes(40, 0)) and data.synthetic


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fill_writers": 3}, "data.fill_writers = 3 is fewer than the 4 writers of source 'femnist'"),
        (
            {"source": "digits", "path": None},
            "data.fill_writers = 7 needs writers with images of 28 x 28 in 62 classes",
        ),
    ],
)
def test_what_cannot_be_filled_is_one_sentence(tmp_path: Path, changes, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_dataset(filled(tmp_path, **changes))
