"""Shadow models: the run's recipe and method over again with other seeds, with and without the forget set.

A pair is a network trained with the forget set, which then answers the run's requests by the run's method, and a
network trained without it from a seed of its own. All attacks and scores over many models share the same pairs, and
trained networks are taken from the training cache where they fit in it, whatever method answers afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedunlearn.battery.retold import cache_of, evaluator_of, open_session, seed_of, twin_situation, world_of_seed
from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.evaluator import SampleSet
from fedunlearn.evaluation.outputs import Outputs, SetName, Vector
from fedunlearn.network.memory import available_bytes
from fedunlearn.simulation import World
from fedunlearn.simulation.answered import answer_each
from fedunlearn.simulation.learning import learn, new_network, situation_of, vector_of
from fedunlearn.simulation.recording import Record
from fedunlearn.simulation.training_cache import TrainingCache
from fedunlearn.simulation.twins import departures
from fedunlearn.simulation.world import Progress

Rows = dict[str, NDArray[np.float32]]
WITH, WITHOUT = "shadow with", "shadow without"
_SHARE = 0.25
"""Share of the free memory that shadow networks may fill at once."""
_POINTS = 5
"""Points of a shadow model's learning curve; the remaining time is told anew at each."""
_TRAINING = 0.8
"""Share of the work on a pair that is its training, for the remaining time."""
_MANY = 4
"""Pairs that are trained at once at most where a network has vertices enough for all workers by itself."""


@dataclass(frozen=True)
class _Pair:
    """One pair while it is made: rows trained with the forget set (None: the method trains itself), and the vector of
    the model trained without it."""

    number: int
    trained: Rows | None
    without: NDArray[np.float32]


def train_shadows(
    world: World, count: int, battery_seed: int, sets: Mapping[SetName, SampleSet],
    answer: Callable[[NDArray[np.float32], SampleSet], Outputs], progress: Progress,
) -> ShadowMargins:  # fmt: skip
    """Train ``count`` pairs and return what their models say about the samples of ``sets``.

    Args:
        world: the run, whose method has not been used yet.
        count: pairs, K.
        battery_seed: their seeds depend on it and their number alone, so more pairs are the same and some others.
        sets: samples as the model takes them.
        answer: gives what a model says about such a set.
        progress: called as ``progress("shadow models", done, total)``.
    """
    total, behind = 100 * count, 0.0

    def tell(more: float) -> None:
        progress("shadow models", int(100 * (behind + more)), total)

    evaluator = evaluator_of(world)
    cache = cache_of(world, evaluator, max(1, -(-world.experiment.training.rounds // _POINTS)))
    margins: dict[str, dict[SetName, Vector]] = {
        kind: {name: np.empty((count, len(s.labels))) for name, s in sets.items()}
        for kind in ("original", "unlearned", "retrained")
    }

    def note(kind: str, number: int, vector: NDArray[np.float32]) -> None:
        for name, samples in sets.items():
            margins[kind][name][number] = answer(vector, samples).margin

    tell(0.0)
    for numbers in _chunks(world, count):
        share = _TRAINING * len(numbers)
        pairs = _train(replace(world, progress=_scaled(tell, share)), cache, battery_seed, numbers)
        behind += share
        for pair in pairs:
            note("retrained", pair.number, pair.without)
            original, unlearned = _answered(replace(world, progress=_silent), cache, battery_seed, pair)
            note("original", pair.number, original)
            note("unlearned", pair.number, unlearned)
            behind += 1 - _TRAINING
            tell(0.0)
    progress("shadow models", total, total)
    return ShadowMargins(**margins)


def _scaled(tell: Callable[[float], None], share: float) -> Progress:
    """Return a callable that tells a training's progress as its share of the whole."""
    return lambda phase, done, total: tell(share * done / max(total, 1))


def _part(progress: Progress, place: int, count: int) -> Progress:
    """Return a callable that tells one training of several, which follow one another, as a part of the whole."""
    return lambda phase, done, total: progress(phase, place * total + done, count * total)


def _silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


def _chunks(world: World, count: int) -> Iterator[range]:
    """Yield the numbers of the pairs that are trained side by side: as many as memory and the workers are good for.

    Of each pair two populations lie on the hosts and one is saved, each with its momenta, or, where the method trains
    itself, one with what the method keeps of it.
    """
    training, unlearner = world.experiment.training, world.unlearner
    copies = (1 if unlearner.trains_itself else 3) * (2 if training.momentum > 0 else 1)
    copies += unlearner.copies_kept(training.rounds)
    size = 4 * world.graph.number_of_nodes() * world.model.dim * copies
    at_once = max(1, int(_SHARE * available_bytes()) // size)
    if world.graph.number_of_nodes() > _MANY:
        at_once = min(at_once, _MANY)
    for low in range(0, count, at_once):
        yield range(low, min(count, low + at_once))


def _train(world: World, cache: TrainingCache, battery_seed: int, numbers: Sequence[int]) -> list[_Pair]:
    """Train some pairs on hosts of their own: both sides at once, or only those without if the method trains itself."""
    own = world.unlearner.trains_itself
    inside = {k: world_of_seed(world, seed_of(battery_seed, WITH, k)) for k in numbers}
    outside = {k: world_of_seed(world, seed_of(battery_seed, WITHOUT, k)) for k in numbers}
    with open_session(world) as session:
        *_, (_, lack) = departures(world)
        pupils = {} if own else {k: new_network(w, session, f"with-{k}", w.graph) for k, w in inside.items()}
        others = {k: new_network(w, session, f"without-{k}", **lack) for k, w in outside.items()}
        cache.evaluator.put_node_test(others[numbers[0]])
        if own:
            for place, (k, network) in enumerate(others.items()):
                mine = replace(outside[k], progress=_part(world.progress, place, len(others)))
                mine.unlearner.prepare(network, twin_situation(mine))
                learn(mine, cache, [(network, "shadow")], twin_situation(mine))
        else:
            fresh = [(network, "shadow") for network in [*pupils.values(), *others.values()]]
            starts = [w.start for w in [*inside.values(), *outside.values()]]
            learn(world, cache, fresh, twin_situation(world), starts)
        pairs = []
        for k, network in others.items():
            unlearner, situation = outside[k].unlearner, twin_situation(outside[k])
            if not own:
                unlearner.prepare(network, situation)
            vector = vector_of(network, unlearner.conclude(network, situation))
            pairs.append(_Pair(k, None if own else pupils[k].save(), np.array(vector)))
    return pairs


def _answered(
    world: World, cache: TrainingCache, battery_seed: int, pair: _Pair
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the model of one pair trained with the forget set, before and after all requests were answered.

    An answer destroys the deleted samples on its hosts, so every pair has hosts of its own for it.
    """
    mine = world_of_seed(world, seed_of(battery_seed, WITH, pair.number))
    record = Record(mine.experiment, None)
    situation = situation_of(mine, record, release=0)
    with open_session(mine) as session:
        network = new_network(mine, session, "main", mine.graph)
        cache.evaluator.put_node_test(network)
        mine.unlearner.prepare(network, situation)
        if pair.trained is None:
            learn(mine, cache, [(network, "shadow")], situation)
        else:
            network.restore(pair.trained)
        concluded = mine.unlearner.conclude(network, situation)
        original = np.array(vector_of(network, concluded))
        _, last, _ = answer_each(mine, network, record, concluded)
        return original, np.array(vector_of(network, last))
