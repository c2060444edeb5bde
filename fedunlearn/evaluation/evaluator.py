"""Measures models of a run on the sample sets that matter: test, retain, forget, never-member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data import FederatedDataset, Role
from fedunlearn.evaluation.membership import loss_threshold_auc
from fedunlearn.evaluation.settings import EvaluationSettings
from fedunlearn.evaluation.utility import accuracy_and_loss, losses
from fedunlearn.models import FeatureMap, Model
from fedunlearn.network import Network
from fedunlearn.randomness import uniforms

_PROGRAMS = "fedunlearn.evaluation.programs"
Vector = NDArray[np.float64]
_INPUTS, _LABELS = "evaluation.inputs", "evaluation.labels"


@dataclass(frozen=True)
class SampleSet:
    """Samples as the model takes them: inputs (n, ...) and labels (n,)."""

    inputs: NDArray[Any]
    labels: NDArray[np.int64]


class Evaluator:
    """Evaluates single vectors here and all nodes' models on the hosts.

    Sets larger than ``max_samples`` are cut to the samples with the smallest hash of (seed, id): always the same ones.
    """

    def __init__(
        self, dataset: FederatedDataset, features: FeatureMap, model: Model, settings: EvaluationSettings, seed: int
    ) -> None:
        self.dataset, self.features, self.model, self.settings, self.seed = dataset, features, model, settings, seed
        train = dataset.clients(Role.TRAIN)
        self.train_rows = np.concatenate([dataset.train_rows(int(c)) for c in train])
        tests = [dataset.test_rows(int(c)) for c in train]
        self.test = self.sample_set(np.concatenate(tests))
        never = dataset.clients(Role.NEVER_MEMBER)
        rows = [np.concatenate([dataset.train_rows(int(c)), dataset.test_rows(int(c))]) for c in never]
        self.never_member = self.sample_set(np.concatenate(rows)) if rows else None
        self.node_test = SampleSet(
            self.test.inputs[: settings.node_samples], self.test.labels[: settings.node_samples]
        )  # fmt: skip

    def sample_set(self, rows: NDArray[np.int64]) -> SampleSet:
        """Return samples by their ids, cut to ``max_samples``, in an order that does not depend on client or class."""
        order = np.argsort(uniforms(self.seed, "evaluation", rows), kind="stable")[: self.settings.max_samples]
        chosen = rows[order]
        return SampleSet(self.features.apply(self.dataset.inputs[chosen]), self.dataset.labels[chosen])

    def accuracy(self, theta: NDArray[Any], samples: SampleSet | None) -> float | None:
        """Return the accuracy of one parameter vector (d,) on a set, or None without samples."""
        if samples is None or not len(samples.labels):
            return None
        return accuracy_and_loss(self.model, theta, samples.inputs, samples.labels)[0]

    def report(self, theta: NDArray[Any], deleted: NDArray[np.int64], network: Network | None = None) -> dict[str, Any]:
        """Return one entry of ``summary.models``: the vector on every set, the spread over the network's nodes."""
        vector = np.asarray(theta, dtype=np.float32)
        retain = self.sample_set(np.setdiff1d(self.train_rows, deleted))
        forget = self.sample_set(deleted) if len(deleted) else None
        test_accuracy, test_loss = accuracy_and_loss(self.model, vector, self.test.inputs, self.test.labels)
        entry = {
            "test_accuracy": test_accuracy,
            "test_loss": test_loss,
            "retain_accuracy": self.accuracy(vector, retain),
            "forget_accuracy": self.accuracy(vector, forget),
            "never_member_accuracy": self.accuracy(vector, self.never_member),
            "node_test_accuracy": None if network is None else self.spread(network),
            "membership_auc_forget_vs_test": None,
        }
        if self.settings.membership and forget is not None:
            members = losses(self.model, vector, forget.inputs, forget.labels)
            others = losses(self.model, vector, self.test.inputs, self.test.labels)
            entry["membership_auc_forget_vs_test"] = loss_threshold_auc(members, others)
        return entry

    def put_node_test(self, network: Network) -> None:
        """Send the samples on which single nodes are tested to the hosts, once a run."""
        network.session.put({_INPUTS: self.node_test.inputs, _LABELS: self.node_test.labels})

    def nodes(self, network: Network) -> NDArray[np.float64]:
        """Return accuracy and loss of every node's own model on the node test set, (N, 2); NaN for absent nodes."""
        return network.measure(f"{_PROGRAMS}:node_utility", {"inputs": _INPUTS, "labels": _LABELS})

    def spread(self, network: Network) -> dict[str, float]:
        """Return mean, standard deviation, minimum and maximum over nodes of their test accuracy."""
        values = self.nodes(network)[:, 0]
        values = values[~np.isnan(values)]
        return {k: float(f(values)) for k, f in (("mean", np.mean), ("std", np.std), ("min", np.min), ("max", np.max))}

    def keep(self, network: Network) -> Network:
        """Return a copy of a network's rows as a population of its own, to compare with later; drop it afterwards."""
        copy = Network(
            network.session, f"{network.name}.before", network.graph, network.mixing, network.read(network.root),
            deleted=network.deleted, alive=network.alive,
        )  # fmt: skip
        network.session.ask("copy", {"source": network.name, "target": copy.name})
        return copy

    def compare(
        self, network: Network, twin: Network, mine: Vector | None, theirs: Vector | None, before: Network
    ) -> dict[str, float]:
        """Return how far the network is from its retrained twin, before noise on both sides where there is noise.

        ``mine`` and ``theirs`` (d,) are the noise-free vectors of a release. Without them every node is compared with
        its own counterpart, and the largest distance counts.
        """
        rows = self.row_distances(before, twin)
        predictions = network.measure(f"{_PROGRAMS}:prediction_distance", {"other": twin.name, "inputs": _INPUTS})[:, 0]
        if mine is not None and theirs is not None:
            now = float(np.linalg.norm(mine - theirs))
        else:
            now = float(np.nanmax(self.row_distances(network, twin)))
        return {
            "distance_to_retrained": now,
            "distance_before": float(np.nanmax(rows[network.alive])),
            "prediction_distance_to_retrained": float(np.nanmax(predictions)),
        }

    def moved(self, network: Network, before: Network) -> NDArray[np.float64]:
        """Return how far every node's model moved since ``before``, (N,); NaN for who left."""
        return self.row_distances(network, before)

    def row_distances(self, network: Network, other: Network) -> NDArray[np.float64]:
        """Return the L2 distance of every node's parameters between two populations of the same hosts, (N,)."""
        return network.measure(f"{_PROGRAMS}:row_distance", {"other": other.name})[:, 0]
