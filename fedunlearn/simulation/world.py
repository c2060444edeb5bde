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
from fedunlearn.models import FeatureMap, Model, build_model
from fedunlearn.requests import DeletionRequest, resolve_requests
from fedunlearn.simulation.public import prepare_features
from fedunlearn.simulation.stopwatch import Stopwatch
from fedunlearn.topology import build_graph, remove_vertex
from fedunlearn.unlearning.base import Plan, PublicKnowledge, Unlearner
from fedunlearn.unlearning.registry import check_defined, method

Progress = Callable[[str, int, int], None]


@dataclass
class World:
    """Everything a run is about, before the first round."""

    experiment: Experiment
    dataset: FederatedDataset
    features: FeatureMap
    public: PublicKnowledge | None
    model: Model
    graph: nx.Graph
    requests: list[DeletionRequest]
    start: NDArray[np.float32]
    unlearner: Unlearner
    progress: Progress
    watch: Stopwatch = field(default_factory=Stopwatch)


def prepare(experiment: Experiment, progress: Progress) -> World:
    """Load data, train the public extractor if there is one, build model and graph, resolve the requests."""
    dataset = load_dataset(experiment.data)
    nodes = len(dataset.clients(Role.TRAIN))
    if experiment.topology.nodes not in (None, nodes):
        raise UserError(
            f"topology.nodes = {experiment.topology.nodes} does not fit the data, which have {nodes} train clients "
            "(allowed: leave it out, or change data.clients or data.train_clients)"
        )
    requests = resolve_requests(experiment.requests, dataset, experiment.seed)
    graph = build_graph(experiment.topology, nodes, experiment.seed)
    _rehearse_departures(experiment, graph, requests)
    features, public = prepare_features(experiment, dataset, progress)
    model = build_model(experiment.model, dataset.num_classes, features.output_shape)
    info = method(experiment.unlearning.method)
    unlearner = info.implementation(experiment.unlearning.settings)
    counts = np.diff(dataset.all_train_rows()[1])
    plan = Plan(
        model, experiment.training, experiment.privacy, experiment.topology.mixing, experiment.topology.repair, counts,
        tuple(requests), features.kind, graph,
    )  # fmt: skip
    check_defined(info, plan)
    unlearner.check(plan)
    return World(
        experiment, dataset, features, public, model, graph, requests, model.initial(experiment.seed), unlearner,
        progress,
    )  # fmt: skip


def choose_device(device: str) -> str:
    """Return ``cpu`` or ``cuda``; UserError when a GPU is asked for that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device = 'cuda', but torch finds no GPU here (allowed: 'auto', 'cpu')")
    return device


def _rehearse_departures(experiment: Experiment, graph: nx.Graph, requests: list[DeletionRequest]) -> None:
    """Take all leavers out of a copy of the graph, so that a disconnection is told before training, not after."""
    alive = np.ones(graph.number_of_nodes(), dtype=bool)
    for request in requests:
        if experiment.topology.repair == "relay":
            return
        for node in request.leaves:
            graph = remove_vertex(graph, node, experiment.topology.repair, alive)
            alive[node] = False
