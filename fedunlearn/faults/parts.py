"""A graph cut into connected parts of similar size along few edges: where a partition of the network runs."""

from __future__ import annotations

import heapq

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components, dijkstra

from fedunlearn.topology.graphs import edge_array

_SMOOTHINGS = 300
_TRIED = 20


def connected_parts(graph: nx.Graph, parts: int) -> NDArray[np.int64]:
    """Return the (N,) part of every vertex, ``0 .. parts-1``, each part connected; a function of the edges alone.

    Parts are halved again and again. A half grows from one end of the graph, always by the adjacent vertex of smallest
    value in a smooth field (distances to two far ends, averaged over neighbours some hundred times, which tends to the
    Fiedler vector), and is taken where it cuts the fewest edges for the size of the smaller half. Whatever it cuts off
    from the rest then joins it, so both halves are connected. Raises ValueError if the graph is not connected or has
    fewer vertices than parts.
    """
    size = len(graph)
    if not 1 <= parts <= size:
        raise ValueError(f"{size} vertices cannot be cut into {parts} connected parts")
    edges = edge_array(graph)
    ends = np.concatenate([edges, edges[:, ::-1]])
    matrix = sparse.csr_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(size, size))
    matrix.sort_indices()
    if connected_components(matrix, directed=False)[0] > 1:
        raise ValueError("a graph that is cut into connected parts must be connected itself")
    labels = np.zeros(size, dtype=np.int64)
    waiting, done = [(np.arange(size), parts)], 0
    while waiting:
        vertices, count = waiting.pop()
        if count == 1:
            labels[vertices], done = done, done + 1
            continue
        low, first = _halves(sparse.csr_array(matrix[vertices][:, vertices]), count)
        waiting += [(vertices[~low], count - first), (vertices[low], first)]
    return labels


def _halves(matrix: sparse.csr_array, parts: int) -> tuple[NDArray[np.bool_], int]:
    """Return one of two connected halves, (n,) bool, and how many of the parts are to be cut from it."""
    size, first = matrix.shape[0], (parts + 1) // 2
    order = _grown(matrix, _field(matrix))
    place = np.empty(size, dtype=np.int64)
    place[order] = np.arange(size)
    both = matrix.tocoo()
    low, high = np.minimum(place[both.row], place[both.col]), np.maximum(place[both.row], place[both.col])
    opened, closed = (np.bincount(at, minlength=size) for at in (low, high))
    cut = np.cumsum(opened - closed)[:-1] / 2  # edges between the first p + 1 vertices and the rest
    taken = np.arange(1, size)
    cost = cut / np.minimum(taken / first, (size - taken) / (parts - first))
    fair = size / (2 * parts)  # half of a fair share for every part, where that can be had
    cost[(taken < first * fair) | (size - taken < (parts - first) * fair)] += cost.max()
    for count in taken[np.argsort(cost, kind="stable")][:_TRIED]:
        half = place < count
        rest = np.flatnonzero(~half)
        _, label = connected_components(matrix[rest][:, rest], directed=False)
        half[rest[label != np.argmax(np.bincount(label))]] = True
        if first <= half.sum() <= size - (parts - first):
            return half, first
    leaf = np.zeros(size, dtype=bool)  # the last vertex of a breadth-first search: without it the rest is connected
    leaf[breadth_first_order(matrix, 0, return_predecessors=False)[-1]] = True
    return leaf, 1


def _field(matrix: sparse.csr_array) -> NDArray[np.float64]:
    """Return a smooth field (n,), low at one end of the graph and high at another."""
    one = int(np.argmax(dijkstra(matrix, unweighted=True, indices=0)))
    there = dijkstra(matrix, unweighted=True, indices=one)
    field = there - dijkstra(matrix, unweighted=True, indices=int(np.argmax(there)))
    degree = matrix.sum(axis=1)
    for _ in range(_SMOOTHINGS):
        field = (field + (matrix @ field) / degree) / 2
        field = field - (degree @ field) / degree.sum()
    # Rounded, so that ties of symmetric graphs go by id and not by the last bits of a sum.
    return np.round(field / max(np.abs(field).max(), 1e-300), 9)


def _grown(matrix: sparse.csr_array, field: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return all vertices in the order in which a connected set takes them in, from the smallest value of the field."""
    indptr, indices, values = matrix.indptr.tolist(), matrix.indices.tolist(), field.tolist()
    first = int(np.argmin(field))
    seen, waiting, order = {first}, [(values[first], first)], []
    while waiting:
        vertex = heapq.heappop(waiting)[1]
        order.append(vertex)
        for other in indices[indptr[vertex] : indptr[vertex + 1]]:
            if other not in seen:
                seen.add(other)
                heapq.heappush(waiting, (values[other], other))
    return np.array(order, dtype=np.int64)
