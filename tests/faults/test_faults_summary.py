"""A trace in numbers: counts told by hand, and the measured contraction against spectra."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import pytest

from fedunlearn.faults import FaultSettings, survey
from fedunlearn.topology import spectrum_of


def surveyed(graph, rounds, *, rule="metropolis", seed=0, **keys):
    return survey(FaultSettings.model_validate(keys), graph, rule, seed, rounds)


@pytest.mark.parametrize(
    "graph", [nx.cycle_graph(8), nx.star_graph(6), nx.random_regular_graph(4, 12, seed=1), nx.path_graph(5)]
)
def test_without_faults_the_contraction_is_the_second_eigenvalue(graph):
    summary = surveyed(graph, 300, leave_probability=1e-12)
    assert summary.contraction(100)[-1] == pytest.approx(spectrum_of(graph, "metropolis").rho, abs=1e-6)
    assert summary.totals()["effective_gap"] == pytest.approx(1 - summary.contraction()[0])


def test_pairwise_gossip_shrinks_no_slower_than_its_expectation_says():
    """Jensen: the typical factor is at most the root of the one of the expected squared distance, E[W^T W]."""
    graph = nx.random_regular_graph(4, 20, seed=2)
    measured = surveyed(graph, 400, gossip="pairwise").contraction()[0]
    assert measured <= np.sqrt(spectrum_of(graph, "random-matching").rho) + 0.01
    assert measured > 0.5


def test_the_product_of_the_matrices_says_the_same():
    """For a balanced trace in which all are there, the factors multiply up to the norm of the product of all W_t."""
    from fault_worlds import course

    graph = nx.cycle_graph(7)
    it, product = course(graph, link_failure=0.3, seed=4), np.eye(7)
    for _ in range(60):
        product = it.step().mixed.matrices[0].toarray() @ product
    largest = np.linalg.norm(product - 1 / 7, 2)
    measured = np.prod(surveyed(graph, 60, seed=4, link_failure=0.3).columns["disagreement"])
    assert measured <= largest * (1 + 1e-9)  # probes cannot stay longer apart than the worst vector
    assert measured >= largest / 10  # a constant: how much of the probes points that way


def test_a_partition_stops_the_mixing_and_healing_starts_it_again():
    summary = surveyed(nx.barbell_graph(5, 0), 90, partitions=[{"begin": 30, "end": 60, "parts": 2}])
    before, during, after = summary.contraction(30)
    assert during > 0.999 and before < 0.99 and after < 0.99
    assert summary.columns["links_up"][29:31] == [1.0, 20 / 21] and summary.columns["links_up"][60] == 1.0


def test_exact_consensus_counts_as_such_and_the_measurement_goes_on():
    assert surveyed(nx.complete_graph(4), 5, leave_probability=1e-12).contraction()[0] == 0.0
    server = survey(FaultSettings(leave_probability=0.3), nx.cycle_graph(5), "exact-average", 0, 6)
    assert server.contraction(1)[:2] == [0.0, 0.0] and server.totals()["sent"] == 0


def test_counts_of_a_story():
    events = [{"round": 1, "kind": "leave", "nodes": [0]}, {"round": 3, "kind": "return", "nodes": [0]}]
    summary = surveyed(nx.cycle_graph(4), 5, events=events)
    columns = summary.columns
    assert columns["active"] == [1.0, 0.75, 0.75, 1.0, 1.0] == columns["here"]
    assert columns["adoptions"] == [0, 0, 0, 1, 0]
    assert columns["links_up"] == [1.0, 0.5, 0.5, 1.0, 1.0]
    assert columns["sent"] == [8, 4, 4, 8, 8]
    totals = summary.totals()
    assert (totals["rounds"], totals["active_mean"], totals["sent"], totals["adoptions"]) == (5, 0.9, 32, 1)
    json.dumps([columns, totals], allow_nan=False)


def test_messages_and_weights_are_counted():
    summary = surveyed(nx.complete_graph(12), 60, message_loss=0.2, max_delay=2, delay_probability=0.5)
    totals = summary.totals()
    assert totals["sent"] == 60 * 12 * 11
    assert totals["lost"] / totals["sent"] == pytest.approx(0.2, abs=0.02)
    assert totals["late"] / totals["sent"] == pytest.approx(0.8 * 0.5, abs=0.02)
    assert sum(summary.columns["lost_mass"]) == 0
    gone = surveyed(nx.complete_graph(12), 60, message_loss=0.2, on_loss="gone").columns["lost_mass"]
    assert np.mean(gone) > 0.1
    star = surveyed(nx.star_graph(9), 200, gossip="push").totals()
    assert star["node_weight_most"] > 3 * star["node_weight_least"]  # the hub's data count more under push
    assert surveyed(nx.cycle_graph(4), 0).totals() == {"rounds": 0}
