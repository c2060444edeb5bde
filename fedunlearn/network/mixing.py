"""One gossip round on a block of rows: ``theta <- W theta``, in place, a few columns at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedunlearn.network.block import Block

_LINE = 16
"""Floats in a cache line: a panel takes every row as whole lines."""
_PANEL_FLOATS = 1 << 17
_NARROWEST_PANEL = 2 * _LINE
_WIDEST_PANEL = 4096
_STRIP = 256
"""Columns copied out together at least: the rows of a population lie far apart, so short pieces cost as much."""


def panel_width(rows: int) -> int:
    """Return how many columns one product takes, a multiple of 16, so that its source stays in the processor's cache.

    Measured: 100,000 rows are fastest at 32 columns (two lines, which come together), 1,000 at 64 to 256, 32 at 4,096.
    """
    return min(_WIDEST_PANEL, max(_NARROWEST_PANEL, _PANEL_FLOATS // max(1, rows) // _LINE * _LINE))


def mix_columns(block: Block, population: str, low: int, high: int, *, keep: int | None = None) -> None:
    """Mix the columns ``low <= c < high`` of all rows of the block.

    ``weights.<population>.*`` is the CSR matrix of the block's rows over (own rows, then rows of other hosts in
    ``halo.<population>``), its entries ordered by vertex id, so that every row is summed in the same order however the
    vertices are spread over hosts. Columns are independent: workers take disjoint column ranges. The row of a vertex
    that has left becomes zero. Between own rows and halo stand the own rows of the past rounds whose slots
    ``weights.<population>.past`` names; ``keep`` is the slot in which the rows are kept as they are before the mixing.

    A strip of columns is copied out into panels, each panel is multiplied in place, and the strip is copied back. The
    product is a weighted sum of rows for every vertex (``embedding_bag``), which adds in the order of the entries and
    gives a column the same bits in a panel of any width.
    """
    store, name = block.store, f"theta.{population}"
    matrix = (store[f"weights.{population}.{part}"] for part in ("indptr", "indices", "data"))
    indptr, *entries = (torch.from_numpy(part) for part in matrix)
    weights = [indptr, *(part[: int(indptr[-1])] for part in entries)]
    past = f"weights.{population}.past"
    sources = [name, *(f"past-{slot}.{population}" for slot in (store[past].tolist() if past in store else ()))]
    if f"halo.{population}" in store:
        sources.append(f"halo.{population}")
    kept = None if keep is None else f"past-{keep}.{population}"
    count = sum(len(store[source]) for source in sources)
    panel = min(panel_width(count), high - low)
    strip = max(panel, _STRIP // panel * panel, store.strip_floats(name) // max(1, count) // panel * panel)
    scratch = torch.empty((min(strip, -(-(high - low) // panel) * panel) // panel, count, panel))
    for first in range(low, high, strip):
        last = min(first + strip, high)
        whole = first + (last - first) // panel * panel
        _mix_strip(block, sources, weights, scratch, first, whole, panel, kept)
        if whole < last:
            narrow = scratch.view(-1)[: count * (last - whole)].view(1, count, last - whole)
            _mix_strip(block, sources, weights, narrow, whole, last, last - whole, kept)


def _mix_strip(
    block: Block, sources: list[str], weights: list[Tensor], scratch: Tensor, first: int, last: int, panel: int,
    kept: str | None,
) -> None:  # fmt: skip
    """Mix the columns ``first <= c < last``, a whole number of panels, through scratch (panels, rows, panel)."""
    panels = scratch[: (last - first) // panel]
    begin = 0
    for source in sources:
        rows = torch.from_numpy(block.store[source])
        for part in _parts(block, source):
            piece = rows[part, first:last].unflatten(1, (len(panels), panel)).transpose(0, 1)
            panels[:, begin : begin + piece.shape[1]].copy_(piece)
            begin += piece.shape[1]
    indptr, indices, data = weights
    own = torch.from_numpy(block.store[sources[0]])
    if kept is not None:  # what lay in this slot is the oldest, and is in the panels already
        for part in _parts(block, sources[0]):
            block.store[kept][part, first:last] = block.store[sources[0]][part, first:last]
    for each in panels:
        mixed = F.embedding_bag(indices, each, indptr, mode="sum", per_sample_weights=data, include_last_offset=True)
        each[: len(own)].copy_(mixed)
    for part in _parts(block, sources[0]):
        target = own[part, first:last].unflatten(1, (len(panels), panel)).transpose(0, 1)
        target.copy_(panels[:, : len(own)][:, part])


def _parts(block: Block, name: str) -> Iterable[slice]:
    """Return the rows to copy together: all of them in memory, few enough to keep there if they lie on disk."""
    return block.store.slices(name) if block.store.on_disk(name) else [slice(None)]


def foreign(indices: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the vertices among ``indices`` that are not among the block's ``own``, ascending."""
    return np.setdiff1d(indices, own)


def localise(indices: NDArray[np.int64], own: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the rows of ``indices`` lie in (own rows, halo rows), and the halo's vertices, ascending."""
    outside = foreign(indices, own)
    there = np.concatenate([own, outside])
    order = np.argsort(there)
    return order[np.searchsorted(there, indices, sorter=order)], outside
