"""Rounds on a device, run on the CPU: the ordinary numbers, no waiting for the device, nothing deleted kept."""

from __future__ import annotations

from types import SimpleNamespace

import networkx as nx
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import device
from fedunlearn.models import ModelSettings, build_model
from fedunlearn.network import Network, TrainingSettings, resident, train
from fedunlearn.network.training import local_steps
from fedunlearn.topology import remove_vertex
from tests.worlds import all_rows, image_data, model_for, open_session, ring_network

CPU = torch.device("cpu")
RECIPES = {
    "plain": ("softmax", "unit", {}),
    "perceptron": ("mlp", "raw", {"momentum": 0.5, "l2": 0.01}),
    "clipped": ("mlp", "raw", {"clip": 0.3, "radius": 2.0, "local_steps": 3, "momentum": 0.5}),
    "holes in float64": ("softmax", "unit", {"schedule": "holes", "l2": 0.02, "local_steps": 2}),
    "convolutions": ("small-cnn", "raw", {"momentum": 0.5}),
    "clipped convolutions": ("small-cnn", "raw", {"clip": 0.5, "l2": 0.01}),
}


@pytest.fixture
def on_device(monkeypatch):
    """Make every host of this process run its rounds as it would on a GPU."""

    def switch(on: bool = True) -> None:
        monkeypatch.setattr(resident, "takes", lambda block: on)

    return switch


def story(dataset, name, features, s):
    """Train; a client leaves and samples are deleted; train on; then local steps of some vertices alone."""
    model, mapping = model_for(dataset, name, features)
    with open_session(dataset, model, mapping) as session:
        network = ring_network(session, momentum=s.momentum > 0)
        train(network, s, last=2, every=2)
        network.leave(2, remove_vertex(network.graph, 2, "path", network.alive))
        network.erase(np.concatenate([dataset.train_rows(2), dataset.train_rows(4)[1:5]]))
        train(network, s, first=2, every=2)
        local_steps(network, s, s.rounds, [0, 3])
        return all_rows(network), network.save()


@pytest.mark.parametrize("recipe", RECIPES)
def test_rounds_on_a_device_are_the_ordinary_ones(recipe, on_device, monkeypatch):
    name, features, changes = RECIPES[recipe]
    dataset = image_data(clients=6, sizes=(4, 24))
    s = TrainingSettings(rounds=4, batch=5, lr=0.1, **changes)
    rows, ordinary = story(dataset, name, features, s)
    on_device()
    called = []
    original = resident.run_rounds
    monkeypatch.setattr(resident, "run_rounds", lambda *a, **k: (called.append(k["mix"]), original(*a, **k)))
    monkeypatch.setattr(resident, "_SCRATCH_BYTES", 1 << 17)  # several chunks of vertices, several blocks of columns
    there, state = story(dataset, name, features, s)
    assert called == [True, True, False]
    assert np.abs(rows - there).max() < 1e-5
    assert np.isnan(state["theta"][2]).all()
    if s.momentum:
        alive = [0, 1, 3, 4, 5]
        assert np.abs(ordinary["momentum"] - state["momentum"])[alive].max() < 1e-4


def test_one_vertex_alone(on_device):
    dataset = image_data(clients=1, sizes=(20, 21))
    rows = []
    for on in (False, True):
        on_device(on)
        model, mapping = model_for(dataset, "mlp", "raw")
        with open_session(dataset, model, mapping) as session:
            network = Network(session, "main", nx.empty_graph(1), "metropolis", model.initial(0), momentum=True)
            train(network, TrainingSettings(rounds=3, batch=6, lr=0.1, momentum=0.9))
            rows.append(all_rows(network))
    assert np.abs(rows[0] - rows[1]).max() < 1e-5


@pytest.mark.parametrize("mixing", ["exact-average", "random-matching"])
def test_mixing_across_rounds_that_the_host_cannot_do_alone(mixing, on_device):
    dataset = image_data(clients=6)
    rows = []
    for on in (False, True):
        on_device(on)
        model, mapping = model_for(dataset)
        with open_session(dataset, model, mapping) as session:
            network = ring_network(session, mixing=mixing)
            train(network, TrainingSettings(rounds=3, batch=6, lr=0.5))
            rows.append(all_rows(network))
    assert np.abs(rows[0] - rows[1]).max() < 1e-5


