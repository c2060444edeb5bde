"""The backdoor probe of a run: its network trained once more with a trigger in exactly what the requests delete.

The retrained model needs no second training: it never saw the deleted samples, planted or not. Seed, start, batches and
method are those of the run.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.battery.retold import all_deleted, evaluator_of, open_session
from fedunlearn.battery.settings import BatterySettings
from fedunlearn.data import Escrow, FederatedDataset, Role
from fedunlearn.errors import UserError
from fedunlearn.evaluation.effects.backdoor import backdoor_measures, node_measures, plant, target_class, trigger
from fedunlearn.evaluation.evaluator import Evaluator
from fedunlearn.evaluation.forward import STACK
from fedunlearn.evaluation.measure import Found, Refusal, together
from fedunlearn.evaluation.outputs import Outputs, outputs_of
from fedunlearn.network import Network
from fedunlearn.simulation import World
from fedunlearn.simulation.answered import answer_each
from fedunlearn.simulation.learning import learn, new_network, situation_of, vector_of
from fedunlearn.simulation.recording import Record
from fedunlearn.simulation.training_cache import TrainingCache
from fedunlearn.simulation.world import Progress

_INPUTS, _LABELS = "backdoor.inputs", "backdoor.labels"


def planted(
    world: World, retrained: NDArray[Any], control: NDArray[Any] | None, settings: BatterySettings,
    progress: Progress, *, twins: Mapping[str, Network] | None = None,
) -> Found:  # fmt: skip
    """Train the run's network with a trigger in the forget set, answer the run's requests, and see what is left of it.

    Args:
        world: the run, whose method has not been used yet; it stays unused.
        retrained, control: the retrained models (d,), which never saw what is deleted; the control may be missing.
        settings: of the battery; ``backdoor = False`` asks for nothing.
        progress: told the rounds of the one training under the phase ``backdoor``, and the answers.
        twins: the populations behind ``retrained`` and ``control``: with them, single nodes' models are compared too.

    Refused, in one sentence: float tables, class-level requests (a planted sample is of another class), data with one
    class only.
    """
    if not settings.backdoor:
        return Found()
    deleted = all_deleted(world)
    reason = "the run has no request" if not len(deleted) else ""
    if any(request.level == "class" for request in world.requests):
        reason = (
            "planting a trigger changes the labels of the deleted samples, so a request to delete a class would no "
            "longer ask for them; the probe needs requests of a client or of samples"
        )
    if reason:
        return Found(refusals=(Refusal("backdoor", "backdoor", reason),))
    dataset = world.dataset
    train_rows, _ = dataset.all_train_rows()
    try:
        target = target_class(dataset.labels[train_rows], dataset.labels[deleted])
        marked = plant(dataset, deleted, target)
    except UserError as error:
        return Found(refusals=(Refusal("backdoor", "backdoor", str(error)),))
    quiet = replace(world, dataset=marked, unlearner=copy.deepcopy(world.unlearner), progress=progress)
    evaluator = evaluator_of(quiet)
    samples = _node_samples(evaluator, dataset, target)
    original, unlearned, success = _story(quiet, evaluator, samples)
    vectors = {"original": original, "unlearned": unlearned, "retrained": retrained}
    if control is not None:
        vectors["control"] = control
    rows = evaluator.test.rows
    forgotten = evaluator.sample_set(Escrow(dataset, deleted).open(purpose="evaluation").rows).rows
    found = backdoor_measures(
        {name: _answers(quiet, dataset, vector, rows, marked=True) for name, vector in vectors.items()},
        {name: _answers(quiet, dataset, vector, rows) for name, vector in vectors.items()},
        target,
        {name: _answers(quiet, dataset, vector, forgotten, marked=True) for name, vector in vectors.items()},
    )
    if world.graph.number_of_nodes() == 1 or world.experiment.training.algorithm == "fedavg":
        return found  # the nodes have no models of their own
    if twins is None:
        reason = "the nodes of the retrained network are not at hand, so those of the planted one have no control"
        return together([found, Found(refusals=(Refusal("backdoor_success_at_nodes", "backdoor", reason),))])
    for name, network in twins.items():
        success[name] = _success(world, network, samples)
    return together([found, _nodes(world, success)])


def _story(
    world: World, evaluator: Evaluator, samples: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, NDArray[np.float64]]]:
    """Return the planted model before and after the answers, and the success rate at every node both times."""
    experiment = world.experiment
    # Never kept on disk: a later run that looks for copies of what it deleted would not know the planted images again.
    cache = TrainingCache(world.dataset, evaluator, every=max(1, experiment.training.rounds), enabled=False)
    record = Record(experiment, None)
    with open_session(world) as session:
        network = new_network(world, session, "main", world.graph)
        evaluator.put_node_test(network)
        situation = situation_of(world, record, release=0)
        world.unlearner.prepare(network, situation)
        learn(world, cache, [(network, "backdoor")], situation)
        concluded = world.unlearner.conclude(network, situation)
        original, success = np.array(vector_of(network, concluded)), {"original": _success(world, network, samples)}
        _, last, _ = answer_each(world, network, record, concluded)
        success["unlearned"] = _success(world, network, samples)
        return original, np.array(vector_of(network, last)), success


def _node_samples(evaluator: Evaluator, dataset: FederatedDataset, target: int) -> dict[str, NDArray[Any]]:
    """Return triggered test images of other classes with the target as their label: accuracy on them is success."""
    rows = evaluator.test.rows[dataset.labels[evaluator.test.rows] != target][: evaluator.settings.node_samples]
    inputs = evaluator.features.apply(trigger(dataset.inputs[rows]))
    return {_INPUTS: inputs, _LABELS: np.full(len(rows), target, dtype=np.int64)}


def _success(world: World, network: Network, samples: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Return how often every node's own model calls triggered images the target, (N,), NaN where a node is absent."""
    if not len(samples[_LABELS]):
        return np.full(network.num_nodes, np.nan)
    network.session.put(samples)
    params, grain = {"inputs": _INPUTS, "labels": _LABELS}, STACK if world.model.convex else 1
    return network.measure("fedunlearn.evaluation.programs:node_utility", params, width=2, grain=grain)[:, 0]


def _answers(
    world: World, dataset: FederatedDataset, vector: NDArray[Any], rows: NDArray[np.int64], *, marked: bool = False
) -> Outputs:
    """Return what a model says about samples with their true labels, with or without the trigger."""
    images = dataset.inputs[rows]
    inputs = world.features.apply(trigger(images) if marked else images)
    return outputs_of(world.model, vector, inputs, dataset.labels[rows], rows, dataset.client_of[rows])


def _nodes(world: World, success: Mapping[str, NDArray[np.float64]]) -> Found:
    """Return the lines about single nodes: the deleted clients' own, their neighbours', and all."""
    train = world.dataset.clients(Role.TRAIN)
    own = np.flatnonzero(np.isin(train, world.dataset.client_of[all_deleted(world)]))
    beside = {int(j) for i in own for j in world.graph.neighbors(int(i))} - set(own.tolist())
    return Found(tuple(node_measures(success, own, np.array(sorted(beside), dtype=np.int64))))
