"""A deleted client that stays as a relay: it mixes on, without data, in the network and in its retrained twin."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.network import Network, train
from tests.small_runs import experiment, numbers, run
from tests.worlds import TrainingSettings, all_rows, image_data, model_for, open_session, ring_network

RELAY = {"topology": {"generator": "star", "repair": "relay"}, "requests": [{"level": "client", "client": 0}]}


def test_the_hub_of_a_star_can_be_deleted_when_it_stays_as_a_relay():
    with pytest.raises(UserError, match="falls into"):
        run(**{**RELAY, "topology": {"generator": "star"}})
    summary = run(**RELAY).summary
    (request,) = summary["requests"]
    assert request["certificate"]["valid"] and request["distance_to_retrained"] <= request["certificate"]["sensitivity"]
    assert request["request"]["leaves"] == [0]


def test_retraining_is_the_answer_of_retraining_with_a_relay_too():
    summary = run(unlearning={"method": "retrain"}, **RELAY).summary
    assert summary["requests"][0]["distance_to_retrained"] == 0.0


def test_a_relay_holds_a_model_but_no_sample_and_takes_no_step():
    dataset = image_data(clients=5)
    with open_session(dataset, *model_for(dataset), hosts=2) as session:
        network = ring_network(session)
        network.erase(dataset.train_rows(2))
        assert network.alive.all() and network.counts[2] == 0
        before = network.read(2)
        train(network, TrainingSettings(rounds=1, batch=5, lr=0.3))
        rows, weights = all_rows(network), network.weights.toarray()
        moved = Network(session, "steps", network.graph, "metropolis", before, deleted=network.deleted)
        from fedunlearn.network.training import local_steps

        local_steps(moved, TrainingSettings(rounds=1, batch=5, lr=0.3), 0)
        stepped = all_rows(moved)
        assert np.array_equal(stepped[2], before)
        assert np.allclose(rows, weights @ stepped, atol=1e-6)


def test_one_and_two_hosts_tell_the_same_story():
    assert numbers(run(**RELAY).summary) == numbers(run(hosts=2, **RELAY).summary)


def test_a_level_that_a_method_is_not_defined_for_is_refused_before_training(monkeypatch):
    from fedunlearn.simulation import world
    from fedunlearn.unlearning.registry import method

    info = method("finetune")
    narrow = type(info)(**{**vars(info), "levels": ("sample",), "not_defined": "nobody has defined it"})
    monkeypatch.setattr(world, "method", lambda name: narrow)
    with pytest.raises(
        UserError, match=r"^requests.0.level = 'client' is not defined for 'finetune': nobody .*\(allowed: sample\)$"
    ):
        world.prepare(experiment(unlearning={"method": "finetune"}), lambda *_: None)
    narrow = type(info)(**{**vars(info), "networks": ("centralized",)})
    with pytest.raises(UserError, match=r"^unlearning.method = 'finetune' is not defined in a decentralized setting"):
        world.prepare(experiment(unlearning={"method": "finetune"}), lambda *_: None)
