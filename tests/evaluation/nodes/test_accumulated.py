"""Accumulated influence: powers of the mixing matrix added up by hand, and two trainings with tiny steps."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from worlds import image_data, model_for, open_session, ring_network

from fedunlearn.errors import UserError
from fedunlearn.evaluation.evaluator import Snapshot
from fedunlearn.evaluation.nodes.accumulated import accumulated_influence, flat, log_slope, rank_correlation, scaled_to
from fedunlearn.evaluation.nodes.reach import node_distances
from fedunlearn.network import TrainingSettings, train
from fedunlearn.network.schedule import learning_rate
from fedunlearn.topology import mixing_matrix, random_matching

DATA = image_data()
COUNTS = np.array([10, 33, 64, 1, 20, 7])
GRAPH = nx.cycle_graph(6)
GRAPH.add_edge(0, 3)


@pytest.mark.parametrize("mixing", ["metropolis", "max-degree", "lazy-metropolis"])
@pytest.mark.parametrize("recipe", [{}, {"local_steps": 4}, {"local_epochs": 3, "final_rounds": 2, "batch": 16}])
def test_it_is_the_sum_of_powers_of_the_mixing_matrix(mixing, recipe):
    """c_j = sum_k eta_k S [W^(T-k)]_ju with S local steps of the client in a round."""
    training = TrainingSettings(**{"rounds": 6, "lr": 0.3, **recipe})
    client = 1  # 33 samples: two batches of 32, three of 16
    steps = training.local_steps or training.local_epochs * (3 if training.batch == 16 else 2)
    weights = mixing_matrix(GRAPH, mixing).toarray()
    found = accumulated_influence(GRAPH, mixing, client, training, COUNTS, [0, 1, 6])
    assert (found[0] == 0).all()
    np.testing.assert_allclose(found[1], learning_rate(training, 0) * steps * weights[:, client], atol=1e-14)
    powers = [learning_rate(training, k) * steps * np.linalg.matrix_power(weights, 6 - k)[:, client] for k in range(6)]
    np.testing.assert_allclose(found[2], sum(powers), atol=1e-14)


def test_momentum_adds_up_what_a_constant_gradient_makes_of_it():
    """After n steps a velocity of constant gradients of 1 is (1 - m^n)/(1 - m); it is never mixed."""
    training = TrainingSettings(rounds=5, lr=0.2, momentum=0.9)
    weights, expected = mixing_matrix(GRAPH, "metropolis").toarray(), np.zeros(6)
    for k in range(5):
        moved = sum(0.2 * (1 - 0.9**n) / 0.1 for n in (2 * k + 1, 2 * k + 2))
        expected += moved * np.linalg.matrix_power(weights, 5 - k)[:, 1]
    (found,) = accumulated_influence(GRAPH, "metropolis", 1, training, COUNTS, [5])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_l2_term_is_not_linearised_away(momentum):
    """The recipe on one number a node, step by step in plain Python, with as many steps as each node takes."""
    training = TrainingSettings(rounds=3, lr=0.5, l2=0.1, batch=8, momentum=momentum)
    weights, held, velocity = mixing_matrix(GRAPH, "metropolis").toarray(), [0.0] * 6, [0.0] * 6
    for _ in range(3):
        for node in range(6):
            for _ in range(int(np.ceil(COUNTS[node] / 8))):
                gradient = (-1.0 if node == 2 else 0.0) + 0.1 * held[node]
                velocity[node] = momentum * velocity[node] + gradient
                held[node] -= 0.5 * velocity[node]
        held = list(weights @ held)
    (found,) = accumulated_influence(GRAPH, "metropolis", 2, training, COUNTS, [3])
    np.testing.assert_allclose(found, held, rtol=1e-12)


def test_random_matchings_are_those_of_the_seed():
    training = TrainingSettings(rounds=3, lr=1.0, batch=64)
    alive, expected = np.ones(6, bool), np.zeros(6)
    for k in range(3):
        expected[4] += 1.0
        expected = random_matching(GRAPH, 11, k, alive) @ expected
    (found,) = accumulated_influence(GRAPH, "random-matching", 4, training, COUNTS, [3], seed=11)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    assert not np.allclose(found, accumulated_influence(GRAPH, "random-matching", 4, training, COUNTS, [3], seed=12)[0])


@pytest.mark.parametrize(
    ("mixing", "algorithm", "graph"),
    [("exact-average", "dsgd", GRAPH), ("metropolis", "fedavg", GRAPH), ("metropolis", "dsgd", nx.complete_graph(6))],
)
def test_where_everybody_hears_everybody_the_profile_is_flat(mixing, algorithm, graph):
    training = TrainingSettings(rounds=4, lr=0.5, batch=64, algorithm=algorithm)
    (found,) = accumulated_influence(graph, mixing, 2, training, COUNTS, [4])
    np.testing.assert_allclose(found, np.full(6, 4 * 0.5 / 6), rtol=1e-12)
    assert flat(found)
    with pytest.raises(UserError, match="same at all nodes"):
        rank_correlation(found, np.arange(6.0))


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 12), st.integers(0, 1000), st.integers(1, 8), st.floats(0, 0.95))
def test_mixing_moves_influence_and_makes_none(nodes, seed, rounds, momentum):
    """Without l2 the sum over nodes is what the client's own steps added, on every graph."""
    graph = nx.gnp_random_graph(nodes, 0.4, seed=seed)
    training = TrainingSettings(rounds=rounds, lr=0.1, local_steps=2, momentum=momentum)
    (found,) = accumulated_influence(graph, "metropolis", 0, training, np.full(nodes, 5), [rounds])
    steps = 2 * rounds
    own = sum(0.1 * sum(momentum**i for i in range(n)) for n in range(1, steps + 1))
    assert found.sum() == pytest.approx(own)
    assert (found >= 0).all()
    reached = nx.single_source_shortest_path_length(graph, 0)
    assert all((found[j] > 0) == (j in reached and reached[j] <= rounds) for j in range(nodes))


