"""The planted network is the run's own but for the trigger, and the trigger is gone where the data are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedunlearn.battery.planted import planted
from fedunlearn.battery.retold import Retold, retell
from fedunlearn.battery.settings import BatterySettings
from fedunlearn.evaluation.effects.backdoor import (
    ABOVE,
    CLEAN,
    PLANTED,
    SUCCESS,
    UNMARKED,
    plant,
    target_class,
    trigger,
)
from fedunlearn.evaluation.measure import Found, Measure
from fedunlearn.simulation import World, prepare
from fedunlearn.simulation.learning import vector_of
from tests.small_runs import experiment, run

SETTINGS = BatterySettings()
NODES = ("backdoor_success_at_deleted_clients", "backdoor_success_at_neighbours", "backdoor_success_at_all_nodes")


def _silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


def _line(found: Found, name: str) -> Measure:
    return next(measure for measure in found.measures if measure.name == name)


@contextmanager
def _told(**changes: Any) -> Iterator[tuple[World, Retold]]:
    """Yield a world whose method is unused, and its story told."""
    world = prepare(experiment(**changes), _silent)
    fresh = replace(world, unlearner=copy.deepcopy(world.unlearner))
    with retell(world, 1) as told:
        yield fresh, told


def _probe(world: World, told: Retold, *, nodes: bool = True) -> Found:
    return planted(
        world, vector_of(told.twin, told.twin_outcome), vector_of(told.control, told.control_outcome), SETTINGS,
        _silent, twins={"retrained": told.twin, "control": told.control} if nodes else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"rounds": 8}, "unlearning": {"method": "finetune", "rounds": 20}},
        {"training": {"rounds": 8}, "unlearning": {"method": "retrain"}},
        {"requests": [{"level": "client", "client": 2}, {"level": "sample", "client": 4, "count": 30}]},
    ],
)
def test_the_trigger_is_learned_and_goes_with_the_answer(changes: dict[str, Any]) -> None:
    with _told(**changes) as (world, told):
        found = _probe(world, told)
    rate, above = _line(found, SUCCESS), _line(found, ABOVE)
    assert above.original is not None and above.original.low is not None and above.original.low > 0.3
    assert above.unlearned is not None and above.unlearned.value < above.original.value / 2
    assert rate.retrained is not None and rate.control is not None
    for name in (UNMARKED, PLANTED, CLEAN):
        assert _line(found, name).original is not None
    own, beside, everybody = (_line(found, name) for name in NODES)
    assert own.original is not None and everybody.original is not None and beside.original is not None
    assert (
        own.original.value >= beside.original.value >= everybody.original.value
    )  # the trigger is strongest where it was planted
    assert beside.retrained is not None and beside.control is not None
    assert not found.refusals


def test_retraining_from_scratch_forgets_the_trigger_exactly() -> None:
    with _told(unlearning={"method": "retrain"}) as (world, told):
        found = _probe(world, told)
        assert _probe(world, told) == found  # the world's method stays unused, and the seeds are those of the run
    assert _line(found, ABOVE).unlearned is not None and _line(found, ABOVE).unlearned.value == 0  # type: ignore[union-attr]
    for measure in found.measures:
        if measure.name != ABOVE:
            assert measure.unlearned == measure.retrained


def test_the_planted_network_is_the_run_on_planted_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run from start to end on a data set that was planted beforehand gives the very rates of the probe."""
    changes: dict[str, Any] = {"unlearning": {"method": "finetune", "rounds": 2}}
    with _told(**changes) as (world, told):
        found = _probe(world, told)
        dataset, deleted = world.dataset, world.requests[0].sample_ids
        target = target_class(dataset.labels[dataset.all_train_rows()[0]], dataset.labels[deleted])
        tests, model, features = told.evaluator.test.rows, world.model, world.features
    marked = plant(dataset, deleted, target)
    monkeypatch.setattr("fedunlearn.simulation.world.load_dataset", lambda _: marked)
    kept: dict[str, np.ndarray] = {}
    monkeypatch.setattr(
        "fedunlearn.simulation.recording.Record.add_model",
        lambda self, name, vector, entry: kept.__setitem__(name, np.array(vector)),
    )
    run(**changes)
    others = tests[dataset.labels[tests] != target]
    inputs = model.prepare(features.apply(trigger(dataset.inputs[others]))).numpy().astype(np.float64)
    for name in ("original", "unlearned"):
        weights = kept[name].astype(np.float64).reshape(dataset.num_classes, -1)
        called = (inputs @ weights.T).argmax(1)
        estimate = getattr(_line(found, SUCCESS), name)
        assert estimate.value == pytest.approx(np.mean(called == target))


def test_what_cannot_be_probed_is_refused_in_one_sentence() -> None:
    with _told() as (world, told):
        assert planted(world, told.twin.mean(), None, BatterySettings(backdoor=False), _silent) == Found()
        bare = planted(world, told.twin.mean(), None, SETTINGS, _silent)
        assert [refusal.name for refusal in bare.refusals] == ["backdoor_success_at_nodes"]
        assert _line(bare, SUCCESS).control is None
        by_class = replace(
            world, decisions=replace(world.decisions, answered=(replace(world.requests[0], level="class", label=1),))
        )
        (refusal,) = planted(by_class, told.twin.mean(), None, SETTINGS, _silent).refusals
        assert "no longer ask for them" in refusal.reason
        table = replace(
            world, dataset=replace(world.dataset, inputs=world.dataset.inputs.reshape(-1, 64) / np.float32(16))
        )
        (refusal,) = planted(table, told.twin.mean(), None, SETTINGS, _silent).refusals
        assert "bright patch into byte images" in refusal.reason


def test_a_share_too_small_to_teach_the_trigger_is_said_to_show_nothing() -> None:
    with _told(requests=[{"level": "sample", "client": 4, "count": 1}]) as (world, told):
        found = _probe(world, told)
    (refusal,) = found.refusals
    assert "was not learned" in refusal.reason and _line(found, SUCCESS).original is not None
