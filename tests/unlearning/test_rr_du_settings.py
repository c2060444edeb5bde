"""Settings of the restart walk: the levels each accounting is defined for, and what is refused before training."""

from __future__ import annotations

import pytest

from fedunlearn.errors import UserError
from fedunlearn.unlearning.certified.rr_du_settings import RestartWalkSettings, defined_levels
from tests.worlds import Story, TrainingSettings, model_for, open_session, request_for, table_data

TRAINING = TrainingSettings(rounds=2, batch=8, lr=0.5, l2=0.05)


@pytest.fixture(scope="module")
def dataset():
    return table_data(clients=5, classes=3, inputs=4, seed=6, sizes=(10, 20))


@pytest.mark.parametrize(
    ("accounting", "alignment", "levels"),
    [
        ("retrain", "exact", ("sample", "class", "client")),
        ("conservative", "exact", ("sample", "client")),
        ("paper", "exact", ("sample", "client")),
        ("paper", "lightweight", ("sample",)),
    ],
)
def test_levels_follow_from_accounting_and_alignment(accounting, alignment, levels):
    assert defined_levels(RestartWalkSettings(accounting=accounting, alignment=alignment)) == levels


@pytest.mark.parametrize(
    ("request_", "settings", "words"),
    [
        ({"level": "class", "label": 1}, {"accounting": "paper"}, r"requests\.0\.level = 'class' is not defined"),
        ({"level": "sample", "client": 1, "count": 2}, {"lr": 30.0}, r"unlearning\.lr = 30 .*lr l2 <= 1"),
        ({"level": "sample", "client": 1, "count": 2}, {"trust_radius": 1.0}, "tells two worlds apart"),
        ({"level": "sample", "client": 1, "count": 2}, {"optimiser": "adam"}, "the clip does not bound its steps"),
    ],
)
def test_what_no_theorem_covers_is_refused_in_one_sentence(dataset, request_, settings, words):
    request = request_for(dataset, **request_)
    with open_session(dataset, *model_for(dataset)) as session, pytest.raises(UserError, match=words):
        Story(session, "rr-du", TRAINING, requests=[request], **settings)
