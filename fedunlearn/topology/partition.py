"""Which vertices a host carries: contiguous pieces of a linear order of the vertices, with few edges between pieces.

The order is a function of the graph alone and not of the number of hosts: halves, quarters, eighths ... are what
recursive bisection finds, so any number of equal pieces cuts few edges, and sums that are taken along the order do not
change with the number of hosts.
"""

from __future__ import annotations

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from fedunlearn.topology.bisection import bisect, refine
from fedunlearn.topology.graphs import edge_array

_PIECES, _LARGE_PIECES, _LARGE = 64, 16, 10_000
"""Pieces up to which a graph, or a large one, is bisected; inside of them vertices stand in the order of a search by
breadth. A graph is large from this number of vertices on."""
_SMALLEST = 4
_JUDGED = (2, 4, 8)
"""Numbers of hosts for which an order is compared with that of the ids."""


def vertex_order(graph: nx.Graph) -> NDArray[np.int64]:
    """Return an order of the vertices ``0 .. N-1``, (N,) int64, whose contiguous pieces have few edges between them.

    Where 2, 4 and 8 equal pieces of it together cut no fewer edges than pieces of the order of ids do, that is
    returned: rings, paths and complete graphs keep their ids in order.
    """
    size, edges = len(graph), edge_array(graph)
    ids = np.arange(size)
    hosts = [count for count in _JUDGED if count <= size]
    if not hosts or len(edges) == size * (size - 1) // 2:
        return ids
    found = _bisected(edges, size)
    cuts = [sum(cut_edges(graph, blocks(order, count)) for count in hosts) for order in (found, ids)]
    return found if cuts[0] < cuts[1] else ids


def bounds(num_nodes: int, count: int) -> list[tuple[int, int]]:
    """Return the ranges ``low <= position < high`` of ``count`` pieces whose sizes differ by one at most."""
    return [(num_nodes * k // count, num_nodes * (k + 1) // count) for k in range(count)]


def blocks(order: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return which of ``count`` equal pieces of an order every vertex is in, (N,) int64."""
    found = np.empty(len(order), dtype=np.int64)
    for number, (low, high) in enumerate(bounds(len(order), count)):
        found[order[low:high]] = number
    return found


def cut_edges(graph: nx.Graph, block: NDArray[np.int64]) -> int:
    """Return how many edges have ends in different blocks; ``block`` (N,) is the block of every vertex."""
    edges = edge_array(graph)
    return int((block[edges[:, 0]] != block[edges[:, 1]]).sum())


def border_rows(graph: nx.Graph, block: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows that cross borders of blocks in a gossip round, (k, 2): vertex, and the block that needs its row.

    A row goes once to every foreign block that has a neighbour of its vertex. Where fewer vertices receive than send,
    sums made by the senders' host, one for each vertex that receives, would be fewer vectors; but then a row would be
    summed in an order that depends on where borders lie, and its last bits with it. So rows travel, and whoever needs
    them adds all of them up in the order of ids.
    """
    edges = edge_array(graph)
    ends = np.concatenate([edges, edges[:, ::-1]])
    pairs = np.stack([ends[:, 0], block[ends[:, 1]]], axis=1)
    return np.unique(pairs[pairs[:, 1] != block[pairs[:, 0]]], axis=0).astype(np.int64)


def border_share(graph: nx.Graph, block: NDArray[np.int64]) -> float:
    """Return the share of vertices whose row leaves its block in a gossip round."""
    return len(np.unique(border_rows(graph, block)[:, 0])) / max(1, len(graph))


def _bisected(edges: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the order of recursive bisection; a piece is cut where twice as many equal blocks of all vertices end."""
    ends = np.concatenate([edges, edges[:, ::-1]])
    matrix = sparse.csr_array((np.ones(len(ends), dtype=np.int64), (ends[:, 0], ends[:, 1])), shape=(size, size))
    matrix.sort_indices()
    pieces, place = [np.arange(size)], np.zeros(size)
    most = _PIECES if size < _LARGE else _LARGE_PIECES
    while len(pieces) < most and size // len(pieces) > _SMALLEST:
        sizes = [high - low for low, high in bounds(size, 2 * len(pieces))][::2]
        place = 2 * place + 0.5  # in the middle of the places of its halves
        halves = []
        for number, (piece, count) in enumerate(zip(pieces, sizes)):
            inner = sparse.csr_array(matrix[piece][:, piece])
            first = bisect(inner, count)
            pull = _pull(matrix, piece, place)
            if pull[first].mean() > pull[~first].mean():
                first = refine(inner, np.ones(len(piece), dtype=np.int64), ~first, count)
            place[piece] = 2 * number + ~first
            halves += [piece[first], piece[~first]]
        pieces = halves
    return np.concatenate([_along(matrix, piece, place) for piece in pieces])


def _pull(matrix: sparse.csr_array, piece: NDArray[np.int64], place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many neighbours more each vertex of a piece has behind the piece than before it, (n,)."""
    rows = matrix[piece]
    signs = np.sign(place[rows.indices] - np.repeat(place[piece], np.diff(rows.indptr)))
    of = np.repeat(np.arange(len(piece)), np.diff(rows.indptr))
    return np.bincount(of, signs, len(piece)).astype(np.float64)


def _along(matrix: sparse.csr_array, piece: NDArray[np.int64], place: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the vertices of a piece in the order of a search by breadth, neighbours of later pieces at its end."""
    order = reverse_cuthill_mckee(sparse.csr_array(matrix[piece][:, piece]), symmetric_mode=True)
    pull = _pull(matrix, piece[order], place)
    return piece[order if pull @ np.arange(len(piece)) >= 0 else order[::-1]]
