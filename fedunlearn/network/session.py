"""The hosts of one run: set up once, shared by every population (the network, its retrained twins, probes)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import numpy as np

from fedunlearn.data import DataSettings, FederatedDataset, Role
from fedunlearn.errors import UserError
from fedunlearn.models import FeatureMap, Model
from fedunlearn.network import datasource
from fedunlearn.network.memory import room_for_arrays
from fedunlearn.network.settings import LinkSettings, RuntimeSettings
from fedunlearn.network.transport import Reply, Request, Transport
from fedunlearn.network.workers import default_workers

Then = Callable[[Reply], None]
"""Is called with a host's reply to a request that was queued."""
_WAITING_BYTES = 64 << 20
"""Bytes of queued arrays that are sent without waiting for more."""


def blocks_of(num_nodes: int, hosts: int) -> list[tuple[int, int]]:
    """Return the contiguous blocks ``[low, high)`` of vertices that the hosts carry."""
    edges = np.linspace(0, num_nodes, hosts + 1).astype(int)
    return [(int(a), int(b)) for a, b in pairwise(edges)]


class Session:
    """Opens the hosts behind a transport with one data set, one feature map and one model.

    Use as a context manager: leaving it ends the worker processes and deletes the hosts' stores.
    """

    def __init__(
        self, transport: Transport, dataset: FederatedDataset, model: Model, features: FeatureMap, *, seed: int,
        data: DataSettings | None = None, links: LinkSettings | None = None, runtime: RuntimeSettings | None = None,
        device: str = "cpu",
    ) -> None:  # fmt: skip
        self.transport, self.dataset, self.model, self.features, self.seed = transport, dataset, model, features, seed
        self.links = links or LinkSettings()
        self.device = device
        clients = dataset.clients(Role.TRAIN)
        features.refuse_overlap(dataset.all_train_rows()[0])
        self.num_nodes = len(clients)
        if transport.num_hosts > self.num_nodes:
            raise UserError(
                f"runtime.hosts = {transport.num_hosts} is more than the {self.num_nodes} nodes of the network "
                f"(allowed: 1 to {self.num_nodes})"
            )
        self.blocks = blocks_of(self.num_nodes, transport.num_hosts)
        runtime = runtime or RuntimeSettings()
        workers = default_workers() if runtime.workers is None else runtime.workers
        if device != "cpu":
            workers = 0  # one process feeds the GPU
        self._key = datasource.publish(dataset)
        share = 0 if workers == 0 else max(1, workers // transport.num_hosts)
        self._waiting: list[list[tuple[Request, Then | None]]] = [[] for _ in self.blocks]
        self.traffic = {"messages": 0, "bytes_sent": 0, "bytes_received": 0}
        spec, arrays = features.to_spec()
        room = room_for_arrays(runtime, workers, dataset.inputs.nbytes, transport.num_hosts)
        requests = [
            Request(
                "setup",
                {
                    "block": list(block), "num_nodes": self.num_nodes, "workers": share, "device": device,
                    "room": room, "scratch": runtime.scratch, "dataset": self._key,
                    "data": data.model_dump(mode="json") if data else None,
                    "model": model.spec, "features": spec,
                },
                arrays,
            )
            for block in self.blocks
        ]  # fmt: skip
        try:
            self.exchange(requests)
        except BaseException:
            with suppress(Exception):  # the hosts that were made end; the others know nothing to end
                self.close()
            raise

    # --- messages --------------------------------------------------------------------------------------------------

    def ask(self, op: str, params: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> list[Reply]:
        """Send the same request to every host and return all replies."""
        return self.exchange([Request(op, params, arrays or {}) for _ in self.blocks])

    def tell(self, host: int, op: str, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Send a request to one host; the others have nothing to do meanwhile."""
        return self._send([Request(op, params, arrays) if h == host else None for h in range(len(self.blocks))])[host]

    def exchange(self, requests: Sequence[Request]) -> list[Reply]:
        """Send ``requests[h]`` to host h, with all that waits for it, and return the replies in host order."""
        return self._send(requests)

    def later(
        self, op: str, params: dict[str, Any], arrays: dict[str, np.ndarray] | None = None, then: Then | None = None
    ) -> None:
        """Queue the same request for every host: it travels in the message of the next request that is waited for.

        For what nobody needs an answer to now; ``then(reply)`` is called for each host's reply when it is there. A
        transport on which messages cost nothing delivers it at once.
        """
        self.later_each([Request(op, params, arrays or {}) for _ in self.blocks], then)

    def later_each(self, requests: Sequence[Request], then: Then | None = None) -> None:
        """Queue ``requests[h]`` for host h, as :meth:`later` does."""
        if self.transport.immediate:
            for reply in self.exchange(requests):
                if then is not None:
                    then(reply)
            return
        for waiting, request in zip(self._waiting, requests):
            # The caller goes on and may change its arrays before they travel.
            arrays = {name: np.array(values) for name, values in request.arrays.items()}
            waiting.append((replace(request, arrays=arrays), then))
        if sum(request.nbytes for waiting in self._waiting for request, _ in waiting) > _WAITING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Deliver what waits, if anything does."""
        last = [waiting.pop() if waiting else None for waiting in self._waiting]
        if all(entry is None for entry in last):
            return
        replies = self._send([None if entry is None else entry[0] for entry in last])
        for entry, reply in zip(last, replies):
            if entry is not None and entry[1] is not None:
                entry[1](reply)

    def _send(self, requests: Sequence[Request | None]) -> list[Reply]:
        """Deliver requests with what waits for their hosts, and call whoever wanted to know; None has no reply."""
        waited: list[list[tuple[Request, Then | None]]] = [[] for _ in requests]
        batches: list[Request | None] = []
        for host, request in enumerate(requests):
            if request is not None and self._waiting[host]:
                waited[host], self._waiting[host] = self._waiting[host], []
                request = replace(request, before=tuple(entry[0] for entry in waited[host]))
            batches.append(request)
        replies = self.transport.exchange(batches)
        sent = [request for request in batches if request is not None]
        self.traffic["messages"] += len(sent)
        self.traffic["bytes_sent"] += sum(request.nbytes for request in sent)
        self.traffic["bytes_received"] += sum(reply.nbytes for reply in replies if reply is not None)
        for entries, reply in zip(waited, replies):
            for (_, then), early in zip(entries, reply.before if reply is not None else ()):
                if then is not None:
                    then(early)
        return cast(list[Reply], replies)

    def put(self, arrays: dict[str, np.ndarray]) -> None:
        """Keep arrays on every host under their names."""
        self.later("put", {}, arrays)

    def close(self) -> None:
        """End the hosts."""
        datasource.withdraw(self._key)
        self._waiting = [[] for _ in self.blocks]  # what still waits would change what is deleted now
        self.ask("close", {})

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
