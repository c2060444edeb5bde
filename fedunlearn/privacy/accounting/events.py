"""What was released, and to whom: frozen records without mathematics.

An event states a fact about a mechanism that ran; :mod:`fedunlearn.privacy.accounting.opinions` says what follows from
a list of them. Sampling is an event only where every record entered every batch by an independent coin of a fixed
rate (Poisson sampling); there is no event for shuffled batches or batches of a fixed size, because accounting those as
Poisson understates epsilon up to tenfold (Annamalai, Balle, De Cristofaro and Hayes 2024, arXiv 2411.10614).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from fedunlearn.errors import UserError


@dataclass(frozen=True)
class GaussianRelease:
    """``count`` vectors, each published with a fresh draw of N(0, sigma^2 I).

    Attributes:
        sensitivity: largest L2 distance of the two noise-free vectors, in units of the parameters.
        sigma: standard deviation of the noise on each entry, in the same units; 0 says that no noise was added.
        count: number of such releases, each possibly chosen after seeing the ones before it.
        what: the thing that was released, for reports.
        observers: who saw it, for reports.
    """

    sensitivity: float
    sigma: float
    count: int = 1
    what: str = ""
    observers: str = ""

    def __post_init__(self) -> None:
        _not_negative("sensitivity", self.sensitivity)
        _not_negative("sigma", self.sigma)
        _at_least("count", self.count, 0)


@dataclass(frozen=True)
class PoissonSampledGaussian:
    """``steps`` noisy sums of clipped vectors over batches that each record joins by an independent coin.

    Attributes:
        noise_multiplier: noise standard deviation over the clipping norm of one record, dimensionless.
        rate: probability that a record joins a batch, in [0, 1], the same for all records and steps.
        steps: number of noisy sums.
        group: number of records that the two worlds differ in (all of them present in one and absent in the other).
        what, observers: for reports.
    """

    noise_multiplier: float
    rate: float
    steps: int
    group: int = 1
    what: str = ""
    observers: str = ""

    def __post_init__(self) -> None:
        _not_negative("noise_multiplier", self.noise_multiplier)
        if not 0 <= self.rate <= 1:
            raise UserError(f"rate = {self.rate} is not allowed: a sampling rate must lie between 0 and 1")
        _at_least("steps", self.steps, 0)
        _at_least("group", self.group, 1)


@dataclass(frozen=True)
class ShiftedIteration:
    """Noisy steps of two worlds whose last state alone was released (docs/certificates.md T7).

    Attributes:
        start: largest distance of the two starting points.
        drifts: what step t adds to the distance at most, one number a step.
        sigmas: noise standard deviation after step t, one number a step; 0 where none is drawn.
        contractions: Lipschitz constant of step t, one number a step; None where all are 1.
        maps_shared: whether both worlds apply the same maps; where they differ the worlds can only merge afterwards.
        what, observers: for reports.
    """

    start: float
    drifts: tuple[float, ...]
    sigmas: tuple[float, ...]
    contractions: tuple[float, ...] | None = None
    maps_shared: bool = True
    what: str = ""
    observers: str = ""

    def __post_init__(self) -> None:
        _not_negative("start", self.start)
        for name in ("drifts", "sigmas", "contractions"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != len(self.drifts):
                raise UserError(f"{name} has {len(values)} numbers, but drifts has {len(self.drifts)}: one a step")
            for value in values:
                _not_negative(name, value)


@dataclass(frozen=True)
class Contraction:
    """Steps that project onto a ball and add noise, the last state alone released (docs/certificates.md 4b).

    Attributes:
        ratio: diameter of what a step can make of the ball, over the noise standard deviation; dimensionless.
        steps: number of such steps.
        start_ratio: distance of the starting points over the noise that was added to them; None without such noise.
        what, observers: for reports.
    """

    ratio: float
    steps: int
    start_ratio: float | None = None
    what: str = ""
    observers: str = ""

    def __post_init__(self) -> None:
        _not_negative("ratio", self.ratio)
        _at_least("steps", self.steps, 0)
        if self.start_ratio is not None:
            _not_negative("start_ratio", self.start_ratio)


@dataclass(frozen=True)
class NoiseFree:
    """Something that depends on the deleted data and was released as it is: nothing finite can be said about it."""

    what: str = ""
    observers: str = ""


@dataclass(frozen=True)
class PostProcessing:
    """Something computed from retained data, public randomness and what is counted already: it adds nothing."""

    what: str = ""
    observers: str = ""


Event: TypeAlias = (
    GaussianRelease | PoissonSampledGaussian | ShiftedIteration | Contraction | NoiseFree | PostProcessing
)


def sampled_gaussian(
    noise_multiplier: float, rate: float, steps: int, *, group: int = 1, sampling: str = "poisson", what: str = ""
) -> PoissonSampledGaussian:
    """Return the event of noisy sums over sampled batches.

    Raises:
        UserError: if ``sampling`` is anything but ``"poisson"``, or a number is out of range.
    """
    if sampling != "poisson":
        raise UserError(
            f"sampling = '{sampling}' cannot be accounted for: sampling must really be Poisson "
            "(an independent coin for every record and step), write 'poisson' only where it is"
        )
    return PoissonSampledGaussian(noise_multiplier, rate, steps, group, what)


def _not_negative(name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise UserError(f"{name} = {value} is not allowed: it must be a finite number that is not negative")


def _at_least(name: str, value: int, smallest: int) -> None:
    if isinstance(value, bool) or value != int(value) or value < smallest:
        raise UserError(f"{name} = {value} is not allowed: it must be a whole number of at least {smallest}")
