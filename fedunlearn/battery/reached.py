"""How far a client's influence reaches in a run's network: measured at every node, and set out by graph distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.battery.retold import Retold
from fedunlearn.data import Escrow
from fedunlearn.errors import UserError
from fedunlearn.evaluation.evaluator import Evaluator, SampleSet, Snapshot
from fedunlearn.evaluation.measure import COLUMNS, Estimate, Found, Measure, Refusal, together
from fedunlearn.evaluation.nodes.accumulated import accumulated_influence, log_slope, rank_correlation, scaled_to
from fedunlearn.evaluation.nodes.reach import (
    by_hop,
    half_hop,
    learned_from_both,
    membership_at_nodes,
    node_distances,
    node_losses,
    put_samples,
    share_below,
)
from fedunlearn.network import Network
from fedunlearn.requests import DeletionRequest
from fedunlearn.simulation import World

Array = NDArray[np.float64]
FORGET_LIMIT = 500
"""At most so many forget samples are shown to every node."""
_DISTANCE = (
    "L2 distance of a node's parameters to those it has in the retrained network, before noise where there is noise; "
    "control is the distance between two retrained networks that share the run's start and whose batches differ"
)
_ACCURACY = "accuracy of the nodes' own models on the forget set: forgotten if as in the retrained network"
_AUC = (
    "area of 'a forget sample's loss is below its loss at the same node of the retrained network': 0.5 says that the "
    "deleted samples are treated alike; control is what another retrained network gives that shares the run's start"
)

_SHARE = (
    "share of the forget samples whose loss at a node is below that of the same sample at the same node of the "
    "retrained network: 0.5 says that nothing is left, if the share of test samples is 0.5 too; control is what "
    "another retrained network gives that shares the run's start"
)
_TEST_SHARE = (
    "the same share of test samples, on which no network was trained: what it is away from 0.5 is a change of the "
    "whole model, such as more rounds of training, and not memory of the forget set"
)


@dataclass(frozen=True)
class Reach:
    """What was found at every node: quantities (N,) by the name they have in the curves; NaN where a node is absent."""

    quantities: dict[str, Array]
    samples: dict[str, int]

    def __getitem__(self, name: str) -> Array:
        return self.quantities[name]


def forget_samples(world: World, evaluator: Evaluator, request: DeletionRequest) -> SampleSet:
    """Return at most :data:`FORGET_LIMIT` samples of a request, out of escrow, always the same ones."""
    escrow = Escrow(world.dataset, request.sample_ids).open(purpose="evaluation")
    samples = evaluator.sample_set(escrow.rows)
    return SampleSet(*(part[:FORGET_LIMIT] for part in (samples.inputs, samples.labels, samples.rows)))


def populations_of(retold: Retold) -> dict[str, Network]:
    """Return the populations by column; ``control`` is the one that shares the run's start."""
    return dict(zip(COLUMNS, (retold.before, retold.network, retold.twin, retold.sibling)))


def measure_reach(retold: Retold, only: list[int] | None, tick: Callable[[int], None]) -> Reach:
    """Return distances, accuracies, membership areas and rises of losses at every node, or at those in ``only``."""
    networks = populations_of(retold)
    outcomes = (retold.before_outcome, retold.outcome, retold.twin_outcome, retold.sibling_outcome)
    shots = {
        name: Snapshot(outcome.noise_free, None, network)
        for (name, network), outcome in zip(networks.items(), outcomes)
    }
    found = {
        f"distance_{when}": node_distances(shots[name], shots["retrained"], only)
        for when, name in (("before", "original"), ("after", "unlearned"), ("floor", "control"))
    }
    tick(1)
    forget, test = forget_samples(retold.world, retold.evaluator, retold.request), retold.evaluator.node_test
    absent = ~retold.twin.alive
    losses: dict[str, dict[str, Array]] = {}
    for name, samples in (("forget", forget), ("test", test)):
        put_samples(retold.network, name, samples)
        losses[name] = {}
        for column, network in networks.items():
            accuracy, losses[name][column] = node_losses(network, name, len(samples.labels), only)
            if name == "forget":
                accuracy[absent] = np.nan  # the client's own row before it left has no counterpart
                when = {"original": "before", "unlearned": "after"}.get(column, column)
                found[f"forget_accuracy_{when}"] = accuracy
        tick(2)
    f, t = losses["forget"], losses["test"]
    for when, name in (("before", "original"), ("after", "unlearned"), ("floor", "control")):
        found[f"membership_auc_{when}"] = membership_at_nodes(f[name], f["retrained"])
        found[f"loss_share_below_{when}"] = share_below(f[name], f["retrained"])
        found[f"test_loss_share_below_{when}"] = share_below(t[name], t["retrained"])
    for key, name in (("", "unlearned"), ("_retrained", "retrained"), ("_control", "control")):
        found[f"learned_from_both{key}"] = learned_from_both(f["original"], f[name], t["original"], t[name])
    for values in found.values():
        values[absent] = np.nan
    tick(3)
    return Reach(found, {"forget": len(forget.labels), "test": len(test.labels)})


