"""The end of a walk: a token is rounded to float32 as it is, and a walk that diverged is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.unlearning.certified.walk_release import rounded


def test_a_token_is_rounded_to_the_nearest_float32() -> None:
    token = np.array([0.1, -1 / 3, 0.0, 16777217.0])
    released = rounded(token, lr=0.5)
    assert released.dtype == np.float32
    for exact, near in zip(token, released):
        below, above = np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))
        assert abs(exact - float(near)) <= min(abs(exact - float(below)), abs(exact - float(above)))


@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf, 1e39])
def test_a_walk_that_diverged_names_its_rate(entry: float) -> None:
    with pytest.raises(UserError, match=r"unlearning\.lr = 0\.5 makes the walk diverge"):
        rounded(np.array([0.0, entry]), lr=0.5)
