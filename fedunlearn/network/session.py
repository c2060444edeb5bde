"""The hosts of one run: set up once, shared by every population (the network, its retrained twins, probes)."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np

from fedunlearn.data import DataSettings, FederatedDataset, Role
from fedunlearn.errors import UserError
from fedunlearn.models import FeatureMap, Model
from fedunlearn.network import datasource
from fedunlearn.network.memory import room_for_arrays
from fedunlearn.network.settings import LinkSettings, RuntimeSettings
from fedunlearn.network.transport import Reply, Request, Transport
from fedunlearn.network.workers import default_workers


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
            self.transport.exchange(requests)
        except BaseException:
            with suppress(Exception):  # the hosts that were made end; the others know nothing to end
                self.close()
            raise

    def ask(self, op: str, params: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> list[Reply]:
        """Send the same request to every host."""
        return self.transport.exchange([Request(op, params, arrays or {}) for _ in self.blocks])

    def tell(self, host: int, op: str, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Send a request to one host; the others have nothing to do meanwhile."""
        idle = Request("idle")
        requests = [Request(op, params, arrays) if h == host else idle for h in range(len(self.blocks))]
        return self.transport.exchange(requests)[host]

    def put(self, arrays: dict[str, np.ndarray]) -> None:
        """Keep arrays on every host under their names."""
        self.ask("put", {}, arrays)

    def close(self) -> None:
        """End the hosts."""
        datasource.withdraw(self._key)
        self.ask("close", {})

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
