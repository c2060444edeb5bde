"""What a run prepares from public data: the extractor is trained once and found again under its content."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedunlearn.data import load_dataset
from fedunlearn.models import FeatureMap
from fedunlearn.simulation import public
from fedunlearn.simulation.public import prepare_features
from tests.small_runs import experiment

BASE: dict[str, Any] = {
    "data": {"clients": 6, "train_clients": "0-3", "public_clients": "4-5"},
    "model": {"name": "softmax", "features": "frozen", "extractor": "mlp", "hidden": [8], "extractor_width": 6,
              "extractor_epochs": 1, "extractor_batch": 16, "extractor_augment": False},
    "runtime": {"cache": True},
}  # fmt: skip


def silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


def prepared(**changes: Any) -> FeatureMap:
    """Return the features of the small experiment with frozen features."""
    table = {
        key: {**BASE.get(key, {}), **value} if isinstance(value, dict) else value for key, value in changes.items()
    }
    made = experiment(**{**BASE, **table})
    return prepare_features(made, load_dataset(made.data), silent)[0]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every training of an extractor."""
    genuine, counted = public.train_extractor, []

    def counting(*args: Any, **kwargs: Any) -> FeatureMap:
        counted.append(len(counted))
        return genuine(*args, **kwargs)

    monkeypatch.setattr(public, "train_extractor", counting)
    return counted


def test_an_extractor_is_trained_once_and_found_again_bit_for_bit(trainings: list[int]) -> None:
    first, again = prepared(), prepared(training={"lr": 1.0}, requests=[])
    assert len(trainings) == 1
    assert (first.weights_sha256, first.training_rows_sha256) == (again.weights_sha256, again.training_rows_sha256)
    images = np.random.default_rng(0).integers(0, 256, (5, *first.input_shape)).astype(np.uint8)
    np.testing.assert_array_equal(first.apply(images), again.apply(images))


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"extractor_width": 7}}, {"model": {"extractor_lr": 0.01}}, {"model": {"hidden": [9]}}, {"seed": 4},
        {"data": {"seed": 1}}, {"data": {"train_clients": "0-2", "public_clients": "3-5"}},
    ],
    ids=str,
)  # fmt: skip
def test_what_an_extractor_depends_on_is_in_its_key(change: dict[str, Any], trainings: list[int]) -> None:
    prepared()
    prepared(**change)
    assert len(trainings) == 2


def test_without_a_cache_nothing_is_kept_or_found(trainings: list[int]) -> None:
    prepared(runtime={"cache": False})
    prepared()
    prepared(runtime={"cache": False})
    assert len(trainings) == 3
