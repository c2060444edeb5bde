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


def matching_waves(edges: NDArray[np.int64], priority: NDArray[np.uint64], num_nodes: int) -> list[NDArray[np.int64]]:
    """Return the row numbers of the greedy matching that takes edges in ascending priority, ties by row number.

    Computed in parallel waves: an edge that comes first at both of its ends belongs to the greedy matching; take all
    such edges, drop what touches them, repeat (Blelloch, Fineman, Shun 2012; about log N waves for random priorities).
    """
    left = np.argsort(priority, kind="stable")
    waves: list[NDArray[np.int64]] = []
    matched = np.zeros(num_nodes, dtype=bool)
    first = np.empty(num_nodes, dtype=np.int64)
    while len(left):
        ends = edges[left]
        place = np.arange(len(left))
        # Of repeated indices the last one assigned stays, so going backwards leaves the first edge at each vertex.
        first[ends[::-1].ravel()] = np.repeat(place[::-1], 2)
        taken = (first[ends[:, 0]] == place) & (first[ends[:, 1]] == place)
        waves.append(left[taken])
        matched[ends[taken].ravel()] = True
        left = left[~(matched[ends[:, 0]] | matched[ends[:, 1]])]
    return waves


def _priority(edges: NDArray[np.int64], seed: int, round: int) -> NDArray[np.uint64]:
    """Return the (E,) priorities of a round.

    An edge's depends on (seed, round, its two ends) only: when a vertex leaves, all other edges keep theirs.
    """
    return keys(seed, "matching", edges[:, 0], edges[:, 1], round)


def random_matching(graph: nx.Graph, seed: int, round: int, alive: NDArray[np.bool_] | None = None) -> sparse.csr_array:
    """Return the (N, N) float64 matrix W_t of one round: matched pairs average, all others keep what they have."""
    alive = all_alive(len(graph), alive)
    edges = edge_array(graph, alive)
    waves = matching_waves(edges, _priority(edges, seed, round), len(graph))
    pairs = edges[np.concatenate(waves)] if waves else edges
    return from_edge_weights(pairs, np.full(len(pairs), 0.5), alive)


def expected_matching(
    graph: nx.Graph, seed: int, alive: NDArray[np.bool_] | None = None, draws: int | None = None
) -> sparse.csr_array:
    """Return an unbiased estimate of E[W_t] = E[W_t^T W_t], symmetric and doubly stochastic itself.

    An edge {i, j} enters in the first wave with the known probability 1 / (d_i + d_j - 1), that of coming first among
    all edges at its ends; how often it enters later is counted over rounds ``0 .. draws-1``. So rare edges are not
    lost, and the weights at a vertex add up to at most 1. The largest eigenvalue on vectors of mean zero is a convex
    function of the matrix, so the estimate of rho errs upwards on average. ``draws`` defaults to between 32 and 1,000,
    fewer on larger graphs.
    """
    alive = all_alive(len(graph), alive)
    edges = edge_array(graph, alive)
    if draws is None:
        draws = int(np.clip(_DRAWN_EDGES // max(1, len(edges)), 32, 1000))
    later = np.zeros(len(edges), dtype=np.int64)
    for round_ in range(draws):
        for wave in matching_waves(edges, _priority(edges, seed, round_), len(graph))[1:]:
            later[wave] += 1
    degree = np.bincount(edges.ravel(), minlength=len(graph))
    chance = 1.0 / (degree[edges].sum(axis=1) - 1) + later / draws
    return from_edge_weights(edges, 0.5 * chance, alive)
