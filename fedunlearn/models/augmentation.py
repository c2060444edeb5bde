"""Random distortions of images, for training a feature extractor on few public writers."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SHIFT = 2.0 / 14.0
"""Largest translation, as a share of half the image's side (2 pixels of 28)."""
ROTATION = math.radians(12.0)
SHEAR = 0.15
SCALE = 0.12
"""Largest relative change of size, separately along both axes."""
ELASTIC = 0.06
"""Standard deviation of the elastic displacement at the knots, as a share of half the side."""
KNOTS = 5
"""Knots along each side of the displacement field; between them it is interpolated smoothly."""
NUM_DRAWS = 6 + 2 * KNOTS * KNOTS


def draw(generator: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Return the numbers of ``count`` distortions, (count, NUM_DRAWS) float32: six uniform on [-1, 1], then knots."""
    affine = generator.uniform(-1.0, 1.0, size=(count, 6))
    knots = generator.normal(size=(count, NUM_DRAWS - 6))
    return np.concatenate([affine, knots], axis=1).astype(np.float32)


def distort(images: Tensor, draws: Tensor) -> Tensor:
    """Return images (b, channels, height, width) turned, sheared, scaled, shifted and bent; ``draws`` (b, NUM_DRAWS).

    An affine map and an elastic displacement (Simard, Steinkraus, Platt 2003) with bilinear sampling; what comes from
    outside the image is zero. All-zero draws give the image back.
    """
    turn, shear, wide, high, right, down = draws[:, :6].unbind(1)
    cos, sin = (ROTATION * turn).cos(), (ROTATION * turn).sin()
    x_scale, y_scale = 1.0 + SCALE * wide, 1.0 + SCALE * high
    first = torch.stack([cos * x_scale, SHEAR * shear - sin * y_scale, SHIFT * right], dim=1)
    second = torch.stack([sin * x_scale, cos * y_scale, SHIFT * down], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    knots = ELASTIC * draws[:, 6:].reshape(-1, 2, KNOTS, KNOTS)
    bend = F.interpolate(knots, size=images.shape[2:], mode="bicubic", align_corners=True)
    return F.grid_sample(images, grid + bend.permute(0, 2, 3, 1), align_corners=False)
