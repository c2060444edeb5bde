"""Predicted influence against matrix powers and against a change that is really injected."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.topology import influence, mixing_matrix, predicted_influence, random_matching, spectrum_of


@pytest.mark.parametrize("rule", ["metropolis", "max-degree", "lazy-metropolis", "lazy-max-degree", "exact-average"])
def test_equals_columns_of_matrix_powers(small_graph: nx.Graph, rule: str) -> None:
    dense = mixing_matrix(small_graph, rule).toarray()
    client = len(small_graph) // 2
    found = predicted_influence(small_graph, rule, client, 6)
    assert found.shape == (7, len(small_graph))
    for k in range(7):
        assert np.allclose(found[k], np.linalg.matrix_power(dense, k)[:, client], atol=1e-14)


def test_random_matching_uses_the_rounds_of_the_run() -> None:
    graph = nx.karate_club_graph()
    product = np.eye(34)
    for t in (5, 6, 7):
        product = random_matching(graph, 9, t).toarray() @ product
    found = predicted_influence(graph, "random-matching", 3, 3, seed=9, first_round=5)
    assert np.allclose(found[3], product[:, 3])
    assert predicted_influence(graph, "random-matching", 3, 0).shape == (1, 34)


def test_approaches_the_mean_at_rate_rho(small_graph: nx.Graph) -> None:
    rho, size = spectrum_of(small_graph, "metropolis").rho, len(small_graph)
    found = predicted_influence(small_graph, "metropolis", 0, 40)
    assert np.allclose(found.sum(axis=1), 1)
    for k, row in enumerate(found):
        assert np.abs(row - 1 / size).max() <= rho**k + 1e-12


def test_is_what_decentralized_sgd_does_with_a_changed_gradient() -> None:
    """x_{k+1} = W x_k - step * g_k with gradients held fixed, run twice, the second time with one gradient changed."""
    graph, client, changed, rounds, step = nx.cycle_graph(7), 2, 3, 9, 0.1
    rng = np.random.default_rng(0)
    matrix = mixing_matrix(graph, "metropolis")
    gradients = rng.normal(size=(rounds, 7))
    ends = []
    for extra in (0.0, 5.0):
        x = np.zeros(7)
        for k in range(rounds):
            g = gradients[k].copy()
            g[client] += extra if k == changed else 0.0
            x = matrix @ x - step * g
        ends.append(x)
    predicted = -step * 5.0 * influence(matrix, client, rounds - 1 - changed)[-1]
    assert np.allclose(ends[1] - ends[0], predicted, atol=1e-14)


def test_absent_vertices_receive_nothing() -> None:
    alive = np.arange(6) != 4
    for rule in ("metropolis", "exact-average"):
        found = predicted_influence(nx.complete_graph(6), rule, 0, 3, alive)
        assert np.all(found[:, 4] == 0) and np.allclose(found.sum(axis=1), 1)


def test_exact_average_needs_no_matrix() -> None:
    found = predicted_influence(nx.star_graph(9999), "exact-average", 5, 2)
    assert np.all(found[1:] == 1e-4)


def test_errors() -> None:
    matrix = mixing_matrix(nx.cycle_graph(5), "metropolis")
    with pytest.raises(UserError, match="client 5 does not exist"):
        influence(matrix, 5, 1)
    with pytest.raises(UserError, match="already left"):
        predicted_influence(nx.cycle_graph(5), "metropolis", 1, 1, np.arange(5) != 1)
    with pytest.raises(ValueError, match="3 rounds"):
        influence([matrix, matrix], 0, 3)
    with pytest.raises(ValueError, match="no mixing matrix"):
        influence([], 0, 0)
