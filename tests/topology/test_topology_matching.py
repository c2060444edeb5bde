"""Random matchings: valid, maximal, the greedy one, and their expectation against an exhaustive sum."""

from __future__ import annotations

from itertools import permutations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.randomness import keys
from fedunlearn.topology import expected_matching, random_matching, spectrum, spectrum_of
from fedunlearn.topology.graphs import edge_array
from fedunlearn.topology.matching import matching_waves


def greedy(edges: np.ndarray, order: np.ndarray | tuple[int, ...]) -> list[int]:
    """The greedy matching, one edge after the other."""
    taken: set[int] = set()
    chosen = []
    for e in order:
        u, v = map(int, edges[e])
        if u not in taken and v not in taken:
            taken |= {u, v}
            chosen.append(int(e))
    return sorted(chosen)


def test_every_matching_is_a_maximal_one(small_graph: nx.Graph) -> None:
    for round_ in range(5):
        matrix = random_matching(small_graph, 7, round_)
        pairs = {(i, j) for i, j in np.argwhere(matrix.toarray() > 0).tolist() if i < j}
        assert nx.is_maximal_matching(small_graph, pairs)
        assert np.allclose((matrix.T @ matrix).toarray(), matrix.toarray(), atol=1e-15)


@given(st.integers(2, 14), st.integers(0, 10**6), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_parallel_rounds_give_the_sequential_greedy_matching(size: int, seed: int, distinct: int) -> None:
    edges = edge_array(nx.gnp_random_graph(size, 0.5, seed=seed))
    priority = keys(seed, "priority", np.arange(len(edges)))
    if distinct:
        priority = priority % np.uint64(distinct)  # ties, which go by edge number
    order = np.argsort(priority, kind="stable")
    waves = matching_waves(edges, priority, size)
    assert sorted(e for wave in waves for e in wave.tolist()) == greedy(edges, order)


def test_rounds_and_seeds_differ_and_repeat() -> None:
    graph = nx.cycle_graph(30)
    draws = [random_matching(graph, seed, t).toarray() for seed in (0, 1) for t in (0, 1)]
    assert all(not np.array_equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
    assert np.array_equal(draws[0], random_matching(graph, 0, 0).toarray())


def test_a_departure_leaves_matchings_elsewhere_untouched() -> None:
    """Two parts without an edge between them: what happens in one does not change the draws of the other."""
    graph = nx.disjoint_union(nx.complete_graph(6), nx.complete_graph(7))
    alive = np.ones(13, dtype=bool)
    alive[[0, 3]] = False
    for t in range(10):
        whole, rest = random_matching(graph, 5, t).toarray(), random_matching(graph, 5, t, alive).toarray()
        assert np.array_equal(whole[6:, 6:], rest[6:, 6:])
        assert np.all(rest[[0, 3]] == 0)


@pytest.mark.parametrize("graph", [nx.path_graph(4), nx.cycle_graph(5), nx.star_graph(4), nx.complete_graph(4)])
def test_expectation_against_all_orders_of_the_edges(graph: nx.Graph) -> None:
    edges = edge_array(graph)
    orders = list(permutations(range(len(edges))))
    chance = np.zeros(len(edges))
    for order in orders:
        chance[greedy(edges, order)] += 1 / len(orders)
    exact = np.eye(len(graph))
    for (u, v), p in zip(edges.tolist(), chance):
        unit = np.zeros(len(graph))
        unit[u], unit[v] = 1, -1
        exact -= 0.5 * p * np.outer(unit, unit)
    estimate = expected_matching(graph, 0, draws=4000).toarray()
    assert np.abs(estimate - exact).max() < 5 * 0.5 / np.sqrt(4000)
    values = np.linalg.eigvalsh(exact)
    assert spectrum_of(graph, "random-matching").rho == pytest.approx(values[-2], abs=0.05)


def test_expectation_agrees_with_the_mean_of_the_rounds() -> None:
    graph = nx.karate_club_graph()
    alive = np.arange(34) != 5
    mean = sum(random_matching(graph, 2, t, alive).toarray() for t in range(2000)) / 2000
    assert np.abs(expected_matching(graph, 2, alive, draws=2000).toarray() - mean).max() < 6 * 0.25 / np.sqrt(2000)


@pytest.mark.parametrize("leaves", [5, 1000])
def test_star_is_exact_however_rare_its_edges_are(leaves: int) -> None:
    """Every leaf is matched with probability 1/leaves, so E[W] = I - L / (2 leaves) with Laplacian eigenvalue 1."""
    found = spectrum_of(nx.star_graph(leaves), "random-matching")
    assert found.gap == pytest.approx(1 / (2 * leaves), rel=1e-9)


@given(st.integers(2, 10), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_even_one_draw_gives_a_doubly_stochastic_estimate(size: int, seed: int) -> None:
    graph = nx.gnp_random_graph(size, 0.6, seed=seed)
    matrix = expected_matching(graph, seed, draws=1)
    dense = matrix.toarray()
    assert dense.min() >= 0 and np.allclose(dense.sum(axis=0), 1) and np.array_equal(dense, dense.T)
    assert (spectrum(matrix).rho < 1) == nx.is_connected(graph)


def test_squared_distance_to_consensus_shrinks_as_predicted() -> None:
    """E|x_1 - mean|^2 = x^T E[W^T W] x for centred x."""
    graph = nx.cycle_graph(9)
    x = np.arange(9.0) - 4
    after = [np.sum((random_matching(graph, 0, t) @ x) ** 2) for t in range(2000)]
    error = 5 * np.std(after) / np.sqrt(2000)
    assert np.mean(after) == pytest.approx(x @ (expected_matching(graph, 1, draws=4000) @ x), abs=error)


def test_graph_without_alive_edges_matches_nobody() -> None:
    assert np.array_equal(random_matching(nx.empty_graph(1), 0, 0).toarray(), [[1.0]])
    assert np.array_equal(expected_matching(nx.empty_graph(3), 0).toarray(), np.eye(3))
