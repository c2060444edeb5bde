"""The stacked form of local training: closed forms, groups fixed by ids, one rounding a round in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedunlearn.data import FederatedDataset
from fedunlearn.models import FeatureMap, ModelSettings, build_model, per_sample_gradients
from fedunlearn.network import Network, TrainingSettings
from fedunlearn.network.schedule import learning_rate, local_batches, slot_batches
from fedunlearn.network.stacked_training import batch_width, group_size
from fedunlearn.network.training import local_steps, train
from tests.worlds import all_rows, image_data, model_for, open_session, ring_network

MODELS = {
    "softmax": {"name": "softmax"},
    "relu": {"name": "mlp", "hidden": (7, 5)},
    "smelu": {"name": "mlp", "hidden": (6,), "activation": "smelu", "smelu_width": 0.3},
}
RECIPES = {
    "plain": {},
    "momentum": {"momentum": 0.7},
    "decay": {"l2": 0.1},
    "everything": {"momentum": 0.5, "l2": 0.1, "radius": 0.9, "clip": 0.4},
    "holes": {"schedule": "holes", "clip": 0.4, "l2": 0.05},
    "some steps": {"local_steps": 4, "radius": 0.5},
}


def built(dataset: FederatedDataset, name: str):
    mapping = FeatureMap("raw", dataset.input_shape)
    return build_model(ModelSettings(**MODELS[name]), dataset.num_classes, mapping.output_shape), mapping


def by_hand(network: Network, node: int, row: np.ndarray, s: TrainingSettings, round_: int) -> np.ndarray:
    """Take the local steps of one vertex in float64, one sample's gradient at a time."""
    dataset, model = network.session.dataset, network.session.model
    ids = dataset.train_rows(node)
    kept = ~np.isin(ids, network.deleted)
    if s.schedule == "holes":
        steps = [(ids[b], slots) for b, slots in slot_batches(network.seed, node, ids, kept, s, round_)]
    else:
        batches = local_batches(network.seed, node, ids[kept], s, round_)
        steps = [(ids[kept][b], len(b) if s.clip is None else s.batch) for b in batches]
    theta, velocity = torch.from_numpy(row.astype(np.float64)), torch.zeros(len(row), dtype=torch.float64)
    for chosen, divisor in steps:
        x, y = model.prepare(dataset.inputs[chosen]).double(), torch.from_numpy(dataset.labels[chosen])
        each = per_sample_gradients(model, theta, x, y)
        if s.clip is not None:
            each = each * torch.clamp(s.clip / each.norm(dim=1), max=1.0)[:, None]
        velocity = s.momentum * velocity + each.sum(0) / divisor + s.l2 * theta
        theta = theta - learning_rate(s, round_) * velocity
        if s.radius is not None:
            theta = theta * min(1.0, s.radius / float(theta.norm()))
    return theta.numpy()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", MODELS)
def test_a_group_takes_the_steps_of_its_vertices(name, recipe):
    dataset = image_data(clients=6, sizes=(3, 14))
    model, mapping = built(dataset, name)
    s = TrainingSettings(form="vmap", batch=4, lr=0.3, local_epochs=2, **RECIPES[recipe])
    with open_session(dataset, model, mapping) as session:
        network = ring_network(session, momentum=s.momentum > 0)
        network.erase(np.concatenate([dataset.train_rows(1)[:2], dataset.train_rows(4)]))
        before = all_rows(network)
        local_steps(network, s, 3)
        after = all_rows(network)
        for node in range(6):
            assert np.abs(after[node] - by_hand(network, node, before[node], s, 3)).max() < 2e-6
    assert np.abs(after - before).max() > 1e-3


def test_steps_with_holes_round_a_softmax_row_once():
    dataset = image_data(clients=5)
    model, mapping = model_for(dataset)
    s = TrainingSettings(schedule="holes", batch=4, lr=0.7, l2=0.01, local_steps=3)
    with open_session(dataset, model, mapping) as session:
        network = ring_network(session)
        for node in range(5):
            network.write(np.random.default_rng(node).normal(size=network.dim).astype(np.float32), nodes=[node])
        network.erase(dataset.train_rows(1)[::2])
        before = all_rows(network)
        local_steps(network, s, 0)
        host = session.transport._hosts[0]
        inputs, ids = host.store["inputs"], host.store["sample_ids"]
        for node, row in enumerate(all_rows(network)):
            theta = before[node].astype(np.float64).reshape(dataset.num_classes, -1)
            own = dataset.train_rows(node)
            kept = ~np.isin(own, network.deleted)
            for chosen, slots in slot_batches(network.seed, node, own, kept, s, 0):
                x = inputs[np.searchsorted(ids, own[chosen])].astype(np.float64)
                z = np.exp(x @ theta.T)
                residual = z / z.sum(1, keepdims=True) - np.eye(dataset.num_classes)[dataset.labels[own[chosen]]]
                theta = theta - s.lr * (residual.T @ x / slots + s.l2 * theta)
            assert np.array_equal(row, theta.reshape(-1).astype(np.float32))


