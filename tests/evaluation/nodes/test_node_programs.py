"""Losses at every node against one model at a time, whatever hosts and workers compute them."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import image_data, model_for, open_session, ring_network

from fedunlearn.data import Role
from fedunlearn.evaluation.evaluator import Evaluator, SampleSet
from fedunlearn.evaluation.nodes.reach import node_losses, put_samples
from fedunlearn.evaluation.settings import EvaluationSettings
from fedunlearn.evaluation.utility import accuracy_and_loss, losses
from fedunlearn.network import TrainingSettings, train

DATA = image_data(side=16)


def at_nodes(name: str, hosts: int = 1, workers: int = 0, only: list[int] | None = None):
    """Return accuracies and losses at the nodes of a trained network, and what each row gives by itself."""
    model, features = model_for(DATA, name, "unit" if name == "softmax" else "raw")
    alive = np.array([True, True, False, True, True, True])
    with open_session(DATA, model, features, hosts=hosts, workers=workers) as session:
        network = ring_network(session, alive=alive)
        train(network, TrainingSettings(rounds=2, lr=0.2))
        evaluator = Evaluator(DATA, features, model, EvaluationSettings(), 0)
        samples: SampleSet = evaluator.sample_set(DATA.train_rows(int(DATA.clients(Role.TRAIN)[2])))
        put_samples(network, "forget", samples)
        accuracy, found = node_losses(network, "forget", len(samples.labels), only)
        rows = {int(i): network.read(int(i)) for i in np.flatnonzero(alive)}
    alone = {i: losses(model, row, samples.inputs, samples.labels) for i, row in rows.items()}
    right = {i: accuracy_and_loss(model, row, samples.inputs, samples.labels)[0] for i, row in rows.items()}
    return accuracy, found, right, alone


@pytest.mark.parametrize("name", ["softmax", "mlp", "small-cnn"])
def test_they_are_the_losses_of_each_row(name):
    accuracy, found, right, alone = at_nodes(name)
    assert np.isnan(accuracy[2]) and np.isnan(found[2]).all()
    for node, expected in alone.items():
        np.testing.assert_allclose(found[node], expected, rtol=1e-4, atol=1e-5)
        assert accuracy[node] == pytest.approx(right[node])
    assert np.ptp([values.mean() for values in alone.values()]) > 1e-4  # nodes differ


def test_hosts_and_workers_change_no_bit():
    accuracy, found, *_ = at_nodes("softmax")
    for hosts, workers in ((2, 0), (1, 2)):
        other = at_nodes("softmax", hosts, workers)
        np.testing.assert_array_equal(other[0], accuracy)
        np.testing.assert_array_equal(other[1], found)


def test_only_some_nodes():
    accuracy, found, *_ = at_nodes("softmax")
    some, part, *_ = at_nodes("softmax", only=[1, 5])
    np.testing.assert_array_equal(part[[1, 5]], found[[1, 5]])
    np.testing.assert_array_equal(some[[1, 5]], accuracy[[1, 5]])
    assert np.isnan(part[[0, 2, 3, 4]]).all()
