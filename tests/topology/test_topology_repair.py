"""Departures: ids stay, the rest stays connected, and the repair is a public rule of the retained vertices."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.topology import mixing_matrix, remove_vertex


def edge_set(graph: nx.Graph) -> set[frozenset[int]]:
    return set(map(frozenset, graph.edges))


@st.composite
def connected_graphs(draw: st.DrawFn) -> nx.Graph:
    """A random tree with random further edges."""
    size = draw(st.integers(2, 14))
    graph = nx.empty_graph(size)
    graph.add_edges_from((draw(st.integers(0, v - 1)), v) for v in range(1, size))
    pairs = [(i, j) for j in range(size) for i in range(j)]
    graph.add_edges_from(draw(st.lists(st.sampled_from(pairs), max_size=size)))
    order = draw(st.permutations(range(size)))
    return nx.relabel_nodes(graph, dict(enumerate(order)))


@given(connected_graphs(), st.data())
@settings(max_examples=60, deadline=None)
def test_path_repair_keeps_any_sequence_of_departures_connected(graph: nx.Graph, data: st.DataObject) -> None:
    alive = np.ones(len(graph), dtype=bool)
    while alive.sum() > 1:
        leaver = data.draw(st.sampled_from(np.flatnonzero(alive).tolist()))
        before = edge_set(graph)
        graph = remove_vertex(graph, leaver, "path", alive)
        alive[leaver] = False
        assert graph.degree(leaver) == 0 and len(graph) == len(alive)
        assert nx.is_connected(graph.subgraph(np.flatnonzero(alive).tolist()))
        assert {e for e in before if leaver not in e} <= edge_set(graph)
        mixing_matrix(graph, "metropolis", alive)


@given(connected_graphs(), st.data())
@settings(max_examples=100, deadline=None)
def test_path_repair_depends_on_the_retained_vertices_only(graph: nx.Graph, data: st.DataObject) -> None:
    """Anyone who knows the retained graph and who the leaver's neighbours were gets the same edges."""
    leaver = data.draw(st.integers(0, len(graph) - 1))
    graph.nodes[leaver]["label"] = data.draw(st.text(max_size=3))
    for v in graph[leaver]:
        graph.edges[leaver, v]["weight"] = data.draw(st.floats(0, 1))
    retained = graph.subgraph(v for v in graph if v != leaver)
    neighbours = sorted(graph[leaver])
    expected = edge_set(retained) | {frozenset(p) for p in pairwise(neighbours)}
    assert edge_set(remove_vertex(graph, leaver, "path")) == expected


def test_path_is_added_even_where_it_is_not_needed() -> None:
    repaired = remove_vertex(nx.cycle_graph(4), 0, "path")
    assert edge_set(repaired) == {frozenset(e) for e in [(1, 2), (2, 3), (1, 3)]}


def test_refuse_removes_nothing_else_and_leaves_the_given_graph_alone() -> None:
    graph = nx.complete_graph(5)
    left = remove_vertex(graph, 2, "refuse")
    assert edge_set(left) == {e for e in edge_set(graph) if 2 not in e}
    assert graph.degree(2) == 4 and sorted(left) == sorted(graph)


def test_refuse_would_not_disconnect() -> None:
    with pytest.raises(UserError, match=r"without client 0 the graph falls into 5 parts.*topology\.repair = 'path'"):
        remove_vertex(nx.star_graph(5), 0, "refuse")


def test_earlier_departures_are_not_neighbours() -> None:
    alive = np.array([True, False, True, True])
    repaired = remove_vertex(nx.star_graph(3), 0, "path", alive)
    assert repaired.has_edge(2, 3) and not repaired.has_edge(1, 2)


def test_the_order_of_distant_departures_does_not_matter() -> None:
    graph = nx.cycle_graph(10)
    alive = np.ones(10, dtype=bool)

    def leave(first: int, second: int) -> set[frozenset[int]]:
        present = alive.copy()
        present[first] = False
        return edge_set(remove_vertex(remove_vertex(graph, first, "path", alive), second, "path", present))

    assert leave(2, 7) == leave(7, 2)


@pytest.mark.parametrize(
    ("vertex", "alive", "words"),
    [
        (7, [True] * 4, "client 7 does not exist; the network has the clients 0 to 3"),
        (-1, [True] * 4, "client -1 does not exist"),
        (1, [True, False, True, True], "client 1 has already left"),
        (2, [False, False, True, False], "client 2 is the last one"),
    ],
)
def test_impossible_departures(vertex: int, alive: list[bool], words: str) -> None:
    with pytest.raises(UserError, match=words):
        remove_vertex(nx.complete_graph(4), vertex, "path", np.array(alive))
