"""Calibration: what comes back keeps the claim, and a little less would not."""

from __future__ import annotations

import pytest

from fedunlearn.errors import UserError
from fedunlearn.privacy import mu_of, sigma_for
from fedunlearn.privacy.accounting import (
    Contraction,
    GaussianRelease,
    PoissonSampledGaussian,
    epsilon_of_events,
    load_for_events,
    noise_for_events,
    sampled_capacity,
    sampled_noise,
    sampled_steps,
    steps_for_events,
)


def epsilon(noise: float, rate: float, steps: int, group: int = 1) -> float:
    return epsilon_of_events([PoissonSampledGaussian(noise, rate, steps, group)], 1e-5, second=False).epsilon


def test_noise_of_a_gaussian_release_is_the_analytic_sigma() -> None:
    found = noise_for_events(lambda sigma: [GaussianRelease(2.0, sigma)], 1.0, 1e-5)
    assert sigma_for(2.0, 1.0, 1e-5) <= found <= sigma_for(2.0, 1.0, 1e-5) * 1.0002


def test_releases_of_a_gaussian_budget() -> None:
    """k releases have mu sqrt(k): (mu(8)/mu(1))^2 = 38.6 of them stay within epsilon 8."""
    sigma = sigma_for(1.0, 1.0, 1e-5)
    found = load_for_events(lambda count: [GaussianRelease(1.0, sigma, count)], 8.0, 1e-5, what="releases")
    assert found == int((mu_of(8, 1e-5) / mu_of(1, 1e-5)) ** 2) == 38
    assert load_for_events(lambda count: [GaussianRelease(1.0, sigma, count)], 0.9, 1e-5) == 0


@pytest.mark.parametrize("group", [1, 5])
def test_sampled_noise(group: int) -> None:
    noise = sampled_noise(2.0, 1e-5, 0.02, 200, group=group)
    assert epsilon(noise, 0.02, 200, group) <= 2.0
    assert epsilon(noise * 0.99, 0.02, 200, group) > 2.0


def test_sampled_steps_and_capacity() -> None:
    steps = sampled_steps(2.0, 1e-5, 0.01, 1.0)
    assert epsilon(1.0, 0.01, steps) <= 2.0
    assert epsilon(1.0, 0.01, int(steps * 1.02)) > 2.0
    records = sampled_capacity(8.0, 1e-5, 0.01, 1.0, 200)
    assert epsilon(1.0, 0.01, 200, records) <= 8.0 < epsilon(1.0, 0.01, 200, records + 1)
    assert sampled_capacity(0.1, 1e-5, 0.01, 1.0, 200) == 0


@pytest.mark.parametrize(("ratio", "steps"), [(1.0, 3), (2.0, 6), (4.0, 40)])
def test_contraction_steps_golden(ratio: float, steps: int) -> None:
    assert steps_for_events(lambda count: [Contraction(ratio, count)], 1.0, 1e-5) == steps


def test_what_no_noise_can_reach() -> None:
    with pytest.raises(UserError, match="no noise up to"):
        noise_for_events(lambda sigma: [GaussianRelease(1.0, 0.0)], 1.0, 1e-5)
    with pytest.raises(UserError, match="no steps up to 64 is enough"):
        steps_for_events(lambda count: [Contraction(8.0, count)], 1.0, 1e-5, limit=64)
