"""Feature maps: norms, padding, travel, overlap, the extractor's training, and real FEMNIST."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedunlearn.errors import UserError
from fedunlearn.models import (
    FeatureMap,
    ModelSettings,
    augmentation,
    build_model,
    gradient_sum,
    public_head,
    train_extractor,
    unit_rows,
)
from fedunlearn.models.extractor import build_extractor, fit_head
from fedunlearn.models.features import _directions
from fedunlearn.randomness import generator


def bars(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 8 x 8 images of a bright bar: class = its row or column, 0..3 of each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 8, count)
    images = rng.integers(0, 60, (count, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels):
        place = 2 * (label % 4)
        image[(place, slice(None)) if label < 4 else (slice(None), place)] = 255
    return images, labels


QUICK = ModelSettings(
    features="frozen", extractor="small-cnn", extractor_width=6, extractor_epochs=4, extractor_augment=False
)


@pytest.fixture(scope="module")
def trained() -> FeatureMap:
    images, labels = bars(400, 0)
    return train_extractor(images, labels, np.arange(1000, 1400), QUICK, 8, seed=0)


@settings(deadline=None, max_examples=60)
@given(arrays(np.float64, (4, 5), elements=st.floats(-1e300, 1e300, allow_nan=False)))
def test_rows_never_exceed_norm_one(vectors):
    rows = unit_rows(vectors)
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    assert rows.dtype == np.float32 and (norms <= 1.0).all()
    nonzero = np.abs(vectors).max(axis=1) > 0
    assert (norms[nonzero] > 1.0 - 2e-6).all()
    assert np.allclose(rows[:, -1], np.sqrt(0.5), atol=1e-5)
    assert np.allclose(norms[~nonzero], np.sqrt(0.5), atol=1e-5)


def test_unit_rows_by_hand():
    assert np.allclose(unit_rows(np.array([[3.0, 4.0]])), np.array([[0.6, 0.8, 1.0]]) / np.sqrt(2), atol=2e-6)
    assert unit_rows(np.zeros((0, 3))).shape == (0, 4)
    for bad in (np.nan, np.inf):
        with pytest.raises(UserError, match="not a finite number"):
            unit_rows(np.array([[1.0, bad]]))


def test_raw_and_unit_maps():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    raw = FeatureMap("raw", (4, 5))
    assert raw.output_shape == (4, 5) and raw.apply(images) is images
    assert FeatureMap("raw", (2,)).apply(np.ones((1, 2))).dtype == np.float32
    unit = FeatureMap("unit", (4, 5))
    assert unit.output_shape == (21,)
    rows = unit.apply(images)
    x = images[1].reshape(-1) / 255
    assert np.allclose(rows[1], np.append(x / np.linalg.norm(x), 1.0) / np.sqrt(2), atol=2e-6)
    assert FeatureMap("unit", (2,)).apply(np.ones((1, 2), dtype=np.float32)).shape == (1, 3)
    assert raw.training_rows_sha256 is None and raw.weights_sha256 is None
    raw.refuse_overlap(np.arange(5))


def test_maps_travel_as_json_and_arrays(trained):
    images, _ = bars(5, 1)
    for features in (FeatureMap("raw", (8, 8)), FeatureMap("unit", (8, 8)), trained):
        spec, values = features.to_spec()
        again = FeatureMap.from_spec(json.loads(json.dumps(spec)), {**values, "other": np.zeros(1)})
        assert np.array_equal(again.apply(images), features.apply(images))
        assert again.output_shape == features.output_shape
    spec, values = trained.to_spec()
    for name in values:
        with pytest.raises(UserError, match="content hash"):
            FeatureMap.from_spec(spec, {**values, name: values[name] + 1})


def test_frozen_features_by_hand():
    # A linear extractor of two outputs on two inputs with weights 2 I and no bias: h = 2 x, h/||h|| = x/||x||.
    extractor = build_extractor(ModelSettings(extractor="softmax", extractor_width=2), (2,))
    weights = np.array([2, 0, 0, 2, 0, 0], dtype=np.float32)
    spread = np.array([[1.0, 0.0, 0.2], [0.0, 5.0, 0.0]])
    made = FeatureMap("frozen", (2,), extractor, weights, spread, np.arange(3))
    f = np.array([0.6 + 0.2, 5 * 0.8])
    expected = np.append(f / np.linalg.norm(f), 1.0) / np.sqrt(2)
    assert np.allclose(made.apply(np.array([[3.0, 4.0]], dtype=np.float32)), expected, atol=2e-6)


def test_public_features_are_centred_and_spread(trained):
    images, _ = bars(400, 0)
    directions = _directions(trained.extractor, trained.weights, images)
    f = directions @ trained.spread[:, :-1].T + trained.spread[:, -1]
    assert np.allclose(f.mean(0), 0.0, atol=1e-9)
    before, after = (np.linalg.eigvalsh(np.cov(v.T, bias=True)) for v in (directions, f))
    assert np.allclose(after, before / np.sqrt(before + 1e-4))


def test_frozen_rows_have_norm_at_most_one_and_do_not_depend_on_their_batch(trained):
    images, _ = bars(150, 2)
    rows = trained.apply(images)
    assert rows.shape == (150, 7) == (150, *trained.output_shape)
    assert (np.linalg.norm(rows.astype(np.float64), axis=1) <= 1.0).all()
    assert np.array_equal(rows[128:150], trained.apply(images[128:150]))
    assert np.allclose(rows[3:70], trained.apply(images[3:70]), atol=1e-6)


def test_training_is_a_function_of_its_arguments_and_blind_to_global_state(trained):
    images, labels = bars(400, 0)
    torch.manual_seed(5)
    seen = []
    again = train_extractor(images, labels, np.arange(1000, 1400), QUICK, 8, seed=0, progress=lambda *a: seen.append(a))
    assert np.array_equal(again.weights, trained.weights)
    assert seen == [("extractor", i, 4) for i in (1, 2, 3, 4)]
    other = train_extractor(images, labels, np.arange(1000, 1400), QUICK, 8, seed=1)
    assert not np.array_equal(other.weights, trained.weights)


def test_features_of_the_extractor_are_good_for_a_linear_head(trained):
    images, labels = bars(400, 0)
    head = public_head(trained, images, labels, 8, 1e-4)
    fresh, truth = bars(200, 3)
    predicted = (trained.apply(fresh) @ head.reshape(8, -1).T).argmax(1)
    assert (predicted == truth).mean() > 0.95
    with pytest.raises(ValueError, match="unit"):
        public_head(FeatureMap("raw", (8, 8)), images, labels, 8, 1e-4)


def test_fitted_head_meets_the_optimality_condition():
    rng = np.random.default_rng(0)
    rows, labels = unit_rows(rng.normal(size=(60, 4))), rng.integers(0, 3, 60)
    head = torch.from_numpy(fit_head(rows, labels, 3, 1e-2))
    model = build_model(ModelSettings(features="unit"), 3, (5,))
    gradient = gradient_sum(model, head, torch.from_numpy(rows), torch.from_numpy(labels)) / 60 + 1e-2 * head
    assert float(gradient.norm()) < 1e-7


def test_overlap_with_clients_is_refused(trained):
    trained.refuse_overlap(np.array([0, 999, 1400]))
    with pytest.raises(UserError, match=r"2 of its training samples \(row 1001 first\) belong to clients"):
        trained.refuse_overlap(np.array([5, 1003, 1001]))


def test_training_rows_are_hashed_in_order_of_number():
    images, labels = bars(32, 0)
    quick = QUICK.model_copy(update={"extractor_epochs": 1})
    made = train_extractor(images, labels, np.arange(32)[::-1], quick, 8, seed=0)
    assert np.array_equal(made.training_rows, np.arange(32))
    again = FeatureMap("frozen", (8, 8), made.extractor, made.weights, made.spread, np.arange(32))
    assert made.training_rows_sha256 == again.training_rows_sha256


def test_an_extractor_for_tables_and_other_networks():
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(64, 5)).astype(np.float32), rng.integers(0, 2, 64)
    for name in ("mlp", "softmax"):
        quick = ModelSettings(features="frozen", extractor=name, extractor_width=3, extractor_epochs=1)
        made = train_extractor(rows, labels, np.arange(64), quick, 2, seed=0)
        assert made.apply(rows).shape == (64, 4)


@pytest.mark.parametrize(
    ("change", "count", "message"),
    [
        ({}, 0, "needs public clients to train the extractor on"),
        ({}, 20, r"model\.extractor_batch = 32 is more than the 20 public training samples"),
        ({"extractor_lr": 1e30}, 64, r"model\.extractor_lr = 1e\+30 made the training of the extractor diverge"),
        ({"extractor": "no_such:Net"}, 64, r"model\.extractor = 'no_such:Net' cannot be imported"),
    ],
)
def test_what_cannot_be_trained_gets_one_sentence(change, count, message):
    images, labels = bars(count, 0)
    with pytest.raises(UserError, match=message):
        train_extractor(images, labels, np.arange(count), QUICK.model_copy(update=change), 8, seed=0)


def test_images_are_needed_by_a_convolutional_extractor():
    rows, labels = np.zeros((64, 5), dtype=np.float32), np.zeros(64, dtype=np.int64)
    with pytest.raises(UserError, match=r"model\.extractor = 'small-cnn' takes images"):
        train_extractor(rows, labels, np.arange(64), QUICK, 2, seed=0)


def test_distortions():
    images = torch.rand((3, 2, 8, 10), generator=torch.Generator().manual_seed(0))
    still = augmentation.distort(images, torch.zeros((3, augmentation.NUM_DRAWS)))
    torch.testing.assert_close(still, images, atol=1e-5, rtol=0)
    right = torch.zeros((1, augmentation.NUM_DRAWS))
    right[0, 4] = 0.25 / augmentation.SHIFT  # a quarter of half the side: one pixel of eight
    square = images[:1, :, :, :8]
    moved = augmentation.distort(square, right)
    torch.testing.assert_close(moved[..., :-1], square[..., 1:], atol=1e-5, rtol=0)
    assert not moved[..., -1].abs().max() > 1e-5
    draws = augmentation.draw(generator(0, "test"), 4)
    assert draws.shape == (4, augmentation.NUM_DRAWS) and draws.dtype == np.float32
    assert np.array_equal(draws, augmentation.draw(generator(0, "test"), 4))


@pytest.mark.femnist
def test_extractor_of_nineteen_public_writers_serves_forty_others(femnist_npz):
    data = np.load(femnist_npz, allow_pickle=False)
    images, labels, writers = data["images"], data["labels"].astype(np.int64), data["writers"]
    public = np.flatnonzero((writers >= 340) & (writers <= 358) & (data["split"] == 0))
    clients, tests = (np.flatnonzero((writers < 40) & (data["split"] == split)) for split in (0, 1))
    quick = ModelSettings(features="frozen", extractor="small-cnn", extractor_epochs=4, extractor_lr=0.1)
    features = train_extractor(images[public], labels[public], public, quick, 62, seed=0)
    features.refuse_overlap(clients)
    rows = features.apply(images[clients])
    assert rows.shape == (len(clients), 65)
    assert (np.linalg.norm(rows.astype(np.float64), axis=1) <= 1.0).all()
    alone = public_head(features, images[public], labels[public], 62, 1e-5)
    trained = fit_head(rows, labels[clients], 62, 1e-5, max_iterations=100)
    unseen = features.apply(images[tests])
    accuracy = [float(((unseen @ h.reshape(62, -1).T).argmax(1) == labels[tests]).mean()) for h in (alone, trained)]
    assert accuracy[0] > 0.7 and accuracy[1] > max(0.8, accuracy[0] + 0.02), accuracy
