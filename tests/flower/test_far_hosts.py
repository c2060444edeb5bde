"""Hosts over a network: messages get lost, SuperNodes are killed and come back; the rows are the same bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from fedunlearn.data import Role
from fedunlearn.data.split import split
from fedunlearn.errors import UserError
from fedunlearn.flower import GridTransport, LocalGrid, client_app, transport
from fedunlearn.flower.places import LASTING
from fedunlearn.network import Network, RuntimeSettings, Session, TrainingSettings, Transport, datasource, train
from fedunlearn.network.inline import InlineTransport
from fedunlearn.network.store import Store
from fedunlearn.network.transport import Reply, Request
from fedunlearn.network.workers import Workers
from fedunlearn.topology.partition import bounds
from tests.worlds import all_rows, image_data, model_for, ring_network

RECIPE = TrainingSettings(rounds=3, batch=5, lr=0.3, momentum=0.5, l2=0.01)


@dataclass
class Node:
    """What the SuperLink knows of a SuperNode."""

    node_id: int
    name: str
    last_activated_at: str


class FarGrid(Grid):
    """SuperNodes that are other processes, as far as anybody can tell; ``fate(grid, message)`` says what befalls one.

    ``"answer"``: it is carried out; ``"lose"``: its SuperNode is killed before it begins; ``"forget"``: it is carried
    out, and its SuperNode is killed before the reply is sent; ``"gone"``: killed, and never back; ``"twice"``: it is
    delivered twice. A SuperNode that was killed is back at the next look, with nothing in its state.
    """

    def __init__(self, hosts: int, root: Path, fate: Callable[[FarGrid, int], str], *, tells: bool = True) -> None:
        self._local = LocalGrid(client_app.app, hosts)
        for context in self._local._contexts.values():
            del context.node_config[LASTING]
            context.node_config["store"] = str(root)
        self.nodes = {i: Node(i, "", "2026-01-01T00:00:00") for i in self._local.get_node_ids()}
        self.fate, self.tells, self.sent, self.delivered = fate, tells, 0, 0
        self._replies: list[Message] = []

    def _unused(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("not for a grid over a network")

    run = property(_unused)  # type: ignore[assignment]
    set_run = create_message = send_and_receive = _unused

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def get_nodes(self) -> list[Any]:
        return list(self.nodes.values())

    def kill(self, node: int) -> None:
        """Lose everything that lies in a SuperNode's memory."""
        client_app._attached.clear()
        self._local._contexts[node].state = RecordDict()
        self.nodes[node] = Node(node, "", f"2026-01-01T00:00:{self.sent % 60:02d}.{self.sent}")

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        numbers = []
        for message in messages:
            self.sent += 1
            node, fate = message.metadata.dst_node_id, self.fate(self, self.sent)
            times = {"answer": 1, "forget": 1, "twice": 2}.get(fate, 0)
            self.delivered += times
            replies = [m for _ in range(times) for m in self._local.send_and_receive([message])]
            numbers.append(message.metadata.message_id or f"lost {self.sent}")
            if fate in ("lose", "forget", "gone"):
                self.kill(node)
                if fate == "gone":
                    del self.nodes[node]
                if self.tells:
                    message.metadata.__dict__["_message_id"] = numbers[-1]
                    self._replies.append(Message(Error(5, "Node Unavailable"), reply_to=message))
            else:
                self._replies.append(replies[-1])
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        mine = [r for r in self._replies if r.metadata.reply_to_message_id in set(message_ids)]
        self._replies = [r for r in self._replies if r not in mine]
        return mine


def story(transport: Transport) -> np.ndarray:
    """Train, let a vertex leave, train on; return all rows."""
    dataset = image_data()
    model, features = model_for(dataset)
    runtime = RuntimeSettings(hosts=transport.num_hosts, workers=0)
    with Session(transport, dataset, model, features, seed=5, runtime=runtime) as session:
        network: Network = ring_network(session, momentum=True)
        train(network, RECIPE, last=2)
        graph = network.graph.copy()
        graph.remove_edges_from(list(graph.edges(4)))
        graph.add_edge(3, 5)
        network.leave(4, graph)
        train(network, RECIPE, first=2)
        return all_rows(network)


@pytest.fixture(scope="module")
def direct() -> np.ndarray:
    return story(InlineTransport(1))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_LOOK", 0.0)
    monkeypatch.setattr(client_app, "_attached", {})
    monkeypatch.setattr(transport.time, "sleep", lambda seconds: None)


