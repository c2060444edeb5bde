"""Everything a run is about, gathered before the first round: data, features, model, graph, requests, method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray

from fedunlearn.config import Experiment
from fedunlearn.data import FederatedDataset, Role, load_dataset
from fedunlearn.errors import UserError
from fedunlearn.faults import Trace, check_faults
from fedunlearn.models import FeatureMap, Model, build_model
from fedunlearn.requests import Decisions, DeletionRequest, decide_requests
from fedunlearn.simulation.public import prepare_features
from fedunlearn.simulation.stopwatch import Stopwatch
from fedunlearn.topology import build_graph
from fedunlearn.unlearning.base import Plan, PublicKnowledge, Unlearner
from fedunlearn.unlearning.registry import check_defined, method

Progress = Callable[[str, int, int], None]


@dataclass
class World:
    """Everything a run is about, before the first round; ``trace`` holds its faults, if it has any."""

    experiment: Experiment
    dataset: FederatedDataset
    features: FeatureMap
    public: PublicKnowledge | None
    model: Model
    graph: nx.Graph
    decisions: Decisions
    start: NDArray[np.float32]
    unlearner: Unlearner
    progress: Progress
    trace: Trace | None = None
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def requests(self) -> tuple[DeletionRequest, ...]:
        """The requests that are answered, in this order."""
        return self.decisions.answered


def prepare(experiment: Experiment, progress: Progress) -> World:
    """Load data, train the public extractor if there is one, build model and graph, decide about the requests."""
    _refuse_gradients_of_the_deleted(experiment)
    dataset = load_dataset(experiment.data)
    nodes = len(dataset.clients(Role.TRAIN))
    if experiment.topology.nodes not in (None, nodes):
        raise UserError(
            f"topology.nodes = {experiment.topology.nodes} does not fit the data, which have {nodes} train clients "
            "(allowed: leave it out, or change data.clients or data.train_clients)"
        )
    graph = build_graph(experiment.topology, nodes, experiment.seed)
    decisions = decide_requests(
        experiment.requests, dataset, experiment.seed, experiment.policy, graph=graph,
        repair=experiment.topology.repair,
    )  # fmt: skip
    faults, mixing = experiment.faults, experiment.topology.mixing
    check_faults(faults, graph, mixing, server=experiment.training.algorithm == "fedavg")
    if faults.enabled and experiment.evaluation.influence_rounds:
        raise UserError(
            "evaluation.influence_rounds is not defined with [faults]: influence is followed through one fixed mixing "
            "matrix (allowed: 0)"
        )
    features, public = prepare_features(experiment, dataset, progress)
    model = build_model(experiment.model, dataset.num_classes, features.output_shape)
    info = method(experiment.unlearning.method)
    unlearner = info.implementation(experiment.unlearning.settings)
    counts = np.diff(dataset.all_train_rows()[1])
    plan = Plan(
        model, experiment.training, experiment.privacy, experiment.topology.mixing, experiment.topology.repair, counts,
        decisions.answered, features.kind, graph, experiment.faults.enabled,
    )  # fmt: skip
    check_defined(info, plan)
    unlearner.check(plan)
    return World(
        experiment, dataset, features, public, model, graph, decisions, model.initial(experiment.seed), unlearner,
        progress, Trace.of(faults, graph, experiment.seed) if faults.enabled else None,
    )  # fmt: skip


def _refuse_gradients_of_the_deleted(experiment: Experiment) -> None:
    """Raise UserError if samples lie with their hosts alone and a method would have gradients of few of them sent."""
    asked = getattr(experiment.unlearning.settings, "gradient", None)
    if experiment.data.parts is not None and asked == "forget-set":
        raise UserError(
            "unlearning.gradient = 'forget-set' makes hosts send the gradient of the deleted samples alone, from which "
            "a sample can be read, but with data.parts samples stay with their hosts (allowed: 'retained')"
        )


def choose_device(device: str, *, here: bool = True) -> str:
    """Return ``cpu`` or ``cuda``; UserError when a GPU is asked for that is not there.

    Where hosts are not ``here`` the conductor cannot tell what they have: ``auto`` is then a CPU, and hosts that see no
    GPU refuse ``cuda`` themselves.
    """
    if not here:
        return "cuda" if device == "cuda" else "cpu"
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device = 'cuda', but torch finds no GPU here (allowed: 'auto', 'cpu')")
    return device
