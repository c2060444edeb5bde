"""Accuracy and losses against a plain numpy softmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedunlearn.evaluation import accuracy_and_loss, losses, probabilities
from fedunlearn.evaluation.utility import SLICE
from fedunlearn.models import ModelSettings, build_model
from fedunlearn.randomness import generator


class Linear:
    """Softmax regression without bias on rows of p numbers, as small as a model can be."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def prepare(self, inputs):
        return torch.from_numpy(np.asarray(inputs, dtype=np.float32))

    def logits(self, theta, x):
        return x @ theta.view(self.classes, -1).T


def by_hand(theta, x, classes):
    z = (x.astype(np.float32) @ theta.astype(np.float32).reshape(classes, -1).T).astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


@pytest.fixture
def task():
    draw = generator(1, "test-utility")
    n, p, classes = 2 * SLICE + 37, 5, 4
    return draw.normal(size=classes * p), draw.normal(size=(n, p)), draw.integers(0, classes, n), Linear(classes)


def test_accuracy_and_loss_are_those_of_a_plain_softmax(task):
    theta, x, y, model = task
    p = by_hand(theta, x, 4)
    accuracy, loss = accuracy_and_loss(model, theta, x, y)
    assert accuracy == (p.argmax(1) == y).mean()
    assert loss == pytest.approx(-np.log(p[np.arange(len(y)), y]).mean(), rel=1e-5)


def test_losses_and_probabilities_come_in_the_order_of_the_samples(task):
    theta, x, y, model = task
    p = by_hand(theta, x, 4)
    np.testing.assert_allclose(probabilities(model, theta, x), p, atol=1e-6)
    np.testing.assert_allclose(losses(model, theta, x, y), -np.log(p[np.arange(len(y)), y]), atol=1e-5)


def test_slices_do_not_change_the_result(task):
    theta, x, y, model = task
    whole = losses(model, theta, x, y)
    parts = np.concatenate([losses(model, theta, x[k : k + 1], y[k : k + 1]) for k in range(len(y))])
    np.testing.assert_allclose(whole, parts, atol=1e-6)


def test_the_smallest_class_wins_a_tie():
    assert accuracy_and_loss(Linear(3), np.zeros(6), np.ones((2, 2)), np.array([0, 2]))[0] == 0.5


def test_well_fitted_samples_keep_losses_that_differ():
    found = losses(Linear(2), np.array([1.0, 0.0]), np.array([[20.0], [25.0], [30.0]]), np.zeros(3, dtype=np.int64))
    assert found[0] > found[1] > found[2] > 0  # in float32, log(1 + exp(-20)) is already zero
    np.testing.assert_allclose(found, np.log1p(np.exp([-20.0, -25.0, -30.0])), rtol=1e-6, atol=1e-15)


def test_arguments_are_left_alone(task):
    theta, x, y, model = task
    for array in (theta, x, y):
        array.flags.writeable = False
    accuracy_and_loss(model, theta, x, y)


def test_a_real_model_on_images_agrees_with_its_torch_module():
    model = build_model(ModelSettings(name="small-cnn", features="raw"), 5, (12, 12))
    draw = generator(2, "test-utility")
    images, labels = draw.integers(0, 256, (20, 12, 12), dtype=np.uint8), draw.integers(0, 5, 20)
    theta = model.initial(seed=3)
    module = model.load(model.module(), theta)
    with torch.no_grad():
        p = module(torch.from_numpy(images).float().unsqueeze(1) / 255).softmax(1).numpy()
    np.testing.assert_allclose(probabilities(model, theta, images), p, atol=1e-6)
    assert accuracy_and_loss(model, theta, images, labels)[0] == (p.argmax(1) == labels).mean()


def test_an_empty_or_unequal_set_is_refused():
    model = Linear(2)
    with pytest.raises(ValueError, match="without samples"):
        accuracy_and_loss(model, np.zeros(2), np.zeros((0, 1)), np.zeros(0, dtype=np.int64))
    with pytest.raises(ValueError, match="3 samples have 2 labels"):
        losses(model, np.zeros(2), np.zeros((3, 1)), np.zeros(2, dtype=np.int64))


def test_a_model_that_diverged_shows_it():
    accuracy, loss = accuracy_and_loss(Linear(2), np.full(2, np.nan), np.ones((4, 1)), np.zeros(4, dtype=np.int64))
    assert np.isnan(loss) and 0 <= accuracy <= 1
