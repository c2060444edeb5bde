"""Spectra against numpy and against closed forms."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from fedunlearn.topology import mixing_matrix, spectrum, spectrum_of
from fedunlearn.topology.spectrum import DENSE_LIMIT, _gap, _slow_gap, _smallest


def truth(matrix: sparse.csr_array, alive: np.ndarray) -> np.ndarray:
    """Eigenvalues in ascending order by the general solver, which does not use symmetry."""
    return np.sort(np.linalg.eigvals(matrix.toarray()[np.ix_(alive, alive)]).real)


@pytest.mark.parametrize("rule", ["metropolis", "max-degree", "lazy-metropolis", "lazy-max-degree", "exact-average"])
def test_against_numpy_on_every_generator(small_graph: nx.Graph, rule: str) -> None:
    alive = np.ones(len(small_graph), dtype=bool)
    matrix = mixing_matrix(small_graph, rule)
    values = truth(matrix, alive)
    found = spectrum_of(small_graph, rule)
    other = values[:-1]
    assert found.rho == pytest.approx(np.abs(other).max() if len(other) else 0.0, abs=1e-9)
    assert found.gap == pytest.approx(1 - found.rho, abs=1e-15)
    assert found.smallest == pytest.approx(values[0], abs=1e-9)
    assert found.of == "W"
    assert spectrum(matrix) == spectrum(matrix, alive)


@given(st.integers(2, 12), st.integers(0, 10**6), st.data())
@settings(max_examples=60, deadline=None)
def test_absent_vertices_do_not_count(size: int, seed: int, data: st.DataObject) -> None:
    graph = nx.gnp_random_graph(size, 0.6, seed=seed)
    alive = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    alive[0] = True
    matrix = mixing_matrix(graph, "metropolis", alive)
    found = spectrum(matrix, alive)
    assert found == spectrum(matrix)
    others = truth(matrix, alive)[:-1]
    assert found.rho == pytest.approx(np.abs(others).max() if len(others) else 0.0, abs=1e-9)
    connected = nx.is_connected(graph.subgraph(np.flatnonzero(alive).tolist()))
    assert (found.rho < 1) == connected and math.isfinite(found.mixing_time) == connected


@pytest.mark.parametrize("n", [3, 8, 21, 50])
def test_closed_forms(n: int) -> None:
    turns = np.arange(1, n)
    ring = (1 + 2 * np.cos(2 * np.pi * turns / n)) / 3
    assert spectrum_of(nx.cycle_graph(n), "metropolis").rho == pytest.approx(np.abs(ring).max(), abs=1e-12)
    assert spectrum_of(nx.cycle_graph(n), "metropolis").smallest == pytest.approx(ring.min(), abs=1e-12)
    line = 1 - 2 * (1 - np.cos(np.pi * turns / n)) / 3
    assert spectrum_of(nx.path_graph(n), "max-degree").gap == pytest.approx(1 - np.abs(line).max(), abs=1e-12)
    full = spectrum_of(nx.complete_graph(n), "metropolis")
    assert (full.rho, full.gap, full.mixing_time) == (0.0, 1.0, 1.0)
    assert spectrum_of(nx.complete_graph(n), "lazy-metropolis").rho == pytest.approx(0.5)
    star = spectrum_of(nx.star_graph(n - 1), "metropolis")
    assert star.gap == pytest.approx(1 / n if n > 2 else 1)


@pytest.mark.parametrize("dimension", [1, 2, 5, 7])
def test_hypercube(dimension: int) -> None:
    graph = nx.convert_node_labels_to_integers(nx.hypercube_graph(dimension))
    values = 1 - 2 * np.arange(1, dimension + 1) / (dimension + 1)
    found = spectrum_of(graph, "max-degree")
    assert found.rho == pytest.approx(np.abs(values).max(), abs=1e-12)
    assert found.smallest == pytest.approx(values.min(), abs=1e-12)


def test_one_vertex_and_exact_average() -> None:
    one = spectrum_of(nx.empty_graph(1), "metropolis")
    assert (one.rho, one.gap, one.smallest, one.mixing_time) == (0.0, 1.0, 1.0, 0.0)
    many = spectrum_of(nx.path_graph(5000), "exact-average")
    assert (many.rho, many.gap, many.smallest, many.mixing_time) == (0.0, 1.0, 0.0, 1.0)
    assert spectrum_of(nx.empty_graph(1), "exact-average") == one


def test_random_matching_says_what_it_is() -> None:
    assert spectrum_of(nx.cycle_graph(8), "random-matching").of == "E[W^T W]"


def test_mixing_time_keeps_its_promise(small_graph: nx.Graph) -> None:
    found = spectrum_of(small_graph, "metropolis")
    size = len(small_graph)
    power = np.linalg.matrix_power(mixing_matrix(small_graph, "metropolis").toarray(), int(found.mixing_time))
    assert np.abs(power - 1 / size).max() <= 1 / size + 1e-12
    if found.rho > 0:
        assert found.rho ** (found.mixing_time - 1) > 1 / size


@pytest.mark.parametrize(
    "graph",
    [
        nx.cycle_graph(300),
        nx.convert_node_labels_to_integers(nx.grid_2d_graph(12, 30)),
        nx.random_regular_graph(4, 400, seed=1),
        nx.complete_bipartite_graph(40, 60),
        nx.star_graph(200),
    ],
)
def test_iterative_solvers_agree_with_the_dense_one(graph: nx.Graph) -> None:
    matrix = mixing_matrix(graph, "metropolis")
    values = np.linalg.eigvalsh(matrix.toarray())
    assert _slow_gap(matrix) == pytest.approx(1 - values[-2], rel=1e-6)
    assert _gap(matrix) == pytest.approx(1 - values[-2], rel=1e-5)
    assert _smallest(matrix, 1e-9) == pytest.approx(values[0], abs=1e-8)


@pytest.mark.parametrize(
    ("graph", "rho"),
    [
        (nx.cycle_graph(3001), (1 + 2 * math.cos(2 * math.pi / 3001)) / 3),
        (nx.star_graph(2500), 1 - 1 / 2501),
        (nx.convert_node_labels_to_integers(nx.hypercube_graph(11)), 10 / 12),
        (nx.complete_bipartite_graph(1010, 1020), None),
    ],
)
def test_large_graphs(graph: nx.Graph, rho: float | None) -> None:
    assert len(graph) > DENSE_LIMIT
    found = spectrum_of(graph, "max-degree")
    if rho is None:
        # Bipartite K_{m,n} with weights 1/(1+n): the Laplacian's largest eigenvalue m + n decides.
        rho = abs(1 - 2030 / 1021)
        assert found.smallest == pytest.approx(-rho, abs=1e-8)
    assert found.gap == pytest.approx(1 - rho, rel=1e-5)


def test_large_disconnected_graph_never_mixes() -> None:
    graph = nx.disjoint_union(nx.cycle_graph(1500), nx.cycle_graph(1500))
    found = spectrum_of(graph, "metropolis")
    assert (found.rho, found.gap) == (1.0, 0.0) and math.isinf(found.mixing_time)
