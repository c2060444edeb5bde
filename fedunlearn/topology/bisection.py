"""Cutting a graph into two parts of given sizes with few edges between them: multilevel bisection.

The graph is made small by contracting heavy edges, the small graph is cut from several starts, and the cut is carried
back and mended at every size by moves of single vertices (Karypis, Kumar, SIAM J. Sci. Comput. 20, 1998; the moves:
Fiduccia, Mattheyses, DAC 1982). Everything is a function of the graph: ties are broken by hashes and by vertex numbers.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, reverse_cuthill_mckee

from fedunlearn.randomness import keys

Sides = NDArray[np.bool_]
"""(n,) whether a vertex is in the first part."""

_COARSEST = 64
"""Vertices at which a graph is not made smaller any more."""
_SHRINKS = 0.95
"""A contraction that leaves more than this share of the vertices is not worth another."""
_PASSES = 3
_PATIENCE = 100
"""Moves of a pass that may follow its best state."""
_CANDIDATES = 5_000
"""Vertices of a part that a pass begins with, those of the largest gain; neighbours of what moves join them."""
_VISITS = 20_000
"""Neighbours that a pass may look at: Python looks at some millions a second."""


def bisect(matrix: sparse.csr_array, count: int) -> Sides:
    """Return which ``count`` vertices form the first part, (n,) bool, so that few edges have ends in both parts.

    ``matrix`` (n, n) is the symmetric matrix of edge weights (int64, no diagonal).
    """
    size = matrix.shape[0]
    if count <= 0 or count >= size:
        return np.full(size, count > 0)
    levels = [(matrix, np.ones(size, dtype=np.int64))]
    labels: list[NDArray[np.int64]] = []
    while len(levels[-1][1]) > _COARSEST:
        label = _contraction(*levels[-1], len(labels))
        if label.max() + 1 > _SHRINKS * len(label):
            break
        labels.append(label)
        levels.append(_contracted(*levels[-1], label))
    side = _first_cut(*levels[-1], count)
    for (finer, sizes), label in zip(levels[-2::-1], labels[::-1]):
        side = refine(finer, sizes, side[label], count)
    return side


def cut_weight(matrix: sparse.csr_array, side: Sides) -> int:
    """Return the total weight of the edges with ends in both parts."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return int(matrix.data[side[rows] != side[matrix.indices]].sum()) // 2


def refine(matrix: sparse.csr_array, sizes: NDArray[np.int64], side: Sides, target: int) -> Sides:
    """Return a better cut: passes of moves, each the best one from the part that is too large, until none helps.

    ``sizes`` (n,) are the vertices' weights. The first part gets the weight ``target``, give or take the largest vertex
    where they are unequal.
    """
    slack = 0 if sizes.max() == 1 else int(sizes.max())
    neighbours = (matrix.indptr.tolist(), matrix.indices.tolist(), matrix.data.tolist())
    for _ in range(_PASSES):
        moved = _moves(matrix, neighbours, sizes, side, target, slack)
        if not len(moved):
            break
        side = side.copy()
        side[moved] = ~side[moved]
    return side


def _moves(
    matrix: sparse.csr_array, neighbours: tuple[list[int], list[int], list[int]], sizes: NDArray[np.int64],
    side: Sides, target: int, slack: int,
) -> list[int]:  # fmt: skip
    """Return the vertices whose moves to the other part lead to the best state of a pass: none where that is now."""
    rows = np.repeat(np.arange(len(side)), np.diff(matrix.indptr))
    crossing = side[rows] != side[matrix.indices]
    gains = np.bincount(rows, np.where(crossing, matrix.data, -matrix.data), len(side)).astype(np.int64)
    at_border = np.bincount(rows[crossing], minlength=len(side)) > 0
    heaps: list[list[tuple[int, int]]] = []
    for part in (False, True):
        listed = np.flatnonzero(at_border & (side == part))
        listed = listed if len(listed) else np.flatnonzero(side == part)
        listed = listed[np.argsort(-gains[listed], kind="stable")[:_CANDIDATES]]  # sorted lists are heaps
        heaps.append(list(zip((-gains[listed]).tolist(), listed.tolist())))
    gain, here, size = gains.tolist(), side.tolist(), sizes.tolist()
    indptr, indices, weights = neighbours
    excess = int(sizes[side].sum()) - target
    moved: list[int] = []
    locked: set[int] = set()
    cut = visits = best_length = 0
    best = (max(0, abs(excess) - slack), 0)
    while len(moved) - best_length <= _PATIENCE and visits <= _VISITS:
        for heap in heaps:  # entries of vertices that moved, or whose gain has changed since, are passed over
            while heap and (heap[0][1] in locked or -heap[0][0] != gain[heap[0][1]]):
                heapq.heappop(heap)
        if excess:
            source = heaps[excess > 0]
        else:
            source = min((heap for heap in heaps if heap), key=lambda heap: heap[0], default=heaps[0])
        if not source:
            break
        negative, vertex = heapq.heappop(source)
        cut += negative
        excess += -size[vertex] if here[vertex] else size[vertex]
        here[vertex] = not here[vertex]
        locked.add(vertex)
        moved.append(vertex)
        for k in range(indptr[vertex], indptr[vertex + 1]):
            other = indices[k]
            gain[other] += -2 * weights[k] if here[other] == here[vertex] else 2 * weights[k]
            if other not in locked:
                heapq.heappush(heaps[here[other]], (-gain[other], other))
        visits += indptr[vertex + 1] - indptr[vertex]
        state = (max(0, abs(excess) - slack), cut)
        if state < best:
            best, best_length = state, len(moved)
    return moved[:best_length]


