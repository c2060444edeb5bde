"""Several vectors seen together: node models, successive releases, messages."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedunlearn.audit import audit_game, joint_game, message_game
from fedunlearn.errors import UserError
from fedunlearn.privacy import compose, gaussian_noise, mu_of, publish

DELTA = 1e-5
MU = mu_of(1.0, DELTA)
RANDOM = np.random.default_rng(0)


def vectors(count: int, dim: int = 3) -> list[np.ndarray]:
    return list(RANDOM.normal(size=(count, dim)))


def test_the_matched_filter_is_the_likelihood_ratio():
    """Equal to the difference of the two Gaussian log densities, up to a constant and a scale."""
    a, b, sigmas = vectors(2), vectors(2), [0.5, 2.0]
    seen = [publish(v, gaussian_noise(s, 3, "simulated", 9, 0, node=i)) for i, (v, s) in enumerate(zip(a, sigmas))]
    game = joint_game("two", "tight", a, b, sigmas, 1.0, release=lambda world, trial, seed: seen)
    value = game.draw(0, 1, 0)[0, 0]
    log_ratio = sum(
        (np.sum((y - v) ** 2) - np.sum((y - u) ** 2)) / (2 * s**2) for y, u, v, s in zip(seen, a, b, sigmas)
    )
    joint = math.sqrt(sum(np.sum((u - v) ** 2) / s**2 for u, v, s in zip(a, b, sigmas)))
    assert game.distance == pytest.approx(joint)
    assert log_ratio == pytest.approx(value * joint - joint**2 / 2, rel=1e-5)


def test_the_filter_has_unit_noise_and_the_joint_mu_as_difference():
    a, b = vectors(3), vectors(3)
    game = joint_game("three", "tight", a, b, [1.0, 2.0, 3.0], 1.0)
    seen = [game.draw(world, 4000, 3)[:, 0] for world in (0, 1)]
    assert seen[0].mean() - seen[1].mean() == pytest.approx(game.distance, abs=0.08)
    assert seen[0].std() == pytest.approx(1.0, abs=0.05) and seen[1].mean() == pytest.approx(0.0, abs=0.06)


def test_all_releases_together_are_worth_their_composition():
    shift = np.array([MU, 0.0])
    game = joint_game("four", "tight", [shift] * 4, [0 * shift] * 4, [1.0] * 4, 2 * MU)
    assert game.distance == pytest.approx(compose([MU] * 4)) and game.ratio == pytest.approx(1.0)
    assert not audit_game(game, 500, 2 * MU, 1.0, DELTA, 0).refuted


def shared(worlds):
    """One draw for every vector of a trial."""

    def release(world, trial, seed):
        noise = gaussian_noise(1.0, len(worlds[world][0]), "simulated", seed, trial, node=world)
        return [publish(v, noise) for v in worlds[world]]

    return release


def test_a_draw_used_twice_shows_in_the_difference_only():
    """The matched filter sees little, since both vectors move alike; the difference carries no noise at all."""
    common = np.array([0.1, 0.0, 0.0])
    worlds = [common, common + np.array([0, 1e-3, 0])], [-common, -common]
    game = joint_game("twice", "tight", *worlds, [1.0, 1.0], 1.0, release=shared(worlds))
    seen = [game.draw(world, 50, 0) for world in (0, 1)]
    assert seen[0].shape == (50, 2)
    assert seen[0][:, 1].min() > seen[1][:, 1].max() and seen[0][:, 0].min() < seen[1][:, 0].max()
    verdict = audit_game(game, 200, 1.0, 4.0, DELTA, 0)
    assert verdict.refuted_by == ("trade-off",) and verdict.scores.name == "entry 1"
    fresh = joint_game("fresh", "tight", *worlds, [1.0, 1.0], 1.0)
    assert not audit_game(fresh, 200, 1.0, 4.0, DELTA, 0).refuted


def test_one_draw_on_equal_models_adds_nothing():
    """Where all nodes hold the same bits, differences are zero in both worlds, and one draw is right."""
    shift = np.array([MU, 0.0])
    worlds = [shift] * 3, [0 * shift] * 3
    game = joint_game("same bits", "tight", *worlds, [1.0] * 3, MU, release=shared(worlds))
    assert game.score is not None and game.draw(0, 5, 0).shape == (5, 1)
    assert "trade-off" not in audit_game(game, 500, MU, 1.0, DELTA, 0).refuted_by


def test_a_message_is_clipped_and_tight_at_its_clip():
    clip, sigma = 0.4, 0.4 / MU
    game = message_game("correction", [np.array([3.0, 4.0])], clip, [sigma], MU)
    assert game.kind == "tight" and game.distance == pytest.approx(MU) and game.ratio == pytest.approx(1.0)
    assert not audit_game(game, 1000, MU, 1.0, DELTA, 0).refuted
    short = message_game("correction", [np.array([0.03, 0.04])], clip, [sigma], MU)
    assert short.kind == "natural" and short.ratio == pytest.approx(0.05 / clip)
    assert audit_game(short, 1000, MU, 1.0, DELTA, 0).outcome == "no power"


def test_a_message_with_the_noise_of_a_release_is_refuted():
    """The published form: noise calibrated for the release hides nothing of the correction that is broadcast."""
    correction, release_sigma = np.array([0.027]), 0.0075
    verdict = audit_game(
        message_game("correction", [correction], 0.027, [release_sigma], MU), 1000, MU, 1.0, DELTA, 0
    )  # fmt: skip
    assert (
        verdict.refuted and verdict.pair_mu == pytest.approx(3.6) and verdict.pair_epsilon == pytest.approx(21, abs=1)
    )


def test_a_view_is_all_its_messages():
    """Nine messages of one length are sold for the price of one; each alone would pass."""
    message = [np.array([1.0, 0.0])]
    single = message_game("one", message, 1.0, [1 / MU], MU)
    view = message_game("nine", message * 9, 1.0, [1 / MU] * 9, MU)
    assert not audit_game(single, 1000, MU, 1.0, DELTA, 1).refuted
    assert "trade-off" in audit_game(view, 1000, MU, 1.0, DELTA, 1).refuted_by
    honest = message_game("nine", message * 9, 1.0, [3 / MU] * 9, MU)
    assert not audit_game(honest, 1000, MU, 1.0, DELTA, 1).refuted


def test_messages_of_unequal_length_join():
    game = message_game("mixed", [np.ones(2), np.ones(5)], 1.0, [1.0, 1.0], math.sqrt(2))
    assert game.draw(1, 3, 0).shape == (3, 1) and game.distance == pytest.approx(math.sqrt(2))


def test_unequal_numbers_of_vectors_are_refused():
    with pytest.raises(UserError, match="as many vectors"):
        joint_game("bad", "tight", vectors(2), vectors(1), [1.0, 1.0], 1.0)
