"""Influence over the rounds: the last point is what the run told again has, the first what one round can carry."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from small_runs import experiment

from fedunlearn.battery.network_level import network_level
from fedunlearn.battery.retold import retell
from fedunlearn.battery.settings import BatterySettings
from fedunlearn.battery.traced import rounds_looked_at, traced
from fedunlearn.evaluation.measure import Refusal
from fedunlearn.simulation import prepare
from fedunlearn.unlearning.base import Unlearner

SETTINGS = BatterySettings(level="full", recovery_rounds=1)
FINETUNE = {"unlearning": {"method": "finetune", "rounds": 1}}


def world(**changes):
    return prepare(experiment(**changes), lambda *_: None)


def follow(**changes):
    """Return the course over rounds of a small run."""
    found = traced(world(**changes), SETTINGS, lambda *_: None)
    assert isinstance(found, dict), found
    json.dumps(found, allow_nan=False)
    return found


MLP = {"model": {"name": "mlp", "features": "raw", "hidden": [8]}}


@pytest.mark.parametrize(("momentum", "model"), [(0.0, {}), (0.7, {}), (0.0, MLP)])
def test_the_last_round_is_what_the_run_ended_with(momentum, model):
    """Two ways to the same numbers: trained in pieces side by side, and as the run was trained."""
    changes = {**FINETUNE, **model, "training": {"momentum": momentum, "rounds": 9, "lr": 0.5 if model else 4.0}}
    found = follow(**changes)
    with retell(world(**changes), SETTINGS.seed) as retold:
        curve = network_level(retold, SETTINGS, lambda *_: None).curves["network"]["by_hop"]
    assert found["hop"] == curve["hop"] and found["round"][-1] == 9
    pairs = {
        "distance": "distance_before", "distance_floor": "distance_floor", "membership_auc": "membership_auc_before",
        "membership_auc_floor": "membership_auc_floor", "predicted": "predicted",
        "loss_share_below": "loss_share_below_before", "loss_share_below_floor": "loss_share_below_floor",
    }  # fmt: skip
    for mine, theirs in pairs.items():
        assert found[mine][-1] == curve[theirs], mine
    for gap, b, r in zip(
        found["forget_accuracy_gap"][-1], curve["forget_accuracy_before"], curve["forget_accuracy_retrained"]
    ):
        assert gap is None if b is None else gap == pytest.approx(b - r, abs=1e-12)


def test_influence_travels_one_hop_a_round():
    """With repair "relay" the graph stays, so a node h hops away is as in the twin for the first h - 1 rounds."""
    found = follow(**FINETUNE, topology={"generator": "ring", "repair": "relay"}, training={"rounds": 6})
    for round_, distance, area, gap in zip(
        *(found[k] for k in ("round", "distance", "membership_auc", "forget_accuracy_gap"))
    ):
        for hop in range(4):
            assert (distance[hop] > 0) == (hop <= round_), (round_, hop)
            if hop > round_:
                assert (area[hop], gap[hop]) == (0.5, 0.0)
    assert [row[3] > 0 for row in found["predicted"]] == [r >= 3 for r in found["round"]]


def test_what_an_earlier_request_deleted_is_not_taken_for_influence_of_the_last():
    """Client 5 asked first, and client 2, three hops away on the ring, last: in round 1 only 2 and 1, 3 differ."""
    requests = [{"level": "sample", "client": 5, "count": 6}, {"level": "client", "client": 2}]
    found = follow(**FINETUNE, topology={"generator": "ring", "repair": "relay"}, requests=requests)
    first = dict(zip(found["hop"], found["distance"][0]))
    assert first[1] > 0 and first[2] == first[3] == 0.0


def test_the_impulse_is_followed_where_the_matrix_is_fixed():
    found = follow(**FINETUNE, training={"lr": 1e-4}, evaluation={"influence_rounds": 5})["impulse"]
    assert found["round"] == list(range(6))
    assert found["rms_gap"] < 1e-2
    assert found["measured"][0] == found["predicted"][0] == [1.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(found["measured"][5], found["predicted"][5], atol=1e-2)
    assert follow(**FINETUNE, topology={"mixing": "random-matching"})["impulse"] is None
    assert follow(**FINETUNE, training={"algorithm": "fedavg"})["impulse"] is None


def test_rewinding_trains_by_the_recipe_and_can_be_followed():
    rewind = {
        "unlearning": {"method": "rewind"}, "training": {"lr": 1.9, "batch": 512, "schedule": "holes"},
        "topology": {"generator": "ring", "repair": "relay"},
    }  # fmt: skip
    found, plain = follow(**rewind), follow(**{**rewind, **FINETUNE})
    assert found == plain


def test_rounds_are_closer_together_at_the_beginning():
    assert rounds_looked_at(1) == [1]
    assert rounds_looked_at(4) == [1, 2, 3, 4]
    many = rounds_looked_at(300)
    assert many[0] == 1 and many[-1] == 300 and len(many) <= 12
    assert all(b - a <= d - c for a, b, c, d in zip(many, many[1:], many[1:], many[2:]))


def test_the_progress_counts_rounds():
    ticks = []
    traced(world(**FINETUNE), SETTINGS, lambda *tick: ticks.append(tick))
    assert ticks == [("rounds", r, 4) for r in (0, 1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({**FINETUNE, "requests": [{"level": "class", "label": 3}]}, "names no single client"),
        ({**FINETUNE, "training": {"rounds": 0}}, "0 rounds"),
        (
            {**FINETUNE, "data": {"clients": 1}, "topology": {"generator": "complete"},
             "requests": [{"level": "sample", "client": 0, "count": 5}]},
            "one node",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_in_one_sentence(changes, reason):
    found = traced(world(**changes), SETTINGS, lambda *_: None)
    assert isinstance(found, Refusal) and reason in found.reason


class Own(Unlearner):
    """A method that trains in a way of its own."""

    def train(self, network, situation, *, every=1, watch=None):
        """Train by no recipe."""


def test_a_method_with_a_recipe_of_its_own_is_refused():
    found = traced(replace(world(**FINETUNE), unlearner=Own()), SETTINGS, lambda *_: None)
    assert isinstance(found, Refusal) and "recipe of its own" in found.reason