@pytest.mark.parametrize(
    "recipe",
    [{}, {"momentum": 0.9}, {"final_rounds": 3, "final_factor": 5.0}, {"mixing": "random-matching"},
     {"algorithm": "fedavg"}],
    ids=str,
)  # fmt: skip
def test_two_trainings_with_tiny_steps_differ_by_what_is_predicted(recipe):
    """The second lacks all samples of client 2, which stays in the graph: with tiny full-batch steps no other gradient
    changes, and the distance is the predicted influence times one number."""
    recipe = dict(recipe)
    mixing = recipe.pop("mixing", "metropolis")
    training = TrainingSettings(**{"rounds": 7, "lr": 1e-5, "batch": 64, **recipe})
    model, features = model_for(DATA)
    with open_session(DATA, model, features) as session:
        kwargs = {"momentum": training.momentum > 0}
        network = ring_network(session, mixing=mixing, **kwargs)
        lacking = ring_network(session, "lacking", mixing=mixing, deleted=DATA.train_rows(2), **kwargs)
        counts = np.array([len(DATA.train_rows(i)) for i in range(6)])
        for net in (network, lacking):
            train(net, training)
        measured = node_distances(Snapshot(None, None, network), Snapshot(None, None, lacking))
        (found,) = accumulated_influence(network.graph, mixing, 2, training, counts, [7], session.seed)
    tolerance = 1e-3
    if training.algorithm == "fedavg":
        assert flat(found) and np.ptp(measured) == 0
        return
    np.testing.assert_allclose(scaled_to(found, measured), measured, rtol=tolerance, atol=1e-3 * measured.max())
    assert rank_correlation(found, measured) > 0.8 or mixing == "random-matching"
    assert np.ptp(measured) > 0.2 * measured.max()  # a flat profile would agree with anything


def test_a_later_step_size_counts_in_the_prediction():
    """The late rounds have travelled less: with larger steps at the end the client's neighbours hold more of it."""
    plain, late = (TrainingSettings(rounds=10, lr=0.1, final_rounds=2, final_factor=f) for f in (1.0, 10.0))
    ring = nx.cycle_graph(12)
    near = [
        found[1] / found[6]
        for found in (accumulated_influence(ring, "metropolis", 0, t, np.full(12, 9), [10])[0] for t in (plain, late))
    ]
    assert near[1] > 2 * near[0]


def test_slope_and_order_of_known_profiles():
    predicted = np.array([1.0, 0.5, 0.25, 0.125, 0.0, 0.3])
    measured = np.array([7.0, 7 * 0.5**1.5, 7 * 0.25**1.5, 7 * 0.125**1.5, 0.1, np.nan])
    assert log_slope(predicted, measured) == pytest.approx(1.5)
    assert rank_correlation(predicted, measured) == pytest.approx(spearmanr(predicted[:5], measured[:5])[0])
    assert rank_correlation(predicted, -predicted) == pytest.approx(-1.0)


def test_profiles_scaled_to_one_mean():
    predicted, measured = np.array([4.0, 2.0, 1.0]), np.array([np.nan, 30.0, 30.0])
    np.testing.assert_allclose(scaled_to(predicted, measured), [80.0, 40.0, 20.0])
    np.testing.assert_array_equal(scaled_to(np.zeros(3), measured), np.zeros(3))


def test_what_cannot_be_compared_or_does_not_exist():
    with pytest.raises(UserError, match="measured influence is the same"):
        log_slope(np.array([1.0, 2.0, 3.0]), np.ones(3))
    with pytest.raises(UserError, match="at least three nodes, and there are 2"):
        rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, np.nan]))
    with pytest.raises(UserError, match="client 6 does not exist"):
        accumulated_influence(GRAPH, "metropolis", 6, TrainingSettings(), COUNTS, [1])
