"""What rewinding knows of a recipe before it runs: constants of the loss, steps, rates, roundings, deleted shares."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.network.schedule import learning_rate, slot_batches
from fedunlearn.unlearning.certified.rewind_recipe import (
    all_ids,
    constants_of,
    deleted_shares,
    rates_of,
    roundings_of,
    steps_of,
    takes_equal_steps,
)
from tests.worlds import TrainingSettings, image_data, model_for, open_session, request_for, ring_network, table_data

RECIPE = TrainingSettings(rounds=40, batch=64, lr=1.0, l2=0.1, schedule="holes")
MINIBATCH = RECIPE.model_copy(update={"batch": 5, "local_steps": 2})


@pytest.fixture(scope="module")
def dataset():
    return table_data(clients=5, classes=3, inputs=4, seed=6, sizes=(10, 20))


def test_the_deleted_shares_are_those_of_the_batches_that_ran(dataset):
    request = request_for(dataset, level="class", label=1)
    with open_session(dataset, *model_for(dataset)) as session:
        network = ring_network(session)
        found = deleted_shares(network, MINIBATCH, request.sample_ids)
        full = deleted_shares(network, RECIPE, request.sample_ids)
    assert found.shape == (5, 80) and full.shape == (5, 40)
    for node in range(5):
        ids = dataset.train_rows(node)
        gone = np.isin(ids, request.sample_ids)
        assert np.allclose(full[node], gone.mean())
        for round_ in (0, 7, 39):
            slots = slot_batches(0, node, ids, np.ones(len(ids), bool), MINIBATCH, round_)
            expected = [gone[batch].mean() for batch, _ in slots]
            assert found[node, 2 * round_ : 2 * round_ + 2] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("features", "change", "row", "gradient", "smoothness"),
    [
        ("unit", {}, "strongly-convex", math.sqrt(2), 0.5),
        ("unit", {"l2": 0.0}, "convex", math.sqrt(2), 0.5),
        ("unit", {"clip": 2.0}, "strongly-convex", math.sqrt(2), 0.5),  # a clip that never acts
        ("unit", {"clip": 0.3}, "smooth", 0.3, 0.5),
        ("raw", {"clip": 0.3}, "clipped", 0.3, None),
    ],
)
def test_the_constants_are_those_that_the_settings_enforce(dataset, features, change, row, gradient, smoothness):
    model, mapping = model_for(dataset, features=features)
    found = constants_of(model, RECIPE.model_copy(update=change), mapping.kind)
    assert (found.row, found.smoothness) == (row, smoothness) and found.gradient == pytest.approx(gradient)
    assert found.gradient_by == ("clipping" if found.gradient < 1 else "softmax")


def test_without_a_clip_raw_rows_have_no_constants(dataset):
    model, mapping = model_for(dataset, features="raw")
    with pytest.raises(UserError, match=r"training\.clip is not set"):
        constants_of(model, RECIPE, mapping.kind)


def test_every_step_has_the_rate_of_its_round():
    training = MINIBATCH.model_copy(update={"rounds": 6, "final_rounds": 2, "final_factor": 0.1})
    rates = rates_of(training)
    assert len(rates) == steps_of(training) == 12
    assert rates == [learning_rate(training, t // 2) for t in range(12)] and rates[0] == 1.0 and rates[-1] == 0.1


def test_clients_take_equally_many_steps_by_full_batches_or_counted_steps():
    assert takes_equal_steps(RECIPE, 64) and not takes_equal_steps(RECIPE, 65) and takes_equal_steps(MINIBATCH, 10**6)


def test_roundings_grow_with_the_widest_row_of_the_matrix_and_without_float64(dataset):
    clipped = RECIPE.model_copy(update={"radius": 3.0})
    with open_session(dataset, *model_for(dataset)) as session:
        ring = ring_network(session)
        widest = max(np.count_nonzero(row) for row in ring.weights.toarray())
        assert roundings_of(ring, RECIPE) == 1 + widest + 2
        assert roundings_of(ring_network(session, "mean", "exact-average"), RECIPE) == 3
        assert sorted(all_ids(ring)) == sorted(np.concatenate([dataset.train_rows(c) for c in range(5)]))
    images = image_data(clients=5)
    with open_session(images, *model_for(images, "mlp", "raw")) as session:  # steps in float32
        ring = ring_network(session)
        assert roundings_of(ring, clipped) == roundings_of(ring, RECIPE) + 4 == 12 + widest + 2
