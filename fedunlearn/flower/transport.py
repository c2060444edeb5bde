"""The conductor's side: one request to every host over any Flower grid."""

from __future__ import annotations

import time
from collections.abc import Sequence
from uuid import uuid4

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedunlearn.errors import UserError
from fedunlearn.flower.codec import Address, decode_reply, encode_request
from fedunlearn.flower.grid import LocalGrid
from fedunlearn.network.transport import Reply, Request


class GridTransport:
    """A :class:`~fedunlearn.network.transport.Transport` over a Flower grid; host h is the h-th of ``nodes``."""

    def __init__(self, grid: Grid, nodes: Sequence[int]) -> None:
        self._grid = grid
        self._nodes = list(nodes)
        self._session, self._sent = "", [0] * len(self._nodes)

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

        Raises UserError with the sentence of the first host that could not do its part.
        """
        if requests[0] is not None and requests[0].op == "setup":
            self._session, self._sent = uuid4().hex, [0] * len(self._nodes)
        messages: dict[int, Message] = {}
        addresses: dict[int, Address] = {}
        for host, (node, request) in enumerate(zip(self._nodes, requests, strict=True)):
            if request is not None:
                addresses[host] = Address(self._session, host, self._sent[host])
                self._sent[host] += 1
                content = encode_request(request, addresses[host])
                messages[host] = Message(content, dst_node_id=node, message_type=MessageType.QUERY)
        replies = {r.metadata.reply_to_message_id: r for r in self._grid.send_and_receive(list(messages.values()))}
        return [
            None
            if request is None
            else _unwrap(replies.get(messages[host].metadata.message_id), request.op, addresses[host])
            for host, request in enumerate(requests)
        ]


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
    """Return the ids of the connected SuperNodes, ascending, once there are enough and their number stands still.

    SuperNodes register one after the other, so two looks ``pause`` seconds apart must agree. Raises UserError after
    ``patience`` seconds with fewer than ``at_least``.
    """
    deadline = time.monotonic() + patience
    before: list[int] = []
    while True:
        now = sorted(grid.get_node_ids())
        if len(now) >= at_least and now == before:
            return now
        if time.monotonic() > deadline:
            raise UserError(
                f"runtime.hosts = {at_least} but {len(now)} SuperNodes are connected after {patience:g} s; "
                "start more SuperNodes or lower runtime.hosts"
            )
        before = now
        time.sleep(pause)
