"""Consensus distance against numpy on rows read back."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import all_rows, image_data, model_for, open_session, ring_network

from fedunlearn.evaluation.nodes.consensus import consensus_distance, distances_to, root_mean_square
from fedunlearn.network import TrainingSettings, train

DATA = image_data()


@pytest.mark.parametrize("hosts", [1, 2])
def test_it_is_the_spread_of_the_rows_about_their_mean(hosts):
    model, features = model_for(DATA)
    alive = np.array([True, True, False, True, True, True])
    with open_session(DATA, model, features, hosts=hosts) as session:
        network = ring_network(session, alive=alive)
        train(network, TrainingSettings(rounds=2, lr=0.5))
        rows = all_rows(network).astype(np.float64)
        apart = np.linalg.norm(rows - rows.mean(0), axis=1)
        assert consensus_distance(network) == pytest.approx(np.sqrt((apart**2).mean()), rel=1e-9)
        target = np.random.default_rng(0).normal(size=network.dim)
        found = distances_to(network, target)
        np.testing.assert_allclose(found[alive], np.linalg.norm(rows - target, axis=1), rtol=1e-9)
        assert np.isnan(found[2])
        some = distances_to(network, target, only=[0, 4])
        np.testing.assert_array_equal(some[[0, 4]], found[[0, 4]])
        assert np.isnan(some[[1, 2, 3, 5]]).all()


def test_one_model_everywhere_is_consensus():
    model, features = model_for(DATA)
    with open_session(DATA, model, features) as session:
        network = ring_network(session)
        network.write(np.random.default_rng(1).normal(size=network.dim).astype(np.float32))
        assert consensus_distance(network) == 0.0


def test_root_mean_square_of_what_is_there():
    assert root_mean_square(np.array([3.0, np.nan, 4.0])) == pytest.approx(np.sqrt(12.5))
    with pytest.raises(ValueError):
        root_mean_square(np.array([np.nan]))
