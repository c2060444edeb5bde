"""Measures models of a run on the sample sets that matter: test, retain, forget, never-member."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data import Escrow, FederatedDataset, Role
from fedunlearn.errors import UserError
from fedunlearn.evaluation.attacks.membership import loss_threshold_auc
from fedunlearn.evaluation.distance import parameter_distances, prediction_distances
from fedunlearn.evaluation.forward import STACK
from fedunlearn.evaluation.on_hosts import judge
from fedunlearn.evaluation.settings import EvaluationSettings
from fedunlearn.evaluation.utility import accuracy_and_loss, losses
from fedunlearn.models import FeatureMap, Model
from fedunlearn.network import Network
from fedunlearn.network.answer import Answer
from fedunlearn.randomness import uniforms
from fedunlearn.results.metrics import AVERAGE, NODES_MAX, NODES_MEAN, NODES_MIN, NODES_STD

_PROGRAMS = "fedunlearn.evaluation.programs"
Vector = NDArray[np.float64]
_INPUTS, _LABELS = "evaluation.inputs", "evaluation.labels"
_SPREAD = {NODES_MEAN: "mean", NODES_STD: "std", NODES_MIN: "min", NODES_MAX: "max"}


@dataclass(frozen=True)
class SampleSet:
    """Samples as the model takes them: inputs (n, ...), labels (n,) and their stable ids (n,)."""

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Snapshot:
    """What a network holds: one noise-free vector, or a copy of its rows at one moment, or (neither) its rows now."""

    vector: Vector | None
    rows: Network | None
    network: Network

    def drop(self) -> None:
        """Delete the copy of the rows."""
        if self.rows is not None:
            self.rows.drop()


class Evaluator:
    """Evaluates single vectors here and all nodes' models on the hosts.

    Sets larger than ``max_samples`` are cut to the samples with the smallest hash of (seed, id): always the same ones.
    """

    def __init__(
        self, dataset: FederatedDataset, features: FeatureMap, model: Model, settings: EvaluationSettings, seed: int
    ) -> None:
        self.dataset, self.features, self.model, self.settings, self.seed = dataset, features, model, settings, seed
        self._hosts: Network | None = None
        self.copies = 0
        """How many copies of networks were made so far; each is named by its number."""
        train = dataset.clients(Role.TRAIN)
        self.train_rows, _ = dataset.all_train_rows()
        tests = np.concatenate([dataset.test_rows(int(c)) for c in train])
        if not len(tests):
            raise UserError(
                f"data set '{dataset.name}': the {len(train)} train clients have no test sample to measure with "
                "(allowed: at least one among them; raise data.test_fraction, or give them more samples)"
            )
        self.test = self.sample_set(tests)
        never = dataset.clients(Role.NEVER_MEMBER)
        rows = [np.concatenate([dataset.train_rows(int(c)), dataset.test_rows(int(c))]) for c in never]
        self.never_member = self.sample_set(np.concatenate(rows)) if rows else None
        most = settings.node_samples
        self.node_test = SampleSet(self.test.inputs[:most], self.test.labels[:most], self.test.rows[:most])

    def sample_set(self, rows: NDArray[np.int64]) -> SampleSet:
        """Return samples by their ids, cut to ``max_samples``, in an order that does not depend on client or class."""
        chosen = self._chosen(rows)
        return SampleSet(self.features.apply(self.dataset.inputs[chosen]), self.dataset.labels[chosen], chosen)

    def _chosen(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        order = np.argsort(uniforms(self.seed, "evaluation", rows), kind="stable")[: self.settings.max_samples]
        return rows[order]

    def accuracy(self, theta: NDArray[Any], samples: SampleSet | None) -> float | None:
        """Return the accuracy of one parameter vector (d,) on a set, or None without samples."""
        if samples is None or not len(samples.labels):
            return None
        return accuracy_and_loss(self.model, theta, samples.inputs, samples.labels)[0]

    def report(self, theta: NDArray[Any], deleted: NDArray[np.int64], network: Network | None = None) -> dict[str, Any]:
        """Return one entry of ``summary.models``: the vector on every set, the spread over the network's nodes.

        Training samples that lie with their hosts alone are measured there (:meth:`put_node_test` tells which hosts),
        and deleted ones only as long as they are not erased.
        """
        vector = np.asarray(theta, dtype=np.float32)
        test_accuracy, test_loss = accuracy_and_loss(self.model, vector, self.test.inputs, self.test.labels)
        entry = {
            "test_accuracy": test_accuracy,
            "test_loss": test_loss,
            "retain_accuracy": None,
            "forget_accuracy": None,
            "never_member_accuracy": self.accuracy(vector, self.never_member),
            "node_test_accuracy": None if network is None else self.spread(network),
            "membership_auc_forget_vs_test": None,
        }
        return entry | (self._trained_on if self.dataset.is_whole else self._trained_on_hosts)(vector, deleted)

    def _trained_on(self, vector: NDArray[np.float32], deleted: NDArray[np.int64]) -> dict[str, Any]:
        """Return what of an entry is about training samples."""
        retain = self.sample_set(np.setdiff1d(self.train_rows, deleted))
        escrow = Escrow(self.dataset, deleted).open(purpose="evaluation")
        forget = self.sample_set(escrow.rows) if len(deleted) else None
        auc = None
        if self.settings.membership and forget is not None:
            members = losses(self.model, vector, forget.inputs, forget.labels)
            auc = loss_threshold_auc(members, self._test_losses(vector))
        return {
            "retain_accuracy": self.accuracy(vector, retain), "forget_accuracy": self.accuracy(vector, forget),
            "membership_auc_forget_vs_test": auc,
        }  # fmt: skip

    def _trained_on_hosts(self, vector: NDArray[np.float32], deleted: NDArray[np.int64]) -> dict[str, Any]:
        """Return the same from the hosts: None for deleted samples once any of them are erased."""
        assert self._hosts is not None, "samples on hosts are measured there, so put_node_test comes first"
        retain = judge(self._hosts, vector, self._chosen(np.setdiff1d(self.train_rows, deleted)))
        found: dict[str, Any] = {"retain_accuracy": retain.accuracy}
        if len(deleted) and not np.isin(deleted, self._hosts.deleted).any():
            others = self._test_losses(vector) if self.settings.membership else None
            accuracy, auc = judge(self._hosts, vector, self._chosen(deleted), others)
            found |= {"forget_accuracy": accuracy, "membership_auc_forget_vs_test": auc}
        return found

    def _test_losses(self, vector: NDArray[np.float32]) -> NDArray[np.float64]:
        return losses(self.model, vector, self.test.inputs, self.test.labels)

    def put_node_test(self, network: Network) -> None:
        """Send the samples on which single nodes are tested to the hosts, once a run."""
        self._hosts = network
        network.session.put({_INPUTS: self.node_test.inputs, _LABELS: self.node_test.labels})

    def nodes(self, network: Network) -> NDArray[np.float64]:
        """Return accuracy and loss of every node's own model on the node test set, (N, 2); NaN for absent nodes."""
        return self._nodes_later(network).get()

    def look_ahead(self, networks: Sequence[Network], *, means: bool = False) -> None:
        """Ask for what :meth:`nodes`, and with ``means`` the mean model, of several networks need: in one message."""
        for network in networks:
            self._nodes_later(network)
            if means:
                network.mean_later()

    def _nodes_later(self, network: Network) -> Answer[NDArray[np.float64]]:
        key = ("node test", id(self), network.present.tobytes())
        return network.unchanged(key, lambda: self._ask_nodes(network))

    def _ask_nodes(self, network: Network) -> Answer[NDArray[np.float64]]:
        params, grain = {"inputs": _INPUTS, "labels": _LABELS}, STACK if self.model.convex else 1
        return network.measure_later(f"{_PROGRAMS}:node_utility", params, width=2, grain=grain)

    def spread(self, network: Network) -> dict[str, float]:
        """Return mean, standard deviation, minimum and maximum over nodes of their test accuracy."""
        values = self.nodes(network)[:, 0]
        values = values[~np.isnan(values)]
        return {k: float(f(values)) for k, f in (("mean", np.mean), ("std", np.std), ("min", np.min), ("max", np.max))}

    def curve_point(self, network: Network) -> dict[str, float]:
        """Return one point of the learning curve: test accuracy of the mean model, and its spread over nodes."""
        if not network.present.any():  # nobody takes part in this round
            return {}
        self.look_ahead([network], means=True)
        spread = self.spread(network)
        mean = accuracy_and_loss(self.model, network.mean(), self.test.inputs, self.test.labels)[0]
        return {AVERAGE: mean, **{scope: spread[name] for scope, name in _SPREAD.items()}}

    def keep(self, network: Network) -> Network:
        """Return a copy of a network's rows as a population of its own, to compare with later; drop it afterwards."""
        self.copies += 1
        copy = Network(
            network.session, f"copy{self.copies}", network.graph, network.mixing, np.zeros(network.dim, np.float32),
            deleted=network.deleted, alive=network.alive,
        )  # fmt: skip
        network.session.later("copy", {"source": network.name, "target": copy.name})
        copy.away = network.away.copy()
        return copy

    def snapshot(self, network: Network, noise_free: Vector | None) -> Snapshot:
        """Return what a network holds before noise: the one vector behind its release, else a copy of every row."""
        return Snapshot(noise_free, None if noise_free is not None else self.keep(network), network)

    def compare(self, before: Snapshot, after: Snapshot, ideal: Snapshot) -> dict[str, float | None]:
        """Return how far the network was, and is, from its retrained twin: parameters (L2) and predictions (total
        variation), the largest over nodes, before noise on both sides where there is noise.

        A distance is None where, under faults, nobody who is present in the twin was present in the network.
        """
        now, predicted = self._distance(after, ideal)
        return {
            "distance_to_retrained": now,
            "distance_before": self._distance(before, ideal)[0],
            "prediction_distance_to_retrained": predicted,
        }

    def _distance(self, a: Snapshot, b: Snapshot) -> tuple[float | None, float | None]:
        """Return the largest distances in parameters and in predictions over the vertices that are present in ``b``,
        under faults in both."""
        mine, theirs = a.rows or a.network, b.rows or b.network
        alive = b.network.present & (mine.present if b.network.course is not None else True)
        if not alive.any() and (a.vector is None or b.vector is None):
            return None, None
        if a.vector is None and b.vector is None:
            params = {"other": theirs.name, "inputs": _INPUTS}
            predictions = mine.measure_later(f"{_PROGRAMS}:prediction_distance", params)
            distances = self.row_distances(mine, theirs)[alive]
            return float(np.nanmax(distances)), float(np.nanmax(predictions.get()[alive]))
        if a.vector is not None and b.vector is not None:
            rows, reference = np.stack([a.vector]), b.vector
        elif a.vector is not None:
            rows, reference = theirs.read_rows(np.flatnonzero(alive)).astype(np.float64), a.vector
        else:
            assert b.vector is not None
            rows, reference = mine.read_rows(np.flatnonzero(alive)).astype(np.float64), b.vector
        predicted = prediction_distances(self.model, rows, reference, self.node_test.inputs)
        return float(parameter_distances(rows, reference).max()), float(predicted.max())

    def row_distances(self, network: Network, other: Network) -> NDArray[np.float64]:
        """Return the L2 distance of every node's parameters between two populations of the same hosts, (N,)."""
        return network.measure(f"{_PROGRAMS}:row_distance", {"other": other.name})[:, 0]
