"""Sums over vertices that give the same bits however the vertices are spread over hosts and workers.

Floating-point addition is not associative, so "sum over the nodes of a host, then over hosts" depends on the number of
hosts. Here the order is fixed by the vertex ids alone: ids are the leaves of one binary tree, ``(level, index)`` names
the subtree over ids ``index * 2**level ... (index + 1) * 2**level - 1``, and two siblings are added only when both are
complete. A host sends the subtrees that it could complete (at most ``2 log2 N`` for a contiguous block). An absent id
counts as the identity, so a subtree without any present id is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Subtree = tuple[int, int]


class TreeSum:
    """Accumulates vectors of vertices, or finished subtrees, in the canonical order.

    Parameters
    ----------
    present : (N,) bool
        Vertices that take part in the sum. Every party must be given the same array.
    """

    def __init__(self, present: NDArray[np.bool_]) -> None:
        present = np.asarray(present, dtype=bool)
        self.size = max(1, present.size)
        self.depth = int(self.size - 1).bit_length()
        self._before = np.concatenate([[0], np.cumsum(present, dtype=np.int64)])
        self._waiting: dict[Subtree, NDArray[np.float64]] = {}

    def _is_empty(self, level: int, index: int) -> bool:
        low = min(index << level, self.size)
        high = min((index + 1) << level, self.size)
        return bool(self._before[min(high, self._before.size - 1)] == self._before[min(low, self._before.size - 1)])

    def add(self, level: int, index: int, vector: NDArray[np.float64]) -> None:
        """Add the complete sum of one subtree (a single vertex is ``level = 0``)."""
        value = vector
        while level < self.depth:
            sibling = (level, index ^ 1)
            if sibling in self._waiting:
                value = value + self._waiting.pop(sibling)
            elif not self._is_empty(*sibling):
                break
            level, index = level + 1, index >> 1
        self._waiting[level, index] = value

    def partials(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the subtrees completed so far: keys (k, 2) and sums (k, d), in ascending order of their keys."""
        names = sorted(self._waiting)
        if not names:
            return np.zeros((0, 2), np.int64), np.zeros((0, 0))
        return np.array(names, dtype=np.int64), np.stack([self._waiting[n] for n in names])

    def merge(self, names: Iterable[Iterable[int]], sums: NDArray[np.float64]) -> None:
        """Add subtrees that another party completed."""
        for (level, index), value in zip(names, sums):
            self.add(int(level), int(index), value)

    def total(self) -> NDArray[np.float64]:
        """Return the whole sum; a RuntimeError tells that a present vertex has not been added."""
        if list(self._waiting) != [(self.depth, 0)]:
            raise RuntimeError("canonical sum is incomplete: a vertex that takes part was not added")
        return self._waiting[self.depth, 0]


def tree_sum(vectors: NDArray[np.float64], present: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return the canonical sum of the present rows of ``vectors`` (N, d)."""
    mask = np.ones(len(vectors), dtype=bool) if present is None else np.asarray(present, dtype=bool)
    accumulator = TreeSum(mask)
    for i in np.flatnonzero(mask):
        accumulator.add(0, int(i), vectors[i])
    return accumulator.total()
