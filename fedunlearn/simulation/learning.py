"""How the populations of a run learn: by the recipe or from the cache, one alone or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from fedunlearn.faults import Course
from fedunlearn.network import Network, Session, faulty, train_together
from fedunlearn.simulation.journal import Journal, key_of, silent
from fedunlearn.simulation.recording import Record
from fedunlearn.simulation.stopwatch import Stopwatch
from fedunlearn.simulation.training_cache import Point, TrainingCache
from fedunlearn.simulation.world import World
from fedunlearn.unlearning.base import Cost, Outcome, Situation


@dataclass
class Lesson:
    """The training of one fresh population, from the cache (``hit``) or done here.

    ``seconds`` are those of the training without drawing its curve; where ``together`` populations were trained side
    by side, this one's share by the number of its samples.
    """

    network: Network
    phase: str
    key: str | None
    hit: bool = False
    points: list[Point] = field(default_factory=list)
    seconds: float = 0.0
    together: int = 1


@dataclass
class Schooling:
    """Trainings that go on side by side: ``lessons`` after ``round`` rounds, for which ``spent`` seconds were used."""

    lessons: list[Lesson]
    round: int = 0
    spent: float = 0.0


@dataclass(frozen=True)
class Reading:
    """What a network's meters showed at one moment: work, traffic and simulated time."""

    work: tuple[int, int, int, int]
    clock: tuple[float, int, int]

    @classmethod
    def of(cls, network: Network) -> Reading:
        """Read the meters of a network."""
        totals = network.ledger.totals()
        work = (network.work["gradients"], network.work["hvps"], totals["messages"], totals["bytes"])
        return cls(work, network.clock.counts())


def new_network(
    world: World, session: Session, name: str, graph: nx.Graph, *, deleted: NDArray[np.int64] | None = None,
    alive: NDArray[np.bool_] | None = None,
) -> Network:  # fmt: skip
    """Create a population at the public start; a retrained twin lacks what is ``deleted``, and who is not ``alive``.

    Under faults every population goes through the trace of the run, restricted to its vertices.
    """
    training, mixing, seed = world.experiment.training, world.experiment.topology.mixing, world.experiment.seed
    course = None
    if world.trace is not None:
        course = Course(world.trace, graph, mixing, seed, alive=alive, server=training.algorithm == "fedavg")
    return Network(
        session, name, graph, mixing, world.start, deleted=deleted, alive=alive, momentum=training.momentum > 0,
        seed=seed, course=course,
    )  # fmt: skip


def conclude(
    world: World, network: Network, situation: Situation, participants: NDArray[np.bool_] | None = None
) -> Outcome:
    """End a training. Under faults the network gathers first; its twin gathers the same ``participants`` (N,)."""
    if network.course is not None:
        faulty.gather_at_the_end(network, participants)
    return world.unlearner.conclude(network, situation)


def vector_of(network: Network, outcome: Outcome) -> NDArray[np.float32]:
    """Return the one model that stands for a network: what was released, or the mean of the nodes' models."""
    return network.mean().astype(np.float32) if outcome.release is None else outcome.release


def learn(
    world: World, cache: TrainingCache, fresh: Sequence[tuple[Network, str]], situation: Situation,
    starts: Sequence[NDArray[np.float32]] | None = None, look: Callable[[Schooling], None] | None = None,
) -> list[Lesson]:  # fmt: skip
    """Train fresh populations (each with the name of its phase) side by side, or take them from the cache.

    ``starts`` are the parameters each was made with, by default all the world's start. Nothing is charged or written
    down before :func:`attend` is called for the population. ``look`` is called after every point of their curves.
    """
    watch, cached = world.watch, cache.enabled and not world.unlearner.trains_itself
    lessons: list[Lesson] = []
    with watch.aside():
        for (network, phase), start in zip(fresh, starts or [world.start] * len(fresh)):
            lesson = Lesson(network, phase, cache.key(network, start, world.experiment.training) if cached else None)
            found = cache.find(lesson.key) if lesson.key is not None else None
            if found is not None:
                found.apply(network)
                lesson.hit, lesson.points = True, found.points
                lesson.seconds, lesson.together = found.seconds, found.together
            lessons.append(lesson)
    return go_on(world, cache, Schooling(lessons), situation, look)


def go_on(
    world: World, cache: TrainingCache, school: Schooling, situation: Situation,
    look: Callable[[Schooling], None] | None = None,
) -> list[Lesson]:  # fmt: skip
    """Train those who were not found in the cache, from the round that they are in."""
    watch, lessons = world.watch, school.lessons
    absent = [lesson for lesson in lessons if not lesson.hit]
    if not absent:
        return lessons
    before, began = school.spent, watch.now()

    def seen(round_: int) -> None:
        school.round, school.spent = round_, before + watch.now() - began
        if look is not None:
            look(school)

    _train(world, cache, absent, situation, school.round, seen)
    during = watch.now() - began
    watch.charge(-during)
    spent = before + during
    samples = [int(lesson.network.counts.sum()) for lesson in absent]
    with watch.aside():
        for lesson, count in zip(absent, samples):
            lesson.seconds, lesson.together = spent * count / sum(samples), len(absent)
            if lesson.key is not None:
                cache.keep(lesson.key, lesson.network, lesson.points, lesson.seconds, lesson.together)
    return lessons