def reach_measures(reach: Reach, hops: NDArray[np.int64], client: int | None) -> Found:
    """Return the lines of distance, forget accuracy and membership at the nodes, over all nodes and by hop."""
    distance = _columns(reach, "distance", original="before", unlearned="after", control="floor")
    accuracy = _columns(
        reach, "forget_accuracy", original="before", unlearned="after", retrained="retrained", control="control"
    )
    areas = _columns(reach, "membership_auc", original="before", unlearned="after", control="floor")
    shares = _columns(reach, "loss_share_below", original="before", unlearned="after", control="floor")
    tests = _columns(reach, "test_loss_share_below", original="before", unlearned="after", control="floor")
    looked = int((~np.isnan(reach["distance_after"])).sum())
    samples, nodes = {"forget": reach.samples["forget"], "nodes": looked}, {"nodes": looked}
    of_tests, below = {"test": reach.samples["test"], "nodes": looked}, "loss_below_retrained"
    measures = [
        line("distance_to_retrained_node_mean", _DISTANCE, _each(distance, np.nanmean), nodes),
        line("distance_to_retrained_node_largest", _DISTANCE, _each(distance, np.nanmax), nodes),
        line("forget_accuracy_node_mean", _ACCURACY, _each(accuracy, np.nanmean), samples),
        line(f"membership_auc_node_mean_{below}", _AUC, _each(areas, np.nanmean), samples),
        line(f"membership_auc_node_largest_{below}", _AUC, _each(areas, np.nanmax), samples),
        line(f"forget_share_node_mean_{below}", _SHARE, _each(shares, np.nanmean), samples),
        line(f"test_share_node_mean_{below}", _TEST_SHARE, _each(tests, np.nanmean), of_tests),
    ]
    if client is None:
        reason = "the last request names no single client, so nodes have no graph distance to it"
        return Found(tuple(measures), (Refusal("reach_by_hop", "network", reason),))
    groups = (("distance_to_retrained", "", _DISTANCE, distance), ("forget_accuracy", "", _ACCURACY, accuracy),
              ("membership_auc", f"_{below}", _AUC, areas), ("forget_share", f"_{below}", _SHARE, shares))  # fmt: skip
    profiles = {key: {c: by_hop(values, hops) for c, values in columns.items()} for key, _, _, columns in groups}
    counts = [int(np.sum((hops == h) & ~np.isnan(reach["distance_after"]))) for h in range(int(hops.max()) + 1)]
    farthest = max((h for h, count in enumerate(counts) if count), default=0)
    where = [(f"hop_{h}", h) for h in (0, 1, 2) if h <= farthest and counts[h]]
    where += [("farthest_hop", farthest)] if farthest > 2 else []
    for key, tail, reads, _ in groups:
        for place, hop in where:
            values = {c: profile[hop] for c, profile in profiles[key].items()}
            size = {**({} if key == "distance_to_retrained" else samples), "nodes": counts[hop]}
            measures.append(line(f"{key}_{place}{tail}", f"{reads}; nodes at {_hop_words(place, hop)}", values, size))
    decay = _decay(profiles["distance_to_retrained"], farthest)
    return together([Found(tuple(measures)), decay])