class Waits(TorchDispatchMode):
    """Lists the operators at which a GPU makes the host wait: where a number or a shape depends on the data."""

    NAMES = (
        "_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "unique_dim", "_unique2", "bincount",
        "is_nonzero", "equal", "allclose", "repeat_interleave",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        self.calls += 1
        masks = name.startswith("index") and any(
            isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8)
            for a in args[1:2] if isinstance(a, (list, tuple)) for i in a
        )  # fmt: skip
        if name in self.NAMES or masks:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_step_waits_for_the_device(recipe):
    name, features, changes = RECIPES[recipe]
    dataset = image_data(clients=5, sizes=(4, 24))
    model, mapping = model_for(dataset, name, features)
    s = TrainingSettings(rounds=4, batch=5, lr=0.1, **changes)
    with open_session(dataset, model, mapping) as session:
        network = ring_network(session, momentum=s.momentum > 0)
        block = session.transport._hosts[0].block
        there = resident.Resident(block, "main", [0, 1, 2, 3, 4], s, mix=True, device=CPU)
        with Waits() as waits:
            there.round(0)
            there.round(1)
        assert waits.calls > 50 and waits.found == []
        # The same on a device without any numbers: whatever asks for one is refused by torch.
        nowhere = resident.Resident(block, "main", [0, 1, 2, 3, 4], s, mix=False, device=torch.device("meta"))
        nowhere.round(0)
        assert nowhere.theta.shape == (5, network.dim)
        resident.forget(block)


def test_waiting_is_noticed():
    with Waits() as waits:
        x = torch.arange(4.0)
        x[x > 1]
        x.sum().item()
        x[torch.tensor([0])]
    assert "index" in waits.found and "_local_scalar_dense" in waits.found and len(waits.found) <= 3


def test_samples_are_sent_once_and_not_kept_after_a_deletion(on_device):
    on_device()
    dataset = image_data(clients=5)
    model, mapping = model_for(dataset)
    s = TrainingSettings(rounds=6, batch=6, lr=0.5)
    with open_session(dataset, model, mapping) as session:
        network = ring_network(session)
        block = session.transport._hosts[0].block
        train(network, s, last=2)
        first = resident.samples_of(block, CPU)
        held = first.inputs
        train(network, s, first=2, last=3)
        assert resident.samples_of(block, CPU) is first
        network.erase(dataset.train_rows(1)[:3])
        assert torch.isnan(held).all() and (first.labels == -1).all() and block not in resident._kept
        train(network, s, first=3, last=4)
        second = resident.samples_of(block, CPU)
        gone = np.isin(block.store["sample_ids"], dataset.train_rows(1)[:3])
        assert torch.isnan(second.inputs[:-1][torch.from_numpy(gone)]).all()
        network.leave(2, remove_vertex(network.graph, 2, "path", network.alive))
        assert torch.isnan(second.inputs).all() and block not in resident._kept
        train(network, s, first=4)
        assert np.isfinite(all_rows(network)).all()


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [("leaf-cnn", (28, 28), np.uint8), ("small-cnn", (8, 8, 3), np.uint8), ("mlp", (8, 8, 3), np.uint8),
     ("softmax", (5,), np.float32)],
)  # fmt: skip
def test_samples_on_a_device_are_prepared_as_on_the_host(name, shape, kind):
    model = build_model(ModelSettings(name=name), 4, shape)
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (9, *shape)).astype(kind)
    store = {"inputs": inputs, "labels": rng.integers(0, 4, 9)}
    there = resident.Samples(SimpleNamespace(store=store, generation=0), CPU)
    positions = np.array([[3, 1, 8], [0, 0, 9]])
    x, y = there.batch(model, torch.from_numpy(positions))
    padded = np.concatenate([inputs, np.zeros((1, *shape), kind)])
    assert torch.equal(x.flatten(0, 1), model.prepare(padded[positions.reshape(-1)]))
    assert y.tolist() == np.append(store["labels"], 0)[positions].tolist()


def test_replaced_arrays_are_sent_anew():
    dataset = image_data(clients=4)
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping) as session:
        ring_network(session)
        host = session.transport._hosts[0]
        first = resident.samples_of(host.block, CPU)
        host.block.generation += 1
        second = resident.samples_of(host.block, CPU)
        assert second is not first and torch.isnan(first.inputs).all()
        host.refresh()  # another process may have deleted samples
        assert torch.isnan(second.inputs).all() and host.block not in resident._kept


def test_the_benchmark_of_the_device_path_runs():
    figures = device.run("softmax", 5, 10, 2, "cpu")
    assert figures["client_updates_per_s"] > 0 and {"send_s", "first_round_s", "write_back_s"} <= set(figures)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_gpu_gives_the_numbers_and_is_not_waited_for(recipe):
    name, features, changes = RECIPES[recipe]
    dataset = image_data(clients=5, sizes=(4, 24))
    model, mapping = model_for(dataset, name, features)
    s = TrainingSettings(rounds=4, batch=5, lr=0.1, **changes)
    with open_session(dataset, model, mapping) as session:
        ring_network(session, momentum=s.momentum > 0)
        block, rows = session.transport._hosts[0].block, []
        for where in (CPU, torch.device("cuda")):
            there = resident.Resident(block, "main", [0, 1, 2, 3, 4], s, mix=True, device=where)
            there.round(0)  # libraries set themselves up in the first round
            if where.type == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            try:
                there.round(1)
            finally:
                if where.type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
            rows.append(there.theta.cpu())
        assert (rows[0] - rows[1]).abs().max() < 1e-4
        resident.forget(block)
