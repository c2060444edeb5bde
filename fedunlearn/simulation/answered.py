"""The story of a run up to its last answer and its retrained twin, without measuring: what an auditor looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedunlearn.errors import UserError
from fedunlearn.network import Network, Session
from fedunlearn.requests import DeletionRequest
from fedunlearn.simulation.learning import conclude, new_network, run_recipe, situation_of
from fedunlearn.simulation.recording import Record
from fedunlearn.simulation.story import answer_request
from fedunlearn.simulation.world import World
from fedunlearn.unlearning.base import Outcome, Situation


@dataclass(frozen=True)
class Answered:
    """A network that has just answered its last request, beside a twin that never saw what was deleted.

    ``before`` is what the method handed back before that request: at the end of training, or after the former request.
    ``outcome`` answered it, in the circumstances ``situation``; ``retrained`` ended the twin's training.
    """

    world: World
    network: Network
    twin: Network
    request: DeletionRequest
    before: Outcome
    outcome: Outcome
    retrained: Outcome
    situation: Situation


def answer_each(
    world: World, network: Network, record: Record, concluded: Outcome, *,
    look: Callable[[DeletionRequest], None] | None = None,
) -> tuple[Outcome, Outcome, Situation]:  # fmt: skip
    """Answer all requests on a trained network, whose training ended as ``concluded``; ``look`` is called before each.

    Returns what the method handed back before the last request, what answered it, and in which circumstances.
    """
    before = last = concluded
    situation = situation_of(world, record, release=0)
    for request in world.requests:
        if look is not None:
            look(request)
        before = last
        situation = situation_of(world, record, release=request.number + 1, previous=last.release)
        last, _ = answer_request(world, network, request, situation, record)
    return before, last, situation


def answer_all(world: World, session: Session) -> Answered:
    """Train, answer every request, and retrain once without all that was deleted: the very numbers of a run.

    Nothing is written, measured or taken from the cache.

    Raises:
        UserError: if the experiment has no request.
    """
    if not world.requests:
        raise UserError(f"experiment '{world.experiment.name}' has no [[requests]], so there is no answer to look at")
    record = Record(world.experiment, None)
    network = new_network(world, session, "main", world.graph)
    situation = situation_of(world, record, release=0)
    world.unlearner.prepare(network, situation)
    run_recipe(world, network, situation, "train")
    before, last, situation = answer_each(world, network, record, conclude(world, network, situation))
    request = world.requests[-1]
    twin = new_network(world, session, "retrained", network.graph, deleted=network.deleted, alive=network.alive)
    apart = situation_of(world, record, request.number, world_name="retrained")
    run_recipe(world, twin, apart, "retrain")
    return Answered(
        world, network, twin, request, before, last, conclude(world, twin, apart, network.present), situation
    )  # fmt: skip
