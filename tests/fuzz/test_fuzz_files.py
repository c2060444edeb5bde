"""Mutated files of every kind that is read: one sentence, or what an undamaged file could have said.

What carries a digest (cache entries, checkpoints of a run, certificates) is never read as something else than was
written. What carries none (data, graphs, models made elsewhere, summaries) may be another sound file after a mutation:
then what is read has the types, shapes and ranges of its kind. ``fedunlearn verify`` tells a changed model or settings
file by the hashes in the certificate.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import pytest
import torch

from fedunlearn.config import load_experiment
from fedunlearn.data import DataSettings, load_dataset
from fedunlearn.errors import UserError
from fedunlearn.models.checkpoint import read_checkpoint, write_checkpoint
from fedunlearn.network.ledger import Ledger
from fedunlearn.privacy import read_certificates
from fedunlearn.privacy.verify import verify
from fedunlearn.results import ContentCache, read_ledger, read_run
from fedunlearn.results.checkpoints import Checkpoints
from fedunlearn.results.compare import compare_runs
from fedunlearn.topology import load_file
from tests.fuzz.mutations import at_most, mutated_bytes, mutated_toml, mutated_value
from tests.small_runs import run

REQUESTS = [{"level": "client", "client": 2}, {"level": "sample", "client": 1, "count": 5}]


class Kind(NamedTuple):
    """A file, and what reading it must give: ``read`` raises UserError, or asserts that what it got is sound."""

    name: str
    content: bytes
    read: Callable[[Path], object]
    text: str = "bytes"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with two requests."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    run(folder, requests=REQUESTS)
    return folder


def data(path: Path, **settings: Any) -> None:
    dataset = load_dataset(DataSettings(path=str(path), clients=2, **settings))
    assert len(dataset.labels) == len(dataset.inputs) and (dataset.labels >= 0).all()
    assert dataset.labels.max() < dataset.num_classes and np.isfinite(dataset.inputs).all()


def graph(path: Path) -> None:
    found = load_file(str(path), 6, 0)
    assert nx.is_connected(found) and set(found) == set(range(len(found))) and nx.number_of_selfloops(found) == 0


def vector(path: Path) -> None:
    found = read_checkpoint(path, {"weight": (3, 4), "bias": (3,)})
    assert found.shape == (15,) and found.dtype == np.float32 and np.isfinite(found).all()


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, **arrays)
    return out.getvalue()


def png() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(out, "png")
    return out.getvalue()


def image_folder(path: Path) -> None:
    root = path.parent / "images"
    shutil.rmtree(root, ignore_errors=True)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for i in range(5):
            (root / label / f"{i}.png").write_bytes(png())
    shutil.copy(path, root / "a" / "9.png")
    data(root, source="folder")


def idx_folder(path: Path) -> None:
    root = path.parent / "idx"
    root.mkdir(exist_ok=True)
    for part in ("train", "t10k"):
        (root / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">HBB3I", 0, 8, 3, 20, 4, 4) + bytes(range(160)) * 2
        )
        (root / f"{part}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(struct.pack(">HBBI", 0, 8, 1, 20) + bytes([0, 1] * 10))
        )
    name = "train-labels-idx1-ubyte.gz" if path.suffix == ".gz" else "train-images-idx3-ubyte"
    shutil.copy(path, root / name)
    data(root, source="mnist")


def leaf_folder(path: Path) -> None:
    root = path.parent / "leaf"
    root.mkdir(exist_ok=True)
    shutil.copy(path, root / "all_data_0.json")
    load_dataset(DataSettings(source="femnist-leaf", path=str(root), train_clients="0-1")).validate()


RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (30, 6, 6)).astype(np.uint8), np.arange(30) % 10
EDGES = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]
LEAF = {
    "users": ["f0", "f1"], "num_samples": [3, 3],
    "user_data": {u: {"x": RNG.random((3, 784)).round(2).tolist(), "y": [1, 2, 3]} for u in ("f0", "f1")},
}  # fmt: skip


def kinds(folder: Path, finished: Path) -> list[Kind]:
    csv = "label,x,y,client\n" + "".join(f"{i % 3},{i / 7:.3f},{i * i},{i % 4}\n" for i in range(24))
    csv_settings = {"source": "table", "client": "client", "partition": "iid"}
    write_checkpoint(folder / "made", {"weight": torch.ones(3, 4), "bias": torch.zeros(3)})
    made = (folder / "made").read_bytes()
    graphml = "\n".join(nx.generate_graphml(nx.cycle_graph(6))).encode()
    edges = "# a ring\n" + "".join(f"{a} {b}\n" for a, b in EDGES)
    toml = f"nodes = 6\nedges = {[list(e) for e in EDGES]}\n"
    label_bytes = struct.pack(">HBBI", 0, 8, 1, 20) + bytes([0, 1] * 10)
    image_bytes = struct.pack(">HBB3I", 0, 8, 3, 20, 4, 4) + bytes(range(160)) * 2

    cache, arrays = ContentCache(folder / "cache"), {"rows": RNG.random((4, 3)).astype(np.float32)}
    cache.put("k", arrays, {"rounds": 3})
    entry = (folder / "cache" / "k.safetensors").read_bytes()

    def cached(path: Path) -> None:
        shutil.copy(path, folder / "cache" / "k.safetensors")
        found = cache.get("k")
        assert found is None or (found.info == {"rounds": 3} and np.array_equal(found.arrays["rows"], arrays["rows"]))
        if found is None:
            raise UserError("not used")

    identity = {"settings": "0" * 64}
    keeping = Checkpoints.open(folder, identity)
    state = {"round": 3, "rows": arrays["rows"], "name": "main"}
    keeping.write(state, "round 3")
    (kept,) = [p for p in (folder / "checkpoints").iterdir() if p.suffix == ".safetensors"]

    def checkpoint(path: Path) -> None:
        shutil.copy(path, kept)
        found = keeping.newest(())
        if found is None:
            raise UserError("not used")
        assert found.value["round"] == 3 and found.value["name"] == "main"
        assert np.array_equal(found.value["rows"], arrays["rows"])

    original = json.loads((finished / "certificate.json").read_text())
    copy = folder / "run"
    shutil.copytree(finished, copy)

    def of_run(name: str, use: Callable[[Path], object]) -> Callable[[Path], object]:
        def read(path: Path) -> None:
            before = (copy / name).read_bytes()
            shutil.copy(path, copy / name)
            try:
                use(copy)
            finally:
                (copy / name).write_bytes(before)

        return read

    def certificate(run_: Path) -> None:
        report = verify(run_ / "certificate.json")
        changed = json.loads((run_ / "certificate.json").read_text()) != original
        read_certificates(run_ / "certificate.json")
        assert not (changed and report.ok), "a changed certificate was verified"

    def model(run_: Path) -> None:
        changed = (run_ / "models" / "original.safetensors").read_bytes() != (
            finished / "models" / "original.safetensors"
        ).read_bytes()
        theta, info = read_run(run_).model("original")
        assert theta.ndim == 1 and np.isfinite(theta).all() and isinstance(info, dict) and changed is not None

    def whole(run_: Path) -> None:
        assert compare_runs([run_, finished])
        Ledger.from_summary(read_ledger(run_))

    def summary(run_: Path) -> None:
        whole(run_)

    listed = [
        Kind("table.csv", csv.encode(), lambda p: data(p, **csv_settings)),
        Kind("table.npz", npz(inputs=IMAGES, labels=LABELS), lambda p: data(p, source="table", label="labels")),
        Kind("mnist.npz", npz(images=IMAGES, labels=LABELS), lambda p: data(p, source="mnist")),
        Kind("image.png", png(), image_folder),
        Kind("labels.gz", gzip.compress(label_bytes), idx_folder),
        Kind("images.idx", image_bytes, idx_folder),
        Kind("leaf.json", json.dumps(LEAF).encode(), leaf_folder),
        Kind("leaf-values.json", json.dumps(LEAF).encode(), leaf_folder, "json"),
        Kind("graph.graphml", graphml, graph),
        Kind("graph.edgelist", edges.encode(), graph),
        Kind("graph.toml", toml.encode(), graph, "toml"),
        Kind("spec.toml", b'generator = "watts-strogatz"\nnodes = 6\ndegree = 4\nprobability = 0.1\n', graph, "toml"),
        Kind("start.safetensors", made, vector),
        Kind("entry.safetensors", entry, cached),
        Kind("checkpoint.safetensors", kept.read_bytes(), checkpoint),
    ]
    for name, use, text in (
        ("certificate.json", certificate, "bytes"), ("certificate.json", certificate, "json"),
        ("summary.json", summary, "bytes"), ("summary.json", summary, "json"), ("ledger.json", whole, "bytes"),
        ("ledger.json", whole, "json"), ("metrics.csv", whole, "bytes"), ("settings.toml", whole, "toml"),
        ("models/original.safetensors", model, "bytes"),
        ("settings.toml", lambda run_: load_experiment(run_ / "settings.toml"), "toml"),
    ):  # fmt: skip
        listed.append(Kind(Path(name).name, (finished / name).read_bytes(), of_run(name, use), text))
    return listed


def fuzz(folder: Path, finished: Path, number: int, seed: int) -> dict[str, Counter[str]]:
    """Mutate every kind of file in turn until ``number`` mutants were read."""
    rng, found = random.Random(seed), {}
    files = kinds(folder, finished)
    for kind in files:  # each is sound before it is mutated
        (folder / kind.name).write_bytes(kind.content)
        kind.read(folder / kind.name)
    for i in range(number):
        kind = files[i % len(files)]
        if kind.text == "json":
            value = mutated_value(json.loads(kind.content), rng)
            content = json.dumps(value).encode()
        else:
            content = mutated_toml(kind.content, rng) if kind.text == "toml" else mutated_bytes(kind.content, rng)
        path = folder / kind.name
        path.write_bytes(content)
        try:
            with at_most(5), np.errstate(all="ignore"):
                try:
                    kind.read(path)
                    what = "accepted"
                except UserError as error:
                    assert str(error) and "\n" not in str(error)
                    what = "refused"
        except BaseException:
            print(f"mutant {i} of seed {seed}, {kind.name} ({kind.text}): {content[:1500]!r}")
            raise
        found.setdefault(f"{kind.name} {kind.text}", Counter())[what] += 1
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_hundred_mutated_files(folder, finished):
    found = fuzz(folder, finished, 200, 1)
    assert len(found) > 20 and all(sum(each.values()) >= 8 for each in found.values())
    assert sum(each["refused"] for each in found.values()) > 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", [30, 31])
def test_a_thousand_mutated_files(folder, finished, seed):
    for name, each in fuzz(folder, finished, 600, seed).items():
        print(seed, name, dict(each))
        assert each["refused"] or name.startswith(("graph.edgelist", "images.idx", "original")), name
