"""The conductor's side: one request to every host over any Flower grid."""

from __future__ import annotations

import time
from collections.abc import Sequence

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedunlearn.errors import UserError
from fedunlearn.flower.codec import decode_reply, encode_request
from fedunlearn.network.transport import Reply, Request


class GridTransport:
    """A :class:`~fedunlearn.network.transport.Transport` over a Flower grid; host h is the h-th of ``nodes``."""

    def __init__(self, grid: Grid, nodes: Sequence[int]) -> None:
        self._grid = grid
        self._nodes = list(nodes)

    @property
    def num_hosts(self) -> int:
        """Number of SuperNodes that take part."""
        return len(self._nodes)

    def exchange(self, requests: Sequence[Request]) -> list[Reply]:
        """Deliver ``requests[h]`` to host ``h``, wait for all, and return the replies in host order.

        Raises UserError with the sentence of the first host that could not do its part.
        """
        messages = [
            Message(encode_request(request), dst_node_id=node, message_type=MessageType.QUERY)
            for node, request in zip(self._nodes, requests, strict=True)
        ]
        replies = {r.metadata.reply_to_message_id: r for r in self._grid.send_and_receive(messages)}
        return [
            _unwrap(replies.get(message.metadata.message_id), host, request.op)
            for host, (message, request) in enumerate(zip(messages, requests))
        ]


def _unwrap(message: Message | None, host: int, op: str) -> Reply:
    if message is None:
        raise UserError(f"host {host} gave no answer to '{op}'; see the log of its SuperNode")
    if message.has_error():
        last_line = str(message.error.reason).strip().splitlines()[-1:]  # Ray puts a whole traceback before it
        raise UserError(f"host {host} failed at '{op}' ({''.join(last_line)[:300]}); see the log of its SuperNode")
    return decode_reply(message.content)


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
