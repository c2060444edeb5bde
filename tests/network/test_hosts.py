"""Hosts carry pieces of one order of the vertices: the same bits on any number of them, and few rows between them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import networkx as nx
import numpy as np
import pytest

from fedunlearn.flower import GridTransport, LocalGrid
from fedunlearn.flower.client_app import app
from fedunlearn.network import Network, Reply, Request, RuntimeSettings, Session, TrainingSettings, resident, train
from fedunlearn.network.inline import InlineTransport
from fedunlearn.network.reduction import tree_sum
from fedunlearn.network.training import local_steps
from fedunlearn.topology import mixing_matrix, remove_vertex
from fedunlearn.topology.partition import blocks, border_rows, vertex_order
from tests.worlds import image_data, model_for

DATA = image_data(clients=11, sizes=(5, 17))
CHAIN = [0, 7, 3, 10, 1, 8, 4, 2, 9, 5, 6]
"""A path whose vertices are far apart as ids: its order is not that of ids."""
FORMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "loop": ("small-cnn", "raw", {"momentum": 0.5}),
    "stacked": ("mlp", "raw", {"momentum": 0.5, "l2": 0.01}),
    "softmax": ("softmax", "unit", {}),
    "float64": ("softmax", "unit", {"schedule": "holes", "l2": 0.02, "local_steps": 2}),
    "averaging": ("softmax", "unit", {"algorithm": "fedavg", "client_fraction": 0.5, "weighting": "samples"}),
}


def chain() -> nx.Graph:
    graph = nx.path_graph(CHAIN)
    graph.add_edge(CHAIN[0], CHAIN[2])
    return nx.compose(nx.empty_graph(11), graph)


class Listening(InlineTransport):
    """Counts the rows that messages carry to and from hosts, for the operations of gossip alone."""

    def __init__(self, num_hosts: int, *, immediate: bool = True) -> None:
        super().__init__(num_hosts, immediate=immediate)
        self.exported, self.imported = 0, 0

    def exchange(self, requests: Sequence[Request | None]) -> list[Reply | None]:
        replies = super().exchange(requests)
        for request, reply in zip(requests, replies):
            if request is not None and reply is not None:
                for asked, answered in zip((*request.before, request), (*reply.before, reply)):
                    self.exported += len(answered.arrays["rows"]) if asked.op == "export" else 0
                    self.imported += len(asked.arrays.get("halo", ())) if asked.op == "mix" else 0
        return replies


def opened(transport: Any, hosts: int, model: Any, features: Any, graph: nx.Graph | None) -> Session:
    runtime = RuntimeSettings(hosts=hosts, workers=0)
    return Session(transport, DATA, model, features, seed=5, runtime=runtime, graph=graph)


def story(session: Session, training: TrainingSettings, mixing: Any) -> list[np.ndarray]:
    """Train, lose a client and samples, go back, train on, add up, walk, measure; return everything there is."""
    momentum = training.momentum > 0
    network = Network(session, "main", chain(), mixing, session.model.initial(0), momentum=momentum)
    other = Network(session, "other", chain(), mixing, session.model.initial(0))
    train(network, training, last=2)
    network.checkpoint("here")
    network.leave(7, remove_vertex(network.graph, 7, "path", network.alive))
    network.erase(np.concatenate([DATA.train_rows(7), DATA.train_rows(4)[:2]]))
    train(network, training, first=2, every=2)
    later = network.save()
    network.rewind("here")
    local_steps(network, training, 3, [2, 5, 9])
    network.write(np.ones(network.dim, np.float32), nodes=[1, 10], operation="add")
    network.mix(2)
    at = network.mean()
    sums = {"at": "at", "weighting": "samples", "clients": network.num_alive, "total": network.total_samples}
    gradient = network.sum("fedunlearn.network.programs:gradient", sums, {"at": at})
    some = network.sum("fedunlearn.network.programs:gradient", sums, {"at": at}, only=[3, 8])
    distance = network.measure("fedunlearn.evaluation.programs:row_distance", {"other": "other"})
    rows = network.read_rows([9, 0, 4])
    other.restore({"theta": network.save()["theta"]})
    assert np.array_equal(np.delete(other.save()["theta"], 7, 0), np.delete(network.save()["theta"], 7, 0))
    hop = "fedunlearn.unlearning.certified.token_walk:private_hop"
    params = {
        "lr": 0.1, "noise": 0.1, "clip": 1.0, "l2": 0.01, "first": 0, "silent": [], "noise_kind": "simulated",
        "noise_seed": 3,
    }  # fmt: skip
    token = network.walk(hop, params, at, [(3, True), (10, True), (1, False), (1, True), (6, True)])
    return [*later.values(), *network.save().values(), at, gradient, some, distance, rows, token]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mixing", ["metropolis", "random-matching", "exact-average"])
def test_any_number_of_hosts_gives_the_same_bits_along_an_order(form: str, mixing: str) -> None:
    name, features, changes = FORMS[form]
    model, mapping = model_for(DATA, name, features)
    training = TrainingSettings(rounds=4, batch=5, lr=0.1, **changes)
    expected: list[np.ndarray] = []
    for hosts, immediate in ((1, True), (2, False), (3, True), (8, False)):
        with opened(Listening(hosts, immediate=immediate), hosts, model, mapping, chain()) as session:
            assert not session.in_order_of_ids
            found = story(session, training, mixing)
        expected = expected or found
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_rounds_on_a_device_give_the_same_bits_on_any_number_of_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mixing on the device, whose sums have an order of their own."""
    monkeypatch.setattr(resident, "takes", lambda block: True)
    model, mapping = model_for(DATA, "mlp", "raw")
    training = TrainingSettings(rounds=2, batch=5, lr=0.1, momentum=0.5)
    rows = []
    for hosts in (1, 2, 3):
        with opened(Listening(hosts), hosts, model, mapping, chain()) as session:
            network = Network(session, "main", chain(), "random-matching", model.initial(0), momentum=True)
            train(network, training)
            rows.append(network.save()["theta"])
    assert np.array_equal(rows[0], rows[1]) and np.array_equal(rows[0], rows[2])


