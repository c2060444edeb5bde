"""The arrays of a host: in shared memory as far as there is room, the rest on disk, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.network import Network, RuntimeSettings, Session, TrainingSettings, train
from fedunlearn.network.inline import InlineTransport
from fedunlearn.network.memory import room_for_arrays
from fedunlearn.network.store import Store
from tests.worlds import all_rows, image_data, model_for, ring_network

MEGA = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    (tmp_path / "scratch").mkdir()
    store = Store(tmp_path / "store")
    store.limit(3 * MEGA, str(tmp_path / "scratch"))
    return store


def test_what_does_not_fit_goes_to_disk_and_small_arrays_never(store, tmp_path):
    store.create("first", (2, MEGA // 4), np.float32)
    assert not store.on_disk("first")
    store.create("second", (2, MEGA // 4), np.float32)[...] = 7.0
    assert store.on_disk("second")
    store.put("small", np.arange(10))
    assert not store.on_disk("small")
    again = Store(store.folder)  # a worker, or a later process of the host
    assert (again["second"] == 7.0).all() and "second" in again and again.on_disk("second")
    files = [p for p in (tmp_path / "scratch").rglob("*") if p.is_file()]
    assert len(files) == 1 and files[0].stat().st_size > 2 * MEGA


def test_both_processes_see_what_is_written_and_released(store):
    store.create("a", (4, MEGA), np.float32)
    other = Store(store.folder)
    store["a"][2] = 3.0
    store.release()
    assert (other["a"][2] == 3.0).all() and not other["a"][1].any()
    other["a"][1, :5] = 1.0
    other.release()
    assert store["a"][1].sum() == 5.0


def test_replacing_and_dropping_leave_no_file(store, tmp_path):
    def files():
        return sorted(p for p in (tmp_path / "scratch").rglob("*") if p.is_file())

    store.create("a", (4, MEGA), np.float32)[...] = 1.0
    store.create("a", (5, MEGA), np.float32)
    assert len(files()) == 1 and not store["a"].any() and store["a"].shape == (5, MEGA)
    store.create("a", (3,), np.float32)
    assert files() == [] and not store.on_disk("a")
    store.create("a", (4, MEGA), np.float32)
    store.drop("a")
    assert files() == [] and "a" not in store
    store.create("a", (4, MEGA), np.float32)
    Store(store.folder).remove()
    assert list((tmp_path / "scratch").iterdir()) == [] and not store.folder.exists()


def test_two_processes_of_one_host_share_one_folder_on_disk(store, tmp_path):
    second = Store(store.folder)  # it attaches before anything lies on disk
    store.create("a", (4, MEGA), np.float32)
    second.create("b", (4, MEGA), np.float32)
    Store(store.folder).remove()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_aligned_rows_begin_at_cache_lines_and_look_like_any_others(store):
    for name, columns in (("few", 5), ("many", MEGA // 2 + 3), ("whole", 32)):
        rows = store.create(name, (6, columns), np.float32, aligned=True)
        assert rows.shape == (6, columns) and not rows.any()
        assert all(row.ctypes.data % 64 == 0 for row in rows)
        rows[...] = np.arange(columns)
        assert np.array_equal(Store(store.folder)[name], rows)
    assert store.on_disk("many") and not store.on_disk("few")
    again = store.create("few", (6, 5), np.float32)
    assert again.flags.c_contiguous and Store(store.folder)["few"].shape == (6, 5)
    store.drop("many")
    assert not list(store.folder.glob("many*"))


def test_slices_cover_all_rows_in_order(store, monkeypatch):
    monkeypatch.setattr("fedunlearn.network.store._SLICE", 3 * 100 * 8)
    store.create("rows", (10, 100), np.float64)
    assert [(s.start, s.stop) for s in store.slices("rows")] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert store.pieces("rows") == 1  # in memory work is cut by the number of workers alone
    monkeypatch.setattr("fedunlearn.network.store._LARGE", 1)
    store.limit(0, str(store.folder.parent / "scratch"))
    store.create("rows", (10, 100), np.float64)
    assert store.pieces("rows") == 4
    assert list(store.slices("rows"))[-1] == slice(9, 10)


def test_a_disk_without_place_is_one_sentence(store, monkeypatch):
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UserError, match=r"runtime.scratch = '.*' has .* GB left, too little for 'a' of 0\.1 GB"):
        store.create("a", (30, MEGA), np.float32)
    assert "a" not in store and list(store.folder.parent.rglob("*.npy")) == []
    store.limit(0, "/nowhere/at/all")
    with pytest.raises(UserError, match=r"runtime.scratch = '/nowhere/at/all' is not a folder that can be written to"):
        Store(store.folder).create("b", (4, MEGA), np.float32)


def test_room_is_what_the_budget_leaves(monkeypatch):
    budget = RuntimeSettings(memory_gb=4.0)
    left = 4 * 2**30 - (600 << 20) - 2 * (250 << 20) - 1000
    assert room_for_arrays(budget, 2, 1000, 1) == left and room_for_arrays(budget, 2, 1000, 4) == left // 4
    assert room_for_arrays(RuntimeSettings(memory_gb=0.1), 2, 0, 1) == 0
    monkeypatch.setattr("fedunlearn.network.memory.available_bytes", lambda: 10**10)
    assert room_for_arrays(RuntimeSettings(), 0, 0, 1) == pytest.approx(9 * 10**9)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_network_on_disk_computes_the_same_bits(tmp_path, monkeypatch, workers):
    """Training, gossip, sums, departures, checkpoints and releases, with every array of rows in a file."""
    dataset = image_data(clients=7)
    model, mapping = model_for(dataset, "mlp", "raw")
    recipe = TrainingSettings(rounds=2, batch=5, lr=0.2, momentum=0.5)
    monkeypatch.setattr("fedunlearn.network.store._LARGE", 1000)
    found, placed = {}, {}
    for gigabytes in (None, 0.01):
        runtime = RuntimeSettings(workers=workers, memory_gb=gigabytes, scratch=str(tmp_path))
        transport = InlineTransport()
        with Session(transport, dataset, model, mapping, seed=0, runtime=runtime) as session:
            network = ring_network(session, momentum=True)
            train(network, recipe)
            network.checkpoint("then")
            network.mix(2)
            store = transport._hosts[0].store
            placed[gigabytes] = {n: store.on_disk(n) for n in ("theta.main", "momentum.main", "checkpoint-then.main")}
            network.write(np.ones(model.dim, np.float32), nodes=[2, 3], operation="add")
            network.rewind("then")
            rows, mean, state = all_rows(network), network.mean(), network.save()
            network.erase(dataset.train_rows(1))
            assert not network.save()["momentum"].any()
            network.restore(state)
            found[gigabytes] = (rows, mean, all_rows(network))
        assert list(tmp_path.rglob("*.npy")) == []
    assert not any(placed[None].values()) and all(placed[0.01].values())
    for a, b in zip(found[None], found[0.01]):
        assert np.array_equal(a, b)


def test_a_population_starts_and_copies_without_a_second_copy_of_all_rows(tmp_path):
    """Rows given one by one are those that are read back, and a copy of a population is not the population."""
    dataset = image_data(clients=5)
    model, mapping = model_for(dataset)
    with Session(InlineTransport(), dataset, model, mapping, seed=0, runtime=RuntimeSettings(workers=0)) as session:
        network, other = ring_network(session), ring_network(session, "other")
        network.write(np.arange(model.dim, dtype=np.float32))
        session.ask("copy", {"source": "main", "target": "other"})
        network.write(np.zeros(model.dim, np.float32), nodes=[1])
        assert isinstance(other, Network) and not network.read(1).any()
        assert np.array_equal(other.read(1), np.arange(model.dim, dtype=np.float32))
