"""Spectra that are known in closed form: graphs whose Laplacian eigenvalues are, mixed with one weight on all edges.

With the same weight w on every edge W = I - w L, so the eigenvalues of W are 1 - w times those of the Laplacian L:

==========================  ===============================================================
graph on n vertices         eigenvalues of L
==========================  ===============================================================
complete                    0, and n for all others
star                        0, 1 and n
path                        4 sin^2(pi k / 2n), k = 0 .. n-1
ring                        4 sin^2(pi k / n)
circulant with hops s       sum over the hops of 4 sin^2(pi k s / n), 2 sin^2 for s = n/2
hypercube of dimension m    2 k, k = 0 .. m
grid, torus (a x b)         sums of an eigenvalue of a path (ring) of a and one of b vertices
==========================  ===============================================================

Brouwer, Haemers 2012, "Spectra of Graphs", sec. 1.4. Sines rather than 1 - cos: a ring of 100,000 vertices has the gap
1.3e-9, of which a cosine would keep six digits.

A graph is recognised by its edges and never by its name, which a repaired graph keeps.
"""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from fedunlearn.topology.generators import lattice_edges, sides
from fedunlearn.topology.graphs import edge_array

Ends = tuple[float, float]
"""Smallest and largest eigenvalue of a Laplacian on vectors of mean zero."""


def eigenvalue_ends(graph: nx.Graph, matrix: sparse.csr_array) -> tuple[float, float] | None:
    """Return (1 - lambda_2, lambda_N) of a mixing matrix on all vertices of a graph, or None where no formula holds."""
    edges = edge_array(graph)
    size = len(graph)
    weights = matrix.data[np.repeat(np.arange(size), np.diff(matrix.indptr)) != matrix.indices]
    if size < 2 or len(weights) != 2 * len(edges) or len(edges) < size - 1 or weights.min() != weights.max():
        return None
    ends = laplacian_ends(edges, size)
    return None if ends is None else (float(weights[0]) * ends[0], 1.0 - float(weights[0]) * ends[1])


def laplacian_ends(edges: NDArray[np.int64], n: int) -> Ends | None:
    """Return the ends of the Laplacian spectrum of a connected graph, or None where it is none of those above.

    ``edges`` (E, 2) are as :func:`fedunlearn.topology.graphs.edge_array` gives them.
    """
    degree = np.bincount(edges.ravel(), minlength=n)
    if len(edges) == n * (n - 1) // 2:
        return float(n), float(n)
    if len(edges) == n - 1:
        if degree.max() == n - 1:
            return 1.0, float(n)
        return _path(n) if degree.max() == 2 and _connected(edges, n) else None
    if degree.min() == degree.max() == 2:
        return _ring(n) if _connected(edges, n) else None
    for found in (_hypercube(edges, n), _lattice(edges, n), _circulant(edges, n)):
        if found is not None:
            return found
    return None


def _connected(edges: NDArray[np.int64], n: int) -> bool:
    matrix = sparse.csr_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(n, n))
    return bool(connected_components(matrix, directed=False)[0] == 1)


def _path(n: int) -> Ends:
    return 4 * math.sin(math.pi / (2 * n)) ** 2, 4 * math.cos(math.pi / (2 * n)) ** 2


def _ring(n: int) -> Ends:
    return 4 * math.sin(math.pi / n) ** 2, 4 * math.sin(math.pi * (n // 2) / n) ** 2


def _hypercube(edges: NDArray[np.int64], n: int) -> Ends | None:
    dimension = n.bit_length() - 1
    if n != 1 << dimension or 2 * len(edges) != n * dimension:
        return None
    flipped = edges[:, 0] ^ edges[:, 1]
    return (2.0, 2.0 * dimension) if not np.any(flipped & (flipped - 1)) else None


def _lattice(edges: NDArray[np.int64], n: int) -> Ends | None:
    """Return the ends for the grid or the torus, numbered row by row, as square as the number of vertices allows."""
    rows, columns = sides(n)
    for periodic, line in ((False, _path), (True, _ring)):
        if rows < (3 if periodic else 2) or len(edges) != (2 * n if periodic else 2 * n - rows - columns):
            continue
        expected = np.sort(lattice_edges(n, periodic), axis=1)
        if np.array_equal(edges, expected[np.lexsort((expected[:, 1], expected[:, 0]))]):
            (low_a, high_a), (low_b, high_b) = line(rows), line(columns)
            return min(low_a, low_b), high_a + high_b
    return None


def _circulant(edges: NDArray[np.int64], n: int) -> Ends | None:
    """Return the ends for a connected graph in which vertex i is joined to i + s and i - s for the same hops s."""
    hops, counts = np.unique(np.minimum(edges[:, 1] - edges[:, 0], n - edges[:, 1] + edges[:, 0]), return_counts=True)
    whole = np.where(2 * hops == n, n // 2, n)
    if len(hops) > 64 or not np.array_equal(counts, whole) or math.gcd(n, *hops.tolist()) != 1:
        return None
    k = np.arange(1, n // 2 + 1)[:, None]
    phase = np.pi * (k * hops[None, :] % n) / n
    values = (np.where(2 * hops == n, 2.0, 4.0) * np.sin(phase) ** 2).sum(axis=1)
    return float(values.min()), float(values.max())
