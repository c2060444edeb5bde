"""A token that moves from vertex to vertex, checkpoints of all rows, and batches that keep the slots of deleted ids."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.network import Network, TrainingSettings, execute, train
from fedunlearn.network.declared import NodeProgram
from fedunlearn.network.messages import program_rules
from fedunlearn.network.schedule import local_batches, slot_batches
from tests.worlds import all_rows, image_data, model_for, open_session, ring_network


def stamp(block, population, node, hop, token, *, factor):
    """Mix in who acted when, in an order-dependent way, and what the vertex holds."""
    labels = block.store["labels"][block.samples(population, node)]
    return factor * token + 10.0 * node + hop + labels.sum()


@pytest.fixture
def stamping(monkeypatch):
    monkeypatch.setattr(execute, "program", lambda name: stamp)
    monkeypatch.setattr(program_rules, "declared", lambda name: NodeProgram("walk", stamp))


ROUTE = [(0, True), (3, True), (2, False), (1, True), (1, True), (6, True), (0, True), (5, False)]


@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_token_visits_its_route_in_order_on_any_number_of_hosts(stamping, shape):
    dataset = image_data(clients=7)
    start = np.arange(float(model_for(dataset)[0].dim))
    start = np.broadcast_to(start, (*shape, len(start)))
    labels = [dataset.labels[dataset.train_rows(c)].sum() for c in range(7)]
    expected = np.array(start)
    for hop, node in enumerate([0, 3, 1, 1, 6, 0]):
        expected = 0.5 * expected + 10.0 * node + hop + labels[node]
    for hosts in (1, 2, 4):
        with open_session(dataset, *model_for(dataset), hosts=hosts) as session:
            network = ring_network(session)
            rows = all_rows(network)
            token = network.walk("fedunlearn.any:thing", {"factor": 0.5}, start, ROUTE)
            assert np.array_equal(token, expected) and token.dtype == np.float64
            assert np.array_equal(all_rows(network), rows)
            record = network.ledger.traffic[-1]
            assert (record.pattern, record.messages) == ("walk", 6)  # seven steps, one of which stays
            assert network.clock.waits == 6
            heard = {v: [h["senders"] for h in network.ledger.received_by(v)] for v in range(7)}
            assert heard == {0: [[6]], 1: [[2]], 2: [[3]], 3: [[0]], 4: [], 5: [[0]], 6: [[1]]}


def test_a_walk_leaves_nothing_behind_after_a_wipe(stamping):
    dataset = image_data(clients=4)
    with open_session(dataset, *model_for(dataset), hosts=2) as session:
        network = ring_network(session)
        network.walk("fedunlearn.any:thing", {"factor": 1.0}, np.ones(network.dim), [(0, True), (3, True)])
        network.wipe()
        for host in session.transport._hosts:
            assert np.isnan(host.store["vector.token"]).all()


@pytest.mark.parametrize("hosts", [1, 3])
def test_rewinding_and_replaying_gives_the_rows_of_the_run(hosts):
    dataset = image_data(clients=6)
    recipe = TrainingSettings(rounds=6, batch=5, lr=0.2, momentum=0.0)
    with open_session(dataset, *model_for(dataset), hosts=hosts) as session:
        network = ring_network(session)
        train(network, recipe, last=4)
        network.checkpoint("four")
        kept = all_rows(network)
        train(network, recipe, first=4)
        end = all_rows(network)
        network.write(np.ones(network.dim, np.float32))
        network.rewind("four")
        assert np.array_equal(all_rows(network), kept)
        train(network, recipe, first=4)
        assert np.array_equal(all_rows(network), end)
        network.drop()
        for host in session.transport._hosts:
            assert not list(host.store.folder.glob("checkpoint*"))


def test_rewinding_leaves_the_departed_alone_and_clears_momentum():
    dataset = image_data(clients=5)
    with open_session(dataset, *model_for(dataset)) as session:
        network = ring_network(session, momentum=True)
        train(network, TrainingSettings(rounds=2, batch=5, momentum=0.5))
        network.checkpoint("a")
        graph = nx.path_graph(4)
        graph.add_node(4)
        network.leave(4, graph)
        network.rewind("a")
        assert np.isnan(network.read(4)).all()
        assert not network.save()["momentum"][:4].any()


# --- batches with holes -----------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.integers(0, 99), st.data())
def test_a_deletion_leaves_every_other_id_in_its_slot(n, batch, round_, seed, data):
    ids = np.arange(100, 100 + n)
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    settings_ = TrainingSettings(batch=batch, schedule="holes", local_steps=data.draw(st.sampled_from([None, 3])))
    whole = local_batches(seed, 2, ids, settings_, round_)
    with_holes = slot_batches(seed, 2, ids, kept, settings_, round_)
    assert [count for _, count in with_holes] == [len(b) for b in whole]
    for (present, _), everything in zip(with_holes, whole):
        assert present.tolist() == [i for i in everything if kept[i]]


def plain(dataset, deleted, recipe, lam):
    """Softmax regression by hand in float64: the sum over present slots, divided by all slots of the batch."""
    ids = dataset.train_rows(0)
    model, features = model_for(dataset)
    x = features.apply(dataset.inputs).astype(np.float64).reshape(len(dataset.inputs), -1)
    weights = model.initial(0).astype(np.float64).reshape(dataset.num_classes, -1)
    for round_ in range(recipe.rounds):
        for chosen in local_batches(0, 0, ids, recipe, round_):
            gradient = np.zeros_like(weights)
            for i in ids[chosen]:
                if i in deleted:
                    continue
                z = np.exp(weights @ x[i] - (weights @ x[i]).max())
                single = np.outer(z / z.sum() - np.eye(len(z))[dataset.labels[i]], x[i])
                gradient += single * min(1.0, (recipe.clip or np.inf) / np.linalg.norm(single))
            weights = weights - recipe.lr * (gradient / len(chosen) + lam * weights)
    return weights.reshape(-1)


@pytest.mark.parametrize("clip", [None, 0.4])
@pytest.mark.parametrize("form", ["loop", "vmap"])
def test_sums_are_divided_by_the_slots_and_holes_alone_take_their_l2_step(form, clip):
    dataset = image_data(clients=1, sizes=(14, 15))
    model, features = model_for(dataset)
    recipe = TrainingSettings(rounds=3, batch=4, lr=0.3, l2=0.2, schedule="holes", form=form, clip=clip)
    ids = dataset.train_rows(0)
    first_batch = ids[local_batches(0, 0, ids, recipe, 0)[0]]
    deleted = np.concatenate([first_batch, ids[:2]])  # one batch is empty, others have holes
    with open_session(dataset, model, features) as session:
        network = Network(
            session, "main", nx.empty_graph(1), "metropolis", model.initial(0), deleted=np.unique(deleted)
        )
        train(network, recipe)
        found = network.read(0)
    expected = plain(dataset, set(deleted.tolist()), recipe, 0.2)
    assert np.abs(found - expected).max() < 1e-5


def test_both_forms_and_any_number_of_hosts_agree_with_holes():
    dataset = image_data(clients=6)
    model, features = model_for(dataset)
    gone = np.concatenate([dataset.train_rows(1), dataset.train_rows(3)[::2]])  # a client without data, and holes
    found = []
    for hosts, form in ((1, "vmap"), (2, "vmap"), (3, "vmap"), (1, "loop")):
        with open_session(dataset, model, features, hosts=hosts) as session:
            network = ring_network(session, deleted=gone)
            train(network, TrainingSettings(rounds=3, batch=5, lr=0.3, l2=0.01, schedule="holes", form=form))
            found.append(all_rows(network))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    assert np.abs(found[0] - found[3]).max() < 1e-5 and np.isfinite(found[0]).all()
