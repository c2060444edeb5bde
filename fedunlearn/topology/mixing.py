"""Mixing matrices W of a gossip round, ``theta <- W theta``, as sparse matrices on stable vertex ids.

Every matrix is symmetric and doubly stochastic on the alive vertices (checked, never assumed); ids of vertices that
have left have empty rows and columns.

==================  ========================================================  =====================================
rule                weight of an edge {i, j} of the alive subgraph            source
==================  ========================================================  =====================================
metropolis          1 / (1 + max(d_i, d_j))                                   Xiao, Boyd, Lall 2005; Hastings 1970
max-degree          1 / (1 + max_k d_k)                                       Xiao, Boyd 2004
lazy-metropolis     half of metropolis: (I + W) / 2, no negative eigenvalue   Olshevsky 2014
lazy-max-degree     half of max-degree
random-matching     1/2 on the edges of a random maximal matching, new in     Boyd, Ghosh, Prabhakar, Shah 2006
                    every round: :mod:`fedunlearn.topology.matching`
exact-average       1 / n between all n alive vertices, whatever the edges    federated averaging
==================  ========================================================  =====================================

The diagonal takes what is left of 1.
"""

from __future__ import annotations

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedunlearn.errors import listed, nearest
from fedunlearn.topology.graphs import all_alive, edge_array
from fedunlearn.topology.settings import Mixing

DENSE_LIMIT = 2000
TOLERANCE = 1e-12
RULES = ("metropolis", "max-degree", "lazy-metropolis", "lazy-max-degree", "random-matching", "exact-average")


def needs_matrix(rule: Mixing) -> bool:
    """Return False for ``exact-average``: the engine averages the alive rows, which needs no N x N matrix."""
    return rule != "exact-average"


def changes_every_round(rule: Mixing) -> bool:
    """Return True for ``random-matching``, whose matrix of a round comes from ``random_matching``."""
    return rule == "random-matching"


def mixing_matrix(graph: nx.Graph, rule: Mixing, alive: NDArray[np.bool_] | None = None) -> sparse.csr_array:
    """Return the (N, N) float64 mixing matrix of a fixed rule on the alive vertices, with sorted column indices.

    ``exact-average`` is dense and therefore given for at most 2,000 alive vertices; see :func:`needs_matrix`. Degrees
    are those of the alive subgraph. Raises ValueError for ``random-matching``, an unknown rule, or no alive vertex.
    """
    alive = all_alive(len(graph), alive)
    if not alive.any():
        raise ValueError("no vertex is alive")
    if rule not in RULES:
        raise ValueError(f"'{rule}' is not a mixing rule{nearest(rule, RULES)} (allowed: {listed(RULES)})")
    if changes_every_round(rule):
        raise ValueError("random-matching has a new matrix in every round: use random_matching or expected_matching")
    if not needs_matrix(rule):
        return _average(alive)
    edges = edge_array(graph, alive)
    return from_edge_weights(edges, edge_weights(edges, rule, len(graph)), alive)


def edge_weights(edges: NDArray[np.int64], rule: Mixing, num_nodes: int) -> NDArray[np.float64]:
    """Return the weights (E,) that a fixed rule gives edges (E, 2) by the degrees that these edges make."""
    degree = np.bincount(edges.ravel(), minlength=num_nodes)
    if rule.endswith("max-degree"):
        weight = np.full(len(edges), 1.0 / (1.0 + degree.max(initial=0)))
    else:
        weight = 1.0 / (1.0 + degree[edges].max(axis=1, initial=0))
    return weight * 0.5 if rule.startswith("lazy-") else weight


def from_edge_weights(
    edges: NDArray[np.int64], weight: NDArray[np.float64], alive: NDArray[np.bool_]
) -> sparse.csr_array:
    """Return the checked mixing matrix I - sum_e w_e (e_i - e_j)(e_i - e_j)^T of edges (E, 2) with weights (E,)."""
    size = len(alive)
    ids = np.flatnonzero(alive)
    rows = np.concatenate([edges[:, 0], edges[:, 1]])
    columns = np.concatenate([edges[:, 1], edges[:, 0]])
    off = sparse.csr_array((np.concatenate([weight, weight]), (rows, columns)), shape=(size, size))
    # A remainder of 0 may come out as -1e-17; one that is truly negative fails the check of the row sums below.
    rest = np.maximum(1.0 - row_sums(off)[ids], 0.0)
    own = sparse.csr_array((rest, (ids, ids)), shape=(size, size))
    matrix = sparse.csr_array(off + own)
    matrix.sort_indices()
    check_doubly_stochastic(matrix, alive)
    return matrix


def row_sums(matrix: sparse.csr_array) -> NDArray[np.float64]:
    """Return the (N,) row sums, added in extended precision: rounding adds up over the 100,000 equal terms of a hub."""
    sums = np.zeros(matrix.shape[0], dtype=np.longdouble)
    filled = np.flatnonzero(np.diff(matrix.indptr))
    if len(filled):
        sums[filled] = np.add.reduceat(matrix.data.astype(np.longdouble), matrix.indptr[filled])
    return sums.astype(np.float64)


def check_doubly_stochastic(matrix: sparse.csr_array, alive: NDArray[np.bool_] | None = None) -> None:
    """Raise AssertionError unless the matrix mixes the alive vertices without changing their mean.

    Checked to 1e-12: equal to its transpose, no negative entry, rows of alive vertices sum to 1 and all others are
    empty.
    """
    alive = all_alive(matrix.shape[0], alive)
    difference = sparse.csr_array(matrix - matrix.T)
    if difference.nnz and np.abs(difference.data).max() > TOLERANCE:
        raise AssertionError("the mixing matrix is not symmetric")
    if matrix.nnz and matrix.data.min() < 0:
        raise AssertionError("the mixing matrix has a negative entry")
    if not np.allclose(row_sums(matrix), alive, rtol=0, atol=TOLERANCE):
        raise AssertionError("the rows of the mixing matrix do not sum to 1 on exactly the alive vertices")


def _average(alive: NDArray[np.bool_]) -> sparse.csr_array:
    """Return J / n on the alive vertices."""
    ids = np.flatnonzero(alive)
    count = len(ids)
    if count > DENSE_LIMIT:
        raise ValueError(
            f"exact-average on {count} vertices would be dense; average the rows instead of mixing by a matrix"
        )
    sizes = np.where(alive, count, 0)
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    matrix = sparse.csr_array(
        (np.full(count * count, 1.0 / count), np.tile(ids, count), indptr), shape=(len(alive), len(alive))
    )
    check_doubly_stochastic(matrix, alive)
    return matrix
