"""What a run measures beside its answers: a leaver's influence, other ways to the same answer, a junk start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.evaluator import Evaluator
from fedunlearn.evaluation.influence import measure_influence
from fedunlearn.network import Network
from fedunlearn.privacy import Certificate, junk_start_limit
from fedunlearn.requests import DeletionRequest
from fedunlearn.simulation.learning import metered, vector_of
from fedunlearn.simulation.recording import Record
from fedunlearn.simulation.world import World
from fedunlearn.unlearning.base import Situation


def run_controls(
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


def run_junk_start(
    world: World, twin: Network, situation: Situation, certificate: Certificate, evaluator: Evaluator, record: Record,
    deleted: NDArray[np.int64],
) -> None:  # fmt: skip
    """Print beside a certificate for a model that is not convex what the same procedure makes of a junk start (T6)."""
    attempt = world.unlearner.junk_start(twin, situation)
    if attempt is None:
        return
    twin.phase = "evaluate"
    outcome, cost = metered(twin, attempt, world.watch)
    vector = vector_of(twin, outcome)
    record.add_control("junk_start", evaluator.report(vector, deleted), cost, junk_start_limit(certificate))
    twin.wipe()


def follow_influence(world: World, network: Network, request: DeletionRequest, record: Record) -> None:
    """Follow the influence of the first client that leaves over the rounds that the settings ask for."""
    rounds = world.experiment.evaluation.influence_rounds
    fixed = network.weights is not None
    if rounds and fixed and request.level == "client" and request.node is not None and record.influence is None:
        record.influence = measure_influence(network, request.node, world.experiment.training, rounds)
