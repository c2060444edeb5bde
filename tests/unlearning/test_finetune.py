"""Fine-tuning is training that goes on: the same rounds, numbered on, on what is left."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.network import train
from tests.worlds import Story, TrainingSettings, all_rows, model_for, open_session, request_for, table_data

RECIPE = TrainingSettings(rounds=4, batch=5, lr=0.3, l2=0.01, final_rounds=2)
CLIENT = {"level": "client", "client": 2}


@pytest.mark.parametrize("lr", [None, 0.05])
def test_it_is_training_with_the_rounds_numbered_on(lr):
    dataset = table_data()
    requests = [request_for(dataset, 0, **CLIENT), request_for(dataset, 1, level="sample", client=1, count=2)]
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "finetune", RECIPE, rounds=3, lr=lr)
        story.learn()
        by_hand = Story(session, "finetune", RECIPE, population="by-hand")
        by_hand.learn()
        for first, request in zip((4, 7), requests):
            outcome = story.answer(request)
            by_hand.forget(request)
            longer = RECIPE.model_copy(update={"rounds": 99, "final_rounds": 0, "lr": lr or RECIPE.lr})
            train(by_hand.network, longer, first=first, last=first + 3)
            assert np.array_equal(all_rows(story.network), all_rows(by_hand.network))
            assert outcome.certificate is None and outcome.certificate_reason.startswith("none: ")
            assert outcome.release is None and outcome.noise_free is None


def test_no_momentum_survives_from_before_the_deletion():
    """A momentum is a sum of gradients, deleted samples' among them; the network forgets it with the samples."""
    dataset = table_data()
    recipe = RECIPE.model_copy(update={"momentum": 0.9})
    rows = []
    for stale in (0.0, 7.0):
        with open_session(dataset, *model_for(dataset), hosts=2) as session:
            story = Story(session, "finetune", recipe)
            story.learn()
            for host in session.transport._hosts:
                assert np.abs(host.store["momentum.main"]).max() > 0
                host.store["momentum.main"][...] += stale
            story.answer(request_for(dataset, **CLIENT))
            rows.append(all_rows(story.network))
    assert np.array_equal(*rows)
