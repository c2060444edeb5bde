"""Which accountant decides, what the others must say, and what happens when they exclude each other."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.privacy import compose, delta_of, epsilon_of, sigma_for
from fedunlearn.privacy.accounting import (
    Contraction,
    Contradiction,
    GaussianRelease,
    NoiseFree,
    PoissonSampledGaussian,
    PostProcessing,
    ShiftedIteration,
    delta_of_events,
    epsilon_of_events,
    loss_distribution,
    mu_of_events,
    opinions,
    renyi,
)

mus = st.floats(0.02, 5)
deltas = st.floats(-11, -1.5).map(lambda exponent: 10.0**exponent)


@pytest.mark.parametrize(
    ("epsilon", "delta", "sigma"),
    [(0.5, 1e-5, 7.0318), (1, 1e-5, 3.7306), (3, 1e-5, 1.3906), (10, 1e-5, 0.49989), (1, 1e-6, 4.2247)],
)
def test_one_gaussian_release_golden(epsilon: float, delta: float, sigma: float) -> None:
    opinion = epsilon_of_events([GaussianRelease(1.0, sigma)], delta)
    assert opinion.epsilon == pytest.approx(epsilon, rel=1e-4)
    assert (opinion.accountant, opinion.exact) == ("profile", True)
    assert opinion.second["integration"] == pytest.approx(opinion.epsilon, rel=1e-7)
    assert opinion.second["rdp"] > opinion.epsilon


def test_the_classic_formula_fails_at_epsilon_ten() -> None:
    """Delta sqrt(2 ln(1.25/delta))/eps gives 0.4845 at (10, 1e-5), where 0.4999 is needed."""
    classic = math.sqrt(2 * math.log(1.25e5)) / 10
    assert classic == pytest.approx(0.4845, abs=5e-5)
    assert epsilon_of_events([GaussianRelease(1.0, classic)], 1e-5).epsilon > 10


def test_noisy_iteration_golden() -> None:
    opinion = epsilon_of_events([ShiftedIteration(1.0, (0.1,) * 10, (0.5,) * 10)], 1e-5)
    assert opinion.mu == pytest.approx(1.26491, abs=5e-6)
    assert opinion.epsilon == pytest.approx(5.76, abs=5e-3)
    assert opinion.second["rdp"] == pytest.approx(6.21, abs=5e-3)
    assert not opinion.exact
    late = ShiftedIteration(1.0, (0.1,) * 10, (0.5,) * 10, maps_shared=False)
    assert epsilon_of_events([late], 1e-5).epsilon >= opinion.epsilon


def test_model_clipping_golden() -> None:
    deltas = [delta_of_events([Contraction(2.0, steps)], 1.0).delta for steps in range(1, 7)]
    assert deltas == pytest.approx([0.510, 0.216, 0.0649, 0.00955, 2.5e-4, 2.6e-8], rel=0.03)
    opinion = epsilon_of_events([Contraction(2.0, 6)], 1e-5)
    assert 0 < opinion.epsilon < 1 < opinion.second["last step alone"]
    assert delta_of_events([Contraction(2.0, 6)], opinion.epsilon).delta <= 1e-5
    assert epsilon_of_events([Contraction(2.0, 0)], 1e-5).epsilon == math.inf
    started = epsilon_of_events([Contraction(2.0, 5, start_ratio=1.0)], 1e-5)
    assert started.epsilon < epsilon_of_events([Contraction(2.0, 5)], 1e-5).epsilon
    with pytest.raises(UserError, match="cannot be composed"):
        epsilon_of_events([Contraction(2.0, 6), GaussianRelease(1.0, 1.0)], 1e-5)


@given(values=st.lists(mus, min_size=1, max_size=5), delta=deltas)
def test_gaussian_events_compose_exactly(values: list[float], delta: float) -> None:
    events = [GaussianRelease(mu, 1.0) for mu in values]
    assert mu_of_events(events) == pytest.approx(compose(values), rel=1e-12)
    assert epsilon_of_events(events, delta).epsilon == pytest.approx(epsilon_of(compose(values), delta), rel=1e-12)
    repeated = epsilon_of_events([GaussianRelease(values[0], 1.0, count=7)], delta).epsilon
    assert repeated == pytest.approx(epsilon_of_events(events[:1] * 7, delta).epsilon, rel=1e-9)


@settings(deadline=None, max_examples=40)
@given(mu=mus, epsilon=st.floats(0.0, 12))
def test_delta_of_gaussian_events_is_the_profile(mu: float, epsilon: float) -> None:
    opinion = delta_of_events([GaussianRelease(mu, 1.0)], epsilon)
    assert opinion.delta == delta_of(mu, epsilon)
    assert opinion.second["rdp"] >= opinion.delta


@settings(deadline=None, max_examples=8)
@given(mu=st.floats(0.1, 4), delta=st.floats(-9, -2).map(lambda exponent: 10.0**exponent))
def test_accountants_are_ordered_as_theory_says(mu: float, delta: float) -> None:
    exact = epsilon_of(mu, delta)
    pessimistic = loss_distribution.pld_of([], mu, interval=1e-3).get_epsilon_for_delta(delta)
    improved = renyi.gaussian_curve(mu).epsilon(delta, "improved")
    assert exact <= pessimistic + 1e-9 <= improved + 2e-3
    assert improved <= renyi.gaussian_curve(mu).epsilon(delta, "old")


rates = st.sampled_from([0.01, 0.03, 0.1, 0.3])
noises = st.sampled_from([0.8, 1.0, 2.0, 5.0])


@settings(deadline=None, max_examples=6)
@given(rate=rates, noise=noises, steps=st.integers(1, 200), group=st.integers(1, 4))
def test_sampled_sums_are_monotone_in_everything(rate: float, noise: float, steps: int, group: int) -> None:
    def epsilon(rate: float, noise: float, steps: int, group: int, delta: float = 1e-5) -> float:
        event = PoissonSampledGaussian(noise, rate, steps, group)
        return epsilon_of_events([event], delta, second=False, coarse=True).epsilon

    here = epsilon(rate, noise, steps, group)
    rounding = 1e-3 + 0.01 * here  # of the coarse loss distribution
    assert epsilon(rate, noise, 2 * steps, group) >= here - rounding
    assert epsilon(rate, noise, steps, group + 1) >= here - rounding
    assert epsilon(min(1.0, 2 * rate), noise, steps, group) >= here - rounding
    assert epsilon(rate, 1.5 * noise, steps, group) <= here + rounding
    assert epsilon(rate, noise, steps, group, delta=1e-3) <= here + 1e-12
    assert here <= epsilon_of(group * math.sqrt(steps) / noise, 1e-5) * 1.01 + 1e-3  # sampling never hurts


def test_sampled_golden_with_every_second_opinion() -> None:
    opinion = epsilon_of_events([PoissonSampledGaussian(1.0, 0.01, 1000)], 1e-5)
    assert opinion.accountant == "pld"
    assert opinion.mu is None
    assert opinion.epsilon == pytest.approx(1.8282, abs=2e-4)
    assert opinion.second["rdp"] == pytest.approx(2.1078, abs=1e-4)
    assert opinion.second["prv lower"] < opinion.epsilon < opinion.second["prv upper"]
    back = delta_of_events([PoissonSampledGaussian(1.0, 0.01, 1000)], opinion.epsilon)
    assert back.delta == pytest.approx(1e-5, rel=1e-3)
    assert back.second["rdp"] > back.delta


def test_sampling_at_rate_one_or_zero_needs_no_loss_distribution() -> None:
    full = epsilon_of_events([PoissonSampledGaussian(4.0, 1.0, 9, group=2)], 1e-5)
    assert (full.accountant, full.mu) == ("profile", pytest.approx(1.5))
    assert epsilon_of_events([PoissonSampledGaussian(4.0, 0.0, 9)], 1e-5).epsilon == 0
    nearly = epsilon_of_events([PoissonSampledGaussian(4.0, 1 - 1e-9, 9, group=2)], 1e-5, second=False)
    assert nearly.epsilon == pytest.approx(full.epsilon, rel=2e-3)


def test_sampled_and_gaussian_events_compose() -> None:
    sampled, plain = PoissonSampledGaussian(2.0, 0.1, 100), GaussianRelease(1.0, 2.0)
    both = epsilon_of_events([sampled, plain], 1e-5)
    apart = [epsilon_of_events([event], 5e-6).epsilon for event in (sampled, plain)]
    assert max(epsilon_of_events([event], 1e-5).epsilon for event in (sampled, plain)) < both.epsilon < sum(apart)
    assert both.epsilon < both.second["rdp"]
    halves = [PoissonSampledGaussian(2.0, 0.1, 40), plain, PoissonSampledGaussian(2.0, 0.1, 60)]
    assert epsilon_of_events(halves, 1e-5).epsilon == pytest.approx(both.epsilon, rel=1e-9)


def test_a_group_is_dearer_than_one_and_cheaper_than_the_pair_of_one() -> None:
    one, four = (epsilon_of_events([PoissonSampledGaussian(3.0, 0.02, 100, m)], 1e-5) for m in (1, 4))
    assert one.epsilon < four.epsilon
    tiny = 1e-5 / (4 * math.exp(3 * 4 * one.epsilon))
    assert four.epsilon < 4 * epsilon_of_events([PoissonSampledGaussian(3.0, 0.02, 100)], tiny).epsilon


def test_what_has_no_noise_and_what_adds_nothing() -> None:
    assert epsilon_of_events([], 1e-5).epsilon == 0
    assert epsilon_of_events([PostProcessing("recovery rounds")], 1e-5).mu == 0
    for event in (NoiseFree("gradient"), GaussianRelease(1.0, 0.0), PoissonSampledGaussian(0.0, 0.5, 1)):
        assert epsilon_of_events([event, GaussianRelease(1.0, 1.0)], 1e-5).epsilon == math.inf
        assert delta_of_events([event], 3.0).delta == 1
    assert epsilon_of_events([GaussianRelease(0.0, 0.0)], 1e-5).epsilon == 0


def test_bad_questions() -> None:
    with pytest.raises(UserError, match="delta = 0 "):
        epsilon_of_events([], 0)
    with pytest.raises(UserError, match="epsilon = -1"):
        delta_of_events([], -1)
    with pytest.raises(UserError, match="not known to any accountant"):
        epsilon_of_events(["shuffled batches"], 1e-5)  # type: ignore[list-item]
    with pytest.raises(UserError, match="accurate from 1e-12"):
        epsilon_of_events([PoissonSampledGaussian(1.0, 0.1, 10)], 1e-14)


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_wrong_profile_is_contradicted(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    opinions._epsilon.cache_clear()
    honest = opinions.gaussian.epsilon_of
    monkeypatch.setattr(opinions.gaussian, "epsilon_of", lambda mu, delta: factor * honest(mu, delta))
    with pytest.raises(Contradiction) as caught:
        epsilon_of_events([GaussianRelease(1.0, 1.7)], 1e-5)
    assert len(caught.value.numbers) == 2
    assert min(caught.value.numbers.values()) < max(caught.value.numbers.values())
    opinions._epsilon.cache_clear()


@pytest.mark.parametrize("factor", [0.9, 1.3])
def test_a_wrong_loss_distribution_is_contradicted(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    class Wrong:
        def __init__(self, right: object) -> None:
            self.right = right

        def get_epsilon_for_delta(self, delta: float) -> float:
            return factor * self.right.get_epsilon_for_delta(delta)  # type: ignore[attr-defined]

    opinions._epsilon.cache_clear()
    honest = opinions.losses.pld_of
    monkeypatch.setattr(opinions.losses, "pld_of", lambda *args, **options: Wrong(honest(*args, **options)))
    with pytest.raises(Contradiction, match="pld"):
        epsilon_of_events([PoissonSampledGaussian(1.0, 0.01, 1000)], 1e-5)
    opinions._epsilon.cache_clear()


def test_a_wrong_renyi_curve_is_contradicted(monkeypatch: pytest.MonkeyPatch) -> None:
    opinions._epsilon.cache_clear()
    honest = opinions.renyi.sampled_curve
    monkeypatch.setattr(opinions.renyi, "sampled_curve", lambda rate, noise, orders: honest(rate, 1.5 * noise, orders))
    with pytest.raises(Contradiction, match="rdp"):
        epsilon_of_events([PoissonSampledGaussian(1.0, 0.01, 1000)], 1e-5)
    opinions._epsilon.cache_clear()


def test_sigma_from_the_profile_keeps_its_claim() -> None:
    sigma = sigma_for(2.5, 3.0, 1e-6)
    assert epsilon_of_events([GaussianRelease(2.5, sigma)], 1e-6).epsilon <= 3.0


def test_the_libraries_are_loaded_when_needed_only() -> None:
    script = (
        "import sys; import fedunlearn.privacy.accounting as a; "
        "a.epsilon_of_events([a.GaussianRelease(1.0, 1.0)], 1e-5); "
        "print([name for name in ('torch', 'opacus', 'dp_accounting') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
