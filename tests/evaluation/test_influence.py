"""Predicted influence is measured influence where later gradients do not change; otherwise to first order."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import all_rows, image_data, model_for, open_session, ring_network

from fedunlearn.evaluation.influence import Influence, measure_influence
from fedunlearn.network import TrainingSettings, train
from fedunlearn.network.training import local_steps
from fedunlearn.topology import mixing_matrix

DATA = image_data()


def follow(client: int = 2, rounds: int = 5, hosts: int = 1, mixing: str = "metropolis", name="softmax", **training):
    """Return the measured influence after two rounds of training, and the network's rows before and after measuring."""
    model, features = model_for(DATA, name, "unit" if name == "softmax" else "raw")
    with open_session(DATA, model, features, hosts=hosts) as session:
        settings = TrainingSettings(**{"rounds": 2, "lr": 0.5, **training})
        network = ring_network(session, mixing=mixing, momentum=settings.momentum > 0)
        train(network, settings)
        before, ledger = all_rows(network), network.ledger.totals()
        found = measure_influence(network, client, settings, rounds)
        assert network.ledger.totals() == ledger  # whoever measures sends nothing in the network's name
        np.testing.assert_array_equal(all_rows(network), before)
        return found, network


def test_the_prediction_is_the_power_of_the_mixing_matrix():
    found, network = follow(client=3, rounds=4)
    weights = mixing_matrix(network.graph, "metropolis").toarray()
    for k in range(5):
        np.testing.assert_allclose(found.predicted[k], np.linalg.matrix_power(weights, k)[:, 3], atol=1e-12)


@pytest.mark.parametrize("mixing", ["metropolis", "max-degree", "lazy-metropolis"])
@pytest.mark.parametrize("hosts", [1, 2])
def test_measured_equals_predicted_where_gradients_do_not_change(hosts, mixing):
    """With a tiny rate the trajectories stay so close that all later gradients are equal: what is left is mixing."""
    found, _ = follow(lr=1e-4, hosts=hosts, mixing=mixing)
    np.testing.assert_allclose(found.measured, found.predicted, atol=2e-3)
    assert found.rms_gap() < 1e-3


def test_measured_departs_from_predicted_with_the_size_of_the_steps():
    gaps = [follow(lr=lr)[0].rms_gap() for lr in (1e-4, 0.3, 3.0)]
    assert gaps[0] < gaps[1] < gaps[2]


def test_before_any_mixing_only_the_client_itself_differs():
    found, _ = follow(client=1)
    np.testing.assert_array_equal(found.measured[0], np.eye(6)[1])
    np.testing.assert_array_equal(found.predicted[0], np.eye(6)[1])


def test_measured_influence_by_hand():
    """One round of mixing two sets of rows, one with and one without the client's local steps."""
    model, features = model_for(DATA)
    settings = TrainingSettings(rounds=1, lr=0.5)
    with open_session(DATA, model, features) as session:
        network = ring_network(session)
        train(network, settings)
        found = measure_influence(network, 4, settings, 1)
        start = network.mean().astype(np.float32)
        network.write(start)
        local_steps(network, settings, 0)
        with_client = all_rows(network).astype(np.float64)
        without = with_client.copy()
        without[4] = start
        weights = mixing_matrix(network.graph, "metropolis").toarray()
        moved = np.linalg.norm(weights @ (with_client - without), axis=1)
        np.testing.assert_allclose(found.measured[1], moved / np.linalg.norm(with_client[4] - start), rtol=1e-4)


def test_momentum_and_federated_averaging_are_left_out_of_the_measurement():
    plain = follow(rounds=3, lr=1e-4)[0]
    other = follow(rounds=3, lr=1e-4, momentum=0.9)[0]
    np.testing.assert_allclose(other.measured, plain.measured, atol=5e-3)


def test_those_who_left_are_not_measured():
    model, features = model_for(DATA)
    with open_session(DATA, model, features) as session:
        settings = TrainingSettings(rounds=1, lr=1e-4)
        network = ring_network(session)
        train(network, settings)
        graph = network.graph.copy()
        graph.remove_edges_from(list(network.graph.edges(5)))
        graph.add_edge(4, 0)
        network.leave(5, graph)
        found = measure_influence(network, 1, settings, 4)
        assert np.isnan(found.measured[:, 5]).all() and (found.predicted[:, 5] == 0).all()
        np.testing.assert_allclose(found.measured[:, :5], found.predicted[:, :5], atol=2e-3)


def test_the_gap_is_a_root_mean_square_over_those_who_are_there():
    predicted = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    measured = np.array([[1.0, 0.0, np.nan], [0.4, 0.7, np.nan]])
    assert Influence(0, predicted, measured).rms_gap() == pytest.approx(np.sqrt((0.01 + 0.04) / 4))
