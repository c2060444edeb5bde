"""The hosts of one run: set up once, shared by every population (the network, its retrained twins, probes)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from fedunlearn.data import DataSettings, FederatedDataset, Role
from fedunlearn.errors import UserError
from fedunlearn.models import FeatureMap, Model
from fedunlearn.network import datasource
from fedunlearn.network.answer import Answer
from fedunlearn.network.memory import room_for_arrays
from fedunlearn.network.messages import check_reply
from fedunlearn.network.settings import LinkSettings, RuntimeSettings
from fedunlearn.network.transport import Reply, Request, Transport
from fedunlearn.network.workers import default_workers
from fedunlearn.topology.partition import blocks, bounds, vertex_order

T = TypeVar("T")
Then = Callable[[Reply], None]
"""Is called with a host's reply to a request that was queued."""
_WAITING_BYTES = 64 << 20
"""Bytes of queued arrays that are sent without waiting for more."""


_OVERWRITES = frozenset(["population", "leave", "wipe", "drop", "close"])
"""Operations that overwrite or delete borders, which hosts on the same machine read."""


class Session:
    """Opens the hosts behind a transport with one data set, one feature map and one model.

    Host h carries the vertices at the positions ``blocks[h]`` of ``order`` (N,), which :func:`vertex_order` makes of
    ``graph``, the one that the experiment begins with; without a graph it is the order of ids. ``members[h]`` are their
    ids, ascending; ``host_of`` (N,) has the host of every vertex. ``traffic`` counts messages, the bytes of arrays,
    and those of rows that hosts read from each other's stores. ``places[h]`` is the same for hosts that can do that.

    Use as a context manager: leaving it ends the worker processes and deletes the hosts' stores; ``unclosed`` is then
    a sentence if a host could not be told to.
    """

    def __init__(
        self, transport: Transport, dataset: FederatedDataset, model: Model, features: FeatureMap, *, seed: int,
        data: DataSettings | None = None, links: LinkSettings | None = None, runtime: RuntimeSettings | None = None,
        device: str = "cpu", graph: nx.Graph | None = None,
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
        self.order = np.arange(self.num_nodes) if graph is None else vertex_order(graph)
        self.in_order_of_ids = bool((self.order[1:] > self.order[:-1]).all())
        self.blocks = bounds(self.num_nodes, transport.num_hosts)
        self.members = [np.sort(self.order[low:high]) for low, high in self.blocks]
        self.host_of = blocks(self.order, transport.num_hosts)
        runtime = runtime or RuntimeSettings()
        workers = default_workers() if runtime.workers is None else runtime.workers
        if device != "cpu":
            workers = 0  # one process feeds the GPU
        if dataset.parts and len(dataset.parts) != transport.num_hosts:
            raise UserError(
                f"data.parts: the data were split for {len(dataset.parts)} hosts, but {transport.num_hosts} take part; "
                "split them again for so many, or start as many"
            )
        self._key = datasource.publish(dataset)
        self.unclosed: str | None = None
        share = 0 if workers == 0 else max(1, workers // transport.num_hosts)
        self.workers = share * transport.num_hosts
        self._waiting: list[list[tuple[Request, Then | None]]] = [[] for _ in self.blocks]
        self.traffic = {"messages": 0, "bytes_sent": 0, "bytes_received": 0, "bytes_shared": 0}
        spec, arrays = features.to_spec()
        if not self.in_order_of_ids:
            arrays = {**arrays, "order": self.order}
        room = room_for_arrays(runtime, workers, dataset.inputs.nbytes, transport.num_hosts)
        requests = [
            Request(
                "setup",
                {
                    "block": list(block), "num_nodes": self.num_nodes, "workers": share, "device": device,
                    "room": room, "scratch": runtime.scratch, "dataset": self._key,
                    "data": data.model_dump(mode="json") if data else None,
                    "model": model.spec, "features": spec,
                    **({"part": dataset.parts[host]} if dataset.parts else {}),
                },
                arrays,
            )
            for host, block in enumerate(self.blocks)
        ]  # fmt: skip
        try:
            told = self.exchange(requests)
        except BaseException:
            with suppress(Exception):  # the hosts that were made end; the others know nothing to end
                self.close()
            raise
        self.places = [str(reply.params.get("place", "")) for reply in told]
        self.some_beside = len({place for place in self.places if place}) < sum(place != "" for place in self.places)

    def gathered(self, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return what hosts told of their vertices, one part a host in the order of ids, as one array by id."""
        if len(parts) == 1:
            return parts[0]  # not copied: it may be all rows of a large population
        whole = np.empty((self.num_nodes, *parts[0].shape[1:]), dtype=parts[0].dtype)
        for members, part in zip(self.members, parts):
            whole[members] = part
        return whole

    # --- messages --------------------------------------------------------------------------------------------------

    def ask(self, op: str, params: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> list[Reply]:
        """Send the same request to every host and return all replies."""
        return self.exchange([Request(op, params, arrays or {}) for _ in self.blocks])

    def tell(self, host: int, op: str, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Send a request to one host; the others have nothing to do meanwhile."""
        return self.exchange([Request(op, params, arrays) if h == host else None for h in range(len(self.blocks))])[
            host
        ]

    def exchange(self, requests: Sequence[Request | None]) -> list[Reply]:
        """Send ``requests[h]`` to host h, with all that waits for it, and return the replies in host order.

        A host whose request is None gets no message; its reply is None too.
        """
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
        self._queue([(request, then) for request in requests])

    def asked(self, requests: Sequence[Request | None], make: Callable[[list[Reply | None]], T]) -> Answer[T]:
        """Ask ``requests[h]`` of host h, None of whom has nothing to tell, without waiting for the replies.

        Several questions that do not depend on each other travel together: all are asked before the first answer is
        needed (:meth:`Answer.get`). ``make`` gets the replies in host order.
        """
        if self.transport.immediate:
            return Answer(self.exchange(requests), (), self.flush, make)
        hosts = [host for host, request in enumerate(requests) if request is not None]
        answer = Answer([None for _ in requests], hosts, self.flush, make)
        self._queue([None if r is None else (r, partial(answer.take, h)) for h, r in enumerate(requests)])
        return answer

    def _queue(self, entries: Sequence[tuple[Request, Then | None] | None]) -> None:
        self._let_borders_be_read([entry and entry[0] for entry in entries])
        for waiting, entry in zip(self._waiting, entries):
            if entry is not None:
                request, then = entry
                # The caller goes on and may change its arrays before they travel.
                arrays = {name: np.array(values) for name, values in request.arrays.items()}
                waiting.append((replace(request, arrays=arrays), then))
        if sum(request.nbytes for waiting in self._waiting for request, _ in waiting) > _WAITING_BYTES:
            self.flush()

    def flush(self, hosts: Collection[int] | None = None) -> None:
        """Deliver what waits, or what waits for these hosts, if anything does."""
        chosen = range(len(self.blocks)) if hosts is None else hosts
        last = [w.pop() if w and host in chosen else None for host, w in enumerate(self._waiting)]
        if all(entry is None for entry in last):
            return
        replies = self._send([None if entry is None else entry[0] for entry in last])
        for entry, reply in zip(last, replies):
            if entry is not None and entry[1] is not None:
                entry[1](reply)

    def _send(self, requests: Sequence[Request | None]) -> list[Reply]:
        """Deliver requests with what waits for their hosts, and call whoever wanted to know; None has no reply."""
        if all(request is None for request in requests):
            return cast(list[Reply], list(requests))
        self._let_borders_be_read(requests)
        waited: list[list[tuple[Request, Then | None]]] = [[] for _ in requests]
        batches: list[Request | None] = []
        for host, request in enumerate(requests):
            if request is not None and self._waiting[host]:
                waited[host], self._waiting[host] = self._waiting[host], []
                request = replace(request, before=tuple(entry[0] for entry in waited[host]))
            batches.append(request)
        replies = self.transport.exchange(batches)
        for host, (batch, reply) in enumerate(zip(batches, replies)):
            if batch is not None:
                if reply is None:
                    raise UserError(f"host {host} gave no answer to '{batch.op}'; see the log of its SuperNode")
                own = self.order[slice(*self.blocks[host])]
                check_reply(batch, reply, host, own, self.num_nodes, self.model.dim, low=self.blocks[host][0])
        sent = [request for request in batches if request is not None]
        self.traffic["messages"] += len(sent)
        self.traffic["bytes_sent"] += sum(request.nbytes for request in sent)
        self.traffic["bytes_received"] += sum(reply.nbytes for reply in replies if reply is not None)
        for entries, reply in zip(waited, replies):
            for (_, then), early in zip(entries, reply.before if reply is not None else ()):
                if then is not None:
                    then(early)
        return cast(list[Reply], replies)

    def _let_borders_be_read(self, requests: Sequence[Request | None]) -> None:
        """Send what waits, if these requests overwrite borders that other hosts have yet to read.

        Hosts carry out a message each at its own pace: what one reads of another must not change in the same message.
        """
        if any(request is not None and request.op in _OVERWRITES for request in requests) and any(
            request.op == "mix" and "beside" in request.params for waiting in self._waiting for request, _ in waiting
        ):
            self.flush()

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

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            try:
                self.close()
            except UserError as error:  # all that was asked of hosts is here: it must not be lost with one of them
                self.unclosed = f"not every host could be told to end, and what it holds is still there: {error}"
            return
        with suppress(Exception):  # what ended the run is what its user must read
            self.close()
