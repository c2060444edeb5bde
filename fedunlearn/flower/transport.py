"""The conductor's side: one request to every host over any Flower grid."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from uuid import uuid4

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedunlearn.errors import UserError
from fedunlearn.flower.codec import Address, decode_reply, encode_request
from fedunlearn.flower.grid import LocalGrid
from fedunlearn.network.transport import Reply, Request

PATIENCE = 600.0
"""Seconds that a SuperNode may be away before the run ends."""
_LIFETIME = 30 * 86400.0
"""Seconds after which Flower forgets a message; by default it would after twelve hours."""
_LOST = frozenset([3, 4, 5])
"""Flower's error codes for a message, a reply or a SuperNode that is not there (``flwr.common.constant.ErrorCode``)."""
_LOOK = 5.0
"""Seconds between two looks at which SuperNodes are connected."""


class GridTransport:
    """A :class:`~fedunlearn.network.transport.Transport` over a Flower grid; host h is the h-th of ``nodes``.

    Flower loses what a SuperNode was at when it was killed, and says nothing if the SuperNode is back soon. So whoever
    was away is sent the same message again, with the same number in the sequence: a host carries it out once.
    """

    def __init__(self, grid: Grid, nodes: Sequence[int], *, patience: float = PATIENCE) -> None:
        self._grid = grid
        self._nodes = list(nodes)
        self._patience = patience
        self._session, self._sent = "", [0] * len(self._nodes)
        self._broken_off = False

    @property
    def num_hosts(self) -> int:
        """Number of SuperNodes that take part."""
        return len(self._nodes)

    @property
    def immediate(self) -> bool:
        """Whether hosts are in this process; over a runtime of Flower a round trip takes tenths of a second or more."""
        return isinstance(self._grid, LocalGrid)

    def exchange(self, requests: Sequence[Request | None]) -> list[Reply | None]:
        """Deliver ``requests[h]`` to host ``h``, wait for all, and return the replies in host order.

        Raises UserError with the sentence of the first host that could not do its part. When that has happened, hosts
        that are away are not waited for to be closed: only those that are there are.
        """
        broken_off, self._broken_off = self._broken_off, True
        ending = broken_off and all(request is None or request.op == "close" for request in requests)
        replies = self._exchange(requests, ending)
        self._broken_off = False
        return replies

    def _exchange(self, requests: Sequence[Request | None], ending: bool) -> list[Reply | None]:
        if requests[0] is not None and requests[0].op == "setup":
            self._session, self._sent = uuid4().hex, [0] * len(self._nodes)
        contents: dict[int, RecordDict] = {}
        addresses: dict[int, Address] = {}
        for host, (_, request) in enumerate(zip(self._nodes, requests, strict=True)):
            if request is not None:
                addresses[host] = Address(self._session, host, self._sent[host])
                self._sent[host] += 1
                contents[host] = encode_request(request, addresses[host])
        answers = self._at_once(contents) if self.immediate else self._over_a_network(contents, ending)
        return [
            None if request is None else _unwrap(answers.get(host), request.op, addresses[host])
            for host, request in enumerate(requests)
        ]

    def _message(self, host: int, content: RecordDict) -> Message:
        return Message(content, dst_node_id=self._nodes[host], message_type=MessageType.QUERY, ttl=_LIFETIME)

    def _at_once(self, contents: dict[int, RecordDict]) -> dict[int, Message]:
        messages = {host: self._message(host, content) for host, content in contents.items()}
        replies = {r.metadata.reply_to_message_id: r for r in self._grid.send_and_receive(list(messages.values()))}
        answers = {host: replies.get(message.metadata.message_id) for host, message in messages.items()}
        return {host: answer for host, answer in answers.items() if answer is not None}

    def _over_a_network(self, contents: dict[int, RecordDict], ending: bool) -> dict[int, Message]:
        """Send, ask for the answers often at first and then every second, and send again to whoever was away.

        ``ending``: whoever is away gives no answer.
        """
        answers: dict[int, Message] = {}
        travelling: dict[str, int] = {}
        to_send, away = set(contents), dict[int, float]()
        connected = self._connected()
        stamps = dict(connected)
        begun = looked = time.monotonic()
        while len(answers) + (len(away) if ending else 0) < len(contents):
            ready = sorted(host for host in to_send if self._nodes[host] in connected)
            messages = [self._message(host, contents[host]) for host in ready]
            for number, host in zip(self._grid.push_messages(messages) if messages else [], ready):
                if number is not None:  # a message that the SuperLink did not take is sent again
                    travelling[number] = host
                    stamps[self._nodes[host]] = connected[self._nodes[host]]
                    to_send.discard(host)
            time.sleep(min(1.0, max(0.01, (time.monotonic() - begun) / 20)))
            for reply in self._grid.pull_messages(list(travelling)) if travelling else []:
                host = travelling.pop(reply.metadata.reply_to_message_id)
                if reply.has_error() and reply.error.code in _LOST:
                    to_send |= {host} - set(answers)
                else:
                    answers.setdefault(host, reply)
            travelling = {number: host for number, host in travelling.items() if host not in answers}
            now = time.monotonic()
            if now - looked > _LOOK or to_send:
                connected, looked = self._connected(), now
                came_back = [
                    h for h in travelling.values() if connected.get(self._nodes[h], "") > stamps[self._nodes[h]]
                ]
                to_send |= set(came_back) - set(answers)
            away = {h: away.get(h, now) for h in contents if h not in answers and self._nodes[h] not in connected}
            for host, since in away.items():
                if now - since > self._patience and not ending:
                    raise UserError(
                        f"host {host} (SuperNode {self._nodes[host]}) has been away for {self._patience:g} s; start it "
                        "again with the same key and resume the run from its last checkpoint"
                    )
        return answers

    def _connected(self) -> dict[int, str]:
        """Return when each of the SuperNodes that are connected now came (a time stamp that sorts as text)."""
        return {node.node_id: str(node.last_activated_at) for node in self._grid.get_nodes()}


