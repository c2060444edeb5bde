"""A run's story told again up to its last answer, beside twins that never saw what was deleted: all rows at hand.

The numbers are those of the run, for the same settings give the same numbers; what a run trained lies in the training
cache, so that mostly only the answers are computed again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.evaluator import Evaluator
from fedunlearn.network import Network, Session
from fedunlearn.network.inline import InlineTransport
from fedunlearn.randomness import torch_seed
from fedunlearn.requests import DeletionRequest
from fedunlearn.simulation import World, choose_device
from fedunlearn.simulation.answered import answer_each
from fedunlearn.simulation.learning import learn, new_network, situation_of
from fedunlearn.simulation.recording import Record
from fedunlearn.simulation.training_cache import TrainingCache
from fedunlearn.simulation.twins import departures
from fedunlearn.unlearning.base import Outcome, Situation


@dataclass(frozen=True)
class Retold:
    """A network that has just answered its last request, with what it is compared to. All live in ``session``.

    Attributes:
        world: data, graph before any departure, model, requests, method.
        session: the hosts; the deleted samples are poisoned on them, so nothing can be trained on them here.
        evaluator: with :attr:`Evaluator.test`, ``sample_set(rows)`` and so on.
        before: a copy of all rows at the moment before the last request, a population of its own.
        network: the population after the last answer.
        twin: retrained with the run's seed without anything that was deleted.
        control: retrained in the same way with another seed; what differs from ``twin`` is chance.
        sibling: the control once more, from the run's own start: other batches and noise, and nothing else. It is the
            floor for single nodes, whose parameters two starts may put far apart. Where all seeds have one start
            (softmax, a checkpoint) it is ``control`` itself.
        request: the last request.
        before_outcome, outcome, …: how the stages of these populations ended.
    """

    world: World
    session: Session
    evaluator: Evaluator
    before: Network
    network: Network
    twin: Network
    control: Network
    sibling: Network
    request: DeletionRequest
    before_outcome: Outcome
    outcome: Outcome
    twin_outcome: Outcome
    control_outcome: Outcome
    sibling_outcome: Outcome
    situation: Situation
    cache: TrainingCache


def evaluator_of(world: World) -> Evaluator:
    """Return the evaluator of a run: the same sets of samples as in its own evaluation."""
    return Evaluator(world.dataset, world.features, world.model, world.experiment.evaluation, world.experiment.seed)


def cache_of(world: World, evaluator: Evaluator, every: int | None = None) -> TrainingCache:
    """Return the training cache as the run used it, or for curves with a point after ``every`` rounds.

    Nothing is kept where the run keeps secrets.
    """
    experiment = world.experiment
    every = every or min(experiment.evaluation.every, max(1, experiment.training.rounds))
    enabled = experiment.runtime.cache and experiment.privacy.noise != "secret"
    return TrainingCache(world.dataset, evaluator, every=every, enabled=enabled)


def world_of_seed(world: World, seed: int) -> World:
    """Return the same data, graph and requests with everything drawn anew: start, batches, noise, and a fresh method.

    ``world.unlearner`` must not have been used yet.
    """
    experiment = world.experiment.model_copy(update={"seed": seed})
    return replace(
        world, experiment=experiment, start=world.model.initial(seed), unlearner=copy.deepcopy(world.unlearner)
    )


def seed_of(battery_seed: int, purpose: str, number: int) -> int:
    """Return the seed of one of the battery's own trainings; it never depends on what was asked of others."""
    return torch_seed(battery_seed, f"battery {purpose}", number) % (1 << 31)


@contextmanager
def open_session(world: World) -> Iterator[Session]:
    """Open hosts for a world, as its settings say, in this process."""
    experiment = world.experiment
    with Session(
        InlineTransport(experiment.runtime.hosts), world.dataset, world.model, world.features, seed=experiment.seed,
        data=experiment.data, links=experiment.links, runtime=experiment.runtime,
        device=choose_device(experiment.runtime.device), graph=world.graph,
    ) as session:  # fmt: skip
        yield session


def all_deleted(world: World) -> NDArray[np.int64]:
    """Return the ids of everything that the requests delete, increasing."""
    return np.unique(np.concatenate([np.zeros(0, np.int64), *(r.sample_ids for r in world.requests)]))


def retrain(
    world: World, session: Session, cache: TrainingCache, phases: Mapping[str, tuple[World, str]]
) -> dict[str, tuple[Network, Outcome]]:  # fmt: skip
    """Train populations without all that the requests delete, by the recipe, and end their training as the method does.

    ``phases`` has for each name the world that it is trained in (its start, seed and method) and the phase that is
    told. They learn side by side, unless the method trains in a way of its own.
    """
    *_, (_, lack) = departures(world)
    fresh = {name: new_network(mine, session, name, **lack) for name, (mine, _) in phases.items()}
    for name, (mine, _) in phases.items():
        if mine.unlearner is not world.unlearner:  # that one was prepared long ago
            mine.unlearner.prepare(fresh[name], twin_situation(mine))
    if world.unlearner.trains_itself:
        for name, (mine, phase) in phases.items():
            learn(mine, cache, [(fresh[name], phase)], twin_situation(mine))
    else:
        pupils = [(fresh[name], phase) for name, (_, phase) in phases.items()]
        learn(world, cache, pupils, twin_situation(world), [mine.start for mine, _ in phases.values()])
    return {
        name: (fresh[name], mine.unlearner.conclude(fresh[name], twin_situation(mine)))
        for name, (mine, _) in phases.items()
    }


def twin_situation(world: World) -> Situation:
    """Return what a method is told about a retrained twin, as the run tells it."""
    return situation_of(world, Record(world.experiment, None), world.requests[-1].number, world_name="retrained")


@contextmanager
def retell(world: World, battery_seed: int) -> Iterator[Retold]:
    """Tell a run's story again up to its last answer, and train the two twins; everything lives until the block ends.

    The order is that of a run, so methods that carry a state give the same numbers.
    """
    evaluator, pristine = evaluator_of(world), copy.deepcopy(world.unlearner)
    cache, unlearner = cache_of(world, evaluator), world.unlearner
    record = Record(world.experiment, None)
    with open_session(world) as session:
        network = new_network(world, session, "main", world.graph)
        evaluator.put_node_test(network)
        situation = situation_of(world, record, release=0)
        unlearner.prepare(network, situation)
        learn(world, cache, [(network, "train")], situation)
        concluded = unlearner.conclude(network, situation)
        copies: list[Network] = []

        def look(request: DeletionRequest) -> None:
            if request is world.requests[-1]:
                copies.append(evaluator.keep(network))

        before_outcome, last, situation = answer_each(world, network, record, concluded, look=look)
        other = replace(world_of_seed(world, seed_of(battery_seed, "control", 0)), unlearner=copy.deepcopy(pristine))
        phases = {"retrained": (world, "retrain"), "control": (other, "retrain (control)")}
        if not np.array_equal(other.start, world.start):
            beside = replace(other, start=world.start, unlearner=pristine)
            phases["sibling"] = (beside, "retrain (control, the run's start)")
        found = retrain(world, session, cache, phases)
        (twin, twin_outcome), (control, control_outcome) = found["retrained"], found["control"]
        sibling, sibling_outcome = found.get("sibling", found["control"])
        yield Retold(
            world, session, evaluator, copies[0], network, twin, control, sibling, world.requests[-1], before_outcome,
            last, twin_outcome, control_outcome, sibling_outcome, situation, cache,
        )  # fmt: skip
