"""A transport without any messaging layer: hosts are objects of this process. For tests and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fedunlearn.network.host import Host
from fedunlearn.network.store import new_folder
from fedunlearn.network.transport import Reply, Request


class InlineTransport:
    """Hands requests to host objects directly.

    With ``immediate = False`` they wait for each other, as on a network. ``places`` names for each host where it is:
    hosts at the same place read each other's stores.
    """

    def __init__(self, num_hosts: int = 1, *, immediate: bool = True, places: Sequence[str] = ()) -> None:
        self.num_hosts, self.immediate, self.places = num_hosts, immediate, tuple(places)
        self._hosts: list[Host] = []

    def exchange(self, requests: Sequence[Request | None]) -> list[Reply | None]:
        """Deliver requests; ``setup`` makes the hosts."""
        if requests[0] is not None and requests[0].op == "setup":
            self._hosts = []
            for host, request in enumerate(requests):
                assert request is not None
                beside = partial(self._beside, host)
                self._hosts.append(Host.create(new_folder(), request.params, request.arrays, beside=beside))
            return [Reply({"place": place}) for place in self.places] or [Reply() for _ in requests]
        return [None if request is None else host.handle(request) for host, request in zip(self._hosts, requests)]

    def _beside(self, reader: int, host: int) -> Path | None:
        there = host < len(self.places) and self.places[host] == self.places[reader]
        return self._hosts[host].store.folder if there else None
