"""What waits travels with the next message to its host, in order, and changes no number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.network import Network, Reply, Request, RuntimeSettings, Session, TrainingSettings, session, train
from fedunlearn.network.inline import InlineTransport
from tests.worlds import all_rows, image_data, model_for, ring_network

DATA = image_data()
RECIPE = TrainingSettings(rounds=3, batch=5, lr=0.3, momentum=0.5)


class Listening(InlineTransport):
    """Notes which operations every message to a host carried."""

    def __init__(self, num_hosts: int, *, immediate: bool) -> None:
        super().__init__(num_hosts, immediate=immediate)
        self.heard: list[list[list[str]]] = []

    def exchange(self, requests: Sequence[Request | None]) -> list[Reply | None]:
        self.heard.append([[] if r is None else [each.op for each in (*r.before, r)] for r in requests])
        return super().exchange(requests)


def opened(hosts: int, *, immediate: bool) -> tuple[Session, Listening]:
    transport = Listening(hosts, immediate=immediate)
    model, features = model_for(DATA)
    runtime = RuntimeSettings(hosts=hosts, workers=0)
    return Session(transport, DATA, model, features, seed=5, runtime=runtime), transport


def story(network: Network, mixing_rounds: int) -> list[np.ndarray]:
    """Use every primitive, most of them without waiting for an answer."""
    train(network, RECIPE)
    network.checkpoint("here")
    first = network.mean()
    network.write(first.astype(np.float32), nodes=[1, 4])
    network.mix(mixing_rounds)
    graph = network.graph.copy()
    graph.remove_edges_from(list(graph.edges(2)))
    network.leave(2, graph)
    network.erase(DATA.train_rows(2)[:3])
    network.broadcast(network.read(3), operation="add")
    middle = all_rows(network)
    network.rewind("here")
    state = network.save()
    network.wipe()
    network.restore({kind: -rows for kind, rows in state.items()})
    return [first, middle, all_rows(network)]


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_requests_that_wait_change_no_number(hosts: int) -> None:
    found = []
    for immediate in (True, False):
        session, _ = opened(hosts, immediate=immediate)
        with session:
            found.append(story(ring_network(session, momentum=True), 2))
    for now, later in zip(*found):
        np.testing.assert_array_equal(now, later)


def test_a_round_of_gossip_is_one_message_to_each_host() -> None:
    session, transport = opened(2, immediate=False)
    with session:
        network = ring_network(session, momentum=True)
        transport.heard.clear()
        train(network, RECIPE)
        assert transport.heard == [
            [["population", "topology", "rows", "export"]] * 2,
            [["mix", "rows", "export"]] * 2,
            [["mix", "rows", "export"]] * 2,
        ]
        assert session.traffic["messages"] == 2 * 4, "with the set-up"


def test_who_is_not_spoken_to_gets_no_message_and_keeps_what_waits() -> None:
    session, transport = opened(2, immediate=False)
    with session:
        session.later("wipe", {})
        session.put({"x": np.zeros(1)})
        network = ring_network(session)
        transport.heard.clear()
        network.walk("tests.network.test_session:never", {}, np.zeros(2), [])
        assert not transport.heard, "a token that visits nobody needs no message"
        session.tell(1, "wipe", {}, {})
        assert transport.heard == [[[], ["wipe", "put", "population", "topology", "wipe"]]]
        session.flush()
        assert transport.heard[1:] == [[["wipe", "put", "population", "topology"], []]]
        session.flush()
        assert len(transport.heard) == 2, "nothing waits any more"


def test_what_waits_is_what_was_said_then() -> None:
    session, _ = opened(2, immediate=False)
    with session:
        values = np.arange(3.0)
        session.put({"x": values})
        values[:] = 7
        session.flush()
        assert [host.store["x"].tolist() for host in session.transport._hosts] == [[0, 1, 2]] * 2  # type: ignore[attr-defined]


def test_much_that_waits_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_WAITING_BYTES", 100)
    opened_session, transport = opened(1, immediate=False)
    with opened_session as s:
        transport.heard.clear()
        s.put({"x": np.zeros(10)})
        s.put({"y": np.zeros(10)})
        assert transport.heard == [[["put", "put"]]]


@pytest.mark.parametrize("immediate", [True, False])
def test_an_answer_that_comes_later_is_told(immediate: bool) -> None:
    session, _ = opened(2, immediate=immediate)
    with session:
        told: list[Reply] = []
        session.later("wipe", {}, then=told.append)
        assert len(told) == (2 if immediate else 0)
        session.flush()
        assert len(told) == 2


@pytest.mark.parametrize("immediate", [True, False])
def test_divergence_is_told_before_rows_are_mixed(immediate: bool) -> None:
    session, _ = opened(2, immediate=immediate)
    with session:
        network = ring_network(session, momentum=True)
        network.write(np.full(network.dim, 3e38, np.float32), nodes=[4])
        with pytest.raises(UserError, match="node 4 holds NaN or infinity after round 1 "):
            train(network, RECIPE)
        assert np.isfinite(network.read_rows([0, 1, 2, 3, 5])).all()


def test_closing_drops_what_waits() -> None:
    session, transport = opened(2, immediate=False)
    with session:
        session.later("no such operation", {})
    assert transport.heard[-1] == [["close"], ["close"]]
