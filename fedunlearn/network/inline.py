"""A transport without any messaging layer: hosts are objects of this process. For tests and notebooks."""

from __future__ import annotations

from collections.abc import Sequence

from fedunlearn.network.host import Host
from fedunlearn.network.store import new_folder
from fedunlearn.network.transport import Reply, Request


class InlineTransport:
    """Hands requests to host objects directly; with ``immediate = False`` they wait for each other, as on a network."""

    def __init__(self, num_hosts: int = 1, *, immediate: bool = True) -> None:
        self.num_hosts, self.immediate = num_hosts, immediate
        self._hosts: list[Host] = []

    def exchange(self, requests: Sequence[Request | None]) -> list[Reply | None]:
        """Deliver requests; ``setup`` makes the hosts."""
        if requests[0] is not None and requests[0].op == "setup":
            self._hosts = []
            for request in requests:
                assert request is not None
                self._hosts.append(Host.create(new_folder(), request.params, request.arrays))
            return [Reply() for _ in requests]
        return [None if request is None else host.handle(request) for host, request in zip(self._hosts, requests)]
