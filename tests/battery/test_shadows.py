"""Shadow models are the run's own recipe with other seeds: each must equal a whole run made with that seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedunlearn.battery import shadows
from fedunlearn.battery.retold import all_deleted, evaluator_of, seed_of
from fedunlearn.battery.shadows import WITH, WITHOUT, train_shadows
from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.outputs import Outputs, outputs_of
from fedunlearn.results.reading import read_run
from fedunlearn.simulation import World, prepare
from tests.small_runs import experiment, run

METHODS: dict[str, dict[str, Any]] = {
    "newton": {},
    "finetune": {"unlearning": {"method": "finetune", "rounds": 2}, "training": {"momentum": 0.5, "lr": 1.0}},
    "rewind": {
        "unlearning": {"method": "rewind", "rewind": 0.5},
        "topology": {"repair": "relay"},
        "training": {"schedule": "holes", "local_steps": 2, "lr": 1.0, "clip": 1.0, "radius": 30.0},
    },
}


def silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


def answerer(world: World):  # type: ignore[no-untyped-def]
    """Return what gives the outputs of a model on a set."""

    def answer(vector, samples) -> Outputs:  # type: ignore[no-untyped-def]
        return outputs_of(world.model, vector, samples.inputs, samples.labels, samples.rows, samples.rows)

    return answer


def pairs(count: int, battery_seed: int = 4, **changes: Any) -> tuple[ShadowMargins, World, dict[str, Any]]:
    """Train pairs for the small experiment."""
    world = prepare(experiment(**changes), silent)
    evaluator = evaluator_of(world)
    sets = {"forget": evaluator.sample_set(all_deleted(world)), "test": evaluator.test}
    return train_shadows(world, count, battery_seed, sets, answerer(world), silent), world, sets  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_a_shadow_is_a_run_with_its_seed(name: str, tmp_path: Path) -> None:
    margins, world, sets = pairs(2, **METHODS[name])
    answer = answerer(world)
    for kind, purpose in (("original", WITH), ("unlearned", WITH), ("retrained", WITHOUT)):
        seed = seed_of(4, purpose, 1)
        folder = tmp_path / f"{kind}"
        run(folder, seed=seed, **METHODS[name])
        vector = read_run(folder).model(kind)[0]
        for part, samples in sets.items():
            np.testing.assert_array_equal(getattr(margins, kind)[part][1], answer(vector, samples).margin)


def test_more_pairs_are_the_same_and_some_others(monkeypatch: pytest.MonkeyPatch) -> None:
    few, *_ = pairs(2)
    monkeypatch.setattr(shadows, "_chunks", lambda world, count: (range(i, i + 1) for i in range(count)))
    many, *_ = pairs(3)
    for kind in ("original", "unlearned", "retrained"):
        np.testing.assert_array_equal(getattr(few, kind)["forget"], getattr(many, kind)["forget"][:2])
        assert len({row.tobytes() for row in getattr(many, kind)["forget"]}) == 3


def test_trained_shadows_come_from_the_cache_for_another_method(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = {"runtime": {"cache": True}}
    first, *_ = pairs(2, **cached, **METHODS["finetune"])

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("a shadow model was trained again")

    monkeypatch.setattr("fedunlearn.simulation.learning.train_together", never)
    again, *_ = pairs(2, **cached, **{**METHODS["finetune"], "unlearning": {"method": "finetune", "rounds": 1}})
    np.testing.assert_array_equal(first.original["forget"], again.original["forget"])
    np.testing.assert_array_equal(first.retrained["test"], again.retrained["test"])
    assert not np.array_equal(first.unlearned["forget"], again.unlearned["forget"])


def test_shadows_without_the_forget_set_do_not_depend_on_its_content() -> None:
    margins, _, _ = pairs(1)
    world = prepare(experiment(), silent)
    labels = world.dataset.labels.copy()
    deleted = all_deleted(world)
    labels[deleted] = (labels[deleted] + 1) % world.dataset.num_classes
    object.__setattr__(world.dataset, "labels", labels)
    evaluator = evaluator_of(world)
    changed = train_shadows(world, 1, 4, {"test": evaluator.test, "forget": evaluator.test}, answerer(world), silent)
    np.testing.assert_array_equal(margins.retrained["test"], changed.retrained["test"])
    assert not np.array_equal(margins.original["test"], changed.original["test"])


@pytest.mark.parametrize(("nodes", "free", "expected"), [(1, 1 << 40, [3]), (6, 1 << 40, [3]), (6, 1, [1, 1, 1])])
def test_pairs_are_trained_side_by_side_as_memory_allows(
    nodes: int, free: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadows, "available_bytes", lambda: free)
    changes = {"data": {"clients": nodes}, "topology": {"generator": "complete"}}
    world = prepare(experiment(**changes, requests=[{"level": "sample", "client": 0, "count": 3}]), silent)
    assert [len(numbers) for numbers in shadows._chunks(world, 3)] == expected


@pytest.mark.parametrize(("name", "rows"), [("newton", 3), ("finetune", 6), ("rewind", 1)])
def test_what_is_kept_of_a_pair_counts_for_the_memory(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two networks and a saved one, their momenta, or one network with its checkpoints."""
    world = prepare(experiment(**METHODS[name]), silent)
    rows += world.unlearner.copies_kept(world.experiment.training.rounds)
    one = 4 * 6 * world.model.dim * rows
    for pairs_, free in ((1, 2 * 4 * one - 4), (2, 2 * 4 * one)):  # a quarter of what is free may be filled
        monkeypatch.setattr(shadows, "available_bytes", lambda free=free: free)
        assert len(next(shadows._chunks(world, 3))) == pairs_


@pytest.mark.parametrize("name", METHODS)
def test_the_progress_never_goes_back(name: str) -> None:
    world = prepare(experiment(**METHODS[name]), silent)
    told: list[tuple[str, int, int]] = []
    evaluator = evaluator_of(world)
    sets = {"forget": evaluator.sample_set(all_deleted(world)), "test": evaluator.test}
    train_shadows(world, 3, 4, sets, answerer(world), lambda *said: told.append(said))  # type: ignore[arg-type]
    done = [done for _, done, _ in told]
    assert done == sorted(done)
    assert told[-1] == ("shadow models", 300, 300)
    assert len(set(done)) > 4
