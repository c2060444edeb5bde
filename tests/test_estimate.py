"""What ``--dry-run`` foretells, against what a run then does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from small_runs import experiment, run
from torch import nn

from fedunlearn.errors import UserError
from fedunlearn.network.inline import InlineTransport
from fedunlearn.simulation import estimate, prepare, simulate
from fedunlearn.simulation.forecast import (
    available_bytes,
    memory_bytes,
    multiply_accumulates,
    resident_bytes,
    stored_bytes,
)


def world(**changes):
    return prepare(experiment(**changes), lambda phase, done, total: None)


TRAFFIC = {
    "gossip": {},
    "exact average": {"topology": {"mixing": "exact-average"}},
    "federated": {"topology": {"generator": "star"}, "training": {"algorithm": "fedavg"}},
    "a third of the clients": {"training": {"algorithm": "fedavg", "client_fraction": 0.3}},
    "one client": {"data": {"clients": 1}, "topology": {"generator": "single"}},
}


@pytest.mark.parametrize("case", TRAFFIC)
def test_messages_and_bytes_of_training_are_those_of_the_ledger(case):
    changes = {**TRAFFIC[case], "unlearning": {"method": "retrain"}, "requests": []}
    told = estimate(experiment(**changes))
    summary = run(**changes).summary
    trained = [k for k in summary["ledger"]["by_kind"] if k["phase"] == "train"]
    assert told["training_messages"] == sum(k["messages"] for k in trained)
    assert told["training_bytes"] == sum(k["bytes"] for k in trained)
    assert told["nodes"] == summary["topology"]["nodes"]
    assert told["parameters"] == summary["model"]["parameters"]
    assert told["training_samples"] == summary["data"]["samples"]


def test_the_certificate_foretold_is_the_one_that_is_issued():
    changes = {"unlearning": {"method": "newton", "target_sigma": 0.02}, "privacy": {"epsilon": 2.0}}
    told = estimate(experiment(**changes))["certificate"]
    issued = run(**changes).summary["requests"][0]["certificate"]
    for name in ("epsilon", "delta", "sigma", "sensitivity"):
        assert told[name] == issued[name]


@pytest.mark.parametrize(
    "unlearning, training",
    [
        ({"method": "finetune"}, {}),
        ({"method": "retrain"}, {}),
        ({"method": "newton", "mode": "one-step"}, {}),
    ],
)
def test_nothing_is_foretold_where_nothing_is_certified(unlearning, training):
    assert estimate(experiment(unlearning=unlearning, training=training))["certificate"] is None


def test_what_a_run_would_refuse_a_dry_run_refuses():
    with pytest.raises(UserError, match=r"training.l2 = 0.0 does not make the objective strongly convex"):
        estimate(experiment(unlearning={"method": "newton"}, training={"l2": 0.0}))
    with pytest.raises(UserError, match=r"model.name = 'mlp' is not convex"):
        estimate(experiment(unlearning={"method": "newton"}, model={"name": "mlp", "features": "raw"}))


def test_a_dry_run_tells_the_requests_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = estimate(experiment(requests=[{"level": "client", "client": 2}, {"level": "class", "label": 3}]))
    assert told["requests"][0].startswith("client 2 leaves") and told["requests"][1].startswith("class 3 goes")
    assert told["method"] == "newton" and told["seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_seconds_grow_with_the_work():
    once = estimate(experiment())["seconds"]
    assert estimate(experiment(training={"rounds": 8}))["seconds"] == pytest.approx(2 * once)
    assert estimate(experiment(training={"local_epochs": 3}))["seconds"] == pytest.approx(3 * once)
    assert estimate(experiment(requests=[]))["seconds"] == pytest.approx(once / 2)
    steps = [estimate(experiment(training={"local_steps": k}))["seconds"] for k in (1, 5)]
    assert steps[1] == pytest.approx(5 * steps[0])


def test_multiply_accumulates_are_counted_layer_by_layer():
    assert multiply_accumulates(world()) == 65 * 10  # unit features of 8 x 8 pixels and the constant
    hidden = world(model={"name": "mlp", "features": "raw", "hidden": [12, 7]}, unlearning={"method": "finetune"})
    assert multiply_accumulates(hidden) == 64 * 12 + 12 * 7 + 7 * 10
    images = world(model={"name": "small-cnn", "features": "raw"}, unlearning={"method": "finetune"})
    dense = [m for m in images.model.module().modules() if isinstance(m, nn.Linear)]
    # two 3 x 3 convolutions at 8 x 8 and at 4 x 4 places, then the dense layers
    assert multiply_accumulates(images) == 64 * 16 * 9 + 16 * 32 * 16 * 9 + sum(m.weight.numel() for m in dense)


def test_memory_grows_by_the_rows_of_every_population():
    wide, narrow = (
        world(model={"name": "mlp", "features": "raw", "hidden": [h]}, unlearning={"method": "finetune"})
        for h in (200, 100)
    )
    rows = 4 * 6 * (len(wide.start) - len(narrow.start))
    assert 4 * rows < memory_bytes(wide, 0) - memory_bytes(narrow, 0) < 8 * rows
    assert memory_bytes(wide, 3) > memory_bytes(wide, 0)


def test_checkpoints_count_for_the_network_and_for_its_twin():
    change = {
        "training": {"schedule": "holes", "lr": 1.0, "l2": 0.1, "rounds": 30, "local_steps": 1},
        "unlearning": {"method": "rewind", "checkpoints": 3},
        "topology": {"repair": "relay"},
    }
    three = world(**change)
    one = world(**{**change, "unlearning": {"method": "rewind", "rewind": 0.5}})
    rows = 4 * len(three.start) * three.graph.number_of_nodes()
    assert memory_bytes(three, 0) - memory_bytes(one, 0) == 2 * (3 - 1) * rows


def test_memory_is_an_upper_bound_of_the_arrays_on_the_hosts(monkeypatch):
    """The largest sum of the files in the hosts' stores during a run is within the estimate, without the libraries."""
    largest = 0

    class Weighing(InlineTransport):
        def exchange(self, requests):
            nonlocal largest
            replies = super().exchange(requests)
            if requests[0].op != "close":
                files = [p for h in self._hosts for p in h.store.folder.glob("*.npy")]
                largest = max(largest, sum(p.stat().st_size for p in files if not p.name.startswith("evaluation")))
            return replies

    changes = {
        "model": {"name": "mlp", "features": "raw", "hidden": [2000]}, "unlearning": {"method": "finetune"},
        "training": {"momentum": 0.5, "rounds": 1}, "evaluation": {"influence_rounds": 1},
    }  # fmt: skip
    simulate(experiment(**changes), Weighing(1))
    base = memory_bytes(world(unlearning={"method": "finetune"}, model={"name": "mlp", "hidden": [1]}), 0)
    assert largest < memory_bytes(world(**changes), 0) - base + 4 * 2**20


