"""Release noise: its law, its repeatability where promised, its freshness where promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kstest

from fedunlearn.errors import UserError
from fedunlearn.privacy.noise import gaussian_noise, publish


@pytest.mark.parametrize("noise", ["simulated", "secret"])
def test_law(noise: str) -> None:
    draw = gaussian_noise(0.25, 200_000, noise, seed=3, release=1)
    assert draw.dtype == np.float64 and draw.shape == (200_000,)
    assert kstest(draw / 0.25, "norm").pvalue > 1e-6
    assert abs(draw.std() / 0.25 - 1) < 0.02
    assert abs(np.corrcoef(draw[:-1], draw[1:])[0, 1]) < 0.02


def test_simulated_is_a_function_of_seed_release_and_node() -> None:
    draw = gaussian_noise(1, 50, "simulated", 7, 2)
    assert np.array_equal(draw, gaussian_noise(1, 50, "simulated", 7, 2))
    assert np.array_equal(2 * draw, gaussian_noise(2, 50, "simulated", 7, 2))
    for other in ((8, 2, 0), (7, 3, 0), (7, 2, 1)):
        assert not np.isclose(draw, gaussian_noise(1, 50, "simulated", other[0], other[1], node=other[2])).any()


def test_simulated_draws_are_independent_over_releases() -> None:
    draws = np.stack([gaussian_noise(1, 4000, "simulated", 0, release) for release in range(5)])
    off_diagonal = np.corrcoef(draws)[~np.eye(5, dtype=bool)]
    assert np.abs(off_diagonal).max() < 0.08


def test_secret_never_repeats() -> None:
    assert not np.isclose(gaussian_noise(1, 50, "secret", 7, 2), gaussian_noise(1, 50, "secret", 7, 2)).any()


def test_secret_reaches_the_ends_of_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.array([0, 1, 2**64 - 2, 2**64 - 1], dtype=np.uint64)
    monkeypatch.setattr("fedunlearn.privacy.noise.os.urandom", lambda count: words.tobytes())
    low, high, centre, other_centre = gaussian_noise(1, 4, "secret", 0, 0)
    assert low == -high and 9 < high < 9.3
    assert abs(centre) < 1e-15 and abs(other_centre) < 1e-15


def test_empty() -> None:
    assert gaussian_noise(1, 0, "secret", 0, 0).shape == (0,)


def test_publish_adds_in_float64_and_rounds_once() -> None:
    vector = np.array([1.0, 1 + 2.0**-30])
    noise = np.array([2.0**-25, 2.0**-25])
    released = publish(vector, noise)
    assert released.dtype == np.float32
    assert released.tolist() == [np.float32(v + n) for v, n in zip(vector, noise)]


def test_publish_refuses() -> None:
    vector = np.zeros(3)
    with pytest.raises(ValueError, match="float64"):
        publish(vector.astype(np.float32), vector)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="equally long"):
        publish(vector, np.zeros(4))
    with pytest.raises(ValueError, match="not finite"):
        publish(np.array([1e300, 0, 0]), vector)
    with pytest.raises(ValueError, match="not finite"):
        publish(np.array([math.nan, 0, 0]), vector)


def test_bad_arguments() -> None:
    for sigma in (0, -1, math.inf, math.nan):
        with pytest.raises(UserError, match="sigma = "):
            gaussian_noise(sigma, 3, "simulated", 0, 0)
    with pytest.raises(UserError, match="neither may be negative"):
        gaussian_noise(1, 3, "simulated", 0, -1)
    with pytest.raises(UserError, match=r"privacy.noise = 'none'.*simulated, secret"):
        gaussian_noise(1, 3, "none", 0, 0)  # type: ignore[arg-type]
