"""The noise of a release: drawn once, in float64, and added last.

The certificate speaks about the sum, so whoever can rebuild the noise sees the vector it hides. ``simulated`` noise is
a function of the run's seed: a run can be repeated bit for bit, and nothing is hidden from anyone who has the settings
file. ``secret`` noise comes from the operating system and exists only while the release is being made.
"""

from __future__ import annotations

import math
import os
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fedunlearn.errors import UserError
from fedunlearn.privacy.certificate import Noise
from fedunlearn.randomness import generator


def gaussian_noise(
    sigma: float, dim: int, noise: Noise, seed: int, release: int, *, node: int = 0
) -> NDArray[np.float64]:
    """Return a fresh vector of N(0, sigma^2) noise for one release.

    Args:
        sigma: standard deviation of each entry, positive.
        dim: number of entries.
        noise: ``simulated`` draws from ``(seed, release, node)`` and gives the same vector for the same three numbers;
            ``secret`` ignores them, uses operating-system entropy for every entry, and never repeats a vector.
        seed: the run's seed.
        release: number of the release in the run; never use one number for two different noise-free vectors.
        node: the node the draw is for, where every node releases its own model with its own draw.

    Returns:
        A float64 array of shape (dim,). The caller must not store it.

    Raises:
        UserError: if sigma is not positive and finite, dim or release is negative, or noise is an unknown word.
    """
    if not (sigma > 0 and math.isfinite(sigma)):
        raise UserError(f"sigma = {sigma} is not allowed: it must be a positive finite number")
    if dim < 0 or release < 0:
        raise UserError(f"dim = {dim} and release = {release} are not allowed: neither may be negative")
    if noise == "simulated":
        return sigma * generator(seed, "release-noise", release, node).standard_normal(dim)
    if noise == "secret":
        return sigma * _system_normals(dim)
    raise UserError(f"privacy.noise = {noise!r} is not allowed: it must be one of {', '.join(get_args(Noise))}")


def publish(vector: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the release: the sum in float64, rounded to float32 once, after the noise.

    Args:
        vector: the noise-free vector, float64, shape (dim,): the very one whose gradient norm met the tolerance.
        noise: float64, shape (dim,).

    Returns:
        A float32 array of shape (dim,).

    Raises:
        ValueError: if an argument is not float64, the shapes differ, or the sum is not finite in float32.
    """
    if vector.dtype != np.float64 or noise.dtype != np.float64:
        raise ValueError(f"a release is computed in float64, not from {vector.dtype} and {noise.dtype}")
    if vector.ndim != 1 or vector.shape != noise.shape:
        raise ValueError(f"vector and noise must be flat and equally long, not {vector.shape} and {noise.shape}")
    with np.errstate(over="ignore"):
        released = (vector + noise).astype(np.float32)
    if not np.isfinite(released).all():
        raise ValueError("the release is not finite in float32")
    return released


def _system_normals(dim: int) -> NDArray[np.float64]:
    """Return standard normals by inversion, one 64-bit word of operating-system entropy each: a sign and 63 bits.

    Inversion from the lower tail keeps full relative precision out to 9.1 standard deviations, and nothing has to be
    remembered between draws, so there is no generator state from which earlier noise could be rebuilt.
    """
    words = np.frombuffer(os.urandom(8 * dim), dtype=np.uint64)
    tail = ((words >> np.uint64(1)).astype(np.float64) + 0.5) * 2.0**-64  # in (0, 1/2]
    return np.where(words & np.uint64(1), -1.0, 1.0) * ndtri(tail)
