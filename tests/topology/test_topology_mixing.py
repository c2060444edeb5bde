"""Mixing matrices against their definitions, and the laws that every one of them obeys."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from fedunlearn.topology import (
    changes_every_round,
    check_doubly_stochastic,
    mixing_matrix,
    needs_matrix,
    random_matching,
)
from fedunlearn.topology.mixing import RULES

FIXED = [rule for rule in RULES if rule != "random-matching"]


def dense_metropolis(graph: nx.Graph, alive: np.ndarray) -> np.ndarray:
    """The Metropolis-Hastings matrix straight from its definition, entry by entry."""
    kept = graph.subgraph(np.flatnonzero(alive).tolist())
    matrix = np.zeros((len(graph), len(graph)))
    for i in kept:
        for j in kept[i]:
            matrix[i, j] = 1 / (1 + max(kept.degree(i), kept.degree(j)))
        matrix[i, i] = 1 - matrix[i].sum()
    return matrix


def assert_mixes(matrix: sparse.csr_array, alive: np.ndarray, graph: nx.Graph | None) -> None:
    """The laws, by dense arithmetic that shares nothing with the library's own check."""
    dense = matrix.toarray()
    assert matrix.dtype == np.float64 and matrix.has_sorted_indices
    assert np.array_equal(dense, dense.T)
    assert np.abs(dense.sum(axis=0) - alive).max() <= 1e-12
    assert np.abs(dense.sum(axis=1) - alive).max() <= 1e-12
    assert dense.min() >= 0 and np.all(dense[~alive] == 0)
    if graph is not None:
        for i, j in np.argwhere(dense):
            assert i == j or graph.has_edge(int(i), int(j))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_on_every_generator(small_graph: nx.Graph, rule: str) -> None:
    rng = np.random.default_rng(0)
    for kept in (1.0, 0.7):
        alive = rng.random(len(small_graph)) < kept
        alive[0] = True
        build = (
            random_matching(small_graph, 1, 0, alive)
            if rule == "random-matching"
            else mixing_matrix(small_graph, rule, alive)
        )
        assert_mixes(build, alive, None if rule == "exact-average" else small_graph)


@st.composite
def graphs_with_absences(draw: st.DrawFn) -> tuple[nx.Graph, np.ndarray]:
    """Any simple graph of at most 12 vertices, connected or not, with any non-empty set of alive vertices."""
    size = draw(st.integers(1, 12))
    pairs = [(i, j) for j in range(size) for i in range(j)]
    graph = nx.empty_graph(size)
    graph.add_edges_from(draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else [])
    alive = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    alive[draw(st.integers(0, size - 1))] = True
    return graph, alive


@given(graphs_with_absences(), st.sampled_from(FIXED))
@settings(max_examples=150, deadline=None)
def test_any_graph_and_any_absence(case: tuple[nx.Graph, np.ndarray], rule: str) -> None:
    graph, alive = case
    matrix = mixing_matrix(graph, rule, alive)
    assert_mixes(matrix, alive, None if rule == "exact-average" else graph)
    if rule.startswith("lazy-"):
        fast = mixing_matrix(graph, rule.removeprefix("lazy-"), alive).toarray()
        assert np.allclose(matrix.toarray(), (fast + np.diag(alive.astype(float))) / 2, atol=1e-15)
        assert np.linalg.eigvalsh(matrix.toarray()).min() > -1e-12


@given(graphs_with_absences())
@settings(max_examples=100, deadline=None)
def test_metropolis_is_its_definition(case: tuple[nx.Graph, np.ndarray]) -> None:
    graph, alive = case
    assert np.allclose(mixing_matrix(graph, "metropolis", alive).toarray(), dense_metropolis(graph, alive), atol=1e-15)


def test_max_degree_weights() -> None:
    matrix = mixing_matrix(nx.star_graph(4), "max-degree").toarray()
    assert np.allclose(matrix[0], 0.2) and np.allclose(np.diag(matrix)[1:], 0.8)


def test_exact_average_and_its_flag() -> None:
    alive = np.array([True, False, True, True])
    matrix = mixing_matrix(nx.path_graph(4), "exact-average", alive).toarray()
    assert np.allclose(matrix, np.outer(alive, alive) / 3)
    assert [needs_matrix(rule) for rule in RULES] == [True] * 5 + [False]
    assert [changes_every_round(rule) for rule in RULES] == [False] * 4 + [True, False]
    with pytest.raises(ValueError, match="dense"):
        mixing_matrix(nx.empty_graph(2001), "exact-average")


def test_edges_in_any_order_give_the_same_bits() -> None:
    graph = nx.les_miserables_graph()
    graph = nx.convert_node_labels_to_integers(graph)
    shuffled = nx.Graph()
    shuffled.add_nodes_from(reversed(range(len(graph))))
    shuffled.add_edges_from((v, u) for u, v in reversed(list(graph.edges)))
    for rule in FIXED:
        a, b = mixing_matrix(graph, rule), mixing_matrix(shuffled, rule)
        assert np.array_equal(a.data, b.data) and np.array_equal(a.indices, b.indices)


def test_a_hub_of_a_hundred_thousand_passes_the_check() -> None:
    matrix = mixing_matrix(nx.star_graph(100_000), "metropolis")
    assert matrix.nnz == 3 * 100_000 + 1
    assert abs(float(np.sum(matrix.data[: matrix.indptr[1]], dtype=np.longdouble)) - 1) < 1e-12


@pytest.mark.parametrize(
    "wrong",
    [
        np.array([[0.5, 0.5], [0.4, 0.6]]),
        np.array([[0.6, 0.5], [0.5, 0.6]]),
        np.array([[1.2, -0.2], [-0.2, 1.2]]),
        np.array([[1.0, 0.0], [0.0, 0.0]]),
    ],
)
def test_the_check_refuses_wrong_matrices(wrong: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        check_doubly_stochastic(sparse.csr_array(wrong))


def test_misuse_is_an_error() -> None:
    with pytest.raises(ValueError, match="did you mean 'metropolis'"):
        mixing_matrix(nx.path_graph(3), "metropolitan")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="random_matching"):
        mixing_matrix(nx.path_graph(3), "random-matching")
    with pytest.raises(ValueError, match="alive"):
        mixing_matrix(nx.path_graph(3), "metropolis", np.zeros(3, dtype=bool))
    with pytest.raises(ValueError, match="bool"):
        mixing_matrix(nx.path_graph(3), "metropolis", np.ones(2, dtype=bool))
