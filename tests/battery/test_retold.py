"""A story told again has the run's own numbers, and its twins lack what was deleted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedunlearn.battery.retold import all_deleted, retell, seed_of, twin_situation, world_of_seed
from fedunlearn.results.reading import read_run
from fedunlearn.simulation import prepare
from fedunlearn.simulation.learning import new_network, vector_of
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


MLP: dict[str, Any] = {
    "model": {"name": "mlp", "features": "raw", "hidden": [8]}, "training": {"lr": 0.2},
    "unlearning": {"method": "finetune", "rounds": 1},
}  # fmt: skip
DP_SGD: dict[str, Any] = {
    **MLP, "unlearning": {"method": "dp-sgd", "rate": 0.5, "clip": 0.5, "capacity": 6},
    "training": {"lr": 0.2, "batch": 512, "schedule": "holes"},
    "topology": {"generator": "complete", "repair": "relay"},
    "requests": [{"level": "sample", "client": 2, "count": 5}],
}  # fmt: skip


@pytest.mark.parametrize("changes", [MLP, DP_SGD], ids=["by the recipe", "by itself"])
def test_the_sibling_is_the_control_from_the_runs_own_start(changes: dict[str, Any]) -> None:
    world = prepare(experiment(**changes), silent)
    with retell(world, battery_seed=5) as told:
        other = replace(world_of_seed(prepare(experiment(**changes), silent), told.sibling.seed), start=world.start)
        assert told.sibling.seed == told.control.seed != told.twin.seed
        again = new_network(
            other, told.session, "again", told.twin.graph, deleted=told.twin.deleted, alive=told.twin.alive
        )
        other.unlearner.train(again, twin_situation(other))
        other.unlearner.conclude(again, twin_situation(other))
        there = np.flatnonzero(told.twin.alive)
        np.testing.assert_array_equal(told.sibling.read_rows(there), again.read_rows(there))
        near, far = (told.evaluator.row_distances(net, told.twin) for net in (told.sibling, told.control))
        assert (near[there] > 0).all()
        assert np.nanmean(near) < np.nanmean(far) / 2


def test_where_all_seeds_have_one_start_no_sibling_is_trained() -> None:
    phases: list[str] = []
    world = prepare(experiment(), lambda phase, done, total: phases.append(phase))
    with retell(world, battery_seed=5) as told:
        assert told.sibling is told.control and told.sibling_outcome is told.control_outcome
    assert not any("start" in phase for phase in phases)
