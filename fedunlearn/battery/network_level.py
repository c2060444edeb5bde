"""Network-level evaluation of an answered request: reach by graph distance, views, recovery, consensus.

Every number stands beside two others: the same for the network before the request, and the floor, which is what a
second retrained network (the control) has against the first. Here the control shares the run's start and has batches of
its own: single nodes are compared by their parameters, and two starts put those far apart, whatever was deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.battery.reached import (
    Reach,
    line,
    measure_reach,
    populations_of,
    predicted_reach,
    reach_measures,
)
from fedunlearn.battery.retold import Retold
from fedunlearn.battery.revealed import View, epsilon_measures, rise_measures, views_of
from fedunlearn.battery.settings import BatterySettings
from fedunlearn.errors import UserError
from fedunlearn.evaluation.measure import Found, Measure, Refusal, together
from fedunlearn.evaluation.nodes.consensus import consensus_distance
from fedunlearn.evaluation.nodes.reach import (
    by_hop,
    hops_from,
    nodes_looked_at,
)
from fedunlearn.evaluation.nodes.recovery import TOLERANCE, Recovery, follow_recovery
from fedunlearn.simulation.world import Progress
from fedunlearn.topology.graphs import edge_array

Array = NDArray[np.float64]
_PHASE = "network"
_STEPS = 4
"""Steps beside the rounds of recovery, in which the progress is told."""


def network_level(retold: Retold, settings: BatterySettings, progress: Progress) -> Found:
    """Return what is known about the last answer at the nodes of the network.

    ``progress`` is called with the phase ``network``. ``curves["network"]`` has the quantities by node and by hop; its
    entry ``rounds`` is left None, for :func:`fedunlearn.battery.traced.traced`.
    """
    world, client = retold.world, retold.request.node
    size = retold.network.num_nodes
    if size == 1:
        reason = "the run has one node, so there is no network to look into (needed: at least two clients)"
        return Found(refusals=(Refusal("network_level", "network", reason),))

    def tick(done: int) -> None:
        progress(_PHASE, done, _STEPS + settings.recovery_rounds)

    tick(0)
    hops = np.full(size, -1) if client is None else hops_from(world.graph, client)
    only = nodes_looked_at(hops, settings.seed)
    reach = measure_reach(retold, only, tick)
    chosen = np.arange(size) if only is None else np.array(only)
    views = views_of(retold, [int(i) for i in chosen if retold.network.alive[i] and i != client])
    reach.quantities["view_epsilon"] = np.full(size, np.nan)
    for view in views:
        reach["view_epsilon"][view.node] = np.nan if view.epsilon is None else view.epsilon
    neighbours = None if client is None else np.flatnonzero(hops == 1).tolist()
    compared, predicted = predicted_reach(retold, reach)
    tick(_STEPS)
    recovery, recovered = _recovery(retold, settings, lambda done: tick(_STEPS + done))
    consensus = {name: consensus_distance(network) for name, network in populations_of(retold).items()}
    parts = [
        reach_measures(reach, hops, client),
        compared,
        epsilon_measures(views, neighbours),
        rise_measures(
            reach["learned_from_both"], reach["learned_from_both_retrained"], reach["learned_from_both_control"],
            neighbours, reach.samples,
        ),
        recovered,
        Found((_consensus(consensus),)),
    ]  # fmt: skip
    found = together(parts)
    curve = {
        "client": client, "nodes": size, "edges": edge_array(world.graph).tolist() if only is None else [],
        "hops": [int(h) if h >= 0 else None for h in hops],
        "per_node": _per_node(reach, predicted, views, size),
        "by_hop": _by_hop({**reach.quantities, "predicted": predicted}, hops),
        "rounds": None,
        "recovery": recovery,
        "consensus": {"before": consensus["original"], "after": consensus["unlearned"],
                      "retrained": consensus["retrained"], "control": consensus["control"]},
    }  # fmt: skip
    tick(_STEPS + settings.recovery_rounds)
    return Found(found.measures, found.refusals, {"network": curve})


def _recovery(
    retold: Retold, settings: BatterySettings, tick: Callable[[int], None]
) -> tuple[dict[str, Any] | None, Found]:  # fmt: skip
    """Return the curve of recovery, and its lines."""
    names = ("recovery_rounds_mean_accuracy", "recovery_rounds_worst_accuracy")
    training = retold.world.experiment.training
    found: Recovery | None = None
    if not retold.world.unlearner.trains_by_recipe:
        reason = "this method trains by a recipe of its own, and ordinary rounds would undo what that recipe claims"
    else:
        try:
            found = follow_recovery(
                retold.network, retold.twin, retold.evaluator, training, settings.recovery_rounds,
                first=2 * training.rounds, tick=tick,
            )  # fmt: skip
        except UserError as error:
            reason = str(error)
    if found is None:
        return None, Found(refusals=tuple(Refusal(name, "network", reason) for name in names))
    measures, refusals = [], []
    trained = len(found.mean) - 1
    cases = ((names[0], "mean over nodes", found.recovered_mean, found.mean, found.target_mean),
             (names[1], "worst node's", found.recovered_worst, found.worst, found.target_worst))  # fmt: skip
    for name, what, rounds, values, target in cases:
        reads = (
            f"rounds of ordinary training after the answer until the {what} test accuracy is within {TOLERANCE:g} of "
            f"the retrained network's {target:.4f}: 0 says that the answer is as useful at once"
        )
        if rounds is None:
            reason = (
                f"the {what} test accuracy did not come within {TOLERANCE:g} of the retrained network's {target:.4f} "
                f"in {trained} rounds: it takes more, if it comes there at all (the best was {max(values):.4f})"
            )
            refusals.append(Refusal(name, "network", reason))
        else:
            measures.append(line(name, reads, {"unlearned": rounds}, {"rounds": trained}))
    curve = {
        "rounds": list(range(trained + 1)), "mean": list(found.mean), "worst": list(found.worst),
        "target_mean": found.target_mean, "target_worst": found.target_worst,
        "recovered_mean": found.recovered_mean, "recovered_worst": found.recovered_worst,
    }  # fmt: skip
    return curve, Found(tuple(measures), tuple(refusals))


def _consensus(distances: Mapping[str, float]) -> Measure:
    reads = (
        "root mean square distance of the nodes' models to their mean: 0 says that all hold one model; an answer that "
        "disturbs the network stands above the retrained column"
    )
    return line("consensus_distance", reads, distances, {})


# --- helpers ---------------------------------------------------------------------------------------------------------


def _plain(values: Array) -> list[float | None]:
    return [None if np.isnan(x) else float(x) for x in values]


def _per_node(reach: Reach, predicted: Array, views: list[View], size: int) -> dict[str, list[Any]]:
    reasons = [""] * size
    for view in views:
        reasons[view.node] = view.reason
    plain = {name: _plain(values) for name, values in reach.quantities.items()}
    return {**plain, "predicted": _plain(predicted), "view_reason": reasons}


def _by_hop(quantities: Mapping[str, Array], hops: NDArray[np.int64]) -> dict[str, list[Any]]:
    distances = list(range(int(hops.max(initial=-1)) + 1))
    counts = [int((hops == h).sum()) for h in distances]
    return {"hop": distances, "count": counts, **{name: by_hop(values, hops) for name, values in quantities.items()}}
