"""One gossip round on a block of rows: ``theta <- W theta``, in place, a few columns at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedunlearn.network.block import Block

_SCRATCH_FLOATS = 1 << 19


def column_block(rows: int) -> int:
    """Return how many columns to mix at once so that the scratch block stays in the processor's cache."""
    return max(32, _SCRATCH_FLOATS // max(1, rows))


def mix_columns(block: Block, population: str, low: int, high: int) -> None:
    """Mix the columns ``low <= c < high`` of all rows of the block.

    ``weights.<population>.*`` is the CSR matrix of the block's rows over (own rows, then rows of other hosts in
    ``halo.<population>``), its entries ordered by vertex id, so that every row is summed in the same order however the
    vertices are spread over hosts. Columns are independent: workers take disjoint column ranges.
    """
    store = block.store
    name = f"weights.{population}"
    theta = store[f"theta.{population}"]
    halo = store[f"halo.{population}"] if f"halo.{population}" in store else None  # noqa: SIM401
    outside = 0 if halo is None else len(halo)
    matrix = sparse.csr_array(
        (store[f"{name}.data"], store[f"{name}.indices"], store[f"{name}.indptr"]),
        shape=(len(theta), len(theta) + outside),
    )
    step = column_block(len(theta) + outside)
    for first in range(low, high, step):
        last = min(first + step, high)
        columns = theta[:, first:last]
        if halo is not None and outside:
            columns = np.concatenate([columns, halo[:, first:last]])
        theta[:, first:last] = matrix @ np.ascontiguousarray(columns)


def localise(
    indptr: NDArray[np.int64], indices: NDArray[np.int64], low: int, high: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Map global column ids to positions in (own rows, halo rows) and return them with the halo's vertex ids."""
    outside = np.unique(indices[(indices < low) | (indices >= high)])
    position = np.where(
        (indices >= low) & (indices < high), indices - low, (high - low) + np.searchsorted(outside, indices)
    )
    return position, outside