def attend(world: World, record: Record, lesson: Lesson) -> None:
    """Charge the running phase for a training, and write down its learning curve and where it came from."""
    world.watch.charge(lesson.seconds)
    record.add_training(lesson.phase, lesson.points, hit=lesson.hit, together=lesson.together)
    rounds = world.experiment.training.rounds
    world.progress(lesson.phase, rounds, rounds)


def _train(
    world: World, cache: TrainingCache, lessons: list[Lesson], situation: Situation, first: int,
    seen: Callable[[int], None],
) -> None:  # fmt: skip
    """Train the populations of these lessons; the progress is told under the name of the first."""
    training, lesson_of = world.experiment.training, {lesson.network.name: lesson for lesson in lessons}

    def draw(round_: int, network: Network) -> None:
        with world.watch.aside("evaluate"):
            if network is lessons[0].network:
                cache.evaluator.look_ahead([lesson.network for lesson in lessons], means=True)
            lesson_of[network.name].points.append((round_, cache.evaluator.curve_point(network)))
        if network is lessons[-1].network:
            with world.watch.aside():
                seen(round_)

    if len(lessons) == 1:
        run_recipe(world, lessons[0].network, situation, lessons[0].phase, first=first, every=cache.every, draw=draw)
        return
    world.progress(lessons[0].phase, first, training.rounds)

    def look(round_: int, network: Network) -> None:
        if network is lessons[0].network:
            world.progress(lessons[0].phase, round_, training.rounds)
        draw(round_, network)

    train_together([lesson.network for lesson in lessons], training, first=first, every=cache.every, watch=look)


def run_recipe(
    world: World, network: Network, situation: Situation, phase: str, *, first: int = 0, every: int = 1,
    draw: Callable[[int, Network], None] | None = None,
) -> None:  # fmt: skip
    """Train a network by the recipe, telling the progress, and what ``draw`` wants to see, after ``every`` rounds.

    A training that was interrupted goes on after its ``first`` rounds.
    """
    training = world.experiment.training
    world.progress(phase, first, training.rounds)  # a first round can take a minute

    def look(round_: int, net: Network) -> None:
        world.progress(phase, round_, training.rounds)
        if draw is not None:
            draw(round_, net)

    going_on = {"first": first} if first else {}  # not every method can
    world.unlearner.train(network, situation, every=every, watch=look, **going_on)


def situation_of(
    world: World, record: Record, release: int, previous: NDArray[np.float32] | None = None, world_name: str = "main",
    journal: Journal | None = None,
) -> Situation:  # fmt: skip
    """Gather what a method is told. The twin's releases have noise of their own, and become no files.

    ``journal`` keeps what was noised, where the story is told by a run that may be interrupted.
    """
    experiment, noised = world.experiment, journal or silent()

    def follow_recipe(network: Network) -> None:
        run_recipe(world, network, situation, "retrain (fallback)", every=experiment.evaluation.every)

    def retrain(network: Network) -> None:
        if network.course is None:
            network.write(world.start)
            follow_recipe(network)
        elif experiment.unlearning.method == "retrain":  # always so, whatever the data: its answer ends the second pass
            faulty.restart(network)
            follow_recipe(network)
            faulty.gather_at_the_end(network)
        else:
            faulty.retrain_for_answer(network, lambda: follow_recipe(network))

    def persist(vector: NDArray[np.float32]) -> None:
        if world_name == "main":
            record.persist(release, vector)

    situation = Situation(
        training=experiment.training, privacy=experiment.privacy, start=world.start, seed=experiment.seed,
        release=release, retrain=retrain, persist=persist, public=world.public, previous_release=previous,
        world=world_name, hashes=record.hashes, cache=experiment.runtime.cache,
        keep=lambda what, vector: noised.keep(key_of(world_name, release, what), vector),
        kept=lambda what: noised.kept(key_of(world_name, release, what)),
    )  # fmt: skip
    return situation


def metered(
    network: Network, work: Callable[[], Outcome], watch: Stopwatch, since: Reading | None = None
) -> tuple[Outcome, Cost]:
    """Run a piece of work on a network and return its result with what it cost; meters count from ``since``."""
    before, began = since or Reading.of(network), watch.now()
    outcome = work()
    gradients, hvps, messages, size = (a - b for a, b in zip(Reading.of(network).work, before.work))
    return outcome, Cost(watch.now() - began, gradients, hvps, messages, size, network.clock.since(before.clock))