def _unwrap(message: Message | None, op: str, sent: Address) -> Reply:
    """Return the reply in the answer to a message, which must say that it answers this very one."""
    if message is None:
        raise UserError(f"host {sent.host} gave no answer to '{op}'; see the log of its SuperNode")
    if message.has_error():
        last_line = str(message.error.reason).strip().splitlines()[-1:]  # Ray puts a whole traceback before it
        raise UserError(f"host {sent.host} failed at '{op}' ({''.join(last_line)[:300]}); see the log of its SuperNode")
    reply, address = decode_reply(message.content)
    if address != sent:
        raise UserError(
            f"host {sent.host} answered '{op}' with message {address.sequence} of host {address.host} in session "
            f"'{address.session}', not with message {sent.sequence} of this session; start the run again"
        )
    return reply


def wait_for_nodes(grid: Grid, at_least: int = 1, *, patience: float = 60.0, pause: float = 0.5) -> list[int]:
    """Return the ids of the connected SuperNodes once there are enough and their number stands still, in host order.

    That is by the names they were registered with (``host-2`` before ``host-10``), then by id. SuperNodes register one
    after the other, so two looks ``pause`` seconds apart must agree. Raises UserError after ``patience`` seconds with
    fewer than ``at_least``.
    """
    deadline = time.monotonic() + patience
    before: list[int] = []
    while True:
        now = [node.node_id for node in sorted(grid.get_nodes(), key=lambda node: (_natural(node.name), node.node_id))]
        if len(now) >= at_least and now == before:
            return now
        if time.monotonic() > deadline:
            raise UserError(
                f"runtime.hosts = {at_least} but {len(now)} SuperNodes are connected after {patience:g} s; "
                "start more SuperNodes or lower runtime.hosts"
            )
        before = now
        time.sleep(pause)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts the numbers in names as numbers."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"([0-9]+)", name)]
