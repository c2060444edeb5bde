"""The thinned Hessian: the plain one where nothing is left out, and positive semidefinite whatever is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.models.softmax import hessian
from fedunlearn.models.thin_hessian import thin_hessian

CLASSES, INPUTS = 5, 4


def problem(seed: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(scale * rng.normal(size=CLASSES * INPUTS)), torch.from_numpy(rng.normal(size=(60, INPUTS)))


def test_without_a_floor_it_is_the_mean_hessian():
    theta, x = problem(0, 1.0)
    exact = hessian(theta, x, CLASSES) / len(x)
    assert torch.allclose(thin_hessian(theta, x, CLASSES, floor=0.0).double(), exact, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0.1, 10.0), st.sampled_from([1e-4, 1e-2, 0.1, 0.3]))
def test_it_stays_positive_semidefinite_and_near(seed, scale, floor):
    theta, x = problem(seed, scale)
    thin, exact = thin_hessian(theta, x, CLASSES, floor=floor).double(), hessian(theta, x, CLASSES) / len(x)
    assert torch.allclose(thin, thin.T, rtol=0, atol=1e-6 * float(thin.diagonal().max()))
    assert float(torch.linalg.eigvalsh(thin).min()) > -1e-5 * float(thin.diagonal().max())
    assert torch.allclose(thin.diagonal(), exact.diagonal(), rtol=1e-4, atol=1e-6)
    allowed = floor * (x.abs()[:, :, None] * x.abs()[:, None, :]).mean(0).max() + 1e-6
    assert float((thin - exact).abs().max()) <= float(allowed)


def test_a_high_floor_leaves_the_diagonal_blocks():
    theta, x = problem(1, 1.0)
    thin = thin_hessian(theta, x, CLASSES, floor=1.0).reshape(CLASSES, INPUTS, CLASSES, INPUTS)
    for k in range(CLASSES):
        for other in range(CLASSES):
            assert bool(thin[k, :, other].any()) == (k == other)
    assert thin[0, 0, 0, 0] == pytest.approx(float(hessian(theta, x, CLASSES)[0, 0]) / len(x), rel=1e-4)
