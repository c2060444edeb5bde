"""What may be recorded as an event, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest

from fedunlearn.errors import UserError
from fedunlearn.privacy.accounting import Contraction, GaussianRelease, PoissonSampledGaussian, ShiftedIteration
from fedunlearn.privacy.accounting.events import sampled_gaussian


@pytest.mark.parametrize("sampling", ["shuffle", "fixed-size", "Poisson", ""])
def test_only_poisson_sampling_is_an_event(sampling: str) -> None:
    with pytest.raises(UserError, match="must really be Poisson"):
        sampled_gaussian(1.0, 0.1, 10, sampling=sampling)


def test_poisson_sampling_is_an_event() -> None:
    assert sampled_gaussian(1.0, 0.1, 10, group=3, what="sums") == PoissonSampledGaussian(1.0, 0.1, 10, 3, "sums")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianRelease(-1.0, 1.0), "sensitivity = -1"),
        (lambda: GaussianRelease(1.0, float("nan")), "sigma = nan"),
        (lambda: GaussianRelease(float("inf"), 1.0), "sensitivity = inf"),
        (lambda: GaussianRelease(1.0, 1.0, count=-1), "count = -1"),
        (lambda: GaussianRelease(1.0, 1.0, count=True), "count = True"),
        (lambda: PoissonSampledGaussian(1.0, 1.5, 10), "rate = 1.5"),
        (lambda: PoissonSampledGaussian(1.0, float("nan"), 10), "rate = nan"),
        (lambda: PoissonSampledGaussian(1.0, 0.5, 2.5), "steps = 2.5"),  # type: ignore[arg-type]
        (lambda: PoissonSampledGaussian(1.0, 0.5, 2, group=0), "group = 0"),
        (lambda: ShiftedIteration(1.0, (0.1, 0.1), (1.0,)), "sigmas has 1 numbers"),
        (lambda: ShiftedIteration(1.0, (0.1,), (1.0,), (0.9, 0.9)), "contractions has 2 numbers"),
        (lambda: ShiftedIteration(1.0, (-0.1,), (1.0,)), "drifts = -0.1"),
        (lambda: Contraction(-2.0, 3), "ratio = -2"),
        (lambda: Contraction(2.0, 3, start_ratio=-1.0), "start_ratio = -1"),
    ],
)
def test_impossible_facts_are_refused(make, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_events_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GaussianRelease(1.0, 1.0).sigma = 2.0  # type: ignore[misc]
