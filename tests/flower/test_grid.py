"""The conductor talks to hosts through Flower messages: a host that echoes stands in for the real one."""

from __future__ import annotations

import ast
import json
import pickle
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.clientapp import ClientApp

import fedunlearn.flower
from fedunlearn.errors import UserError
from fedunlearn.flower import GridTransport, LocalGrid, client_app, wait_for_nodes
from fedunlearn.flower.codec import Address, encode_reply
from fedunlearn.network.transport import Reply, Request


class EchoHost:
    """Keeps its setup in its folder, and answers every request with that and with what it was sent."""

    attached = refreshed = closed = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers = SimpleNamespace(close=self._close_workers)

    def _close_workers(self) -> None:
        type(self).closed += 1

    @classmethod
    def create(
        cls, folder: Path, params: dict[str, Any], arrays: dict[str, np.ndarray], own: None = None, beside: Any = None
    ) -> EchoHost:
        if "mistake" in params:
            raise UserError(params["mistake"])
        (folder / "setup.json").write_text(json.dumps(params))
        return cls(folder)

    @classmethod
    def attach(cls, folder: Path, beside: Any = None) -> EchoHost:
        cls.attached += 1
        if not (folder / "setup.json").exists():
            raise UserError(f"the store {folder} of this host is gone; start the run again")
        return cls(folder)

    def refresh(self) -> None:
        type(self).refreshed += 1

    def handle(self, request: Request) -> Reply:
        if request.op == "mistake":
            raise UserError(request.params["sentence"])
        if request.op == "fault":
            raise ZeroDivisionError("a fault in the program")
        if request.op == "close":
            (self.folder / "setup.json").unlink()
            self.folder.rmdir()
            return Reply()
        params = {"setup": json.loads((self.folder / "setup.json").read_text()), "thread": threading.get_ident()}
        return Reply({**params, "op": request.op, "got": request.params}, {k: 2 * v for k, v in request.arrays.items()})


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the ClientApp make echo hosts whose folders lie here."""

    monkeypatch.setattr(client_app, "Host", EchoHost)
    monkeypatch.setattr(client_app, "new_store", lambda owner: Path(tempfile.mkdtemp(dir=tmp_path)))
    monkeypatch.setattr(client_app, "_attached", {})
    for count in ("attached", "refreshed", "closed"):
        monkeypatch.setattr(EchoHost, count, 0)
    return tmp_path


@pytest.fixture(params=[1, 2, 5])
def transport(request: pytest.FixtureRequest, stores: Path) -> Iterator[GridTransport]:
    """Hosts that are set up with their number."""
    with LocalGrid(client_app.app, request.param) as grid:
        transport = GridTransport(grid, grid.get_node_ids())
        transport.exchange([Request("setup", {"host": h}) for h in range(request.param)])
        yield transport


def test_each_host_gets_its_request_and_replies_come_in_host_order(transport: GridTransport) -> None:
    hosts = range(transport.num_hosts)
    for _ in range(3):
        sent = [Request("rows", {"for": h}, {"x": np.arange(h + 1.0), "none": np.zeros((0, h))}) for h in hosts]
        replies = transport.exchange(sent)
        assert [r.params["setup"] for r in replies] == [{"host": h} for h in hosts]
        assert [(r.params["op"], r.params["got"]) for r in replies] == [("rows", {"for": h}) for h in hosts]
        assert [r.arrays["x"].tolist() for r in replies] == [[2.0 * i for i in range(h + 1)] for h in hosts]
        assert [r.arrays["none"].shape for r in replies] == [(0, h) for h in hosts]
    here = threading.get_ident()
    assert {r.params["thread"] == here for r in replies} == {transport.num_hosts == 1}


def test_one_request_for_every_host(transport: GridTransport) -> None:
    with pytest.raises(ValueError):
        transport.exchange([Request("rows")] * (transport.num_hosts + 1))


def test_a_mistake_arrives_as_its_one_sentence(transport: GridTransport) -> None:
    sentence = "data.path = 'gone.npz' does not exist on this host"
    last = transport.num_hosts - 1
    requests = [Request("mistake" if h == last else "rows", {"sentence": sentence}) for h in range(last + 1)]
    with pytest.raises(UserError) as caught:
        transport.exchange(requests)
    assert str(caught.value) == sentence and caught.value.__cause__ is None
    assert len(transport.exchange([Request("rows")] * (last + 1))) == last + 1, "the hosts go on"


def test_a_fault_shows_itself(transport: GridTransport) -> None:
    with pytest.raises(ZeroDivisionError, match="a fault in the program"):
        transport.exchange([Request("fault")] * transport.num_hosts)
    assert transport.exchange([Request("rows")] * transport.num_hosts)[0].params["op"] == "rows"


def test_close_forgets_the_hosts(transport: GridTransport, stores: Path) -> None:
    assert len(list(stores.iterdir())) == transport.num_hosts
    transport.exchange([Request("close")] * transport.num_hosts)
    assert not list(stores.iterdir()) and not client_app._attached
    with pytest.raises(UserError, match="never set up was asked for 'rows'"):
        transport.exchange([Request("rows")] * transport.num_hosts)


def test_a_fresh_process_finds_its_host_again(transport: GridTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_app, "_attached", {})
    replies = transport.exchange([Request("rows")] * transport.num_hosts)
    assert [r.params["setup"]["host"] for r in replies] == list(range(transport.num_hosts))
    assert EchoHost.attached == transport.num_hosts
    transport.exchange([Request("rows")] * transport.num_hosts)
    assert EchoHost.attached == transport.num_hosts, "attached once"


def test_a_process_that_missed_a_message_opens_its_arrays_anew(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalGrid(client_app.app) as grid:
        transport = GridTransport(grid, grid.get_node_ids())
        transport.exchange([Request("setup", {"host": 0})])
        here, other = client_app._attached, dict[str, Any]()
        transport.exchange([Request("rows")])
        monkeypatch.setattr(client_app, "_attached", other)
        transport.exchange([Request("rows")])
        assert (EchoHost.attached, EchoHost.refreshed) == (1, 0)
        monkeypatch.setattr(client_app, "_attached", here)
        transport.exchange([Request("rows")])
        transport.exchange([Request("rows")])
        assert (EchoHost.attached, EchoHost.refreshed) == (1, 1), "once: nobody else has come in between since"


def test_a_lost_store_is_told(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalGrid(client_app.app) as grid:
        transport = GridTransport(grid, grid.get_node_ids())
        transport.exchange([Request("setup")])
        monkeypatch.setattr(client_app, "_attached", {})
        next(stores.glob("*/setup.json")).unlink()
        with pytest.raises(UserError, match="is gone; start the run again"):
            transport.exchange([Request("rows")])


def test_a_second_setup_replaces_the_first(stores: Path) -> None:
    with LocalGrid(client_app.app) as grid:
        transport = GridTransport(grid, grid.get_node_ids())
        transport.exchange([Request("setup", {"host": "old"})])
        transport.exchange([Request("setup", {"host": "new"})])
        assert transport.exchange([Request("rows")])[0].params["setup"] == {"host": "new"}
        assert len(list(stores.iterdir())) == 1 and EchoHost.closed == 1


def test_a_failed_setup_leaves_nothing(stores: Path) -> None:
    with LocalGrid(client_app.app) as grid:
        transport = GridTransport(grid, grid.get_node_ids())
        with pytest.raises(UserError, match="no such data"):
            transport.exchange([Request("setup", {"mistake": "no such data"})])
        assert not list(stores.iterdir())
        with pytest.raises(UserError, match="never set up"):
            transport.exchange([Request("rows")])


def test_nothing_is_unpickled(transport: GridTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was pickled or unpickled")

    for name in ("loads", "load", "dumps", "dump", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    transport.exchange([Request("rows", {"a": [1, None]}, {"x": np.eye(3)})] * transport.num_hosts)


def test_the_room_uses_no_pickle() -> None:
    banned = ("pickle", "marshal", "shelve", "dill", "joblib")
    for path in Path(next(iter(fedunlearn.flower.__path__))).glob("*.py"):
        source = path.read_text().replace("allow_pickle=False", "")
        assert not any(word in source for word in banned), path
        calls = [n.func for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
        assert not {getattr(c, "id", "") for c in calls} & {"eval", "exec", "compile"}, path


def test_pushed_messages_are_pulled_once(stores: Path) -> None:
    echo = ClientApp()

    @echo.query()
    def answer(message: Message, context: Any) -> Message:
        return Message(encode_reply(Reply({"node": context.node_id}), Address("", 0, 0)), reply_to=message)

    with LocalGrid(echo, 2) as grid:
        messages = [Message(RecordDict(), n, "query") for n in (3, 2, 3)]
        ids = grid.push_messages(messages)
        assert len(set(ids)) == 3
        assert [m.metadata.src_node_id for m in grid.pull_messages(ids[:2])] == [3, 2]
        assert [m.metadata.reply_to_message_id for m in grid.pull_messages(ids)] == [ids[2]]
        assert not grid.pull_messages(ids)
        assert [n.node_id for n in grid.get_nodes()] == [2, 3]


class BrokenGrid(LocalGrid):
    """A grid on which hosts are lost, as one over a network may be."""

    def __init__(self, fate: str) -> None:
        super().__init__(ClientApp(), 2)
        self.fate = fate

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        for i, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = str(i)
        reason = "Traceback\n  File ...\n<class 'OSError'>:<'disk full'>\n"
        return [Message(Error(2, reason), reply_to=m) for m in messages] if self.fate == "error" else []


def test_a_lost_host_is_told_in_one_sentence() -> None:
    with BrokenGrid("silence") as grid, pytest.raises(UserError, match=r"^host 0 gave no answer to 'sum'"):
        GridTransport(grid, grid.get_node_ids()).exchange([Request("sum")] * 2)
    with (
        BrokenGrid("error") as grid,
        pytest.raises(UserError, match=r"^host 0 failed at 'sum' .*disk full.* see the log") as caught,
    ):
        GridTransport(grid, grid.get_node_ids()).exchange([Request("sum")] * 2)
    assert "\n" not in str(caught.value)


class GrowingGrid(LocalGrid):
    """A grid whose SuperNodes register one after the other."""

    def __init__(self, seen: list[list[int]]) -> None:
        super().__init__(ClientApp())
        self.seen = seen

    def get_node_ids(self) -> list[int]:
        return self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]


def test_nodes_are_awaited_until_their_number_stands_still() -> None:
    grid = GrowingGrid([[], [9], [9, 4], [9, 4, 7], [9, 4, 7]])
    assert wait_for_nodes(grid, pause=0.0) == [4, 7, 9]


def test_too_few_nodes_are_told() -> None:
    with pytest.raises(UserError, match=r"runtime\.hosts = 3 but 2 SuperNodes are connected after 0 s"):
        wait_for_nodes(GrowingGrid([[1, 2]]), 3, patience=0.0, pause=0.0)