def test_over_messages_too() -> None:
    model, mapping = model_for(DATA)
    training = TrainingSettings(rounds=4, batch=5, lr=0.1)
    found = []
    for hosts in (1, 3):
        with ExitStack() as stack:
            grid = stack.enter_context(LocalGrid(app, hosts))
            transport = GridTransport(grid, grid.get_node_ids())
            session = stack.enter_context(opened(transport, hosts, model, mapping, chain()))
            found.append(story(session, training, "metropolis"))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_in_the_order_of_ids_nothing_is_different() -> None:
    """A session without a graph, and one whose graph keeps the ids in order, are the same."""
    model, mapping = model_for(DATA)
    ring, found = nx.cycle_graph(11), []
    for graph in (None, ring):
        with opened(InlineTransport(2), 2, model, mapping, graph) as session:
            assert session.in_order_of_ids and session.order.tolist() == list(range(11))
            assert all("order" not in host.store for host in session.transport._hosts)  # type: ignore[attr-defined]
            found.append(story(session, TrainingSettings(rounds=4, batch=5, lr=0.1), "metropolis"))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_who_carries_what_and_where_it_lies() -> None:
    model, mapping = model_for(DATA)
    order = vertex_order(chain())
    with opened(InlineTransport(3), 3, model, mapping, chain()) as session:
        carried = []
        for host, members in zip(session.transport._hosts, session.members):  # type: ignore[attr-defined]
            block = host.block
            carried += block.ids.tolist()
            assert sorted(block.ids) == members.tolist()
            for node in block.ids:
                first, last = block.span(node)
                assert block.sample_ids(np.arange(first, last)).tolist() == DATA.train_rows(node).tolist()
                assert order[block.position(node)] == node
            foreign = next(v for v in range(11) if v not in members)
            with pytest.raises(IndexError):
                block.offsets[block.place(foreign)]
        assert carried == order.tolist()
        assert session.host_of[order].tolist() == [0] * 3 + [1] * 4 + [2] * 4


def test_sums_run_along_the_order() -> None:
    model, mapping = model_for(DATA)
    rows = np.random.default_rng(0).normal(size=(11, model.dim)).astype(np.float32)
    with opened(InlineTransport(2), 2, model, mapping, chain()) as session:
        network = Network(session, "main", chain(), "metropolis", model.initial(0))
        network.restore({"theta": rows})
        expected = tree_sum(rows.astype(np.float64)[session.order])
        np.testing.assert_array_equal(network.sum("fedunlearn.network.programs:weighted_row", {}), expected)
        ones = network.mean(np.arange(11.0))
        shares = np.arange(11.0) / np.arange(11.0).sum()
        np.testing.assert_allclose(ones, shares @ rows.astype(np.float64), rtol=1e-12, atol=1e-12)


def test_every_row_is_mixed_in_the_order_of_ids() -> None:
    """Along any order of vertices a gossip round gives the bits of the round in the order of ids."""
    model, mapping = model_for(DATA)
    rows = np.random.default_rng(0).normal(size=(11, model.dim)).astype(np.float32)
    found = []
    for graph in (None, chain()):
        for hosts in (1, 3):
            with opened(InlineTransport(hosts), hosts, model, mapping, graph) as session:
                network = Network(session, "main", chain(), "metropolis", model.initial(0))
                network.restore({"theta": rows})
                network.mix(3)
                found.append(network.save()["theta"])
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    weights = mixing_matrix(chain(), "metropolis")
    np.testing.assert_allclose(found[0], weights @ (weights @ (weights @ rows)), atol=1e-5)


@pytest.mark.parametrize("hosts", [2, 3])
def test_only_border_rows_travel(hosts: int) -> None:
    model, mapping = model_for(DATA)
    transport = Listening(hosts, immediate=False)
    with opened(transport, hosts, model, mapping, chain()) as session:
        network = Network(session, "main", chain(), "metropolis", model.initial(0))
        before = dict(session.traffic)
        train(network, TrainingSettings(rounds=5, batch=5, lr=0.1))
        session.flush()
        crossing = border_rows(chain(), blocks(session.order, hosts))
        assert transport.imported == 5 * len(crossing)
        assert transport.exported == 5 * len(np.unique(crossing[:, 0]))
        assert session.traffic["messages"] - before["messages"] == (5 + 1) * hosts


def test_hosts_that_have_nothing_to_tell_are_not_asked() -> None:
    model, mapping = model_for(DATA)
    transport = InlineTransport(3, immediate=False)
    with opened(transport, 3, model, mapping, None) as session:
        network = Network(session, "main", nx.cycle_graph(11), "metropolis", model.initial(0))
        session.flush()
        before = session.traffic["messages"]
        network.read(4)
        assert session.traffic["messages"] == before + 1
        network.read_rows([4, 9])
        assert session.traffic["messages"] == before + 3
        network.sum("fedunlearn.network.programs:weighted_row", {}, only=[10])
        assert session.traffic["messages"] == before + 4
