"""How training ends where nodes keep their own models: near each other, and at a small gradient at their mean."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.network import train
from fedunlearn.unlearning.certified.ending import disagreement, end_training, settle
from tests.unlearning.central import Central, shards
from tests.worlds import Story, TrainingSettings, all_rows, model_for, open_session, table_data

LAM, TAU = 0.05, 1e-4
RECIPE = TrainingSettings(rounds=4, batch=6, lr=0.5, l2=LAM)


@pytest.fixture(scope="module")
def dataset():
    return table_data(clients=7, classes=3, inputs=4, seed=6, sizes=(10, 20))


@pytest.fixture
def story(dataset):
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "newton", RECIPE, mode="paper")
        train(story.network, RECIPE)
        yield story


def spread(rows):
    return np.linalg.norm(rows.astype(np.float64) - rows.astype(np.float64).mean(0), axis=1).max()


def test_disagreement_is_the_largest_distance_to_the_mean(story):
    rows = all_rows(story.network)
    mean, apart = disagreement(story.network)
    assert mean == pytest.approx(rows.astype(np.float64).mean(0)) and apart == pytest.approx(spread(rows)) and apart > 0


@pytest.mark.parametrize("share", [0.3, 1e-9])
def test_settling_keeps_the_mean_and_brings_rows_within_half_of_the_bound(story, share):
    before, apart = disagreement(story.network)
    consensus = share * apart  # the second one is out of gossip's reach in float32: rows are averaged exactly
    mean, left = settle(story.network, consensus, story.situation())
    assert left <= consensus / 2 and spread(all_rows(story.network)) <= consensus / 2 + 1e-12
    assert mean == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("consensus", [0.01, 0.0])
def test_the_end_meets_both_bounds_as_another_implementation_sees_them(story, dataset, consensus):
    ending = end_training(story.network, story.situation(), TAU, consensus, 50, 500)
    central = Central(shards(dataset, model_for(dataset)[1]), 3, "equal", LAM)
    rows = all_rows(story.network).astype(np.float64)
    assert ending.met and np.linalg.norm(central.gradient(ending.x)) <= ending.bound <= TAU
    assert ending.apart == pytest.approx(spread(rows), abs=1e-9) and ending.apart <= consensus
    assert ending.one_vector == (consensus == 0.0)
    assert ending.own_model(story.network) == pytest.approx(rows[story.network.root], abs=1e-6)
    if consensus:
        assert np.linalg.norm(central.gradient(rows.mean(0))) <= TAU  # the rows themselves, not only a vector


def test_a_search_that_may_not_search_is_not_met_or_safeguarded(story):
    ending = end_training(story.network, story.situation(), TAU, 0.0, 1, 1)
    assert ending.met and ending.bound <= TAU  # accelerated gradient, whose number of steps is proved, takes over
