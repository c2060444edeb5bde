"""The benchmark of large networks, on small ones: it measures what it says, and its data are what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import scale
from fedunlearn.config import load_experiment
from fedunlearn.data import load_dataset


@pytest.fixture(autouse=True)
def without_femnist(monkeypatch):
    monkeypatch.delenv("FEDUNLEARN_DATA", raising=False)


def test_many_small_nodes():
    found = scale.run("nodes-100000", nodes=40, rounds=2, workers=0)
    assert (found["nodes"], found["parameters"], found["training_samples"]) == (40, 7850, 400)
    assert len(found["all_training_rounds"]) == 2 and found["training_round_s"] > 0
    assert found["set_up_s"] > 0 and found["gossip_round_s"] > 0 and found["peak_memory_mb"] > 50


def test_a_node_and_round_of_a_large_and_of_a_small_network():
    found = scale.run("nodes-3200", nodes=6, rounds=1, workers=0)
    assert found["samples_per_node"] == 200 and found["nodes"] == 6
    assert found["ratio"] == pytest.approx(found["ms_per_node"] / found["ms_per_node_at_6"], rel=0.01)


def test_writers_are_generated_where_femnist_is_not_there(capsys):
    scale.main(["--case", "femnist-3500", "--nodes", "5", "--rounds", "1", "--workers", "0", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 213_630 and "synthetic" in found["data"] and found["nodes"] == 5


def test_spectra_of_fast_and_slow_graphs():
    found = scale.run("spectrum", nodes=100)
    assert found["ring"]["gap"] == pytest.approx(4 / 3 * np.sin(np.pi / 100) ** 2)
    assert found["random-regular"]["gap"] > found["torus"]["gap"] > found["grid"]["gap"] > found["ring"]["gap"]


def test_images_are_bytes_and_every_client_has_as_many():
    data = scale.images(7, 9, 4)
    data.validate()
    assert data.inputs.dtype == np.uint8 and np.diff(data.offsets).tolist() == [9] * 7 and data.num_classes == 4


@pytest.mark.parametrize("name", ["nodes_100000", "femnist_3500"])
def test_the_experiments_can_be_run(name):
    experiment = load_experiment(f"simulations/scale/{name}.toml")
    assert not experiment.runtime.cache and experiment.topology.generator == "random-regular"


def test_a_hundred_thousand_nodes_are_the_benchmarks_shape():
    settings = load_experiment("simulations/scale/nodes_100000.toml", ["data.writers=20"]).data
    data = load_dataset(settings)
    _, offsets = data.all_train_rows()
    assert np.diff(offsets).tolist() == [10] * 20 and data.num_classes == 10 and settings.writers == 20