def test_free_memory_is_asked_for_where_no_budget_is_set(monkeypatch):
    assert 2**28 < available_bytes() < 2**62 or not math.isfinite(available_bytes())
    monkeypatch.setattr("fedunlearn.simulation.forecast.available_bytes", lambda: 2**20)
    with pytest.raises(UserError, match=r"needs about \d\.\d GB of memory .* this machine has free 0\.0 GB"):
        run()
    monkeypatch.setattr("fedunlearn.simulation.forecast.available_bytes", lambda: 2**50)
    assert np.isfinite(run().summary["seconds"]["total"])


def test_a_run_without_requests_needs_one_population():
    one, four = (
        stored_bytes(world(requests=r, model={"name": "mlp", "hidden": [500]}, unlearning={"method": "finetune"}), 0)
        for r in ([], [{"level": "client", "client": 2}])
    )
    rows = 4 * 6 * len(world(model={"name": "mlp", "hidden": [500]}, unlearning={"method": "finetune"}).start)
    assert four - one == 3 * rows


def budget_for(changes, share):
    """Return the budget in GB that holds processes and data, and ``share`` of what the hosts' stores need."""
    built = world(**changes)
    return (resident_bytes(built, 0) + share * stored_bytes(built, 0)) / 2**30


def test_what_does_not_fit_goes_to_disk_and_the_run_says_so(monkeypatch, tmp_path):
    changes = {
        "model": {"name": "mlp", "features": "raw", "hidden": [300]}, "unlearning": {"method": "finetune"},
    }  # fmt: skip
    free = run(**changes).summary
    assert free["memory"] is None
    monkeypatch.setattr("fedunlearn.network.store._LARGE", 1)
    told, phases = [], []

    class Looking(InlineTransport):
        def exchange(self, requests):
            replies = super().exchange(requests)
            if requests[0].op != "close":
                told.append(self._hosts[0].store.on_disk("theta.main"))
            return replies

    runtime = {"memory_gb": budget_for(changes, 0.1), "scratch": str(tmp_path)}
    small = experiment(**changes, runtime=runtime)
    found = simulate(small, Looking(1), progress=lambda phase, done, total: phases.append(phase)).summary
    assert any(told) and list(tmp_path.iterdir()) == []
    assert "rows that do not fit in memory go to files on disk" in phases
    assert f"GB of rows may go to files in {tmp_path}" in found["memory"]
    assert "runtime.memory_gb allows" in found["memory"]
    assert found["models"] == free["models"]  # nothing but the place differs
    assert estimate(small)["memory_note"] == found["memory"]


def test_a_run_that_fits_nowhere_is_refused(monkeypatch, tmp_path):
    changes = {"model": {"name": "mlp", "features": "raw", "hidden": [300]}, "unlearning": {"method": "finetune"}}
    runtime = {"memory_gb": budget_for(changes, 0.5), "scratch": str(tmp_path)}
    monkeypatch.setattr("fedunlearn.simulation.forecast.free_bytes", lambda folder: 1000)
    with pytest.raises(
        UserError, match=r"needs about .* runtime.memory_gb allows .* has 0\.0 GB left; use fewer nodes"
    ):
        run(**changes, runtime=runtime)
    with pytest.raises(UserError, match="of it cannot go to disk; use a smaller data set"):
        run(**changes, runtime={"memory_gb": 0.01})
    with pytest.raises(UserError, match=r"runtime.scratch = '/nowhere' is not a folder"):
        run(**changes, runtime={**runtime, "scratch": "/nowhere"})
