"""Routes of tokens: who is visited how often, along which edges, and what a draw depends on."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from fedunlearn.unlearning.certified.routes import Route, restart_route, shortest_path, uniform_route

GRAPHS = {
    "complete": nx.complete_graph(9),
    "ring": nx.cycle_graph(9),
    "star": nx.star_graph(8),
    "path": nx.path_graph(9),
}


# --- routes ----------------------------------------------------------------------------------------------------------


def is_walk(graph: nx.Graph, route: Route) -> bool:
    """Return whether every move of a route stays where it is or goes along an edge."""
    return all(a == b or graph.has_edge(a, b) for (a, _), (b, _) in pairwise(route.moves))


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("restart", [1 / 9, 0.4])
def test_the_node_is_visited_with_the_restart_probability_on_every_graph(name, restart):
    route = restart_route(GRAPHS[name], 0, range(9), 4000, restart, seed=5, number=1)
    assert binomtest(len(route.visits), 4000, restart).pvalue > 1e-3


def test_a_free_walk_would_visit_the_node_about_twice_as_often():
    """The control of the test above: stepping into the node by chance as well makes the rate p + (1 - p) p."""
    rng = np.random.default_rng(0)
    here, visits = 0, 0
    for _ in range(4000):
        here = 0 if rng.random() < 1 / 9 else rng.choice([v for v in range(9) if v != here])
        visits += here == 0
    assert visits / 4000 > 0.16


def test_from_the_node_the_first_hop_is_uniform_over_everybody_at_restart_one_over_n():
    graph = nx.complete_graph(6)
    first = [restart_route(graph, 2, range(6), 1, 1 / 6, seed=0, number=k).stops[0] for k in range(3000)]
    assert chisquare(np.bincount(first, minlength=6)).pvalue > 1e-3


@given(st.integers(0, 10**6), st.integers(3, 14), st.floats(0.05, 1.0))
@settings(max_examples=60, deadline=None)
def test_a_route_moves_along_edges_and_only_vertices_with_data_act(seed, size, restart):
    rng = np.random.default_rng(seed)
    graph = nx.random_labeled_tree(size, seed=seed)
    graph.add_edges_from(rng.integers(0, size, (size // 2, 2)))
    graph.remove_edges_from(nx.selfloop_edges(graph))
    actors = sorted(rng.choice(size, rng.integers(2, size + 1), replace=False).tolist())
    route = restart_route(graph, actors[0], actors, 30, restart, seed, 0)
    assert is_walk(graph, route) and route.moves[0] == (actors[0], False)
    assert len(route.stops) == 30 and set(route.stops) <= set(actors)
    assert [route.stops[hop - 1] for hop in route.visits] == [actors[0]] * len(route.visits)
    assert route.stops.count(actors[0]) == len(route.visits)
    shuffled = nx.Graph()
    shuffled.add_edges_from(list(graph.edges)[::-1])
    assert restart_route(shuffled, actors[0], actors, 30, restart, seed, 0) == route
    assert restart_route(graph, actors[0], actors, 12, restart, seed, 0) == route.part(0, 12)
    assert route.part(0, 12).moves + route.part(12, 30).moves[1:] == route.moves
    home = route.then_to(actors[1], graph)
    assert is_walk(graph, home) and home.stops == route.stops and home.moves[-1][0] == actors[1]


def test_routes_differ_from_request_to_request_and_from_seed_to_seed():
    graph = nx.complete_graph(8)
    routes = {
        restart_route(graph, 0, range(8), 20, 0.2, seed, number, attempt)
        for seed in range(2) for number in range(2) for attempt in range(2)
    }  # fmt: skip
    assert len(routes) == 8


def test_on_a_path_a_restart_goes_home_by_the_way_it_came_and_nobody_acts_on_it():
    route = restart_route(nx.path_graph(6), 0, range(6), 400, 0.2, 1, 0)
    acting = [i for i, (_, acts) in enumerate(route.moves) if acts]
    for hop in route.visits:
        end = acting[hop - 1]
        begin = acting[hop - 2] if hop > 1 else 0
        way = [v for v, _ in route.moves[begin : end + 1]]
        assert way == list(range(way[0], -1, -1)) if way[0] else way == [0, 0]


def test_where_the_node_is_everybodys_only_neighbour_the_token_stays():
    route = restart_route(nx.star_graph(3), 0, range(4), 50, 0.3, 2, 0)
    for before, after in zip(route.stops, route.stops[1:]):
        assert after in (0, before) or before == 0


def test_shortest_paths_are_shortest_and_prefer_small_ids():
    graph = nx.grid_2d_graph(4, 4)
    graph = nx.convert_node_labels_to_integers(graph, ordering="sorted")
    for a in graph:
        for b in graph:
            assert len(shortest_path(graph, a, b)) == nx.shortest_path_length(graph, a, b) + 1
    assert shortest_path(graph, 0, 15) == [0, 1, 2, 3, 7, 11, 15]


def test_the_uniform_walk_is_uniform_and_may_stay():
    route = uniform_route([1, 4, 6, 7], 4000, 0, 0)
    counts = [route.stops.count(v) for v in (1, 4, 6, 7)]
    assert sum(counts) == 4000 and chisquare(counts).pvalue > 1e-3
    assert binomtest(sum(a == b for a, b in zip(route.stops, route.stops[1:])), 3999, 0.25).pvalue > 1e-3


# --- steps -----------------------------------------------------------------------------------------------------------