def _decay(profiles: Mapping[str, list[float | None]], farthest: int) -> Found:
    """Return the lines that say how fast the distance falls with graph distance."""
    names = ("distance_ratio_farthest_hop_to_hop_1", "distance_half_hop")
    if farthest < 2:
        reason = "every other node is a neighbour of the client, so there is no decay over graph distance to measure"
        return Found(refusals=tuple(Refusal(name, "network", reason) for name in names))
    ratios, halves = {}, {}
    for column, profile in profiles.items():
        near, far = profile[1], profile[farthest]
        ratios[column] = far / near if near and far is not None else None
        halves[column] = half_hop(profile)
    measures, refusals = [], []
    reads = (
        f"mean distance to the retrained network at {farthest} hops over that at one hop: 1 says that the far and the "
        "near are influenced alike"
    )
    if any(ratio is not None for ratio in ratios.values()):
        measures.append(line(names[0], reads, ratios, {"hops": farthest}))
    else:
        refusals.append(Refusal(names[0], "network", "the nodes at one hop are at distance 0 in all networks"))
    if any(half is not None for half in halves.values()):
        reads = (
            "first hop at which the mean distance to the retrained network is at most half of that at one hop; no "
            "number: it never falls so far"
        )
        measures.append(line(names[1], reads, halves, {"hops": farthest}))
    else:
        reason = f"within the {farthest} hops of the graph no mean distance falls to half of that at one hop"
        refusals.append(Refusal(names[1], "network", reason))
    return Found(tuple(measures), tuple(refusals))


def predicted_reach(retold: Retold, reach: Reach) -> tuple[Found, Array]:
    """Return how the prediction by mixing compares with the distance before, and the prediction itself (N,)."""
    world, client = retold.world, retold.request.node
    names = ("influence_rank_correlation_predicted_with_measured", "influence_log_slope_measured_on_predicted")
    training, measured = world.experiment.training, reach["distance_before"]
    nothing = np.full(len(measured), np.nan)
    reason = None
    if client is None:
        reason = "the last request names no single client whose influence could be predicted"
    elif not world.unlearner.trains_by_recipe:
        reason = "this method trains one common vector by a recipe of its own, which mixing says nothing about"
    elif training.rounds == 0:
        reason = "the network was trained for 0 rounds, so no client has any influence to predict"
    if reason is not None:
        return Found(refusals=tuple(Refusal(name, "network", reason) for name in names)), nothing
    assert client is not None
    counts = np.diff(world.dataset.all_train_rows()[1])
    seed = world.experiment.seed
    (predicted,) = accumulated_influence(
        world.graph, world.experiment.topology.mixing, client, training, counts, [training.rounds], seed
    )
    predicted = scaled_to(predicted, measured)
    others = np.where(np.arange(len(measured)) == client, np.nan, measured)
    reads = (
        "Spearman's correlation over nodes between the influence that mixing predicts and the distance to the "
        "retrained network before the request: 1 says that nodes stand in the predicted order",
        "slope of the logarithm of that distance on the logarithm of the prediction, over nodes: 1 says that influence "
        "falls as predicted, less that it falls more slowly",
    )
    measures, refusals = [], []
    if retold.before_outcome.noise_free is not None:
        one = "the training of this method ends with one vector for all nodes, which no profile over nodes survives"
        return Found(refusals=tuple(Refusal(name, "network", one) for name in names)), predicted
    for name, text, compare in zip(names, reads, (rank_correlation, log_slope)):
        try:
            nodes = {"nodes": int((~np.isnan(others)).sum())}
            measures.append(line(name, text, {"original": compare(predicted, others)}, nodes))
        except UserError as error:
            refusals.append(Refusal(name, "network", str(error)))
    return Found(tuple(measures), tuple(refusals)), predicted


# --- helpers -------------------------------------------------------------------------------------------------------


def line(
    name: str, reads: str, values: Mapping[str, float | None], samples: Mapping[str, int]
) -> Measure:  # fmt: skip
    estimates = {column: Estimate(float(value)) for column, value in values.items() if value is not None}
    return Measure(name, "network", reads, samples=dict(samples), **estimates)


def _columns(reach: Reach, name: str, **columns: str) -> dict[str, Array]:
    return {column: reach[f"{name}_{when}"] for column, when in columns.items()}


def _each(columns: Mapping[str, Array], of: Callable[[Array], Any]) -> dict[str, float | None]:
    return {name: None if np.isnan(values).all() else float(of(values)) for name, values in columns.items()}


def _hop_words(place: str, hop: int) -> str:
    if hop == 0:
        return "0 hops: the client itself"
    return f"{hop} hop{'s' if hop > 1 else ''}{', the farthest' if place == 'farthest_hop' else ''}"
