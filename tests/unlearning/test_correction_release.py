"""What a noised correction is made of: its facts, the public radius of its message, its noise, the flood."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.privacy import PrivacySettings
from fedunlearn.unlearning.certified.correction_release import Answer, flood, noise_scale, radius_of, rounding_at
from fedunlearn.unlearning.certified.ending import Ending
from fedunlearn.unlearning.certified.newton_settings import NewtonSettings
from tests.worlds import Story, TrainingSettings, all_rows, model_for, open_session, request_for, table_data

RECIPE = TrainingSettings(rounds=4, batch=6, lr=0.5, l2=0.05)
PAPER = NewtonSettings(mode="paper", recovery="none")


@pytest.fixture(scope="module")
def dataset():
    return table_data(clients=7, classes=3, inputs=4, seed=6, sizes=(10, 20))


@pytest.fixture
def story(dataset):
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "newton", RECIPE, mode="paper", privacy=PrivacySettings(epsilon=1.0, delta=1e-5))
        story.learn()
        yield story


def answer_of(story, size=0.3):
    vector = np.zeros(story.network.dim)
    vector[0] = size
    return Answer(story.network.mean(), vector, 0.0, norm=size, residual=1e-3, rounding=1e-12, gradients=2, hvps=5)


def test_an_answer_that_retrained_has_no_correction_and_the_gradient_of_the_ending():
    first = Answer(np.zeros(3), np.ones(3), 0.2, norm=1.7, residual=5.0, rounding=1e-9)
    ending = Ending(np.full(3, 2.0), np.array([0.0, 3.0, 4.0]), 5.1, 1e-8, 0.1, True, False)
    told = first.retrained(ending)
    assert told.fell_back and told.norm == 0.0 and not told.vector.any() and np.array_equal(told.x, ending.x)
    assert told.residual == pytest.approx(5.0) and (told.rounding, told.apart) == (1e-8, 0.1)
    assert told.details() == {
        "correction_norm": 0.0, "disagreement": 0.1, "gradients": 0, "hvps": 0, "residual": told.residual
    }  # fmt: skip


def test_rounding_is_bounded_where_rows_are(story, dataset):
    x = story.network.mean()
    assert 0 < rounding_at(story.network, x, RECIPE.l2) < 1e-10
    with open_session(dataset, *model_for(dataset, features="raw")) as session:
        raw = Story(session, "newton", RECIPE, mode="one-step").network
        assert rounding_at(raw, raw.mean(), RECIPE.l2) is None


def test_the_radius_of_a_message_is_the_setting_or_asks_for_strong_convexity(story, dataset):
    request = request_for(dataset, level="sample", client=1, count=3)
    situation, answer = story.situation(), answer_of(story)
    told = PAPER.model_copy(update={"message_radius": 0.25})
    assert radius_of(story.network, request, answer, told, situation, None) == 0.25
    assert radius_of(story.network, None, answer, told, situation, None) is None
    assert radius_of(story.network, request, answer, PAPER, situation, None) is None
    bound = PAPER.model_copy(update={"message_radius": "bound"})
    with pytest.raises(UserError, match=r"message_radius = 'bound' needs training\.l2 > 0"):
        radius_of(story.network, request, answer, bound, situation, None)


def test_without_constants_the_noise_covers_the_message_and_certifies_no_model(story, dataset):
    request = request_for(dataset, level="sample", client=1, count=3)
    facts, plain = noise_scale(story.network, request, answer_of(story), PAPER, story.situation(), None, 1, None)
    assert facts is None and plain == PAPER.target_sigma
    _, wide = noise_scale(story.network, request, answer_of(story), PAPER, story.situation(), None, 1, 10.0)
    _, twice = noise_scale(story.network, request, answer_of(story), PAPER, story.situation(), None, 1, 20.0)
    assert wide > plain and twice == pytest.approx(2 * wide)


@pytest.mark.parametrize("one_vector", [False, True])
def test_one_noised_message_reaches_every_node_and_is_stored_first(story, one_vector):
    before, answer = all_rows(story.network).astype(np.float64), answer_of(story)
    root = flood(story.network, answer, 0.5, PAPER, story.situation(), one_vector)
    after = all_rows(story.network).astype(np.float64)
    assert np.array_equal(root, story.persisted[-1]) and np.array_equal(root, all_rows(story.network)[0])
    noise = after - (answer.x if one_vector else before) - answer.vector
    assert np.ptp(noise, axis=0).max() < 1e-5  # the same draw for everybody
    assert 0.2 < noise[0].std() < 0.9 and story.network.ledger.traffic[-1].kind == "correction"