@pytest.mark.parametrize("name", ["softmax", "relu"])
def test_a_group_across_a_border_and_with_absent_vertices_gives_the_same_bits(name):
    dataset = image_data(clients=11, sizes=(3, 30))
    model, mapping = built(dataset, name)
    s = TrainingSettings(rounds=2, form="vmap", batch=4, lr=0.3, momentum=0.5, l2=0.01)
    only = [0, 2, 3, 7, 9]
    seen = []
    for hosts in (1, 2, 3):
        with open_session(dataset, model, mapping, hosts=hosts) as session:
            network = ring_network(session, momentum=True)
            train(network, s)
            local_steps(network, s, 2, only)
            seen.append(all_rows(network))
            local_steps(network, s, 3, [3])
            alone = network.read(3)
            network.write(seen[-1][3], nodes=[3], reset_momentum=False)
        assert np.array_equal(seen[0], seen[-1])
    assert not np.array_equal(alone, seen[0][3])


def test_groups_depend_on_network_and_model_alone():
    assert group_size(3, 100) == 3
    assert group_size(100, 4000) == 8
    assert group_size(100_000, 7850) == 64
    assert group_size(3500, 213_630) == 8
    for nodes in (10, 100, 1000, 10_000):
        size = group_size(nodes, 500)
        assert size & (size - 1) == 0 and (size == 8 or nodes >= 8 * size)


def test_minibatches_are_padded_to_the_largest_client_at_most():
    dataset = image_data(clients=6, sizes=(3, 14))
    largest = max(len(dataset.train_rows(c)) for c in range(6))
    assert batch_width(dataset, 4) == 4
    assert batch_width(dataset, 1000) == largest
    model, mapping = model_for(dataset)
    rows = []
    for batch in (largest, 1000):
        with open_session(dataset, model, mapping) as session:
            network = ring_network(session)
            local_steps(network, TrainingSettings(form="vmap", batch=batch), 0)
            rows.append(all_rows(network))
    assert np.array_equal(*rows)


def test_a_round_in_pieces_gives_the_bits_of_the_round_at_once(monkeypatch):
    dataset = image_data(clients=5)
    model, mapping = built(dataset, "relu")
    rows = []
    for floats in (1, 1 << 22):
        monkeypatch.setattr("fedunlearn.network.stacked_training._GATHERED_FLOATS", floats)
        with open_session(dataset, model, mapping) as session:
            network = ring_network(session)
            local_steps(network, TrainingSettings(form="vmap", batch=3), 0)
            rows.append(all_rows(network))
    assert np.array_equal(*rows)


def test_bits_do_not_depend_on_where_rows_lie_in_memory():
    dataset = image_data(clients=9, classes=5, side=7, sizes=(6, 12))
    model, mapping = built(dataset, "softmax")
    assert model.dim * 4 % 16 == 8  # so that every second row of a store lies off the borders of 16 bytes
    s = TrainingSettings(form="vmap", batch=5, lr=0.5, local_epochs=3)
    rows = []
    for hosts in (1, 2, 3):
        with open_session(dataset, model, mapping, hosts=hosts) as session:
            network = ring_network(session)
            network.write(np.random.default_rng(0).normal(size=network.dim).astype(np.float32))
            local_steps(network, s, 0)
            rows.append(all_rows(network))
    assert np.array_equal(rows[0], rows[1]) and np.array_equal(rows[0], rows[2])


def test_a_round_of_holes_alone_reads_no_sample():
    dataset = image_data(clients=4)
    model, mapping = model_for(dataset)
    s = TrainingSettings(schedule="holes", batch=4, lr=0.5, l2=0.2, local_steps=2)
    with open_session(dataset, model, mapping) as session:
        network = ring_network(session)
        network.write(np.ones(network.dim, np.float32))
        network.erase(np.concatenate([dataset.train_rows(c) for c in range(4)]))
        local_steps(network, s, 0)
        assert np.allclose(all_rows(network), (1.0 - 0.5 * 0.2) ** 2, atol=1e-7)


@pytest.mark.parametrize("name", ["softmax", "relu"])
def test_bfloat16_rounds_products_and_nothing_else(name):
    dataset = image_data(clients=5)
    model, mapping = built(dataset, name)
    base = TrainingSettings(form="vmap", batch=4, lr=0.3)
    rows = {}
    for key, changes in {
        "float32": {}, "bfloat16": {"bfloat16": True}, "clipped": {"clip": 1.0},
        "clipped bfloat16": {"clip": 1.0, "bfloat16": True},
    }.items():  # fmt: skip
        with open_session(dataset, model, mapping) as session:
            network = ring_network(session)
            local_steps(network, base.model_copy(update=changes), 0)
            rows[key] = all_rows(network)
    difference = np.abs(rows["float32"] - rows["bfloat16"]).max()
    assert 1e-6 < difference < 0.03
    assert np.array_equal(rows["clipped"], rows["clipped bfloat16"])
