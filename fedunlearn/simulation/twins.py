"""The retrained twins of a run: networks that never saw what the requests so far have deleted.

A twin is trained when its request has been answered, or side by side with the original network and all other twins
(``evaluation.twins``). Then every twin waits for its request on the hosts. It lacks from the beginning what is deleted
up to then, so it gives nothing away that the network must not know afterwards; its numbers are the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedunlearn.network import Network, Session
from fedunlearn.requests import DeletionRequest
from fedunlearn.simulation.journal import Journal
from fedunlearn.simulation.learning import (
    Lesson,
    Reading,
    Schooling,
    attend,
    conclude,
    go_on,
    learn,
    metered,
    new_network,
    situation_of,
)
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
    """The retrained twins of the requests of a run.

    Attributes:
        school: the trainings that are going on, if any are.
        waiting: by request, the trained twins that wait for it on the hosts.
        current: the trained twin of the request that has just been answered.
        readings: what the meters of each twin showed before its training, by the name of its population.
        look: called after every point of the learning curves, when ``school`` could be written down.
    """

    world: World
    session: Session
    cache: TrainingCache
    record: Record
    journal: Journal
    look: Callable[[], None]
    school: Schooling | None = None
    waiting: dict[int, Lesson] = field(default_factory=dict)
    current: Lesson | None = None
    readings: dict[str, Reading] = field(default_factory=dict)

    def learn_with(self, network: Network, situation: Situation) -> None:
        """Train the original network; where they learn side by side, every twin with it."""
        fresh = [(network, "train")]
        if self.school is None and side_by_side(self.world):
            for request, lack in departures(self.world):
                twin = new_network(self.world, self.session, f"retrained-{request.number}", **lack)
                fresh.append((twin, f"retrain {request.number}"))
        lesson, *others = self._learn(fresh, situation)
        attend(self.world, self.record, lesson)
        self.waiting = {int(other.phase.split()[1]): other for other in others}

    def retrain(self, network: Network, request: DeletionRequest) -> None:
        """Train the twin that never saw what the network has deleted so far, by the same recipe."""
        lesson = self.waiting.pop(request.number, None)
        if lesson is None:
            fresh = []
            if self.school is None:
                twin = new_network(
                    self.world, self.session, "retrained", network.graph, deleted=network.deleted, alive=network.alive
                )
                fresh.append((twin, f"retrain {request.number}"))
            (lesson,) = self._learn(fresh, self._situation(request))
        self.current = lesson
        attend(self.world, self.record, lesson)

    def conclude(self, request: DeletionRequest, network: Network) -> tuple[Network, Outcome, Cost]:
        """Return the twin, how its training ended, and what all of it cost; drop it afterwards.

        ``network`` has answered the request: under faults the twin ends with the same participants.
        """
        lesson, self.current = self.current, None
        assert lesson is not None, "a twin is trained before it is concluded"
        twin = lesson.network
        reading = self.readings.pop(twin.name)
        outcome, cost = metered(
            twin, lambda: conclude(self.world, twin, self._situation(request), network.present), self.world.watch,
            reading,
        )  # fmt: skip
        return twin, outcome, replace(cost, seconds=cost.seconds + lesson.seconds)

    def _learn(self, fresh: list[tuple[Network, str]], situation: Situation) -> list[Lesson]:
        def look(school: Schooling) -> None:
            self.school = school
            self.look()

        if self.school is None:
            self.readings |= {twin.name: Reading.of(twin) for twin, phase in fresh if phase != "train"}
            lessons = learn(self.world, self.cache, fresh, situation, look=look)
        else:
            lessons = go_on(self.world, self.cache, self.school, situation, look)
        self.school = None
        return lessons

    def _situation(self, request: DeletionRequest) -> Situation:
        return situation_of(
            self.world, self.record, request.number, world_name="retrained", journal=self.journal
        )  # fmt: skip

    # --- to go on with -----------------------------------------------------------------------------------------------

    def networks(self) -> list[Network]:
        """Return the populations of twins, and of whatever learns with them, that lie on the hosts now."""
        lessons = [*(self.school.lessons if self.school else []), *self.waiting.values(), self.current]
        return [lesson.network for lesson in lessons if lesson is not None]

    def state(self) -> dict[str, Any]:
        """Return where the trainings are; rows are not in it."""
        school = self.school
        return {
            "school": None if school is None else [school.round, school.spent, [_plain(x) for x in school.lessons]],
            "waiting": {number: _plain(lesson) for number, lesson in self.waiting.items()},
            "current": None if self.current is None else _plain(self.current),
            "readings": self.readings,
        }

    def restore(self, state: dict[str, Any], networks: Mapping[str, Network]) -> None:
        """Take over what :meth:`state` gave, with the populations by their names."""

        def lesson(plain: dict[str, Any]) -> Lesson:
            return Lesson(**{**plain, "network": networks[plain["network"]]})

        if state["school"] is not None:
            round_, spent, lessons = state["school"]
            self.school = Schooling([lesson(plain) for plain in lessons], round_, spent)
        self.waiting = {number: lesson(plain) for number, plain in state["waiting"].items()}
        self.current = None if state["current"] is None else lesson(state["current"])
        self.readings = state["readings"]


def _plain(lesson: Lesson) -> dict[str, Any]:
    return {**vars(lesson), "network": lesson.network.name}


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
