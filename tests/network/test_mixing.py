"""Mixing a block of rows in place: against the product, on any split of columns and rows, in memory and on disk."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from fedunlearn.network import mixing
from fedunlearn.network.block import Block
from fedunlearn.network.mixing import localise, mix_columns, panel_width
from fedunlearn.network.store import Store
from fedunlearn.topology import mixing_matrix


def block_with(
    folder: Path,
    rows: np.ndarray,
    weights: sparse.csr_array,
    low: int = 0,
    high: int | None = None,
    room: int | None = None,
) -> Block:
    """Return a block that holds the rows ``low .. high-1``, with the other rows that it needs in its halo."""
    high = len(rows) if high is None else high
    folder.mkdir()
    (folder / "block.json").write_text(
        json.dumps({"block": [low, high], "num_nodes": len(rows), "seed": 0, "device": "cpu", "model": {}})
    )
    block = Block(folder)
    block.store.limit(room, str(folder.parent))
    part = weights[low:high]
    position, outside = localise(part.indices.astype(np.int64), np.arange(low, high))
    block.store.put("theta.main", rows[low:high])
    if len(outside):
        block.store.put("halo.main", rows[outside])
    block.store.put("weights.main.indptr", part.indptr.astype(np.int32))
    block.store.put("weights.main.indices", position.astype(np.int32))
    block.store.put("weights.main.data", part.data.astype(np.float32))
    return block


def in_order(weights: sparse.csr_array, rows: np.ndarray) -> np.ndarray:
    """Return the product, each row summed in float64 in ascending order of ids."""
    out = np.zeros(rows.shape)
    for i in range(len(rows)):
        for k in range(weights.indptr[i], weights.indptr[i + 1]):
            out[i] += np.float64(np.float32(weights.data[k])) * rows[weights.indices[k]]
    return out


def random_weights(nodes: int, seed: int, gone: int | None = None) -> sparse.csr_array:
    graph = nx.connected_watts_strogatz_graph(nodes, 4, 0.3, seed=seed)
    alive = np.ones(nodes, dtype=bool)
    if gone is not None:
        alive[gone] = False
    return mixing_matrix(graph, "metropolis", alive)


@given(st.integers(6, 40), st.integers(1, 300), st.integers(0, 10**6), st.data())
@settings(max_examples=25, deadline=None)
def test_any_split_of_columns_and_rows_gives_the_same_bits(nodes, columns, seed, data):
    import tempfile

    rows = np.random.default_rng(seed).normal(size=(nodes, columns)).astype(np.float32)
    weights = random_weights(nodes, seed)
    cut = data.draw(st.integers(0, columns))
    middle = data.draw(st.integers(1, nodes - 1))
    with tempfile.TemporaryDirectory() as folder:
        whole = block_with(Path(folder) / "whole", rows, weights)
        mix_columns(whole, "main", 0, columns)
        found = np.array(whole.store["theta.main"])
        pieces = block_with(Path(folder) / "pieces", rows, weights)
        for low, high in ((0, cut), (cut, columns)):
            if high > low:
                mix_columns(pieces, "main", low, high)
        assert np.array_equal(found, pieces.store["theta.main"])
        for low, high in ((0, middle), (middle, nodes)):
            half = block_with(Path(folder) / f"rows{low}", rows, weights, low, high)
            mix_columns(half, "main", 0, columns)
            assert np.array_equal(found[low:high], half.store["theta.main"])
    assert np.abs(found - in_order(weights, rows)).max() < 1e-6


@pytest.mark.parametrize("panel_floats", [1, 1 << 10, 1 << 17])
def test_the_width_of_a_panel_changes_no_bit(tmp_path, monkeypatch, panel_floats):
    rows = np.random.default_rng(0).normal(size=(50, 700)).astype(np.float32)
    weights = random_weights(50, 1)
    expected = block_with(tmp_path / "a", rows, weights)
    mix_columns(expected, "main", 0, 700)
    monkeypatch.setattr(mixing, "_PANEL_FLOATS", panel_floats)
    other = block_with(tmp_path / "b", rows, weights)
    mix_columns(other, "main", 0, 700)
    assert np.array_equal(expected.store["theta.main"], other.store["theta.main"])


def test_columns_outside_the_range_stay_and_a_leaver_becomes_zero(tmp_path):
    rows = np.random.default_rng(0).normal(size=(10, 90)).astype(np.float32)
    rows[4] = np.nan
    block = block_with(tmp_path / "a", rows, random_weights(10, 2, gone=4))
    mix_columns(block, "main", 20, 60)
    found = block.store["theta.main"]
    assert np.array_equal(found[:, :20], rows[:, :20], equal_nan=True)
    assert np.array_equal(found[:, 60:], rows[:, 60:], equal_nan=True)
    assert np.isfinite(found[:, 20:60]).all() and not found[4, 20:60].any()


def test_rows_on_disk_mix_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("fedunlearn.network.store._LARGE", 1000)
    monkeypatch.setattr("fedunlearn.network.store._SLICE", 7 * 500 * 4)  # seven rows at a time
    rows = np.random.default_rng(0).normal(size=(60, 500)).astype(np.float32)
    weights = random_weights(60, 3)
    memory, disk = block_with(tmp_path / "memory", rows, weights), block_with(tmp_path / "disk", rows, weights, room=0)
    assert disk.store.on_disk("theta.main") and not memory.store.on_disk("theta.main")
    for block in (memory, disk):
        mix_columns(block, "main", 0, 500)
    assert np.array_equal(memory.store["theta.main"], disk.store["theta.main"])


def test_panels_are_whole_cache_lines_and_small_enough():
    for count in (1, 32, 1000, 3500, 100_000, 10**7):
        width = panel_width(count)
        assert width % 16 == 0 and (width == 32 or width * count <= 1 << 17)
    assert panel_width(32) == 4096 and panel_width(100_000) == 32


def test_positions_of_rows_and_of_the_halo():
    position, outside = localise(np.array([7, 2, 3, 0]), np.array([3, 2]))
    assert outside.tolist() == [0, 7]
    assert position.tolist() == [3, 1, 0, 2]


def test_a_store_is_read_from_its_folder(tmp_path):
    assert Store(tmp_path).pieces("nothing") == 1
