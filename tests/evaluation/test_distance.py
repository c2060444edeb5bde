"""Distances against numpy on small cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.evaluation import parameter_distances, prediction_distances, total_variation
from fedunlearn.randomness import generator


class OneNumber:
    """A model of two classes whose only parameter is the logit of the second, times the input."""

    def prepare(self, inputs):
        return torch.from_numpy(np.asarray(inputs, dtype=np.float32)).reshape(-1, 1)

    def logits(self, theta, x):
        return torch.cat([torch.zeros_like(x), x * theta], dim=1)


def test_parameter_distances_are_euclidean():
    rows = generator(1, "test-distance").normal(size=(7, 30)).astype(np.float32)
    np.testing.assert_allclose(parameter_distances(rows, rows[2]), np.linalg.norm(rows - rows[2], axis=1), rtol=1e-6)
    assert parameter_distances(rows, rows[2])[2] == 0.0


def test_parameter_distances_do_not_overflow_or_vanish_in_float32():
    rows = np.array([[1e30, 0.0], [1e-30, 0.0]], dtype=np.float32)  # their squares leave the range of float32
    np.testing.assert_allclose(parameter_distances(rows, np.zeros(2)), [1e30, 1e-30], rtol=1e-6)


def test_shapes_must_fit():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(4,\)"):
        parameter_distances(np.zeros((2, 3)), np.zeros(4))


def test_prediction_distance_of_two_coins():
    x = np.array([1.0, 2.0])
    found = prediction_distances(OneNumber(), np.array([[0.0], [3.0]]), np.array([0.0]), x)
    heads = 1 / (1 + np.exp(-3.0 * x))
    np.testing.assert_allclose(found, [0.0, np.abs(heads - 0.5).mean()], atol=1e-7)


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_total_variation_is_a_distance_and_the_largest_gap_of_an_event(seed, classes):
    p, q, r = generator(seed, "test-distance").dirichlet(np.ones(classes), size=3)
    events = [[bool(k >> c & 1) for c in range(classes)] for k in range(2**classes)]
    assert total_variation(p, q) == pytest.approx(max(abs(p[e].sum() - q[e].sum()) for e in events), abs=1e-12)
    assert total_variation(p, r) <= total_variation(p, q) + total_variation(q, r) + 1e-12
    assert 0 <= total_variation(p, q) == total_variation(q, p) <= 1
