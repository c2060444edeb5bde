"""Retraining: the answer is, bit for bit, a network that never saw the deleted data."""

from __future__ import annotations

import numpy as np
import pytest

from tests.worlds import (
    Story,
    TrainingSettings,
    all_rows,
    image_data,
    model_for,
    open_session,
    request_for,
    table_data,
)

REQUESTS = {
    "sample": {"level": "sample", "client": 1, "count": 3},
    "class": {"level": "class", "label": 1},
    "client": {"level": "client", "client": 2},
}
RECIPES = {
    "dsgd": TrainingSettings(rounds=3, batch=5, lr=0.3, momentum=0.5, l2=0.01),
    "fedavg": TrainingSettings(rounds=3, batch=5, lr=0.3, algorithm="fedavg", client_fraction=0.6, weighting="samples"),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("level", REQUESTS)
def test_the_answer_is_the_retrained_twin_bit_for_bit(level, recipe):
    dataset = table_data()
    with open_session(dataset, *model_for(dataset), hosts=2) as session:
        story = Story(session, "retrain", RECIPES[recipe])
        story.learn()
        original = all_rows(story.network)
        outcome = story.answer(request_for(dataset, **REQUESTS[level]))
        twin, ending = story.twin()
        rows = all_rows(story.network)
        assert np.array_equal(rows, all_rows(twin))
        assert not np.array_equal(rows[0], original[0])
    assert outcome.certificate is None and outcome.release is None and outcome.noise_free is None
    assert "(0, 0) in every scope and view" in outcome.certificate_reason
    assert ending.release is None and not story.persisted


def test_a_network_of_perceptrons_starts_again_from_the_public_start():
    dataset = image_data(clients=4, side=5)
    with open_session(dataset, *model_for(dataset, "mlp", "raw")) as session:
        story = Story(session, "retrain", RECIPES["dsgd"])
        story.learn()
        story.answer(request_for(dataset, **REQUESTS["client"]))
        assert np.array_equal(all_rows(story.network), all_rows(story.twin()[0]))


def test_what_a_deleted_client_held_does_not_matter():
    """Worlds that differ in nothing but the deleted client's records give the same answer: (0, 0)."""
    rows = []
    for seed in (0, 1):
        dataset = table_data(seed=3)
        mine = dataset.train_rows(2)
        rng = np.random.default_rng(seed)
        dataset.inputs[mine] = rng.normal(size=dataset.inputs[mine].shape)
        dataset.labels[mine] = rng.integers(0, 3, len(mine))
        with open_session(dataset, *model_for(dataset)) as session:
            story = Story(session, "retrain", RECIPES["dsgd"])
            story.learn()
            story.answer(request_for(dataset, **REQUESTS["client"]))
            rows.append(all_rows(story.network))
    assert np.array_equal(*rows)
