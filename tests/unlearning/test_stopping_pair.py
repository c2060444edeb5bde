"""The farthest pair of vectors that both meet the stopping rule, seen by another implementation of the objective."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.unlearning.certified import stopping_pair, tolerance_release
from fedunlearn.unlearning.optimise import Stop
from tests.unlearning.central import Central, shards
from tests.worlds import Story, TrainingSettings, model_for, open_session, request_for, ring_network, table_data

LAM = 0.05
RECIPE = TrainingSettings(rounds=4, batch=6, lr=0.5, l2=LAM)


@pytest.fixture(scope="module")
def dataset():
    return table_data(clients=7, classes=3, inputs=4, seed=6, sizes=(10, 20))


def test_both_worlds_of_the_pair_meet_the_rule_as_another_implementation_sees_it(dataset):
    request = request_for(dataset, level="client", client=2)
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "newton", RECIPE, requests=[request])
        story.learn()
        outcome = story.answer(request)
        tau = outcome.certificate.constants["tau"]
        rule = tolerance_release.stopping_rule(story.network, LAM, tau)
        worlds = stopping_pair.pair(story.network, story.situation(), outcome.noise_free, (rule, rule))
    central = Central(shards(dataset, model_for(dataset)[1], request.sample_ids), 3, "equal", LAM)
    norms = [np.linalg.norm(central.gradient(x)) for x in worlds]
    assert all(0.99 * tau < norm <= tau for norm in norms)
    assert np.linalg.norm((worlds[0] + worlds[1]) / 2 - central.minimiser()) < 0.01 * tau / LAM


def test_no_record_sees_the_direction_that_parts_the_pair(dataset):
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping) as session:
        q = stopping_pair.invisible_direction(ring_network(session))
    central = Central(shards(dataset, mapping), 3, "equal", LAM)
    x = np.random.default_rng(0).normal(size=model.dim)
    assert np.linalg.norm(q) == pytest.approx(1.0)
    assert central.gradient(x + 2.0 * q) - central.gradient(x) == pytest.approx(2.0 * LAM * q, abs=1e-12)


def test_an_end_that_misses_its_rule_makes_no_pair(dataset):
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "newton", RECIPE)
        start = np.zeros(story.network.dim)
        unmeetable = Stop(1e-3, rounding=lambda x: 1.0)  # its allowance for rounding alone exceeds tau
        assert stopping_pair.pair(story.network, story.situation(), start, (Stop(1e-3), unmeetable)) is None
        pair = stopping_pair.pair(story.network, story.situation(), start, (Stop(1e-3), Stop(2e-3)), offset=0.5)
    expected = (1 - stopping_pair.SLACK) * (1e-3 + 2e-3) / LAM + 2 * 0.5
    assert np.linalg.norm(pair[0] - pair[1]) == pytest.approx(expected)
