"""Generators: the right graph, the right sizes, and one clear sentence otherwise."""

from __future__ import annotations

import math
from typing import get_args

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.randomness import generator
from fedunlearn.topology import (
    TopologySettings,
    available,
    build_graph,
    influence,
    mixing_matrix,
    node_count,
    random_matching,
    spectrum,
)
from fedunlearn.topology.generators import sides
from fedunlearn.topology.random_graphs import bernoulli_positions, equal_blocks, stochastic_block_edges, triangle_pairs
from fedunlearn.topology.settings import Generator

EQUAL = {
    "ring": lambda n: nx.cycle_graph(n),
    "path": lambda n: nx.path_graph(n),
    "star": lambda n: nx.star_graph(n - 1),
    "complete": lambda n: nx.complete_graph(n),
    "tree": lambda n: nx.full_rary_tree(2, n),
    "grid": lambda n: nx.grid_2d_graph(*sides(n)),
    "torus": lambda n: nx.grid_2d_graph(*sides(n), periodic=True),
    "hypercube": lambda n: nx.hypercube_graph(int(math.log2(n))),
    "exponential": lambda n: nx.circulant_graph(n, [2**k for k in range(20) if 2**k < n]),
}


def test_every_generator_is_described_and_usable(small_graph: nx.Graph) -> None:
    assert set(available()) == set(get_args(Generator)) - {"file"}
    assert sorted(small_graph) == list(range(len(small_graph)))
    assert nx.is_connected(small_graph)
    assert nx.number_of_selfloops(small_graph) == 0


@pytest.mark.parametrize("name", sorted(EQUAL))
@pytest.mark.parametrize("nodes", [16, 64])
def test_deterministic_generators_match_networkx(name: str, nodes: int) -> None:
    graph = build_graph(TopologySettings(generator=name), nodes, seed=0)
    truth = nx.convert_node_labels_to_integers(EQUAL[name](nodes), ordering="sorted")
    assert set(map(frozenset, graph.edges)) == set(map(frozenset, truth.edges))


@pytest.mark.parametrize(
    "name", ["erdos-renyi", "watts-strogatz", "random-regular", "stochastic-block", "random-geometric"]
)
def test_random_graphs_follow_the_seed(name: str) -> None:
    def edges(run_seed: int, seed: int | None = None) -> list[tuple[int, int]]:
        return sorted(build_graph(TopologySettings(generator=name, seed=seed), 40, run_seed).edges)

    assert edges(1) == edges(1)
    assert edges(1) != edges(2)
    assert edges(1, seed=5) == edges(2, seed=5)


def test_random_regular_and_small_world_degrees() -> None:
    regular = build_graph(TopologySettings(generator="random-regular", degree=6), 30, 0)
    assert {d for _, d in regular.degree} == {6}
    lattice = build_graph(TopologySettings(probability=0.0, degree=6), 30, 0)
    assert set(map(frozenset, lattice.edges)) == set(map(frozenset, nx.circulant_graph(30, [1, 2, 3]).edges))


def test_random_geometric_joins_exactly_the_close_pairs() -> None:
    graph = build_graph(TopologySettings(generator="random-geometric", radius=0.4), 50, 1)
    place = nx.get_node_attributes(graph, "pos")
    for u in graph:
        for v in range(u):
            assert graph.has_edge(u, v) == (math.dist(place[u], place[v]) <= 0.4)


@given(count=st.integers(0, 10**12), index=st.integers(0, 10**12))
def test_triangle_pairs_number_all_pairs(count: int, index: int) -> None:
    (low, high), (low_2, high_2) = triangle_pairs(np.array([index, index + 1]))
    assert 0 <= low < high and high * (high - 1) // 2 + low == index
    assert (low_2, high_2) == ((low + 1, high) if low + 1 < high else (0, high + 1))


