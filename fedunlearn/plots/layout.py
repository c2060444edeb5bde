"""Where the vertices of a graph are drawn, and how large and strong in graphs of different sizes."""

from __future__ import annotations

import math
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import shortest_path

EXACT_LAYOUT = 300
"""Vertices up to which the slower and better layout is used."""
PIVOTS = 50
"""Vertices from which hop distances are taken in larger graphs."""
MOST_EDGES = 20_000
"""Edges beyond this are not drawn: they would be one grey mass."""


def layout(graph: nx.Graph) -> NDArray[np.float64]:
    """Return a place (N, 2) for every vertex 0..N-1, always the same for the same graph, scaled to [-1, 1].

    Vertex attributes ``pos`` are used where all vertices have them. Otherwise: Kamada and Kawai (1989) for small
    graphs, Brandes and Pich (2006, pivot MDS) for larger ones; vertices without an edge stand in a row below.
    """
    nodes = list(range(graph.number_of_nodes()))
    given = nx.get_node_attributes(graph, "pos")
    if len(given) == len(nodes):
        places = np.array([tuple(given[i])[:2] for i in nodes], dtype=np.float64)
        return _scaled(places, nodes)
    joined = [i for i in nodes if graph.degree(i) > 0] or nodes
    inner = nx.Graph(graph.subgraph(joined))
    if len(joined) <= EXACT_LAYOUT and nx.is_connected(inner):
        exact = nx.kamada_kawai_layout(inner, pos=nx.circular_layout(inner))
        found = np.array([exact[i] for i in joined])
    else:
        found = _pivot_mds(nx.to_scipy_sparse_array(inner, nodelist=joined, weight=None))
    places = np.zeros((len(nodes), 2))
    places[joined] = _scaled(_upright(found), joined)
    alone = sorted(set(nodes) - set(joined))
    for k, i in enumerate(alone):
        places[i] = ((k + 1) / (len(alone) + 1) * 2 - 1, -1.18)
    return places


def dot_size(nodes: int) -> float:
    """Return the area of a vertex in square points."""
    return float(np.clip(9000 / max(nodes, 1), 4, 260))


def edge_look(edges: int) -> dict[str, Any]:
    """Return colour, width and opacity of edges, so that many of them do not become one grey mass."""
    width = float(np.clip(14 / math.sqrt(edges + 1), 0.25, 1.1))
    alpha = float(np.clip(22 / math.sqrt(edges + 1), 0.12, 1.0))
    return {"colors": "#b9bfc9", "linewidths": width, "alpha": alpha}


def _pivot_mds(adjacency: sparse.sparray) -> NDArray[np.float64]:
    """Return places (n, 2) from hop distances to a few pivots, each the vertex farthest from those before it."""
    hops = np.zeros((adjacency.shape[0], 0))
    pivot = 0
    for _ in range(min(PIVOTS, adjacency.shape[0])):
        column = shortest_path(adjacency, unweighted=True, directed=False, indices=pivot)
        far = column[np.isfinite(column)].max() + 2  # other components lie a little farther away than anything else
        hops = np.column_stack([hops, np.where(np.isfinite(column), column, far)])
        pivot = int(hops.min(axis=1).argmax())
    squares = hops**2
    centred = -(squares - squares.mean(axis=0) - squares.mean(axis=1, keepdims=True) + squares.mean()) / 2
    axes = np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1]
    return centred @ axes


def _upright(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn a layout so that it is widest from left to right, as the picture is."""
    centred = places - places.mean(axis=0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    axis = axis * np.where(axis.sum(axis=0) < 0, -1.0, 1.0)  # eigenvectors have no sign of their own
    return centred @ axis


def _scaled(places: NDArray[np.float64], which: list[int]) -> NDArray[np.float64]:
    centred = places - (places.max(axis=0) + places.min(axis=0)) / 2
    return centred / max(float(np.abs(centred).max()), 1e-12) if len(which) > 1 else centred
