"""Random-matching gossip: in every round the edges of a random maximal matching average their two ends.

Boyd, Ghosh, Prabhakar, Shah 2006, "Randomized gossip algorithms", with a whole matching instead of one edge a round.
The matrix W_t of a round is a projection (W_t^T W_t = W_t), so E[W^T W] = E[W]: its second-largest eigenvalue is at the
same time the factor by which the expected squared distance to consensus shrinks in a round, and the one by which the
expected influence of a vertex approaches 1/N.
"""

from __future__ import annotations

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedunlearn.randomness import keys
from fedunlearn.topology.graphs import all_alive, edge_array
from fedunlearn.topology.mixing import from_edge_weights

_DRAWN_EDGES = 1_000_000


def maximal_matching(edges: NDArray[np.int64], priority: NDArray[np.uint64], num_nodes: int) -> NDArray[np.int64]:
    """Return the row numbers of the greedy matching that takes edges in ascending priority, ties by row number.

    Computed in parallel: an edge that comes first at both of its ends belongs to the greedy matching; take all such
    edges, drop what touches them, repeat (Blelloch, Fineman, Shun 2012; about log N repetitions for random priorities).
    """
    left = np.argsort(priority, kind="stable")
    chosen: list[NDArray[np.int64]] = []
    matched = np.zeros(num_nodes, dtype=bool)
    first = np.empty(num_nodes, dtype=np.int64)
    while len(left):
        ends = edges[left]
        place = np.arange(len(left))
        # Of repeated indices the last one assigned stays, so going backwards leaves the first edge at each vertex.
        first[ends[::-1].ravel()] = np.repeat(place[::-1], 2)
        taken = (first[ends[:, 0]] == place) & (first[ends[:, 1]] == place)
        chosen.append(left[taken])
        matched[ends[taken].ravel()] = True
        left = left[~(matched[ends[:, 0]] | matched[ends[:, 1]])]
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)


def matched_edges(edges: NDArray[np.int64], num_nodes: int, seed: int, round: int) -> NDArray[np.int64]:
    """Return the row numbers of the matching of a round.

    The priority of an edge depends on (seed, round, its two ends) only: when a vertex leaves, all other edges keep
    theirs.
    """
    return maximal_matching(edges, keys(seed, "matching", edges[:, 0], edges[:, 1], round), num_nodes)


def random_matching(graph: nx.Graph, seed: int, round: int, alive: NDArray[np.bool_] | None = None) -> sparse.csr_array:
    """Return the (N, N) float64 matrix W_t of one round: matched pairs average, all others keep what they have."""
    alive = all_alive(len(graph), alive)
    edges = edge_array(graph, alive)
    pairs = edges[matched_edges(edges, len(graph), seed, round)]
    return from_edge_weights(pairs, np.full(len(pairs), 0.5), alive)


def expected_matching(
    graph: nx.Graph, seed: int, alive: NDArray[np.bool_] | None = None, draws: int | None = None
) -> sparse.csr_array:
    """Return an estimate of E[W_t] = E[W_t^T W_t], the mean of W_t over rounds ``0 .. draws-1``.

    As a mean of doubly stochastic matrices it is one itself. The largest eigenvalue on vectors of mean zero is a convex
    function of the matrix, so the estimate of rho errs upwards on average. ``draws`` defaults to between 32 and 1,000,
    fewer on larger graphs.
    """
    alive = all_alive(len(graph), alive)
    edges = edge_array(graph, alive)
    if draws is None:
        draws = int(np.clip(_DRAWN_EDGES // max(1, len(edges)), 32, 1000))
    times = np.zeros(len(edges), dtype=np.int64)
    for round_ in range(draws):
        times[matched_edges(edges, len(graph), seed, round_)] += 1
    met = times > 0
    return from_edge_weights(edges[met], 0.5 * times[met] / draws, alive)
