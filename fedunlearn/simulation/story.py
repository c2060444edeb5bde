"""The story of a run: data, topology, training, requests, unlearning, certificates, evaluation, record.

The story is a list of stages over one state. A run that was interrupted takes that state from its newest checkpoint and
goes on with the stage that it was in: there is no second story.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedunlearn.config import Experiment
from fedunlearn.evaluation.evaluator import Snapshot
from fedunlearn.network import Network, Session, Transport
from fedunlearn.requests import DeletionRequest
from fedunlearn.results import RunDirectory, read_summary
from fedunlearn.simulation.answering import await_answer, begin_answer, end_answer, trace_of_training
from fedunlearn.simulation.extras import follow_influence, run_controls, run_junk_start
from fedunlearn.simulation.forecast import check_memory
from fedunlearn.simulation.journal import Journal
from fedunlearn.simulation.learning import conclude, metered, vector_of
from fedunlearn.simulation.recording import Record
from fedunlearn.simulation.resuming import inputs_of, newest, open_checkpoints, settings_of
from fedunlearn.simulation.state import State, classes_of
from fedunlearn.simulation.stopwatch import Stopwatch
from fedunlearn.simulation.world import Progress, World, choose_device, prepare
from fedunlearn.topology import remove_vertex
from fedunlearn.unlearning.base import Cost, Outcome, Situation


@dataclass(frozen=True)
class RunResult:
    """A finished run: ``summary`` as in summary.json, and the folder of everything (None if none was asked for)."""

    summary: dict[str, Any]
    folder: Path | None


def simulate(
    experiment: Experiment, transport: Transport, *, out: Path | None = None, progress: Progress | None = None,
    resume: Path | None = None,
) -> RunResult:  # fmt: skip
    """Run an experiment on the hosts behind ``transport``; with ``out``, write its run directory.

    With ``resume``, the folder of an unfinished run or the name it would have had, go on with that run: ``experiment``
    must have its settings, but for those of ``runtime``. It ends with the numbers that it would have had.

    Raises UserError for whatever a user can mend. Nothing unfinished is left under the name ``out``.
    """
    if resume is None:
        record = Record(experiment, out)
    else:
        began_with = settings_of(resume)
        experiment = settings_of(resume, experiment)
        record = Record(began_with, None, directory=RunDirectory.resume(resume))
    try:
        if record.directory is not None and record.directory.complete:
            return RunResult(read_summary(record.directory.path), record.directory.finish())
        watch = Stopwatch()
        world = prepare(experiment, progress or (lambda phase, done, total: None))
        world.watch = watch
        record.add_decisions(world.decisions)
        record.summary["memory"] = check_memory(world)
        if record.summary["memory"] is not None:
            world.progress("rows that do not fit in memory go to files on disk", 1, 1)
        device = choose_device(experiment.runtime.device, here=transport.immediate)
        checkpoints = open_checkpoints(record, experiment, device)
        journal = Journal(
            checkpoints, experiment.runtime.checkpoint_seconds, experiment.privacy.noise == "secret",
            lambda sentence: world.progress(sentence, 1, 1),
        )  # fmt: skip
        if checkpoints is not None:
            checkpoints.confirm(inputs_of(world))
        kept = None if resume is None else newest(checkpoints, classes_of(world.unlearner), journal.tell)
        with Session(
            transport, world.dataset, world.model, world.features, seed=experiment.seed, data=experiment.data,
            links=experiment.links, runtime=experiment.runtime, device=device, graph=world.graph,
        ) as session:  # fmt: skip
            watch.seconds["setup"] = watch.elapsed()
            state = State.begin(world, session, record, journal, kept)
            if resume is not None:
                record.resumed.append("the beginning" if kept is None else kept.what)
            tell(state)
        record.add_hosts(session, world.graph)
        record.add_trace(trace_of_training(world))
        return RunResult(*record.finish({**watch.seconds, "total": watch.elapsed()}, state.network.ledger.summary()))
    except BaseException as error:
        record.abandon(error)
        raise


@dataclass(frozen=True)
class Stage:
    """One piece of the story: what is told when it is done, what it does, and whether it hands out a release."""

    done: str
    work: Callable[[State], None]
    releases: bool = False


def tell(state: State) -> None:
    """Go through the stages that are not done yet, and keep what comes out of them."""
    for number, stage in enumerate(_stages(state.world)):
        if number >= state.stage:
            stage.work(state)
            state.stage = number + 1
            state.after_stage(stage.done, alone=state.journal.secret and stage.releases)


def _stages(world: World) -> Iterator[Stage]:
    """Train; then, request after request, erase and unlearn, retrain for comparison, and measure."""
    # What a training of its own has drawn cannot be drawn again, so it is kept before anybody receives it.
    yield Stage("the end of training", _train, releases=not world.unlearner.trains_by_recipe)
    yield Stage("the release after training", _conclude, releases=True)
    for request in world.requests:
        of = f"request {request.number}"
        yield Stage(f"the answer to {of}", partial(_answer, request=request), releases=True)
        yield Stage(f"the retrained twin of {of}", partial(_retrain, request=request))
        yield Stage(f"the measures of {of}", partial(_compare, request=request))


def _train(state: State) -> None:
    with state.world.watch.phase("train"):
        state.twins.learn_with(state.network, state.situation(0))


def _conclude(state: State) -> None:
    world, network, evaluator, record = state.world, state.network, state.evaluator, state.record
    with world.watch.phase("train"):
        state.trained = evaluator.keep(network) if world.requests else None
        state.last = last = conclude(world, network, state.situation(0))
    with world.watch.phase("evaluate"):
        original = vector_of(network, last)
        record.add_model("original", original, evaluator.report(original, state.deleted, network))
        if world.public is not None and world.public.head is not None:
            record.add_model("public_head", world.public.head, evaluator.report(world.public.head, state.deleted))


def _answer(state: State, request: DeletionRequest) -> None:
    world, network, record = state.world, state.network, state.record
    assert state.last is not None, "a request is answered after training was concluded"
    with world.watch.phase("evaluate"):
        follow_influence(world, network, request, record)
        lost = "last" in state.unknown
        state.before = None if lost else state.evaluator.snapshot(network, state.last.noise_free)
        state.unknown = (state.unknown - {"before"}) | ({"before"} if lost else set())
    state.previous = state.last.release
    with world.watch.phase("unlearn"):
        situation = state.situation(request.number + 1)
        state.last, state.cost = answer_request(world, network, request, situation, record)
        state.unknown -= {"last"}
        if state.journal.secret:
            record.cache["purged"] += state.cache.purge(request.sample_ids)
    state.journal.answered()


def _retrain(state: State, request: DeletionRequest) -> None:
    with state.world.watch.phase("retrain"):
        state.twins.retrain(state.network, request)


def _compare(state: State, request: DeletionRequest) -> None:
    world, network, evaluator, record, last = state.world, state.network, state.evaluator, state.record, state.last
    assert last is not None and state.cost is not None
    with world.watch.phase("retrain"):
        twin, twin_last, twin_cost = state.twins.conclude(request, network)
    with world.watch.phase("evaluate"):
        if request is world.requests[-1]:
            evaluator.look_ahead([network, twin])
        record.add_request(request, last, state.cost, twin_cost, _distances(state, twin, twin_last))
        if state.trained is not None:
            record.moved = evaluator.row_distances(network, state.trained)
        if request is world.requests[-1]:
            deleted = state.deleted
            for name, net, outcome in (("retrained", twin, twin_last), ("unlearned", network, last)):
                vector = vector_of(net, outcome)
                record.add_model(name, vector, evaluator.report(vector, deleted, net))
            run_controls(world, twin, state.situation(request.number + 1), evaluator, record, deleted)
            if last.certificate is not None:
                junk = state.situation(0, "junk start")
                run_junk_start(world, twin, junk, last.certificate, evaluator, record, deleted)
            record.cache["kept"] = state.cache.holding(deleted)
        if state.before is not None:
            state.before.drop()
        state.before = None
        twin.drop()


def _distances(state: State, twin: Network, twin_last: Outcome) -> dict[str, Any]:
    """Return how far the network is, and was, from its twin; None what a checkpoint did not hold any more."""
    last = state.last
    assert last is not None
    ideal, after = Snapshot(twin_last.noise_free, None, twin), Snapshot(last.noise_free, None, state.network)
    found: dict[str, Any] = dict(state.evaluator.compare(state.before or after, after, ideal))
    if "last" in state.unknown:
        return dict.fromkeys(found)
    return found if state.before is not None else {**found, "distance_before": None}


def answer_request(
    world: World, network: Network, request: DeletionRequest, situation: Situation, record: Record
) -> tuple[Outcome, Cost]:
    """Let the method see the forget set if it must, erase it, take leavers out of the graph, and answer.

    Under faults the request waits until it can be answered, and those who are left of the participants answer it.
    """
    network.phase, network.ledger.request = "unlearn", request.number
    world.progress(f"request {request.number}", 0, 1)

    leavers = () if world.experiment.topology.repair == "relay" else request.leaves

    def answer() -> Outcome:
        if network.course is not None:
            record.answering[request.number] = await_answer(network, request, leavers)
        world.unlearner.observe(network, request, situation)
        for node in leavers:
            network.leave(node, remove_vertex(network.graph, node, world.experiment.topology.repair, network.alive))
        network.erase(request.sample_ids)
        if network.course is not None:
            record.answering[request.number] |= begin_answer(network)
        outcome = world.unlearner.unlearn(network, request, situation)
        if network.course is not None:
            record.answering[request.number] |= end_answer(network)
        network.wipe()  # means and gradients of before the answer still lie on the hosts
        return outcome

    result = metered(network, answer, world.watch)
    world.progress(f"request {request.number}", 1, 1)
    network.phase, network.ledger.request = "train", None
    return result
