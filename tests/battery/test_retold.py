"""A story told again has the run's own numbers, and its twins lack what was deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedunlearn.battery.retold import all_deleted, retell, seed_of, world_of_seed
from fedunlearn.results.reading import read_run
from fedunlearn.simulation import prepare
from fedunlearn.simulation.learning import vector_of
from tests.small_runs import THREE_REQUESTS, experiment, run

CASES: dict[str, dict[str, Any]] = {
    "newton": {},
    "three requests": {"requests": THREE_REQUESTS},
    "finetune, own rows": {"unlearning": {"method": "finetune", "rounds": 2}},
    "momentum and two hosts": {
        "training": {"momentum": 0.9, "lr": 1.0}, "unlearning": {"method": "finetune", "rounds": 1},
        "runtime": {"hosts": 2},
    },
    "trains itself": {
        "unlearning": {"method": "rewind", "rewind": 0.5}, "topology": {"repair": "relay"},
        "training": {"schedule": "holes", "local_steps": 2, "lr": 1.0, "clip": 1.0, "radius": 30.0},
    },
}  # fmt: skip


def silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


@pytest.mark.parametrize("case", CASES)
def test_a_story_told_again_gives_the_same_bits(case: str, tmp_path: Path) -> None:
    changes = CASES[case]
    run(tmp_path / "run", hosts=changes.get("runtime", {}).get("hosts", 1), **changes)
    stored = read_run(tmp_path / "run")
    world = prepare(experiment(**changes), silent)
    with retell(world, battery_seed=5) as told:
        for name, network, outcome in (
            ("unlearned", told.network, told.outcome),
            ("retrained", told.twin, told.twin_outcome),
        ):
            np.testing.assert_array_equal(vector_of(network, outcome), stored.model(name)[0])
        deleted = all_deleted(world)
        for network in (told.network, told.twin, told.control):
            np.testing.assert_array_equal(network.deleted, deleted)
        assert not np.array_equal(vector_of(told.control, told.control_outcome), stored.model("retrained")[0])
        # the state before the last request still has whoever leaves with it; with relays nobody leaves the graph
        leaving = 0 if world.experiment.topology.repair == "relay" else len(told.request.leaves)
        assert told.before.alive.sum() == told.network.alive.sum() + leaving


def test_the_state_before_is_the_trained_network_where_there_is_one_request(tmp_path: Path) -> None:
    changes = {"unlearning": {"method": "finetune", "rounds": 2}}
    result = run(tmp_path / "run", **changes)
    with retell(prepare(experiment(**changes), silent), battery_seed=5) as told:
        mean = told.before.mean().astype(np.float32)
        np.testing.assert_array_equal(mean, read_run(tmp_path / "run").model("original")[0])
        distances = told.evaluator.row_distances(told.network, told.twin)
        assert np.nanmax(distances) == result.summary["requests"][0]["distance_to_retrained"]


def test_the_control_depends_on_the_seed_of_the_battery_alone() -> None:
    vectors = []
    for battery_seed in (1, 1, 2):
        with retell(prepare(experiment(), silent), battery_seed) as told:
            vectors.append(np.array(vector_of(told.control, told.control_outcome)))
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])


def test_a_world_of_another_seed_shares_data_and_graph_but_not_start_or_method() -> None:
    world = prepare(experiment(model={"name": "mlp", "features": "raw"}, unlearning={"method": "finetune"}), silent)
    other = world_of_seed(world, seed_of(1, "shadow with", 0))
    assert other.dataset is world.dataset
    assert other.graph is world.graph
    assert other.requests is world.requests
    assert other.unlearner is not world.unlearner
    assert not np.array_equal(other.start, world.start)
    assert seed_of(1, "shadow with", 0) != seed_of(1, "shadow without", 0)
