"""A client's influence over the rounds of training: two networks that learn side by side, with and without its data."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.battery.reached import forget_samples
from fedunlearn.battery.retold import evaluator_of, open_session, seed_of, world_of_seed
from fedunlearn.battery.settings import BatterySettings
from fedunlearn.evaluation.evaluator import Snapshot
from fedunlearn.evaluation.influence import measure_influence
from fedunlearn.evaluation.measure import Refusal
from fedunlearn.evaluation.nodes.accumulated import accumulated_influence, scaled_to
from fedunlearn.evaluation.nodes.reach import (
    by_hop,
    hops_from,
    membership_at_nodes,
    node_distances,
    node_losses,
    nodes_looked_at,
    put_samples,
    share_below,
)
from fedunlearn.network import Network
from fedunlearn.network.training import train_together
from fedunlearn.requests import DeletionRequest
from fedunlearn.simulation import World
from fedunlearn.simulation.learning import new_network
from fedunlearn.simulation.twins import departures
from fedunlearn.simulation.world import Progress

Array = NDArray[np.float64]
POINTS = 12
"""About so many rounds are looked at, closer together at the beginning, where influence travels."""
_PHASE, _NAME = "rounds", "influence_over_rounds"


def traced(world: World, settings: BatterySettings, progress: Progress) -> dict[str, Any] | Refusal:
    """Train the network, its twin and a control side by side, and follow what separates them, by hop and round.

    The control shares the run's start and has batches of its own. What earlier requests deleted is in none of them, so
    they differ in what the last one deletes. It is the training alone: what a method does at its end, such as a
    release, is not in it. Hops are counted in the graph before any departure. Nothing is erased here, so nothing of
    the run's method is used.

    Returns:
        ``round`` and ``hop``, and for every round a list by hop (None where no node is) of: ``distance`` to the
        counterpart in the twin and ``distance_floor``, that of the control; ``predicted`` influence, scaled to the
        mean distance of that round; ``membership_auc`` and ``loss_share_below`` as in
        :mod:`fedunlearn.evaluation.nodes.reach`, each with its floor; ``forget_accuracy_gap``, the accuracy on the
        forget set less the twin's. ``impulse`` is what one round's update of the client became in the trained network,
        measured and predicted (:func:`fedunlearn.evaluation.influence.measure_influence`); None where the mixing
        matrix is not fixed.
    """
    request, size = world.requests[-1], world.graph.number_of_nodes()
    if (reason := _refused(world, request, size)) is not None:
        return Refusal(_NAME, "network", reason)
    client = request.node
    assert client is not None
    training = world.experiment.training
    rounds = rounds_looked_at(training.rounds)
    hops = hops_from(world.graph, client)
    only = nodes_looked_at(hops, settings.seed)
    evaluator = evaluator_of(world)
    forget = forget_samples(world, evaluator, request)
    other = replace(world_of_seed(world, seed_of(settings.seed, "control", 0)), start=world.start)
    counts = np.diff(world.dataset.all_train_rows()[1])
    predicted = accumulated_influence(
        world.graph, world.experiment.topology.mixing, client, training, counts, rounds, world.experiment.seed
    )
    found: dict[str, list[list[float | None]]] = {}
    progress(_PHASE, 0, training.rounds)
    with open_session(world) as session:
        *earlier, (_, lack) = departures(world)
        before = earlier[-1][1] if earlier else {"graph": world.graph}
        network = new_network(world, session, "main", **before)
        twin, control = new_network(world, session, "retrained", **lack), new_network(other, session, "control", **lack)
        put_samples(network, "forget", forget)
        for index, (first, last) in enumerate(pairwise([0, *rounds])):
            train_together([network, twin, control], training, first=first, last=last, every=training.rounds)
            point = _look(network, twin, control, len(forget.labels), only)
            point["predicted"] = scaled_to(predicted[index], point["distance"])
            for name, values in point.items():
                found.setdefault(name, []).append(by_hop(values, hops))
            progress(_PHASE, last, training.rounds)
        impulse = _impulse(world, network, client, hops)
    return {"round": rounds, "hop": list(range(int(hops.max()) + 1)), **found, "impulse": impulse}


def rounds_looked_at(rounds: int) -> list[int]:
    """Return at most :data:`POINTS` numbers of finished rounds from 1 to ``rounds``, in geometric steps."""
    return np.unique(np.round(np.geomspace(1, rounds, POINTS)).astype(int)).tolist()


def _refused(world: World, request: DeletionRequest, size: int) -> str | None:
    """Return in one sentence why there is nothing to follow, or None."""
    if size == 1:
        return "the run has one node, so there is no network over which influence could travel"
    if request.node is None:
        return "the last request names no single client whose influence could be followed over the rounds"
    if not world.unlearner.trains_by_recipe:
        return "this method trains by a recipe of its own, so rounds of local steps and mixing are not its training"
    if world.experiment.training.rounds == 0:
        return "the network was trained for 0 rounds, so there is no course over rounds"
    return None


def _look(network: Network, twin: Network, control: Network, count: int, only: list[int] | None) -> dict[str, Array]:
    """Return what separates the populations at this moment, (N,) each; NaN where the twin has no such node."""
    seen = {net.name: node_losses(net, "forget", count, only) for net in (network, twin, control)}
    accuracy = {name: values for name, (values, _) in seen.items()}
    losses = {name: values for name, (_, values) in seen.items()}
    mine, ideal, other = (Snapshot(None, None, net) for net in (network, twin, control))
    found = {
        "distance": node_distances(mine, ideal, only),
        "distance_floor": node_distances(other, ideal, only),
        "forget_accuracy_gap": accuracy[network.name] - accuracy[twin.name],
        "membership_auc": membership_at_nodes(losses[network.name], losses[twin.name]),
        "membership_auc_floor": membership_at_nodes(losses[control.name], losses[twin.name]),
        "loss_share_below": share_below(losses[network.name], losses[twin.name]),
        "loss_share_below_floor": share_below(losses[control.name], losses[twin.name]),
    }
    for values in found.values():
        values[~twin.alive] = np.nan
    return found


def _impulse(world: World, network: Network, client: int, hops: NDArray[np.int64]) -> dict[str, Any] | None:
    """Return what one update of the client became over some rounds, by hop and as a root mean square gap."""
    training = world.experiment.training
    if network.weights is None or training.algorithm != "dsgd":
        return None
    rounds = world.experiment.evaluation.influence_rounds or POINTS
    found = measure_influence(network, client, training, rounds)
    return {
        "round": list(range(rounds + 1)),
        "predicted": [by_hop(values, hops) for values in found.predicted],
        "measured": [by_hop(values, hops) for values in found.measured],
        "rms_gap": found.rms_gap(),
    }
