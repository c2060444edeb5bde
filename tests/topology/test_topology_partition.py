"""Orders of vertices for hosts: against all bisections of small graphs, known cuts, and what rows cross borders."""

from __future__ import annotations

from itertools import combinations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from fedunlearn.topology.bisection import bisect, cut_weight
from fedunlearn.topology.partition import blocks, border_rows, border_share, bounds, cut_edges, vertex_order

SHUFFLED = np.random.default_rng(3).permutation


def matrix_of(graph: nx.Graph) -> sparse.csr_array:
    return sparse.csr_array(nx.to_scipy_sparse_array(graph, nodelist=range(len(graph)), dtype=np.int64))


def renamed(graph: nx.Graph) -> nx.Graph:
    """The same graph with its vertices numbered at random."""
    plain = nx.convert_node_labels_to_integers(graph)
    return nx.relabel_nodes(plain, dict(enumerate(SHUFFLED(len(plain)).tolist())))


def fewest(graph: nx.Graph, count: int) -> int:
    """The smallest cut that leaves ``count`` vertices on one side, by trying all."""
    return min(nx.cut_size(graph, chosen) for chosen in combinations(range(len(graph)), count))


@st.composite
def graphs(draw: st.DrawFn, most: int = 10) -> nx.Graph:
    size = draw(st.integers(2, most))
    pairs = list(combinations(range(size), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=len(pairs)))
    return nx.compose(nx.empty_graph(size), nx.Graph(chosen))


@given(graphs(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_bisection_is_near_the_best_of_all(graph: nx.Graph, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(graph) - 1))
    side = bisect(matrix_of(graph), count)
    assert side.sum() == count
    cut = nx.cut_size(graph, np.flatnonzero(side).tolist())
    assert cut == cut_weight(matrix_of(graph), side)
    assert cut <= fewest(graph, count) + 1


def test_the_best_is_found_nearly_always() -> None:
    found = []
    for seed in range(40):
        graph = nx.gnp_random_graph(10, 0.35, seed=seed)
        found.append(cut_weight(matrix_of(graph), bisect(matrix_of(graph), 5)) == fewest(graph, 5))
    assert np.mean(found) >= 0.95


@given(graphs(30))
@settings(max_examples=30, deadline=None)
def test_an_order_is_a_permutation_and_depends_on_the_graph_alone(graph: nx.Graph) -> None:
    order = vertex_order(graph)
    assert sorted(order.tolist()) == list(range(len(graph)))
    other = nx.Graph()
    other.add_nodes_from(reversed(range(len(graph))))
    other.add_edges_from([(b, a) for a, b in reversed(list(graph.edges))])
    assert np.array_equal(order, vertex_order(other))
    ids = np.arange(len(graph))
    hosts = [count for count in (2, 4, 8) if count <= len(graph)]
    cuts = [sum(cut_edges(graph, blocks(o, count)) for count in hosts) for o in (order, ids)]
    assert cuts[0] < cuts[1] or np.array_equal(order, ids)


@pytest.mark.parametrize(
    ("graph", "hosts", "most"),
    [
        (nx.barbell_graph(8, 0), 2, 1),
        (nx.grid_2d_graph(8, 8), 2, 8),
        (nx.grid_2d_graph(8, 8), 4, 24),
        (nx.cycle_graph(64), 2, 2),
        (nx.cycle_graph(64), 8, 8),
        (nx.path_graph(50), 2, 1),
        (nx.grid_2d_graph(30, 30), 2, 36),
        (nx.ring_of_cliques(8, 6), 8, 8),
        (nx.random_geometric_graph(400, 0.1, seed=1), 2, 150),
    ],
)
def test_graphs_with_known_cuts_whatever_their_vertices_are_called(graph: nx.Graph, hosts: int, most: int) -> None:
    graph = renamed(graph)
    order = vertex_order(graph)
    assert cut_edges(graph, blocks(order, hosts)) <= most
    assert cut_edges(graph, blocks(np.arange(len(graph)), hosts)) > 2 * most


def test_two_communities_are_told_apart() -> None:
    graph = renamed(nx.stochastic_block_model([40, 40], [[0.3, 0.01], [0.01, 0.3]], seed=2))
    inside = cut_edges(graph, blocks(vertex_order(graph), 2))
    assert inside <= 40 * 40 * 0.02


@pytest.mark.parametrize(
    "graph", [nx.empty_graph(1), nx.cycle_graph(20), nx.path_graph(9), nx.complete_graph(12), nx.star_graph(7)]
)
def test_where_nothing_is_gained_the_ids_stay_in_order(graph: nx.Graph) -> None:
    assert vertex_order(graph).tolist() == list(range(len(graph)))


def test_a_large_graph_is_cut_at_every_number_of_hosts() -> None:
    graph = renamed(nx.grid_2d_graph(60, 60))
    order = vertex_order(graph)
    for hosts, most in ((2, 90), (3, 260), (4, 190), (7, 420), (16, 520)):
        assert cut_edges(graph, blocks(order, hosts)) <= most


def test_pieces_differ_by_one_vertex_at_most() -> None:
    for nodes, hosts in ((10, 3), (11, 4), (5, 5), (100_000, 7), (7, 1)):
        sizes = [high - low for low, high in bounds(nodes, hosts)]
        assert sum(sizes) == nodes and max(sizes) - min(sizes) <= 1
        assert np.bincount(blocks(np.arange(nodes), hosts)).tolist() == sizes


@given(graphs(12), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_border_rows_are_those_that_a_round_needs_elsewhere(graph: nx.Graph, hosts: int) -> None:
    block = blocks(SHUFFLED(len(graph)), hosts)
    expected = {(u, block[v]) for a, b in graph.edges for u, v in ((a, b), (b, a)) if block[u] != block[v]}
    assert {tuple(pair) for pair in border_rows(graph, block).tolist()} == expected
    assert cut_edges(graph, block) == sum(block[a] != block[b] for a, b in graph.edges)
    assert border_share(graph, block) == pytest.approx(len({u for u, _ in expected}) / len(graph))
