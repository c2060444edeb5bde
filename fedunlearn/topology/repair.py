"""What happens to the graph when a vertex leaves it."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError, listed
from fedunlearn.topology.graphs import all_alive, components
from fedunlearn.topology.settings import Repair


def remove_vertex(graph: nx.Graph, vertex: int, repair: Repair, alive: NDArray[np.bool_] | None = None) -> nx.Graph:
    """Return a new graph in which ``vertex`` has no edges; ids stay, so it remains as an isolated, dead id.

    ``refuse`` leaves all other edges as they are. ``path`` joins the former neighbours, in ascending order of id, by a
    path, whether that is needed or not: then the remaining graph is connected because any walk through the vertex can
    take the path instead, and the new edges are a public rule of the neighbours' ids alone, so the retrained network
    has the same graph. With ``relay`` nobody is removed: a client without data stays and mixes, so do not call this.

    ``alive`` (N,) bool says who was there before the departure. Raises UserError when the vertex does not exist, has
    left already, is the last one, or when ``refuse`` would leave the others disconnected.
    """
    alive = all_alive(len(graph), alive).copy()
    if not 0 <= vertex < len(graph):
        raise UserError(f"client {vertex} does not exist; the network has the clients 0 to {len(graph) - 1}")
    if not alive[vertex]:
        raise UserError(f"client {vertex} has already left the network")
    if alive.sum() == 1:
        raise UserError(f"client {vertex} is the last one; it cannot leave, because nobody would remain")
    alive[vertex] = False
    neighbours = sorted(v for v in graph.neighbors(vertex) if alive[v])
    repaired = graph.copy()
    repaired.remove_edges_from(list(repaired.edges(vertex)))
    if repair == "path":
        repaired.add_edges_from(pairwise(neighbours))
    elif repair != "refuse":
        raise ValueError(f"'{repair}' is not a repair rule for a vertex that goes (allowed: refuse, path)")
    count, sizes = components(repaired, alive)
    if count > 1:
        hint = "; set topology.repair = 'path' to join its former neighbours" if repair == "refuse" else ""
        raise UserError(
            f"without client {vertex} the graph falls into {count} parts of {listed(sizes[:5])} nodes{hint}"
        )
    return repaired
