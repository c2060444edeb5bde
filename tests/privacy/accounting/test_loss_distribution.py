"""Loss distributions against the exact profile, the definition by quadrature, and each other."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, norm

from fedunlearn.errors import UserError
from fedunlearn.privacy import compose, epsilon_of
from fedunlearn.privacy.accounting.loss_distribution import group_deltas, opacus_epsilon, pld_of, prv_interval


@pytest.mark.parametrize("mu", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("delta", [1e-8, 1e-5, 1e-2])
def test_pld_of_a_gaussian_is_just_above_the_exact_profile(mu: float, delta: float) -> None:
    exact = epsilon_of(mu, delta)
    found = pld_of([], mu, interval=1e-3).get_epsilon_for_delta(delta)
    assert exact <= found <= exact * 1.0005 + 1e-3


def test_pld_of_several_gaussians_is_their_composition() -> None:
    exact = epsilon_of(compose([0.5, 0.7, 1.1]), 1e-5)
    one, two = pld_of([], 0.5, interval=1e-3), pld_of([], compose([0.7, 1.1]), interval=1e-3)
    assert exact <= one.compose(two).get_epsilon_for_delta(1e-5) <= exact + 1e-3


def by_quadrature(noise: float, rate: float, group: int, epsilon: float, *, adding: bool) -> float:
    """The definition: the integral of max(0, p - e^epsilon q)."""
    counts = np.arange(group + 1)
    weights = binom.pmf(counts, group, rate)

    def gap(x: float) -> float:
        mixed, plain = float(weights @ norm.pdf(x, counts, noise)), norm.pdf(x, 0, noise)
        top, bottom = (plain, mixed) if adding else (mixed, plain)
        return max(0.0, top - math.exp(epsilon) * bottom)

    span = np.linspace(-10 * noise, group + 10 * noise, 60)
    return sum(quad(gap, a, b, limit=200)[0] for a, b in itertools.pairwise(span))


@pytest.mark.parametrize("adding", [False, True])
@pytest.mark.parametrize(("noise", "rate", "group"), [(1.0, 0.1, 1), (2.0, 0.05, 3), (0.7, 0.5, 4), (1.5, 0.02, 10)])
def test_group_deltas_are_the_integral(noise: float, rate: float, group: int, adding: bool) -> None:
    epsilons = np.array([-0.3, 0.0, 0.05, 0.4, 1.5])
    found = group_deltas(noise, rate, group, epsilons, adding=adding)
    expected = [by_quadrature(noise, rate, group, e, adding=adding) for e in epsilons]
    assert found == pytest.approx(expected, abs=3e-8)


def test_group_of_one_is_the_libraries_subsampled_gaussian() -> None:
    from fedunlearn.privacy.accounting import loss_distribution as module

    epsilons = np.linspace(-0.05, 3, 40)
    single = module._one_sum(1.0, 0.05, 1, 1e-3)
    larger = np.maximum(
        group_deltas(1.0, 0.05, 1, epsilons, adding=False), group_deltas(1.0, 0.05, 1, epsilons, adding=True)
    )
    assert single.get_delta_for_epsilon(epsilons) == pytest.approx(larger, abs=1e-6)


def test_groups_agree_with_dp_accountings_mixture_of_gaussians() -> None:
    from dp_accounting.pld import privacy_loss_distribution as library

    counts = np.arange(3)
    theirs = library.from_mixture_gaussian_mechanism(
        3.0, counts.astype(float), binom.pmf(counts, 2, 0.05), value_discretization_interval=5e-3
    )
    ours = pld_of([(3.0, 0.05, 20, 2)], interval=5e-3)
    for delta in (1e-3, 1e-5, 1e-8):
        assert ours.get_epsilon_for_delta(delta) == pytest.approx(
            theirs.self_compose(20).get_epsilon_for_delta(delta), rel=1e-6
        )


@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.0, 0.01, 300), (4.0, 0.1, 100)])
def test_pld_lies_in_the_prv_interval(noise: float, rate: float, steps: int) -> None:
    interval = prv_interval([(noise, rate, steps)], 1e-5)
    assert interval is not None
    lower, upper = interval
    assert upper - lower < 0.05
    assert lower <= pld_of([(noise, rate, steps, 1)], interval=1e-3).get_epsilon_for_delta(1e-5) <= upper


def test_opacus_offers_prv_but_not_its_central_limit() -> None:
    with pytest.raises(UserError, match=r"'gdp' of opacus is not offered.*below the true epsilon"):
        opacus_epsilon("gdp", [(1.0, 0.01, 100)], 1e-5)
    with pytest.raises(UserError, match="'rdp' is not known"):
        opacus_epsilon("rdp", [(1.0, 0.01, 100)], 1e-5)
    interval = prv_interval([(1.0, 0.1, 10)], 1e-5)
    assert interval is not None
    assert opacus_epsilon("prv", [(1.0, 0.1, 10)], 1e-5) == interval[1]


def test_the_refused_accountant_is_below_the_truth() -> None:
    """The reason for the refusal, measured: a lower bound on the true epsilon lies above what it says."""
    from opacus.accountants.analysis import gdp

    rate, noise, steps = 0.01, 0.5, 1000
    limit = gdp.compute_eps_poisson(steps=steps, noise_multiplier=noise, sample_rate=rate, delta=1e-5)
    interval = prv_interval([(noise, rate, steps)], 1e-5)
    assert interval is not None
    assert limit < interval[0]
