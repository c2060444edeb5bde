"""Lines of reach from numbers made by hand, and which methods train by the recipe."""

from __future__ import annotations

import numpy as np
import pytest
from small_runs import experiment

from fedunlearn.battery.reached import Reach, reach_measures
from fedunlearn.evaluation.measure import Found
from fedunlearn.simulation import prepare

HOPS = np.array([0, 1, 1, 2, 3, 4])
NAN = np.nan


def lines(before: list[float], after: list[float] | None = None, client: int | None = 0) -> Found:
    """Return the lines of a network of six nodes with these distances; all else is the same at all nodes."""
    distances = {"distance_before": before, "distance_after": after or before, "distance_floor": [NAN, *[2.0] * 5]}
    rest = [f"forget_accuracy_{when}" for when in ("before", "after", "retrained", "control")]
    for name in ("membership_auc", "loss_share_below", "test_loss_share_below"):
        rest += [f"{name}_{when}" for when in ("before", "after", "floor")]
    quantities = {name: np.array(values) for name, values in distances.items()}
    quantities |= {name: np.array([NAN, *[0.25] * 5]) for name in rest}
    return reach_measures(Reach(quantities, {"forget": 7, "test": 9}), HOPS, client)


def columns(found: Found, name: str) -> dict[str, float]:
    (measure,) = [m for m in found.measures if m.name == name]
    each = {c: getattr(measure, c) for c in ("original", "unlearned", "retrained", "control")}
    return {c: estimate.value for c, estimate in each.items() if estimate is not None}


def test_distance_by_hop_and_its_decay():
    found = lines([NAN, 6.0, 10.0, 5.0, 4.0, 2.0], [NAN, 1.0, 1.0, 1.0, 0.5, 0.5])
    assert columns(found, "distance_to_retrained_node_mean") == {
        "original": pytest.approx(27 / 5), "unlearned": pytest.approx(0.8), "control": 2.0
    }  # fmt: skip
    assert columns(found, "distance_to_retrained_node_largest")["original"] == 10.0
    assert columns(found, "distance_to_retrained_hop_1") == {"original": 8.0, "unlearned": 1.0, "control": 2.0}
    assert columns(found, "distance_to_retrained_farthest_hop")["original"] == 2.0
    assert columns(found, "distance_ratio_farthest_hop_to_hop_1") == {
        "original": 0.25, "unlearned": 0.5, "control": 1.0
    }  # fmt: skip
    assert columns(found, "distance_half_hop") == {"original": 3.0, "unlearned": 3.0}  # never halves in the control
    (near,) = [m for m in found.measures if m.name == "membership_auc_hop_1_loss_below_retrained"]
    assert near.samples == {"forget": 7, "nodes": 2} and near.retrained is None
    assert not found.refusals


def test_influence_that_does_not_fall_is_told_as_such():
    found = lines([NAN, *[3.0] * 5], [NAN, *[0.0] * 5])
    assert columns(found, "distance_ratio_farthest_hop_to_hop_1") == {"original": 1.0, "control": 1.0}
    (refusal,) = found.refusals
    assert refusal.name == "distance_half_hop" and "within the 4 hops" in refusal.reason


def test_without_a_client_there_are_no_hops():
    found = lines([NAN, *[3.0] * 5], client=None)
    assert [r.name for r in found.refusals] == ["reach_by_hop"]
    assert {m.name.split("_node_")[0] for m in found.measures} == {
        "distance_to_retrained", "forget_accuracy", "membership_auc", "forget_share", "test_share"
    }  # fmt: skip


@pytest.mark.parametrize(("method", "expected"), [("finetune", True), ("rewind", True), ("ddp", False)])
def test_methods_that_train_by_the_recipe(method, expected):
    recipe = {"training": {"lr": 1.9, "l2": 1e-2, "batch": 512, "schedule": "holes"}}
    topology = {"generator": "complete", "repair": "relay"}
    world = prepare(experiment(unlearning={"method": method}, topology=topology, **recipe), lambda *_: None)
    assert world.unlearner.trains_by_recipe == expected