@given(count=st.integers(0, 3000), probability=st.floats(0, 1), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_bernoulli_positions_are_distinct_and_in_range(count: int, probability: float, seed: int) -> None:
    found = bernoulli_positions(count, probability, generator(seed, "test"))
    assert np.all(np.diff(found) > 0)
    assert len(found) == 0 or (found[0] >= 0 and found[-1] < count)
    # Six standard deviations: the number of successes is binomial.
    assert abs(len(found) - count * probability) <= 6 * math.sqrt(count * probability * (1 - probability)) + 7


def test_bernoulli_positions_are_uniform() -> None:
    rng = generator(0, "test")
    hits = np.zeros(50)
    for _ in range(4000):
        hits[bernoulli_positions(50, 0.3, rng)] += 1
    assert np.all(np.abs(hits - 1200) < 5 * math.sqrt(4000 * 0.3 * 0.7))


def test_stochastic_blocks_have_the_stated_densities() -> None:
    sizes = equal_blocks(401, 4)
    assert sizes.tolist() == [101, 100, 100, 100]
    edges = stochastic_block_edges(sizes, 0.3, 0.02, generator(0, "test"))
    assert len({tuple(sorted(e)) for e in edges.tolist()}) == len(edges)
    block = np.repeat(np.arange(4), sizes)
    same = block[edges[:, 0]] == block[edges[:, 1]]
    inside = int((sizes * (sizes - 1) // 2).sum())
    outside = 401 * 400 // 2 - inside
    assert abs(same.sum() - 0.3 * inside) < 5 * math.sqrt(inside * 0.21)
    assert abs((~same).sum() - 0.02 * outside) < 5 * math.sqrt(outside * 0.0196)


@pytest.mark.parametrize(
    ("keys", "nodes", "words"),
    [
        ({"generator": "hypercube"}, 20, ["power of two", "16 and 32"]),
        ({"generator": "torus"}, 22, ["rows x columns", "21 and 24"]),
        ({"generator": "grid"}, 7, ["rows x columns", "6 and 8"]),
        ({"generator": "ring"}, 2, ["at least 3", "3)"]),
        ({"generator": "star"}, 1, ["at least 2", "not 1 node "]),
        ({"generator": "random-regular", "degree": 3}, 9, ["degree = 3", "8 and 10"]),
        ({"generator": "watts-strogatz", "degree": 5}, 20, ["even degree"]),
        ({"generator": "watts-strogatz"}, 4, ["more nodes than degree", "5)"]),
        ({"generator": "barabasi-albert", "attachments": 9}, 5, ["attachments = 9", "10)"]),
        ({"generator": "stochastic-block", "blocks": 9}, 5, ["blocks = 9"]),
        ({"generator": "single"}, 3, ["1 nodes", "3 train clients"]),
        ({"generator": "ring", "nodes": 10}, 12, ["10 nodes", "12 train clients"]),
        ({"generator": "complete"}, 100_000, ["4,999,950,000 edges", "1,863 GiB"]),
        ({"generator": "erdos-renyi", "probability": 0.0}, 5, ["isolated nodes 0, 1, 2"]),
        ({"generator": "erdos-renyi", "probability": 0.001}, 1000, ["isolated"]),
        ({"generator": "stochastic-block", "blocks": 2, "probability_between": 0.0}, 20, ["disconnected", "10, 10"]),
        ({"generator": "random-geometric", "radius": 0.001}, 20, ["isolated"]),
        ({"generator": "file"}, 20, ["topology.path"]),
    ],
)  # fmt: skip
def test_impossible_graphs_are_refused_in_one_sentence(keys: dict, nodes: int, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        build_graph(TopologySettings(**keys), nodes, 0)
    text = str(error.value)
    assert "\n" not in text and "topology" in text
    for word in words:
        assert word in text + " "


def test_the_suggested_sizes_work() -> None:
    for name, nodes in [("hypercube", [16, 32]), ("torus", [21, 24]), ("grid", [6, 8])]:
        for n in nodes:
            assert len(build_graph(TopologySettings(generator=name), n, 0)) == n


def test_rare_disconnected_draws_are_drawn_again() -> None:
    for seed in range(20):
        assert nx.is_connected(build_graph(TopologySettings(generator="erdos-renyi", probability=0.12), 30, seed))


def test_node_count_is_what_the_settings_fix() -> None:
    assert node_count(TopologySettings()) is None
    assert node_count(TopologySettings(nodes=50)) == 50
    assert node_count(TopologySettings(generator="single")) == 1
    assert node_count(TopologySettings(generator="file", path="karate-club")) == 34
    with pytest.raises(UserError, match="34 nodes"):
        node_count(TopologySettings(generator="file", path="karate-club", nodes=30))


def test_a_hundred_thousand_nodes_need_no_dense_matrix_anywhere() -> None:
    """A dense matrix of this size would take 80 GB, a loop over pairs hours."""
    graph = build_graph(TopologySettings(), 100_000, 0)
    assert len(graph) == 100_000 and graph.number_of_edges() == 200_000
    weights = mixing_matrix(graph, "metropolis")
    assert weights.nnz == 500_000
    assert random_matching(graph, 0, 0).nnz < 200_000
    assert 0.99 < spectrum(weights).rho < 1
    assert np.allclose(influence(weights, 7, 20).sum(axis=1), 1)
