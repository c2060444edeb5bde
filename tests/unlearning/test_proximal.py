"""Rewinding without a checkpoint: training is undone step by step before any request."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.network import train
from fedunlearn.privacy.accounting.replay import inverse_error
from fedunlearn.unlearning.certified.proximal import walk_back
from tests.worlds import Story, TrainingSettings, model_for, open_session, request_for, ring_network, table_data

RECIPE = TrainingSettings(rounds=30, batch=64, lr=0.3, l2=0.05, schedule="holes")
LIMIT = 1e-3


@pytest.fixture(scope="module")
def dataset():
    return table_data(clients=4, classes=3, inputs=4, seed=6, sizes=(10, 20))


@pytest.mark.parametrize(
    "change", [{}, {"batch": 5, "local_steps": 1}, {"clip": 0.3}, {"final_rounds": 7, "final_factor": 0.5}],
    ids=["full batch", "minibatches", "clipped", "two step sizes"],
)  # fmt: skip
def test_walking_back_finds_where_training_came_by(dataset, change):
    training = RECIPE.model_copy(update=change)
    with open_session(dataset, *model_for(dataset), hosts=2) as session:
        network = ring_network(session, mixing="exact-average")
        train(network, training, last=20)
        before = network.mean()
        train(network, training, first=20)
        end = network.mean()
        found, residual = walk_back(network, training, end, 20)
        assert np.array_equal(network.mean(), end)  # the rows were not touched
    assert residual < 1e-13
    # Training rounds to float32 in every step, about 1e-7 here; undoing magnifies that like a remainder.
    assert np.linalg.norm(found - before) <= inverse_error(1e-6, 0.3, 0.05, 0.5, 10)
    assert np.linalg.norm(end - before) > 1000 * np.linalg.norm(found - before)


def story_of(session, requests=(), training=RECIPE, mixing="exact-average", **settings):
    return Story(session, "rewind", training, requests=requests, mixing=mixing, **{"rewind": 0.5, **settings})


def test_a_rewind_from_walked_back_rows_is_certified_with_their_error(dataset):
    request = request_for(dataset, level="sample", client=1, count=3)
    found = {}
    for settings in ({}, {"start": "walked-back", "offset": LIMIT}):
        with open_session(dataset, *model_for(dataset), hosts=2) as session:
            story = story_of(session, [request], **settings)
            story.learn()
            outcome = story.answer(request)
            _, retrained = story.twin()
            game = story.unlearner.tight_game(story.network, outcome, story.situation())
        assert 0 < np.linalg.norm(outcome.noise_free - retrained.noise_free) <= outcome.certificate.sensitivity
        assert 0.9 <= game.ratio <= 1 + 1e-9 and outcome.certificate.valid
        found[story.unlearner.settings.start] = outcome
    stored, walked = (found[start].certificate for start in ("checkpoint", "walked-back"))
    assert walked.sensitivity == pytest.approx(stored.sensitivity + LIMIT * (1 - 0.3 * 0.05) ** 15, rel=1e-9)
    assert 0 < np.abs(found["checkpoint"].noise_free - found["walked-back"].noise_free).max() < 1e-4
    assert walked.constants["offset_from_residual"] < LIMIT
    assert walked.facts["start_rows"] == "walked-back" and walked.facts["residual"] < 1e-13


def test_rows_that_end_too_far_off_are_not_used(dataset):
    """Undoing magnifies the rounding of training; beyond the public limit a request is answered by retraining."""
    request = request_for(dataset, level="sample", client=1, count=3)
    with open_session(dataset, *model_for(dataset)) as session:
        story = story_of(session, [request], start="walked-back", offset=1e-12)
        story.learn()
        outcome = story.answer(request)
        _, retrained = story.twin()
    assert outcome.fell_back_to_retraining and outcome.certificate.kind == "exact"
    assert np.array_equal(outcome.noise_free, retrained.noise_free)


def test_the_checkpoint_itself_is_gone_after_training(dataset):
    with open_session(dataset, *model_for(dataset)) as session:
        story = story_of(session, start="walked-back", offset=LIMIT)
        story.unlearner.train(story.network, story.situation())
        story.network.rewind("round-15")
        stored = story.network.mean()
        story.network.write(session.model.initial(0))
        story.learn()
        story.network.rewind("round-15")
        assert 0 < np.linalg.norm(story.network.mean() - stored) < LIMIT


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({}, {"rewind": None}, r"needs unlearning\.rewind"),
        ({}, {"mixing": "metropolis"}, "not defined where rows differ"),
        ({"local_steps": 2}, {}, "several steps a round"),
        ({"radius": 5.0}, {}, "a projection cannot be undone"),
        ({"lr": 2.0}, {}, "too large to undo a step"),
    ],
)
def test_where_training_cannot_be_undone_it_is_refused(dataset, change, settings, words):
    with open_session(dataset, *model_for(dataset)) as session, pytest.raises(UserError, match=words):
        story_of(session, training=RECIPE.model_copy(update=change), start="walked-back", **settings)


def test_without_a_lipschitz_constant_it_is_refused(dataset):
    training = RECIPE.model_copy(update={"clip": 1.0})
    with (
        open_session(dataset, *model_for(dataset, "softmax", "raw")) as session,
        pytest.raises(UserError, match="not defined without a Lipschitz constant"),
    ):
        story_of(session, training=training, start="walked-back")
