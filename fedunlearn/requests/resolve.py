"""From what a user asked to exactly which samples go, which requests are refused, and which are answered together."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from fedunlearn.data import FederatedDataset, Role
from fedunlearn.errors import UserError, listed, nearest
from fedunlearn.randomness import uniforms
from fedunlearn.requests.decisions import Decisions, DeletionRequest, Refusal
from fedunlearn.requests.docket import Breach, Docket
from fedunlearn.requests.settings import RequestPolicy, RequestSettings
from fedunlearn.requests.windows import together, window_of
from fedunlearn.topology import Repair, remove_vertex


def resolve_requests(
    requests: Sequence[RequestSettings], dataset: FederatedDataset, seed: int
) -> list[DeletionRequest]:
    """Resolve requests one by one by the default policy, which refuses nothing: what cannot be answered is an error.

    Raises UserError when a request names a client, class or sample that does not exist or is already deleted, is not
    the asker's to make, or would leave no client with data.
    """
    return list(decide_requests(requests, dataset, seed).answered)


def decide_requests(
    requests: Sequence[RequestSettings], dataset: FederatedDataset, seed: int, policy: RequestPolicy | None = None, *,
    graph: nx.Graph | None = None, repair: Repair = "refuse",
) -> Decisions:  # fmt: skip
    """Decide about all requests in the order in which they arrive, before anything is trained.

    A refused request changes nothing: all else is as if it had not been made. With a ``graph``, departures are
    rehearsed on a copy of it by the rule ``repair``, so that a request that would tear it is told, or refused, here.

    Raises:
        UserError: for a request that breaks a rule whose action is ``stop``, and for days that go backwards.
    """
    court = _Court(dataset, seed, policy or RequestPolicy(), graph, repair)
    window = court.docket.policy.window
    answered: list[DeletionRequest] = []
    windows: list[float] = []
    refused: list[Refusal] = []
    for number, request in enumerate(requests):
        if number and request.at < requests[number - 1].at:
            raise UserError(
                f"requests.{number}.at = {request.at:g} is before the request above it (allowed: from "
                f"{requests[number - 1].at:g} on)"
            )
        decided = court.decide(request, number)
        if isinstance(decided, Breach):
            if court.docket.action(decided.rule) == "stop":
                raise UserError(decided.reason)
            refused.append(_refusal(number, request, decided))
            continue
        answered.append(decided)
        windows.append(window_of(request.at, window) if window else float(number))
    return Decisions(together(answered, windows), tuple(refused), court.notes())


class _Court:
    """Decides one request after the other; keeps what is deleted, who has left, and the graph that remains."""

    def __init__(
        self, dataset: FederatedDataset, seed: int, policy: RequestPolicy, graph: nx.Graph | None, repair: Repair
    ) -> None:
        self.dataset, self.seed, self.repair, self.graph = dataset, seed, repair, graph
        self.rows = [dataset.train_rows(int(c)) for c in dataset.clients(Role.TRAIN)]
        self.left = np.array([len(rows) for rows in self.rows])  # samples that each vertex still has
        self.deleted = np.zeros(len(dataset.labels), dtype=bool)
        self.docket = Docket(policy, int(self.left.sum()))
        self.vertex = np.full(len(dataset.labels), -1)
        for vertex, rows in enumerate(self.rows):
            self.vertex[rows] = vertex
        self.accepted = 0

    def decide(self, request: RequestSettings, number: int) -> DeletionRequest | Breach:
        """Return the request resolved, and enter it into the docket; or the first rule that it breaks."""
        where = f"requests.{number}"
        found = self._asker(request, where) or self.docket.stranger(request, where) or self._samples(request, where)
        if isinstance(found, Breach):
            return found
        ids, label = found
        taken = np.bincount(self.vertex[ids], minlength=len(self.left))
        leaves = tuple(int(v) for v in np.flatnonzero((taken > 0) & (taken == self.left)))
        breach, graph = self.docket.emptying(request, where, leaves), self.graph
        if breach is None:
            breach, graph = self._without(where, leaves)
        breach = breach or self.docket.excess(request, where, len(ids))
        if breach is not None:
            return breach
        self.graph, self.left = graph, self.left - taken
        self.deleted[ids] = True
        self.docket.enter(request, len(ids))
        self.accepted += 1
        return DeletionRequest(
            self.accepted - 1, request.level, request.client, label, np.sort(ids), leaves, (number,), (request.asker,)
        )

    def notes(self) -> tuple[str, ...]:
        """Return what those who run the network should know: classes of which no training sample is left.

        Nothing where labels lie with the hosts alone.
        """
        if not self.dataset.is_whole:
            return ()
        mine = self.vertex >= 0
        before, after = (np.unique(self.dataset.labels[rows]) for rows in (mine, mine & ~self.deleted))
        return tuple(
            f"no training sample of class {self.dataset.class_names[label]} is left"
            for label in np.setdiff1d(before, after)
        )

    def _asker(self, request: RequestSettings, where: str) -> Breach | None:
        if isinstance(request.by, int) and request.by >= len(self.rows):
            return Breach(
                "unknown",
                f"{where}.by = {request.by} does not exist (allowed: 0 to {len(self.rows) - 1}, or 'operator')",
            )
        return None

    def _without(self, where: str, leaves: tuple[int, ...]) -> tuple[Breach | None, nx.Graph | None]:
        """Return the graph without those who leave, or the breach if nobody, or no connected graph, would remain."""
        alive = self.left > 0
        if len(leaves) == alive.sum():
            sentence = f"{where}: this request would delete the last client that still has data"
            return Breach("broken", sentence), self.graph
        graph = self.graph
        if graph is None or self.repair == "relay":
            return None, graph
        for vertex in leaves:
            try:
                graph = remove_vertex(graph, vertex, self.repair, alive)
            except UserError as error:
                return Breach("broken", f"{where}: {error}"), self.graph
            alive[vertex] = False
        return None, graph

    def _samples(self, request: RequestSettings, where: str) -> tuple[NDArray[np.int64], int | None] | Breach:
        """Return the ids that go, and the class if one is asked for."""
        if request.level == "class":
            label = _label(request.label, where, self.dataset)
            if isinstance(label, Breach):
                return label
            if not self.dataset.is_whole:
                return Breach(
                    "unknown",
                    f"{where}.label = {request.label!r}: which samples are of a class is known to their hosts alone "
                    "(data.parts; allowed: level 'client' or 'sample')",
                )
            ids = np.flatnonzero((self.vertex >= 0) & (self.dataset.labels == label) & ~self.deleted)
            if not len(ids):
                sentence = f"{where}.label = {request.label!r} names a class of which no training sample is left"
                return Breach("duplicates" if self.deleted.any() else "unknown", sentence)
            return ids, label
        node = request.client
        assert node is not None
        if node >= len(self.rows):
            return Breach("unknown", f"{where}.client = {node} does not exist (allowed: 0 to {len(self.rows) - 1})")
        if not self.left[node]:
            return Breach("duplicates", f"{where}.client = {node} was already deleted by an earlier request")
        if request.level == "client":
            return self.rows[node][~self.deleted[self.rows[node]]], None
        own = self._own_samples(request, where, node)
        return own if isinstance(own, Breach) else (own, None)

    def _own_samples(self, request: RequestSettings, where: str, node: int) -> NDArray[np.int64] | Breach:
        mine = self.rows[node]
        if request.samples is not None:
            wrong = [s for s in request.samples if not 0 <= s < len(mine)]
            if wrong:
                return Breach(
                    "unknown",
                    f"{where}.samples names sample {wrong[0]}, which does not exist (allowed: 0 to {len(mine) - 1})",
                )
            ids = mine[np.unique(np.array(request.samples, dtype=np.int64))]
            twice = self.deleted[ids]
            if twice.any() and (self.docket.policy.duplicates != "ignore" or twice.all()):
                place = int(np.searchsorted(mine, ids[twice][0]))
                return Breach(
                    "duplicates",
                    f"{where}.samples names sample {place}, which was already deleted by an earlier request",
                )
            return ids[~twice]
        left = mine[~self.deleted[mine]]
        assert request.count is not None
        if request.count > len(left):
            return Breach(
                "duplicates" if request.count <= len(mine) else "unknown",
                f"{where}.count = {request.count} is more than the {len(left)} samples client {node} has left",
            )
        # drawn by the place among the answered requests, so that a refused one shifts no other's draw
        return left[np.argsort(uniforms(self.seed, "request", left, self.accepted), kind="stable")[: request.count]]


def _refusal(number: int, request: RequestSettings, breach: Breach) -> Refusal:
    return Refusal(
        number, request.level, request.client, request.label, request.asker, request.at, breach.rule, breach.reason
    )  # fmt: skip


def _label(label: str | int | None, where: str, dataset: FederatedDataset) -> int | Breach:
    names = dataset.class_names
    if isinstance(label, int):
        if not 0 <= label < dataset.num_classes:
            return Breach(
                "unknown",
                f"{where}.label = {label} does not exist (allowed: 0 to {dataset.num_classes - 1}, or a class name)",
            )
        return label
    if label not in names:
        return Breach(
            "unknown",
            f"{where}.label = '{label}' is not a class{nearest(str(label), names)} (allowed: {listed(names)})",
        )
    return names.index(label)
