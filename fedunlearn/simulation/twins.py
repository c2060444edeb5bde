"""The retrained twins of a run: networks that never saw what the requests so far have deleted.

A twin is trained when its request has been answered, or side by side with the original network and all other twins
(``evaluation.twins``). Then every twin waits for its request on the hosts. It lacks from the beginning what is deleted
up to then, so it gives nothing away that the network must not know afterwards; its numbers are the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedunlearn.network import Network, Session
from fedunlearn.requests import DeletionRequest
from fedunlearn.simulation.learning import Lesson, Reading, attend, learn, metered, new_network, situation_of
from fedunlearn.simulation.recording import Record
from fedunlearn.simulation.training_cache import TrainingCache
from fedunlearn.simulation.world import World
from fedunlearn.topology import remove_vertex
from fedunlearn.unlearning.base import Cost, Outcome, Situation


def side_by_side(world: World) -> bool:
    """Return whether the twins are trained with the original network: not if the method trains in a way of its own."""
    wanted = world.experiment.evaluation.twins == "side-by-side"
    return wanted and bool(world.requests) and not world.unlearner.trains_itself


def twins_at_once(world: World) -> int:
    """Return how many retrained twins lie on the hosts at once."""
    return len(world.requests) if side_by_side(world) else min(1, len(world.requests))


@dataclass
class Twins:
    """The retrained twins of the requests of a run."""

    world: World
    session: Session
    cache: TrainingCache
    record: Record
    _waiting: dict[int, tuple[Lesson, Reading]] = field(default_factory=dict)

    def learn_with(self, network: Network, situation: Situation) -> None:
        """Train the original network; where they learn side by side, every twin with it."""
        fresh, readings = [(network, "train")], []
        if side_by_side(self.world):
            for request, lack in departures(self.world):
                twin = new_network(self.world, self.session, f"retrained-{request.number}", **lack)
                readings.append((request.number, Reading.of(twin)))
                fresh.append((twin, f"retrain {request.number}"))
        lesson, *others = learn(self.world, self.cache, fresh, situation)
        attend(self.world, self.record, lesson)
        self._waiting = {number: (other, reading) for (number, reading), other in zip(readings, others)}

    def retrain(self, network: Network, request: DeletionRequest) -> tuple[Network, Outcome, Cost]:
        """Return the twin that never saw what the network has deleted so far, how its training ended, and its cost.

        It is trained by the same recipe and ends in the same way; drop it afterwards.
        """
        world, situation = self.world, situation_of(self.world, self.record, request.number, world_name="retrained")
        waiting = self._waiting.pop(request.number, None)
        if waiting is None:
            twin = new_network(
                world, self.session, "retrained", network.graph, deleted=network.deleted, alive=network.alive
            )
            reading = Reading.of(twin)
        else:
            twin, reading = waiting[0].network, waiting[1]

        def finish() -> Outcome:
            if waiting is None:
                (lesson,) = learn(world, self.cache, [(twin, f"retrain {request.number}")], situation)
            else:
                lesson = waiting[0]
            attend(world, self.record, lesson)
            return world.unlearner.conclude(twin, situation)

        return twin, *metered(twin, finish, world.watch, reading)


def departures(world: World) -> Iterator[tuple[DeletionRequest, dict[str, Any]]]:
    """Yield graph, alive vertices and deleted samples as they will be when each request has been answered: what a twin
    lacks, as :func:`fedunlearn.simulation.learning.new_network` takes it."""
    graph, deleted = world.graph, np.zeros(0, dtype=np.int64)
    alive = np.ones(graph.number_of_nodes(), dtype=bool)
    repair = world.experiment.topology.repair
    for request in world.requests:
        for node in () if repair == "relay" else request.leaves:
            graph = remove_vertex(graph, node, repair, alive)
            alive[node] = False
        deleted = np.union1d(deleted, request.sample_ids)
        yield request, {"graph": graph, "alive": alive.copy(), "deleted": deleted}