@pytest.mark.parametrize("tells", [True, False], ids=["Flower tells", "Flower says nothing"])
@pytest.mark.parametrize("fate", ["answer", "lose", "forget", "twice"])
@pytest.mark.parametrize("hosts", [1, 2])
def test_the_same_bits_whatever_befalls_messages(
    hosts: int, fate: str, tells: bool, direct: np.ndarray, tmp_path: Path
) -> None:
    grid = FarGrid(hosts, tmp_path, lambda grid, number: fate if number % 3 == 2 else "answer", tells=tells)
    rows = story(GridTransport(grid, grid.get_node_ids()))
    assert np.array_equal(rows, direct, equal_nan=True)
    assert not any(tmp_path.iterdir()), "the stores are deleted in the end"
    again = {"answer": 0, "forget": 0, "lose": -1, "twice": 1}[fate]
    assert grid.sent >= 6 and np.sign(grid.delivered - grid.sent) == again, "it did befall some"


def test_hosts_that_hold_only_their_own_samples(
    direct: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = image_data()
    nodes = len(dataset.clients(Role.TRAIN))
    members = [np.arange(low, high) for low, high in bounds(nodes, 2)]
    split(dataset, members, tmp_path / "parts")
    monkeypatch.setattr(datasource, "publish", lambda dataset: dataset.sha256())  # nothing is shared in this process
    grid = FarGrid(2, tmp_path / "stores", lambda grid, number: "answer")
    far = GridTransport(grid, grid.get_node_ids())
    with pytest.raises(UserError, match="a data set made in Python can only be used by hosts in the same process"):
        story(far)
    for host, context in enumerate(grid._local._contexts.values()):
        context.node_config["data"] = str(tmp_path / "parts" / f"host-{host}.npz")
    assert np.array_equal(story(far), direct, equal_nan=True)
    assert not datasource._shared, "nobody takes a part for the whole"
    for host, context in enumerate(grid._local._contexts.values()):
        context.node_config["data"] = str(tmp_path / "parts" / f"host-{1 - host}.npz")
    with pytest.raises(UserError, match=r"lacks the samples of client 0 .*give host h the part host-h\.npz"):
        story(far)
    assert not any((tmp_path / "stores").iterdir())


def set_up(tmp_path: Path, fate: Callable[[FarGrid, int], str]) -> tuple[FarGrid, GridTransport, Session]:
    dataset = image_data()
    model, features = model_for(dataset)
    grid = FarGrid(1, tmp_path, fate)
    far = GridTransport(grid, grid.get_node_ids(), patience=0.0)
    return grid, far, Session(far, dataset, model, features, seed=5, runtime=RuntimeSettings(workers=0))


def test_a_message_broken_off_half_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, far, session = set_up(tmp_path, lambda grid, number: "answer")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(client_app.Host, "handle", killed)
        session.ask("put", {}, {"x": np.zeros(3)})
    far._sent = [1]  # the conductor sends it again
    grid.kill(2)
    with pytest.raises(UserError, match=r"host 0 was stopped in the middle of message 1: .* resume the run"):
        session.ask("put", {}, {"x": np.zeros(3)})


def test_a_supernode_that_stays_away_is_told(tmp_path: Path) -> None:
    _, _, session = set_up(tmp_path, lambda grid, number: "gone" if number == 2 else "answer")
    with pytest.raises(UserError, match=r"host 0 \(SuperNode 2\) has been away for 0 s; start it again"):
        session.ask("put", {}, {"x": np.zeros(3)})


def test_a_fault_is_told_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, _, session = set_up(tmp_path, lambda grid, number: "answer")
    sent = grid.sent
    with pytest.raises(UserError, match=r"malformed|unknown"):
        session.ask("no such operation", {})
    assert grid.sent == sent + 1
    session.ask("put", {}, {"x": np.zeros(3)})


def test_a_store_on_another_machine_is_told(tmp_path: Path) -> None:
    grid, _, session = set_up(tmp_path / "here", lambda grid, number: "answer")
    grid.kill(2)
    grid._local._contexts[2].node_config["store"] = str(tmp_path / "there")
    with pytest.raises(UserError, match=r"has no store of this session in '.*there'; hosts that change machines need"):
        session.ask("put", {}, {"x": np.zeros(3)})


def as_flower_does(grid: FarGrid, *, killed: bool = False) -> None:
    """Answer for a ClientApp that raises; ``killed``: its SuperNode ends with it, and is started again."""
    app = grid._local._app

    def answer(message: Message, context: Any) -> Message:
        try:
            return app(message, context)
        except ZeroDivisionError as error:
            if killed:
                grid.kill(message.metadata.dst_node_id)
            return Message(Error(5 if killed else 2, f"ClientApp raised {error!r}"), reply_to=message)

    grid._local._app = answer  # type: ignore[assignment]


def test_the_first_error_is_told_and_samples_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle, requests, ended = client_app.Host.handle, list[Request](), list[int]()

    def fails(host: Any, request: Request) -> Reply:
        requests.append(request)
        if len(requests) == 5:
            raise ZeroDivisionError("the true cause")
        return handle(host, request)

    monkeypatch.setattr(client_app.Host, "handle", fails)
    monkeypatch.setattr(Workers, "close", lambda self: ended.append(1))
    grid = FarGrid(2, tmp_path, lambda grid, number: "answer")
    as_flower_does(grid)
    with pytest.raises(UserError, match=r"^host [01] failed at .*the true cause"):
        story(GridTransport(grid, grid.get_node_ids()))
    assert len(requests) > 5 and len(ended) == 2 and not client_app._attached
    assert not any(tmp_path.iterdir())


def test_a_run_whose_host_is_killed_while_it_closes_ends_well(
    direct: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, killed = Store.remove, list[Path]()

    def half(store: Store) -> None:
        if not killed:
            killed.append(store.folder)
            for name in ("inputs.npy", "journal.json"):
                (store.folder / name).unlink()
            raise ZeroDivisionError
        remove(store)

    monkeypatch.setattr(Store, "remove", half)
    grid = FarGrid(2, tmp_path, lambda grid, number: "answer")
    as_flower_does(grid, killed=True)
    assert np.array_equal(story(GridTransport(grid, grid.get_node_ids())), direct, equal_nan=True)
    assert killed and not any(tmp_path.iterdir())


def test_a_host_that_is_away_when_all_is_done_costs_a_sentence_and_not_the_run(tmp_path: Path) -> None:
    ends = [False]
    _, _, session = set_up(tmp_path, lambda grid, number: "gone" if ends[0] else "answer")
    with session:
        session.ask("put", {}, {"x": np.zeros(3)})
        ends[0] = True
    assert session.unclosed is not None and "host 0 (SuperNode 2) has been away" in session.unclosed
    assert any(tmp_path.iterdir()), "it holds what it held"


def test_a_store_that_is_gone_needs_no_closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, session = set_up(tmp_path, lambda grid, number: "answer")
    (folder,) = tmp_path.glob("fedunlearn-*")
    shutil.rmtree(folder)
    with monkeypatch.context() as patch:
        patch.setattr(client_app, "find_store", lambda *_: folder)  # as if it went after it was looked for
        session.close()
    session.close()


def test_another_hosts_store_is_not_deleted(tmp_path: Path) -> None:
    _, _, session = set_up(tmp_path, lambda grid, number: "answer")
    (folder,) = tmp_path.glob("fedunlearn-*")
    notes = json.loads((folder / "journal.json").read_text())
    (folder / "journal.json").write_text(json.dumps({**notes, "host": 1}))
    with pytest.raises(UserError, match="belongs to another host or session"):
        session.close()
    assert (folder / "inputs.npy").is_file()


class Clock:
    """Time that passes only while somebody sleeps."""

    now = 0.0

    def monotonic(self) -> float:
        """Return the time in seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def test_whoever_stays_away_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(transport, "time", clock)
    grid = FarGrid(2, tmp_path, lambda grid, number: "gone" if number == 5 else "answer")
    far = GridTransport(grid, grid.get_node_ids(), patience=300.0)
    with pytest.raises(UserError, match=r"host 0 \(SuperNode 2\) has been away for 300 s"):
        story(far)
    assert 300 < clock.now < 320
    assert [path.name[-2:] for path in tmp_path.glob("fedunlearn-*")] == ["-0"], "who was there was closed"


@pytest.mark.parametrize("workers", [-1, 1.5, "two", True])
def test_a_number_of_workers_that_is_none_is_told(tmp_path: Path, workers: Any) -> None:
    grid = FarGrid(1, tmp_path, lambda grid, number: "answer")
    grid._local._contexts[2].node_config["workers"] = workers
    setup = Request("setup", {"device": "cpu"})
    with pytest.raises(UserError, match=r"node config: workers = .* is not a number of processes"):
        GridTransport(grid, [2]).exchange([setup])


def test_a_host_without_a_gpu_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    grid = FarGrid(1, tmp_path, lambda grid, number: "answer")
    with pytest.raises(UserError, match=r"runtime.device = 'cuda', but a host on .* sees no GPU"):
        GridTransport(grid, [2]).exchange([Request("setup", {"device": "cuda"})])
