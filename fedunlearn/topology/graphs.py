"""Small tools on graphs whose vertices are ``0 .. N-1``: edges as arrays, and the check that a graph can be used."""

from __future__ import annotations

from itertools import chain

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from fedunlearn.errors import UserError, listed


def edge_array(graph: nx.Graph, alive: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Return the edges as an (E, 2) int64 array, smaller vertex first, in lexicographic order.

    The order depends on the graph alone and not on the history of its construction. Self-loops are left out, and so are
    edges that touch a vertex that is not ``alive``, (N,) bool.
    """
    flat = np.fromiter(chain.from_iterable(graph.edges()), dtype=np.int64, count=2 * graph.number_of_edges())
    edges = np.sort(flat.reshape(-1, 2), axis=1)
    keep = edges[:, 0] != edges[:, 1]
    if alive is not None:
        keep &= alive[edges[:, 0]] & alive[edges[:, 1]]
    edges = edges[keep]
    return edges[np.lexsort((edges[:, 1], edges[:, 0]))]


def graph_of(edges: NDArray[np.integer], num_nodes: int) -> nx.Graph:
    """Return the simple graph on ``0 .. num_nodes-1`` with these edges, (E, 2)."""
    graph = nx.Graph()
    graph.add_nodes_from(range(num_nodes))
    graph.add_edges_from(np.asarray(edges).reshape(-1, 2).tolist())
    return graph


def all_alive(num_nodes: int, alive: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Return ``alive`` checked to be (N,) bool, or all true where it is None."""
    if alive is None:
        return np.ones(num_nodes, dtype=bool)
    alive = np.asarray(alive)
    if alive.shape != (num_nodes,) or alive.dtype != np.bool_:
        raise ValueError(f"alive must be ({num_nodes},) bool, not {alive.shape} {alive.dtype}")
    return alive


def components(graph: nx.Graph, alive: NDArray[np.bool_] | None = None) -> tuple[int, NDArray[np.int64]]:
    """Return the number of connected components of the alive vertices and the size of each, largest first."""
    present = all_alive(len(graph), alive)
    edges = edge_array(graph, present)
    ones = np.ones(len(edges), dtype=np.int8)
    matrix = sparse.csr_array((ones, (edges[:, 0], edges[:, 1])), shape=(len(graph), len(graph)))
    _, label = connected_components(matrix, directed=False)
    sizes = np.bincount(label[present])
    sizes = np.sort(sizes[sizes > 0])[::-1]
    return len(sizes), sizes.astype(np.int64)


def check_usable(graph: nx.Graph, where: str) -> None:
    """Raise a UserError unless the graph has a vertex, is connected and is on ``0 .. N-1``.

    ``where`` opens the message: a file name, or the settings key that the graph came from.
    """
    num_nodes = len(graph)
    if num_nodes == 0:
        raise UserError(f"{where} gives a graph without nodes; at least one is needed")
    if num_nodes > 1:
        alone = sorted(v for v, degree in graph.degree() if degree == 0)
        if alone:
            names = listed(_label(graph, v) for v in alone[:5]) + (", ..." if len(alone) > 5 else "")
            raise UserError(
                f"{where} gives a graph with isolated node{'s' if len(alone) > 1 else ''} {names}; "
                "every node needs at least one neighbour"
            )
    count, sizes = components(graph)
    if count > 1:
        shown = listed(sizes[:5]) + (", ..." if count > 5 else "")
        raise UserError(f"{where} gives a disconnected graph ({count} parts of {shown} nodes); it must be connected")


def _label(graph: nx.Graph, vertex: int) -> str:
    """Return the name that the user gave to a vertex, or its number."""
    return str(graph.nodes[vertex].get("label", vertex))
