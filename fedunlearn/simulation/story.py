"""The story of a run: data, topology, training, requests, unlearning, certificates, evaluation, record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.config import Experiment
from fedunlearn.evaluation.evaluator import Evaluator, Snapshot
from fedunlearn.evaluation.influence import measure_influence
from fedunlearn.network import Network, Session, Transport
from fedunlearn.privacy import Certificate, junk_start_limit
from fedunlearn.requests import DeletionRequest
from fedunlearn.simulation.forecast import check_memory
from fedunlearn.simulation.learning import metered, new_network, situation_of, vector_of
from fedunlearn.simulation.recording import Record
from fedunlearn.simulation.stopwatch import Stopwatch
from fedunlearn.simulation.training_cache import TrainingCache
from fedunlearn.simulation.twins import Twins
from fedunlearn.simulation.world import Progress, World, choose_device, prepare
from fedunlearn.topology import remove_vertex
from fedunlearn.unlearning.base import Cost, Outcome, Situation


@dataclass(frozen=True)
class RunResult:
    """A finished run: ``summary`` as in summary.json, and the folder of everything (None if none was asked for)."""

    summary: dict[str, Any]
    folder: Path | None


def simulate(
    experiment: Experiment, transport: Transport, *, out: Path | None = None, progress: Progress | None = None
) -> RunResult:
    """Run an experiment on the hosts behind ``transport``; with ``out``, write its run directory.

    Raises UserError for whatever a user can mend. Nothing unfinished is left under the name ``out``.
    """
    record = Record(experiment, out)
    try:
        watch = Stopwatch()
        world = prepare(experiment, progress or (lambda phase, done, total: None))
        world.watch = watch
        record.summary["memory"] = check_memory(world)
        if record.summary["memory"] is not None:
            world.progress("rows that do not fit in memory go to files on disk", 1, 1)
        device = choose_device(experiment.runtime.device)
        with Session(
            transport, world.dataset, world.model, world.features, seed=experiment.seed, data=experiment.data,
            links=experiment.links, runtime=experiment.runtime, device=device,
        ) as session:  # fmt: skip
            watch.seconds["setup"] = watch.elapsed()
            ledger = _tell(world, session, record)
        return RunResult(*record.finish({**watch.seconds, "total": watch.elapsed()}, ledger))
    except BaseException as error:
        record.abandon(error)
        raise


def _tell(world: World, session: Session, record: Record) -> dict[str, Any]:
    """Train; then, request after request, erase, unlearn, retrain for comparison, and measure. Returns the ledger."""
    experiment, unlearner = world.experiment, world.unlearner
    evaluator = Evaluator(world.dataset, world.features, world.model, experiment.evaluation, experiment.seed)
    network = new_network(world, session, "main", world.graph)
    evaluator.put_node_test(network)
    record.describe(world.dataset, network, world.model)
    training, secret = experiment.training, experiment.privacy.noise == "secret"
    every = min(experiment.evaluation.every, max(1, training.rounds))
    cache = TrainingCache(world.dataset, evaluator, every=every, enabled=experiment.runtime.cache)
    record.cache["used"] = cache.enabled
    twins = Twins(world, session, cache, record)
    situation = situation_of(world, record, release=0)
    with world.watch.phase("train"):
        unlearner.prepare(network, situation)
        record.add_preparation(unlearner.preparation())
        twins.learn_with(network, situation)
        trained = evaluator.keep(network) if world.requests else None  # what the figure of moves compares with
        last = unlearner.conclude(network, situation)
    deleted = np.unique(np.concatenate([np.zeros(0, np.int64), *(r.sample_ids for r in world.requests)]))
    with world.watch.phase("evaluate"):
        original = vector_of(network, last)
        record.add_model("original", original, evaluator.report(original, deleted, network))
        if world.public is not None and world.public.head is not None:
            record.add_model("public_head", world.public.head, evaluator.report(world.public.head, deleted))

    for request in world.requests:
        with world.watch.phase("evaluate"):
            _follow_influence(world, network, request, record)
            before = evaluator.snapshot(network, last.noise_free)
        situation = situation_of(world, record, release=request.number + 1, previous=last.release)
        with world.watch.phase("unlearn"):
            last, cost = answer_request(world, network, request, situation)
            if secret:
                record.cache["purged"] += cache.purge(request.sample_ids)
        with world.watch.phase("retrain"):
            twin, twin_last, twin_cost = twins.retrain(network, request)
        with world.watch.phase("evaluate"):
            after, ideal = (Snapshot(o.noise_free, None, n) for n, o in ((network, last), (twin, twin_last)))
            record.add_request(request, last, cost, twin_cost, evaluator.compare(before, after, ideal))
            if trained is not None:
                record.moved = evaluator.row_distances(network, trained)
            if request is world.requests[-1]:
                for name, net, outcome in (("retrained", twin, twin_last), ("unlearned", network, last)):
                    vector = vector_of(net, outcome)
                    record.add_model(name, vector, evaluator.report(vector, deleted, net))
                _run_controls(world, twin, situation, evaluator, record, deleted)
                if last.certificate is not None:
                    _run_junk_start(world, twin, last.certificate, evaluator, record, deleted)
            before.drop()
            twin.drop()
    record.cache["kept"] = cache.holding(deleted)
    return network.ledger.summary()


def answer_request(
    world: World, network: Network, request: DeletionRequest, situation: Situation
) -> tuple[Outcome, Cost]:
    """Let the method see the forget set if it must, erase it, take leavers out of the graph, and answer."""
    network.phase, network.ledger.request = "unlearn", request.number
    world.progress(f"request {request.number}", 0, 1)

    def answer() -> Outcome:
        world.unlearner.observe(network, request, situation)
        for node in () if world.experiment.topology.repair == "relay" else request.leaves:
            network.leave(node, remove_vertex(network.graph, node, world.experiment.topology.repair, network.alive))
        network.erase(request.sample_ids)
        outcome = world.unlearner.unlearn(network, request, situation)
        network.wipe()  # means and gradients of before the answer still lie on the hosts
        return outcome

    result = metered(network, answer, world.watch)
    world.progress(f"request {request.number}", 1, 1)
    network.phase, network.ledger.request = "train", None
    return result


def _run_controls(
    world: World, twin: Network, situation: Situation, evaluator: Evaluator, record: Record, deleted: NDArray[np.int64]
) -> None:
    """Let the method answer from starts without private data, on the retrained twin's data, and measure the effort."""
    if not world.experiment.evaluation.controls:
        return
    twin.phase = "evaluate"
    for name, attempt in world.unlearner.controls(twin, situation).items():
        outcome, cost = metered(twin, attempt, world.watch)
        if outcome.noise_free is not None:
            entry = evaluator.report(outcome.noise_free, deleted)
            record.add_control(name, entry, cost)
    twin.wipe()


def _run_junk_start(
    world: World, twin: Network, certificate: Certificate, evaluator: Evaluator, record: Record,
    deleted: NDArray[np.int64],
) -> None:  # fmt: skip
    """Print beside a certificate for a model that is not convex what the same procedure makes of a junk start (T6)."""
    attempt = world.unlearner.junk_start(twin, situation_of(world, record, release=0, world_name="junk start"))
    if attempt is None:
        return
    twin.phase = "evaluate"
    outcome, cost = metered(twin, attempt, world.watch)
    vector = vector_of(twin, outcome)
    record.add_control("junk_start", evaluator.report(vector, deleted), cost, junk_start_limit(certificate))
    twin.wipe()


def _follow_influence(world: World, network: Network, request: DeletionRequest, record: Record) -> None:
    rounds = world.experiment.evaluation.influence_rounds
    fixed = network.weights is not None
    if rounds and fixed and request.level == "client" and request.node is not None and record.influence is None:
        record.influence = measure_influence(network, request.node, world.experiment.training, rounds)
