"""The worlds on which walks are audited, on a walk that can be computed by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedunlearn.unlearning.certified.walk_games import natural, tight

SIGMA = 0.25


class Halving:
    """A walk that halves the token and adds noise; it remembers how often it was asked to."""

    def __init__(self) -> None:
        self.noisy_calls: list[int] = []

    def __call__(self, tokens: np.ndarray, start: np.ndarray, seed: int, *, noisy: bool) -> np.ndarray:
        if not noisy:
            return tokens / 2
        self.noisy_calls.append(seed)
        return tokens / 2 + np.random.default_rng(seed).normal(0, SIGMA, tokens.shape)


@pytest.fixture
def game() -> tuple[Any, Halving, list[int]]:
    """Return the natural game of two starts that are 5 apart along (3, 4, 0), the walk, and how often was cleaned."""
    walk, cleaned = Halving(), []
    starts = [np.array([3.0, 4.0, 0.0]), np.zeros(3)]
    facts: Any = SimpleNamespace(start_radius=7.0, start_projected=True)
    return natural(facts, starts, walk, lambda: cleaned.append(1)), walk, cleaned


def test_the_natural_game_has_the_distance_of_the_starts_and_the_balls_bound(
    game: tuple[Any, Halving, list[int]],
) -> None:
    made, walk, cleaned = game
    assert (made.distance, made.sensitivity) == (5.0, 14.0)
    assert not walk.noisy_calls
    assert len(cleaned) == 1


def test_draws_are_projections_of_fresh_walks_from_the_world_s_start(game: tuple[Any, Halving, list[int]]) -> None:
    made, walk, cleaned = game
    seen = [made.draw(world, 4000, 3) for world in (0, 1)]
    assert [part.shape for part in seen] == [(4000, 2), (4000, 2)]
    # both lines run along (3, 4, 0)/5: half of 5 apart, with the walk's own noise on each
    np.testing.assert_allclose(seen[0].mean(axis=0), 2.5, atol=5 * SIGMA / 4000**0.5)
    np.testing.assert_allclose(seen[1].mean(axis=0), 0.0, atol=5 * SIGMA / 4000**0.5)
    np.testing.assert_allclose(np.concatenate([s - s.mean(axis=0) for s in seen]).std(axis=0), SIGMA, rtol=0.05)
    assert len(set(walk.noisy_calls)) == 2
    assert len(cleaned) == 3
    np.testing.assert_array_equal(seen[0], made.draw(0, 4000, 3))
    assert not np.array_equal(seen[0], made.draw(0, 4000, 4))


def test_without_a_ball_the_natural_game_has_no_bound() -> None:
    facts: Any = SimpleNamespace(start_radius=7.0, start_projected=False)
    assert natural(facts, [np.ones(2), np.zeros(2)], Halving(), lambda: None).sensitivity is None


@pytest.mark.parametrize(
    "lack", [{"alignment": "measured"}, {"ball_radius": 3.0}, {"visits": ()}, {"noise": 0.0}], ids=str
)
def test_there_is_no_tight_walk_without_what_the_theorem_needs(lack: dict[str, Any]) -> None:
    facts: Any = SimpleNamespace(**{"alignment": "exact", "ball_radius": None, "visits": (1, 3), "noise": 1.0, **lack})
    assert tight(facts, {}, lambda model, centre: model) is None
