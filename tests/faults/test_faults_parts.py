"""Parts of a partition: connected, similar in size, few links cut."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from fault_worlds import graphs
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.faults.parts import connected_parts


def cut(graph: nx.Graph, labels: np.ndarray) -> int:
    return sum(labels[a] != labels[b] for a, b in graph.edges)


@given(graphs(most=20), st.data())
@settings(max_examples=40, deadline=None)
def test_every_part_is_there_and_connected(graph, data):
    parts = data.draw(st.integers(1, len(graph)))
    labels = connected_parts(graph, parts)
    assert sorted(set(labels.tolist())) == list(range(parts))
    for part in range(parts):
        assert nx.is_connected(graph.subgraph(np.flatnonzero(labels == part).tolist()))


def test_bottlenecks_are_found():
    barbell = nx.barbell_graph(8, 0)
    assert cut(barbell, connected_parts(barbell, 2)) == 1
    uneven = nx.disjoint_union(nx.complete_graph(5), nx.complete_graph(14))
    uneven.add_edge(2, 9)
    assert cut(uneven, connected_parts(uneven, 2)) == 1
    star = connected_parts(nx.star_graph(6), 3)
    assert sorted(np.bincount(star).tolist()) == [1, 1, 5]  # no other parts of a star are connected
    caves = nx.connected_caveman_graph(4, 6)
    assert cut(caves, connected_parts(caves, 4)) == 4


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_rings_fall_into_arcs_and_grids_into_blocks(parts):
    ring = connected_parts(nx.cycle_graph(24), parts)
    assert cut(nx.cycle_graph(24), ring) == parts
    assert np.bincount(ring).min() >= 24 // parts - 2
    grid = nx.convert_node_labels_to_integers(nx.grid_2d_graph(8, 8), ordering="sorted")
    assert cut(grid, connected_parts(grid, parts)) <= {2: 14, 3: 18, 4: 24}[parts]


def test_parts_depend_on_the_edges_and_not_on_their_history():
    graph = nx.random_regular_graph(4, 30, seed=1)
    other = nx.empty_graph(30)
    other.add_edges_from(sorted(((b, a) for a, b in graph.edges), reverse=True))
    assert np.array_equal(connected_parts(graph, 3), connected_parts(other, 3))


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="3 vertices cannot be cut into 4"):
        connected_parts(nx.path_graph(3), 4)
    with pytest.raises(ValueError, match="must be connected"):
        connected_parts(nx.disjoint_union(nx.path_graph(3), nx.path_graph(3)), 2)
