"""The fast forward passes of measuring against the model's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from worlds import image_data, model_for, open_session, ring_network

from fedunlearn.evaluation.forward import STACK, Forward
from fedunlearn.models import FeatureMap, ModelSettings, build_model

DATA = image_data(clients=4)
INPUTS, LABELS = DATA.inputs[:37], DATA.labels[:37]
NAMES = ["softmax", "mlp", "small-cnn", "deep-cnn", "resnet18-gn", "smooth"]


def model_of(name: str):
    kind = {"name": "small-cnn", "activation": "smelu"} if name == "smooth" else {"name": name}
    return build_model(ModelSettings(features="raw", **kind), DATA.num_classes, DATA.input_shape)


def vectors(model, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (model.initial(0) + 0.05 * rng.normal(size=(count, model.dim))).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("slices", [100, 8])
def test_logits_are_the_models(name, slices, monkeypatch):
    monkeypatch.setattr("fedunlearn.evaluation.forward._SLICE", slices)
    model = model_of(name)
    forward, x = Forward(model), model.prepare(INPUTS)
    samples = forward.prepare(INPUTS)
    for theta in vectors(model, 3):  # one object serves any parameters
        expected = model.logits(torch.from_numpy(theta), x)
        found = forward.logits(torch.from_numpy(theta), samples)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert not found.requires_grad


@pytest.mark.parametrize("features", ["raw", "unit"])
def test_stacked_softmax_models_are_the_models_one_by_one(features):
    mapping = FeatureMap(features, DATA.input_shape)
    model = build_model(ModelSettings(name="softmax", features=features), DATA.num_classes, mapping.output_shape)
    inputs, rows = mapping.apply(INPUTS), vectors(model, 5)
    forward = Forward(model)
    found = forward.stacked_logits(torch.from_numpy(rows), forward.prepare(inputs))
    for theta, logits in zip(rows, found, strict=True):
        torch.testing.assert_close(logits, model.logits(torch.from_numpy(theta), model.prepare(inputs)))


@pytest.mark.parametrize("name, ways", [("softmax", [(1, 0), (3, 0), (1, 2)]), ("small-cnn", [(1, 0), (3, 0)])])
def test_the_same_bits_on_any_hosts_and_workers(name, ways):
    """More vertices than one group, a last group that is cut short, and blocks that cut groups."""
    data = image_data(clients=STACK + 5, sizes=(3, 5))
    model, features = model_for(data, name, "raw")
    rows = vectors(model, STACK + 5)
    found = []
    for hosts, workers in ways:
        with open_session(data, model, features, hosts=hosts, workers=workers) as session:
            network = ring_network(session)
            for node, row in enumerate(rows):
                network.write(row, nodes=[node])
            session.put({"x": INPUTS, "y": LABELS})
            params = {"inputs": "x", "labels": "y"}
            program = "fedunlearn.evaluation.programs:node_utility"
            found.append(network.measure(program, params, width=2, grain=STACK))
            some = network.measure(program, params, width=2, grain=STACK, only=[0, STACK + 2])
            assert np.array_equal(some[[0, STACK + 2]], found[-1][[0, STACK + 2]])
    assert all(np.array_equal(found[0], other) for other in found[1:])
    x, y = model.prepare(INPUTS), torch.from_numpy(LABELS)
    for theta, (accuracy, loss) in zip(rows, found[0], strict=True):
        logits = model.logits(torch.from_numpy(theta), x)
        assert accuracy == pytest.approx(float((logits.argmax(1) == y).double().mean()))
        assert loss == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-5)


@pytest.mark.parametrize("name", ["softmax", "small-cnn"])
def test_samples_are_prepared_once_for_all_vertices_of_a_command(name, monkeypatch):
    model, features = model_for(DATA, name, "raw")
    with open_session(DATA, model, features) as session:
        network = ring_network(session)
        session.put({"x": INPUTS, "y": LABELS})
        prepared, prepare = [], Forward.prepare
        monkeypatch.setattr(Forward, "prepare", lambda self, x: prepared.append(len(x)) or prepare(self, x))
        network.measure("fedunlearn.evaluation.programs:node_utility", {"inputs": "x", "labels": "y"}, width=2)
        assert prepared == [37]
