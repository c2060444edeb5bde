"""The engine: the same bits for any number of hosts and workers, and the textbook algorithms as special cases."""

from __future__ import annotations

import dataclasses

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedunlearn.errors import UserError
from fedunlearn.network import Network, TrainingSettings, train
from fedunlearn.network.schedule import local_batches
from fedunlearn.network.training import local_steps
from fedunlearn.topology import remove_vertex
from tests.worlds import all_rows, image_data, model_for, open_session, ring_network

RECIPES = {
    "dsgd": TrainingSettings(rounds=3, batch=5, lr=0.2, momentum=0.5, l2=0.01),
    "fedavg": TrainingSettings(rounds=3, batch=5, lr=0.2, algorithm="fedavg", client_fraction=0.5, weighting="samples"),
    "clipped": TrainingSettings(rounds=2, batch=5, lr=0.2, clip=0.3, radius=1.0, local_steps=3),
}


def trained(dataset, recipe, *, hosts=1, workers=0, name="softmax", features="unit", mixing="metropolis", form="auto"):
    model, mapping = model_for(dataset, name, features)
    with open_session(dataset, model, mapping, hosts=hosts, workers=workers) as session:
        network = ring_network(session, mixing=mixing, momentum=recipe.momentum > 0)
        train(network, recipe.model_copy(update={"form": form}))
        gradient = network.sum(
            "fedunlearn.network.programs:gradient",
            {"at": "at", "weighting": "equal", "clients": network.num_alive, "total": network.total_samples},
            {"at": network.mean()},
        )
        return all_rows(network), gradient


@pytest.mark.parametrize("recipe", RECIPES)
def test_any_number_of_hosts_gives_the_same_bits(recipe):
    dataset = image_data(clients=7)
    rows, gradient = trained(dataset, RECIPES[recipe])
    for hosts in (2, 4):
        other_rows, other_gradient = trained(dataset, RECIPES[recipe], hosts=hosts)
        assert np.array_equal(rows, other_rows)
        assert np.array_equal(gradient, other_gradient)


@pytest.mark.parametrize("mixing", ["exact-average", "random-matching", "lazy-max-degree"])
def test_every_mixing_rule_gives_the_same_bits_on_two_hosts(mixing):
    dataset = image_data(clients=7)
    one, _ = trained(dataset, RECIPES["dsgd"], mixing=mixing)
    two, _ = trained(dataset, RECIPES["dsgd"], mixing=mixing, hosts=2)
    assert np.array_equal(one, two)


@pytest.mark.parametrize(("name", "features", "workers"), [("softmax", "unit", (1, 2)), ("small-cnn", "raw", (2,))])
def test_any_number_of_workers_gives_the_same_bits(name, features, workers):
    dataset = image_data(clients=5)
    recipe = TrainingSettings(rounds=2, batch=4, lr=0.1)
    rows, gradient = trained(dataset, recipe, name=name, features=features)
    for count in workers:
        other_rows, other_gradient = trained(dataset, recipe, name=name, features=features, workers=count)
        assert np.array_equal(rows, other_rows)
        assert np.array_equal(gradient, other_gradient)


@pytest.mark.parametrize("recipe", ["dsgd", "clipped"])
@pytest.mark.parametrize(("name", "features"), [("mlp", "raw"), ("small-cnn", "raw"), ("softmax", "unit")])
def test_both_local_forms_agree(recipe, name, features):
    dataset = image_data(clients=5)
    one_round = RECIPES[recipe].model_copy(update={"rounds": 1})
    loop, _ = trained(dataset, one_round, name=name, features=features, form="loop")
    stacked, _ = trained(dataset, one_round, name=name, features=features, form="vmap")
    assert np.abs(loop - stacked).max() < 1e-5


def test_one_node_is_plain_central_sgd_bit_for_bit():
    dataset = image_data(clients=1, sizes=(40, 41))
    recipe = TrainingSettings(rounds=3, batch=8, lr=0.1, momentum=0.9, l2=0.001, form="loop")
    model, mapping = model_for(dataset, "small-cnn", "raw")
    with open_session(dataset, model, mapping) as session:
        network = Network(session, "main", nx.empty_graph(1), "metropolis", model.initial(0), momentum=True)
        train(network, recipe)
        rows = all_rows(network)

    torch.set_num_threads(1)
    module = model.load(model.module(), torch.from_numpy(model.initial(0)))
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.001)
    mine = dataset.train_rows(0)
    for round_ in range(3):
        for batch in local_batches(0, 0, mine, recipe, round_):
            x = torch.from_numpy(dataset.inputs[mine[batch]]).float().div(255).unsqueeze(1)
            optimiser.zero_grad()
            output = module(x)
            F.cross_entropy(output, torch.from_numpy(dataset.labels[mine[batch]])).backward()
            optimiser.step()
    assert np.array_equal(rows[0], model.vector_of(module).numpy())


