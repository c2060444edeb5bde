"""Formulas of spectra against all eigenvalues of the dense matrix; and no other graph is taken for one of theirs."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.topology import TopologySettings, build_graph, mixing_matrix, remove_vertex, spectrum, spectrum_of
from fedunlearn.topology.closed_form import eigenvalue_ends, laplacian_ends
from fedunlearn.topology.graphs import edge_array

KNOWN = [
    ("ring", (3, 4, 5, 12, 31)), ("path", (2, 3, 4, 9, 30)), ("star", (2, 3, 5, 20)), ("complete", (2, 3, 8)),
    ("hypercube", (2, 4, 8, 16, 64)), ("torus", (9, 12, 15, 16, 20, 36)), ("exponential", (2, 5, 8, 16, 23, 32)),
]  # fmt: skip
RULES = ("metropolis", "max-degree", "lazy-metropolis", "lazy-max-degree")


def check(graph: nx.Graph, rule: str) -> None:
    matrix = mixing_matrix(graph, rule)
    ends = eigenvalue_ends(graph, matrix)
    assert ends is not None
    values = np.linalg.eigvalsh(matrix.toarray())
    assert ends[0] == pytest.approx(1 - values[-2], abs=1e-12)
    assert ends[1] == pytest.approx(values[0], abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("generator", "size"), [(name, n) for name, sizes in KNOWN for n in sizes])
def test_against_all_eigenvalues(generator: str, size: int, rule: str) -> None:
    check(build_graph(TopologySettings(generator=generator), size, 0), rule)


@pytest.mark.parametrize("size", [4, 6, 12, 15, 16, 42])
def test_a_grid_where_all_weights_are_the_same(size: int) -> None:
    graph = build_graph(TopologySettings(generator="grid"), size, 0)
    check(graph, "max-degree")
    if size > 9:  # corners and sides weigh more by Metropolis' rule, and the formula does not hold
        assert eigenvalue_ends(graph, mixing_matrix(graph, "metropolis")) is None


@given(st.integers(3, 40), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_whatever_is_recognised_has_that_spectrum(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hops = rng.choice(np.arange(1, size // 2 + 1), size=min(3, size // 2), replace=False)
    for graph in (
        nx.circulant_graph(size, hops.tolist()),
        nx.relabel_nodes(nx.cycle_graph(size), dict(enumerate(rng.permutation(size).tolist()))),
        nx.random_labeled_tree(size, seed=seed),
        nx.gnp_random_graph(size, 0.4, seed=seed),
        nx.random_regular_graph(2, size, seed=seed),
    ):
        if not nx.is_connected(graph):
            assert laplacian_ends(edge_array(graph), size) is None
            continue
        found = spectrum_of(graph, "max-degree")
        values = np.linalg.eigvalsh(mixing_matrix(graph, "max-degree").toarray())
        assert found.rho == pytest.approx(np.abs(values[:-1]).max(), abs=1e-9)
        assert found.smallest == pytest.approx(values[0], abs=1e-9)


def test_a_graph_that_lost_a_vertex_or_an_edge_is_no_longer_known() -> None:
    graph = build_graph(TopologySettings(generator="torus"), 30, 0)
    assert eigenvalue_ends(graph, mixing_matrix(graph, "max-degree")) is not None
    graph.remove_edge(0, 1)
    assert eigenvalue_ends(graph, mixing_matrix(graph, "max-degree")) is None
    ring = build_graph(TopologySettings(generator="ring"), 10, 0)
    alive = np.ones(10, dtype=bool)
    less = remove_vertex(ring, 4, "path")
    alive[4] = False
    assert spectrum_of(less, "metropolis", alive) == spectrum(mixing_matrix(less, "metropolis", alive), alive)


@pytest.mark.parametrize("generator", ["ring", "torus", "hypercube", "exponential"])
def test_the_formula_and_the_iterations_agree_on_thousands(generator: str) -> None:
    graph = build_graph(TopologySettings(generator=generator), 4096, 0)
    known, computed = spectrum_of(graph, "metropolis"), spectrum(mixing_matrix(graph, "metropolis"))
    assert known.gap == pytest.approx(computed.gap, rel=1e-5)
    assert known.smallest == pytest.approx(computed.smallest, abs=1e-3)


def test_the_gap_of_a_very_long_ring_keeps_its_digits() -> None:
    exact = 4 / 3 * (math.pi / 10**5) ** 2 * (1 - (math.pi / 10**5) ** 2 / 3)
    assert spectrum_of(nx.cycle_graph(10**5), "metropolis").gap == pytest.approx(exact, rel=1e-12)