def _first_cut(matrix: sparse.csr_array, sizes: NDArray[np.int64], target: int) -> Sides:
    """Return the best of several cuts of a small graph, each a prefix of an order of its vertices, mended."""
    size, found = len(sizes), list[tuple[int, int, int, Sides]]()
    for order in _orders(matrix):
        filled = np.cumsum(sizes[order])
        side = np.zeros(size, dtype=bool)
        side[order[: int(np.abs(filled - target).argmin()) + 1]] = True
        side = refine(matrix, sizes, side, target)
        found.append((abs(int(sizes[side].sum()) - target), cut_weight(matrix, side), len(found), side))
    slack = 0 if sizes.max() == 1 else int(sizes.max())
    return min(found, key=lambda f: (max(0, f[0] - slack), *f[1:3]))[3]


def _orders(matrix: sparse.csr_array) -> list[NDArray[np.int64]]:
    """Return orders in which neighbours stand close: by number, by breadth, by the Fiedler vector (Fiedler 1973)."""
    size = matrix.shape[0]
    orders = [np.arange(size), np.asarray(reverse_cuthill_mckee(matrix, symmetric_mode=True), dtype=np.int64)]
    for first in range(0, size, max(1, size // 2) if size > 16 else 1):
        reached = breadth_first_order(matrix, first, directed=False, return_predecessors=False)
        orders.append(np.concatenate([reached, np.setdiff1d(np.arange(size), reached)]).astype(np.int64))
    if size <= 4 * _COARSEST:
        dense = matrix.toarray().astype(np.float64)
        _, vectors = np.linalg.eigh(np.diag(dense.sum(1)) - dense)
        # Rounded, so that equal entries do not take the order of their last bits.
        orders.append(np.argsort(np.round(vectors[:, 1], 9), kind="stable"))
    return orders


def _contraction(matrix: sparse.csr_array, sizes: NDArray[np.int64], level: int) -> NDArray[np.int64]:
    """Return which vertex of a smaller graph every vertex becomes part of, (n,): the ends of a matching's edges meet.

    An edge is matched if both ends like no other free edge more; they like heavy edges between light vertices. A few
    rounds of this match most of what can be matched.
    """
    coo = sparse.triu(matrix, k=1).tocoo()
    ends = np.stack([coo.row, coo.col]).astype(np.int64)
    liking = coo.data / (sizes[ends[0]] * sizes[ends[1]])
    rank = np.empty(ends.shape[1], dtype=np.int64)
    rank[np.lexsort((keys(level, "contraction", ends[0], ends[1]), liking))] = np.arange(ends.shape[1])
    partner = np.arange(len(sizes))
    for _ in range(4):
        best = np.full(len(sizes), -1, dtype=np.int64)
        for end in ends:
            np.maximum.at(best, end, rank)
        matched = (best[ends[0]] == rank) & (best[ends[1]] == rank)
        partner[ends[0, matched]], partner[ends[1, matched]] = ends[1, matched], ends[0, matched]
        free = (partner == np.arange(len(sizes)))[ends].all(axis=0)
        ends, rank = ends[:, free], rank[free]
        if not len(rank):
            break
    return np.unique(np.minimum(partner, np.arange(len(sizes))), return_inverse=True)[1]


def _contracted(
    matrix: sparse.csr_array, sizes: NDArray[np.int64], label: NDArray[np.int64]
) -> tuple[sparse.csr_array, NDArray[np.int64]]:
    """Return the smaller graph: weights of parallel edges are added, and so are sizes."""
    count = int(label.max()) + 1
    coo = matrix.tocoo()
    rows, columns = label[coo.row], label[coo.col]
    between = rows != columns
    smaller = sparse.csr_array((coo.data[between], (rows[between], columns[between])), shape=(count, count))
    smaller.sum_duplicates()
    return smaller, np.bincount(label, sizes, count).astype(np.int64)
