"""How a request is answered on a network with faults: what it waits for, who answers, and what is written down.

:mod:`fedunlearn.faults.answering` says when; here it is carried out on the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedunlearn.faults import TraceSummary, rounds_until_answer, survey
from fedunlearn.network import Network, faulty
from fedunlearn.requests import DeletionRequest
from fedunlearn.simulation.world import World


def await_answer(network: Network, request: DeletionRequest, leavers: Sequence[int]) -> dict[str, Any]:
    """Let rounds pass until the request can be answered, gather who takes part, and say what the wait was.

    Raises:
        UserError: if nobody is there to answer.
    """
    course = faulty.course_of(network)
    askers = [asker for asker in request.askers if asker is not None]
    rounds = rounds_until_answer(course, request.where, askers, leavers)
    network.ledger.request = None  # nobody answers yet, and what travels tells of no answer
    faulty.gather(network, rounds)
    network.ledger.request = request.number
    there = bool(network.present[askers].all()) if askers else None
    return {"round": rounds[-1].number, "waited": len(rounds) - 1, "asker_takes_part": there}


def begin_answer(network: Network) -> dict[str, Any]:
    """Gather who is left of the participants after the departures of a request."""
    faulty.gather(network, [])
    return {"participants": network.num_present, "alive": network.num_alive}


def end_answer(network: Network) -> dict[str, Any]:
    """Say who still holds an older model; a method that ended in a round without anybody waits for somebody.

    Without a release there is none that a model could be older than, and nothing is overwritten.
    """
    course = faulty.course_of(network)
    if not network.present.any():
        faulty.gather_at_the_end(network)
    faulty.forget_lost(network)
    stale = int((course.stale() & network.away).sum()) if course.released else None
    return {"participants": network.num_present, "stale": stale}


def trace_of_training(world: World) -> TraceSummary | None:
    """Return what the faults of the training rounds are, before anybody leaves; None without faults."""
    if world.trace is None:
        return None
    experiment = world.experiment
    server = experiment.training.algorithm == "fedavg"
    return survey(
        experiment.faults, world.graph, experiment.topology.mixing, experiment.seed, experiment.training.rounds,
        server=server,
    )  # fmt: skip