def test_complete_graph_with_exact_averaging_is_federated_averaging():
    dataset = image_data(clients=5)
    recipe = TrainingSettings(rounds=4, batch=4, lr=0.1)
    decentralized, _ = trained(dataset, recipe, mixing="exact-average")
    federated, _ = trained(dataset, recipe.model_copy(update={"algorithm": "fedavg"}))
    assert np.array_equal(decentralized, federated)
    assert np.array_equal(decentralized[0], decentralized[-1])


@pytest.mark.parametrize("mixing", ["metropolis", "max-degree", "lazy-metropolis", "random-matching", "exact-average"])
def test_mixing_leaves_the_mean_and_shrinks_the_spread(mixing):
    dataset = image_data(clients=8)
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping, hosts=2) as session:
        network = ring_network(session, mixing=mixing)
        local_steps(network, TrainingSettings(lr=1.0), 0)
        before, spread = network.mean(), all_rows(network).std(0).max()
        network.mix(5)
        assert np.abs(network.mean() - before).max() < 1e-6
        assert all_rows(network).std(0).max() < spread


def test_mixing_is_the_matrix_product():
    dataset = image_data(clients=8)
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping, hosts=3) as session:
        network = ring_network(session)
        local_steps(network, TrainingSettings(lr=1.0), 0)
        before = all_rows(network)
        network.mix(2)
        dense = network.weights.toarray()
        assert np.abs(all_rows(network) - dense @ (dense @ before)).max() < 1e-6


def test_weighted_mean_and_reading_and_writing():
    dataset = image_data(clients=5)
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping, hosts=2) as session:
        network = ring_network(session)
        vectors = np.random.default_rng(0).normal(size=(5, network.dim)).astype(np.float32)
        for i, vector in enumerate(vectors):
            network.write(vector, nodes=[i])
        assert np.array_equal(network.read_rows([1, 4]), vectors[[1, 4]])
        weights = np.array([1.0, 0.0, 2.0, 1.0, 0.0])
        assert np.allclose(network.mean(weights), weights @ vectors.astype(np.float64) / 4, atol=1e-12)
        network.write(vectors[0], operation="add")
        assert np.allclose(network.read(3), vectors[3] + vectors[0])


def test_a_deletion_passes_by_a_host_without_samples():
    dataset = image_data(clients=4)
    only_tests = dataset.is_test.copy()
    only_tests[dataset.offsets[3] :] = True
    dataset = dataclasses.replace(dataset, is_test=only_tests)
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping, hosts=4) as session:
        network = ring_network(session)
        network.erase(dataset.train_rows(0)[:2])
        assert network.counts.tolist() == [len(dataset.train_rows(c)) - 2 * (c == 0) for c in range(4)]


def test_deleted_samples_cannot_be_read_and_leavers_keep_nothing():
    dataset = image_data(clients=5)
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping) as session:
        network = ring_network(session, momentum=True)
        gone = dataset.train_rows(2)
        network.leave(2, remove_vertex(network.graph, 2, "path", network.alive))
        network.erase(gone)
        host = session.transport._hosts[0]
        poisoned = np.isin(host.store["sample_ids"], gone)
        assert np.isnan(host.store["inputs"][poisoned]).all()
        assert (host.store["labels"][poisoned] == -1).all()
        assert np.isnan(host.store["theta.main"][2]).all() and np.isnan(host.store["momentum.main"][2]).all()
        train(network, TrainingSettings(rounds=2, momentum=0.5))
        assert np.isfinite(all_rows(network)).all()
        assert network.total_samples == sum(len(dataset.train_rows(c)) for c in (0, 1, 3, 4))
        with pytest.raises(UserError, match="already deleted"):
            network.leave(2, network.graph)


def test_a_deletion_leaves_what_the_others_compute_in_the_first_round_untouched():
    dataset = image_data(clients=5)
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping) as session:
        network = ring_network(session)
        twin = ring_network(session, "twin", deleted=dataset.train_rows(3)[:2])
        for population in (network, twin):
            local_steps(population, TrainingSettings(lr=0.5, batch=4), 0)
        same = (all_rows(network) == all_rows(twin)).all(1)
        assert same.tolist() == [True, True, True, False, True]


def test_divergence_is_told_in_one_sentence():
    dataset = image_data(clients=4)
    model, mapping = model_for(dataset, "mlp", "raw")
    with open_session(dataset, model, mapping) as session:
        network = ring_network(session)
        with pytest.raises(
            UserError, match=r"training.lr = \S+ makes training diverge: the model of node \d+ .* after round \d+"
        ):
            train(network, TrainingSettings(rounds=60, lr=1e20))


def test_a_lost_worker_is_told_in_one_sentence():
    dataset = image_data(clients=4)
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping, workers=2) as session:
        network = ring_network(session)
        for process in session.transport._hosts[0].workers._processes:
            process.kill()
            process.wait()
        with pytest.raises(UserError, match="a worker process ended"):
            local_steps(network, TrainingSettings(), 0)
