"""From what a user asked to exactly which samples go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data import FederatedDataset, Role
from fedunlearn.errors import UserError, listed, nearest
from fedunlearn.randomness import uniforms
from fedunlearn.requests.settings import RequestSettings


@dataclass(frozen=True)
class DeletionRequest:
    """One request, resolved: its number, level, the vertex that asks (if one does) and the sample ids that go.

    ``leaves`` lists the vertices that are taken out: the asking client at client level, and every client that sample or
    class deletion leaves without a sample (docs/certificates.md: a client emptied is a client deleted).
    """

    number: int
    level: str
    node: int | None
    label: int | None
    sample_ids: NDArray[np.int64]
    leaves: tuple[int, ...]

    def describe(self) -> str:
        """Return the request in a few words."""
        if self.level == "client":
            return f"client {self.node} leaves with {len(self.sample_ids)} samples"
        if self.level == "class":
            return f"class {self.label} goes everywhere: {len(self.sample_ids)} samples"
        return f"client {self.node} deletes {len(self.sample_ids)} of its samples"


def resolve_requests(
    requests: tuple[RequestSettings, ...], dataset: FederatedDataset, seed: int
) -> list[DeletionRequest]:
    """Resolve the requests in the order in which they will be answered.

    Raises UserError when a request names a client, class or sample that does not exist or is already deleted, or would
    leave no client with data.
    """
    clients = dataset.clients(Role.TRAIN)
    rows = [dataset.train_rows(int(c)) for c in clients]
    deleted = np.zeros(len(dataset.labels), dtype=bool)
    gone: set[int] = set()
    resolved = []
    for number, request in enumerate(requests):
        where = f"requests.{number}"
        ids, label = _samples(request, where, dataset, rows, deleted, gone, seed, number)
        deleted[ids] = True
        empty = {i for i, r in enumerate(rows) if i not in gone and bool(deleted[r].all())}
        if len(gone | empty) >= len(clients):
            raise UserError(f"{where}: this request would delete the last client that still has data")
        gone |= empty
        resolved.append(
            DeletionRequest(number, request.level, request.client, label, np.sort(ids), tuple(sorted(empty)))
        )
    return resolved


def _samples(
    request: RequestSettings, where: str, dataset: FederatedDataset, rows: list[NDArray[np.int64]],
    deleted: NDArray[np.bool_], gone: set[int], seed: int, number: int,
) -> tuple[NDArray[np.int64], int | None]:  # fmt: skip
    if request.level == "class":
        label = _label(request.label, where, dataset)
        mine = np.concatenate(rows)
        ids = mine[(dataset.labels[mine] == label) & ~deleted[mine]]
        if not len(ids):
            raise UserError(f"{where}.label = {request.label!r} names a class of which no training sample is left")
        return ids, label
    node = request.client
    assert node is not None
    if node >= len(rows):
        raise UserError(f"{where}.client = {node} does not exist (allowed: 0 to {len(rows) - 1})")
    if node in gone:
        raise UserError(f"{where}.client = {node} was already deleted by an earlier request")
    if request.level == "client":
        return rows[node][~deleted[rows[node]]], None
    return _own_samples(request, where, rows[node], deleted, seed, number), None


def _own_samples(
    request: RequestSettings, where: str, mine: NDArray[np.int64], deleted: NDArray[np.bool_], seed: int, number: int
) -> NDArray[np.int64]:
    if request.samples is not None:
        wrong = [s for s in request.samples if not 0 <= s < len(mine)]
        if wrong:
            raise UserError(
                f"{where}.samples names sample {wrong[0]}, which does not exist (allowed: 0 to {len(mine) - 1})"
            )
        ids = mine[np.unique(np.array(request.samples, dtype=np.int64))]
        twice = np.flatnonzero(deleted[ids])
        if len(twice):
            place = int(np.searchsorted(mine, ids[twice[0]]))
            raise UserError(f"{where}.samples names sample {place}, which was already deleted by an earlier request")
        return ids
    left = mine[~deleted[mine]]
    assert request.count is not None
    if request.count > len(left):
        raise UserError(
            f"{where}.count = {request.count} is more than the {len(left)} samples client {request.client} has left"
        )
    return left[np.argsort(uniforms(seed, "request", left, number), kind="stable")[: request.count]]


def _label(label: str | int | None, where: str, dataset: FederatedDataset) -> int:
    names = dataset.class_names
    if isinstance(label, int):
        if not 0 <= label < dataset.num_classes:
            raise UserError(
                f"{where}.label = {label} does not exist (allowed: 0 to {dataset.num_classes - 1}, or a class name)"
            )
        return label
    if label not in names:
        raise UserError(
            f"{where}.label = '{label}' is not a class{nearest(str(label), names)} (allowed: {listed(names)})"
        )
    return names.index(label)
