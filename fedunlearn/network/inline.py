"""A transport without any messaging layer: hosts are objects of this process. For tests and notebooks."""

from __future__ import annotations

from collections.abc import Sequence

from fedunlearn.network.host import Host
from fedunlearn.network.store import new_folder
from fedunlearn.network.transport import Reply, Request


class InlineTransport:
    """Hands requests to host objects directly."""

    def __init__(self, num_hosts: int = 1) -> None:
        self.num_hosts = num_hosts
        self._hosts: list[Host] = []

    def exchange(self, requests: Sequence[Request]) -> list[Reply]:
        """Deliver one request per host; ``setup`` makes the hosts."""
        if requests[0].op == "setup":
            self._hosts = []
            for request in requests:
                self._hosts.append(Host.create(new_folder(), request.params, request.arrays))
            return [Reply() for _ in requests]
        return [host.handle(request) for host, request in zip(self._hosts, requests)]
