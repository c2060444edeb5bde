"""Trained networks under the hash of all that training depends on: a recipe is not run twice on the same data.

The key of a training is made of each client's retained samples (stable ids and content), the alive graph, the mixing
rule, the faults, the model and its start, the feature map, the training settings, the seed, the form of local training
and the kind of device, the points at which the learning curve is drawn, the version of torch, and the source of the
modules that train and draw the curve. Nothing else enters, so runs that differ in methods, requests, certificates or
links share what they can, and a retrained twin is found again whichever method it is compared with.

A trained network is a copy of what its data left in it. When a request is answered, the entries trained with data
deleted since are purged (``privacy.noise = "secret"``) or listed in the summary as kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import fedunlearn
from fedunlearn.data import FederatedDataset, Role
from fedunlearn.evaluation.evaluator import Evaluator
from fedunlearn.faults import Course
from fedunlearn.network import Network, TrainingSettings
from fedunlearn.network.local_training import best_form
from fedunlearn.results.cache import ContentCache, content_key, default_folder

ENTRY_LIMIT = 256 << 20
"""Largest entry, in bytes of its rows: storing more would take longer than it is worth."""
FOLDER_LIMIT = 8 << 30
"""Largest folder, in bytes: what was stored first makes room."""
_SOURCES = (
    "faults", "network", "models", "topology/graphs.py", "topology/matching.py", "topology/mixing.py", "randomness.py",
    "evaluation/evaluator.py", "evaluation/forward.py", "evaluation/programs.py", "evaluation/utility.py",
    "simulation/training_cache.py",
)  # fmt: skip
_FINGERPRINTS = "samples"
_COURSE = "course."

Point = tuple[int, dict[str, float]]
"""Round, and the accuracies of the learning curve by scope."""


@dataclass(frozen=True)
class Trained:
    """A training that was done: what the network held after it, its curve, what it cost, and its seconds then.

    Where several networks were trained side by side (``together``), the seconds are this one's share.
    """

    state: dict[str, NDArray[np.float32]]
    course: dict[str, NDArray[Any]]
    points: list[Point]
    seconds: float
    together: int
    traffic: list[dict[str, Any]]
    work: dict[str, int]
    clock: dict[str, float]

    def apply(self, network: Network) -> None:
        """Bring a fresh population to where the training led: rows, momenta, ledger, clock and counts of work."""
        network.restore(self.state)
        if network.course is not None:
            network.course.restore(self.course)
            network.away = network.alive & ~network.course.state.members.active
        network.ledger.replay({**record, "phase": network.phase} for record in self.traffic)
        for name, count in self.work.items():
            network.work[name] += count
        for name, amount in self.clock.items():
            setattr(network.clock, name, getattr(network.clock, name) + amount)


class TrainingCache:
    """The trained networks of one data set's runs; ``enabled = False`` neither finds nor stores.

    A model of the user's own (``package.module:Class``) is never cached, for no key can cover what its code does; nor
    is a training whose samples lie with their hosts alone, for it is named by their content, which is not here.
    """

    def __init__(
        self, dataset: FederatedDataset, evaluator: Evaluator, *, every: int, enabled: bool = True,
        folder: Path | None = None,
    ) -> None:  # fmt: skip
        self.dataset, self.evaluator, self.every = dataset, evaluator, every
        self.enabled = enabled and dataset.is_whole and ":" not in evaluator.model.spec["name"]
        self.entries = ContentCache(default_folder() / "training" if folder is None else folder)

    def content(self, network: Network, start: NDArray[np.float32], training: TrainingSettings) -> dict[str, Any]:
        """Return all that a training from ``start`` on this population depends on, as the table that is hashed."""
        session = network.session
        model, features = session.model, session.features
        edges = np.array(sorted((min(e), max(e)) for e in network.graph.edges), dtype=np.int64).reshape(-1, 2)
        return {
            "clients": {str(i): _sha256(ids, self._digests[ids]) for i, ids in self._retained(network).items()},
            "slots": None if training.schedule == "compact" else self._slots(),
            "nodes": network.num_nodes,
            "edges": _sha256(edges),
            "mixing": network.mixing,
            "model": {name: value for name, value in model.spec.items() if name != "checkpoint"},
            "start": _sha256(start),
            "features": [features.kind, features.weights_sha256],
            "training": training.model_dump(mode="json"),
            "seed": network.seed,
            "form": best_form(training.form, session.device, model.takes_images),
            "device": session.device,
            **({} if network.course is None else {"faults": _faults(network.course)}),
            **({} if session.in_order_of_ids else {"order": _sha256(session.order)}),
            "curve": [self.every, self._test_sha256],
            "torch": torch.__version__,
            "source": source_sha256(),
        }

    def key(self, network: Network, start: NDArray[np.float32], training: TrainingSettings) -> str:
        """Return the key of a training, 64 hexadecimal characters."""
        return content_key(self.content(network, start, training))

    def find(self, key: str) -> Trained | None:
        """Return the training of a key, or None."""
        entry = self.entries.get(key) if self.enabled else None
        if entry is None:
            return None
        course = {n.removeprefix(_COURSE): a for n, a in entry.arrays.items() if n.startswith(_COURSE)}
        state = {n: a for n, a in entry.arrays.items() if n != _FINGERPRINTS and not n.startswith(_COURSE)}
        points = [(int(round_), dict(values)) for round_, values in entry.info["points"]]
        told = {k: entry.info[k] for k in ("seconds", "together", "traffic", "work", "clock")}
        return Trained(state, course, points, **told)

    def keep(
        self, key: str, network: Network, points: Sequence[Point], seconds: float, together: int = 1
    ) -> None:  # fmt: skip
        """Store what a fresh population has become by its training, unless it is too large."""
        copies = 2 if network.has_momentum else 1
        if not self.enabled or copies * 4 * network.num_nodes * network.dim > ENTRY_LIMIT:
            return
        ids = np.concatenate(list(self._retained(network).values()))
        info = {
            "points": [[round_, list(values.items())] for round_, values in points],  # as a table they would be sorted
            "seconds": seconds,
            "together": together,
            "traffic": [asdict(record) for record in network.ledger.traffic],
            "work": network.work,
            "clock": {name: getattr(network.clock, name) for name in ("samples", "waits", "bytes")},
        }
        course = {} if network.course is None else network.course.save()
        arrays = {**network.save(), **{f"{_COURSE}{name}": array for name, array in course.items()}}
        self.entries.put(key, {**arrays, _FINGERPRINTS: self._fingerprints(ids)}, info)
        self.entries.trim(FOLDER_LIMIT)

    # --- deletion ----------------------------------------------------------------------------------------------------

    def holding(self, sample_ids: NDArray[np.int64]) -> list[str]:
        """Return the keys of all entries, of this run or another, that were trained with any of these samples.

        Samples are recognised by their content. An entry that cannot be read counts as one of them.
        """
        if not self.dataset.is_whole:
            return []
        wanted, found = self._fingerprints(sample_ids), []
        for key in self.entries.keys() if len(wanted) else ():
            held = self.entries.part(key, _FINGERPRINTS)
            if held is None or bool(np.isin(wanted, held).any()):
                found.append(key)
        return found

    def purge(self, sample_ids: NDArray[np.int64]) -> list[str]:
        """Delete the entries that were trained with any of these samples; return their keys."""
        gone = []
        for key in self.holding(sample_ids):
            with suppress(OSError):  # what cannot be deleted is listed as kept
                self.entries.remove(key)
                gone.append(key)
        return gone

    # --- what samples are --------------------------------------------------------------------------------------------

    def _retained(self, network: Network) -> dict[int, NDArray[np.int64]]:
        """Return the ids of the retained training samples of every alive vertex."""
        clients = self.dataset.clients(Role.TRAIN)
        alive = np.flatnonzero(network.alive)
        return {int(i): np.setdiff1d(self.dataset.train_rows(int(clients[i])), network.deleted) for i in alive}

    def _slots(self) -> str:
        """Return the SHA-256 of all ids that clients ever had: with holes, batches depend on deleted ids too."""
        ids = [self.dataset.train_rows(int(client)) for client in self.dataset.clients(Role.TRAIN)]
        return _sha256(*ids, np.array([len(rows) for rows in ids]))

    @cached_property
    def _digests(self) -> NDArray[np.uint8]:
        """(n, 16) hash of input and label of every training sample of the train clients; zeros elsewhere."""
        digests = np.zeros((len(self.dataset.labels), 16), dtype=np.uint8)
        for client in self.dataset.clients(Role.TRAIN):
            for row in self.dataset.train_rows(int(client)):
                whole = hashlib.blake2b(np.ascontiguousarray(self.dataset.inputs[row]).data, digest_size=16)
                whole.update(self.dataset.labels[row].tobytes())
                digests[row] = np.frombuffer(whole.digest(), dtype=np.uint8)
        return digests

    def _fingerprints(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.ascontiguousarray(self._digests[ids, :8]).view(np.int64).reshape(-1)

    @cached_property
    def _test_sha256(self) -> str:
        test, node_test = self.evaluator.test, self.evaluator.node_test
        return _sha256(test.inputs, test.labels, np.array([len(node_test.labels)]))


@lru_cache
def source_sha256() -> str:
    """Return one SHA-256 over the modules that train a network or draw its learning curve."""
    root = Path(fedunlearn.__path__[0])
    whole = hashlib.sha256()
    for name in _SOURCES:
        place = root / name
        for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            whole.update(f"{path.relative_to(root).as_posix()}\n".encode())
            whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _faults(course: Course) -> dict[str, Any]:
    """Return what the faults of a training depend on, and how long slow nodes take: its simulated time is kept too."""
    settings = course.trace.settings
    return {**course.trace.content(), "slow_factor": settings.slow_factor, "server": course.server}


def _sha256(*arrays: NDArray[Any]) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(f"{array.dtype.str} {array.shape}\n".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
