"""How far full-batch rewinding can end from retraining: the published bounds, tighter ones, and what they are worth.

*Rewind-to-delete* (Mu and Klabjan, "Rewind-to-Delete", NeurIPS 2025, arXiv 2409.09778) trains by T full-batch steps
``x <- x - eta grad F_D(x)`` with ``F_D`` the mean over n records, keeps the model of step T - K, and answers a deletion
of m records by K steps on the retained data from there. Training and unlearning both release their last model with
noise N(0, sigma^2 I). What is needed is the *sensitivity*: the largest L2 distance between that last model and the one
of retraining. Here are five upper bounds on it, each with the assumptions that it needs; any of those whose
assumptions hold may be used, hence also the smallest.

=================  ==============================================================  ===================================
name               bound                                                           needs
=================  ==============================================================  ===================================
theorem 3.1        (2 m G/(L n)) ((1 + eta L n/(n-m))^(T-K) - 1) (1 + eta L)^K     records' gradients at most G in norm
                                                                                   and L-Lipschitz
own smoothness     (2 m G/(L n)) ((1 + eta L)^T - (1 + eta L)^K)                   the same
retained data      (2 m G/(L (n-m))) ((1 + eta L (n-m)/n)^(T-K) - 1) (1+eta L)^K   the same
gradient only      2 eta G T                                                       records' gradients at most G in norm
projection         2 R                                                             every step projected to radius R
=================  ==============================================================  ===================================

The second and third follow like the first, with the drift of the two runs expanded around the other objective; the
third need not fall as K grows, the others do. G and L must hold along *every* trajectory: a maximum seen in a run is a
lower bound on them, and then nothing is certified.
Minibatches, other losses and networks of many nodes: :mod:`fedunlearn.privacy.accounting.replay`.

Distances and sigma are in units of the parameters, G in loss per parameter, L in loss per squared parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian
from fedunlearn.privacy.certificate import worth_of

THEOREM, OWN, RETAINED = "theorem 3.1", "own smoothness", "retained data"
GRADIENT, PROJECTION = "gradient only", "projection"


@dataclass(frozen=True)
class Rewinding:
    """Full-batch gradient descent that may have to forget ``deleted`` of its ``total`` records.

    Attributes:
        steps: T, of the whole training.
        lr: eta, the same in every step.
        deleted, total: m and n; m may be a fraction of a record, where a share is planned for.
        gradient: G, a bound on the norm of every record's gradient.
        smoothness: L, a Lipschitz constant of every record's gradient; None if there is none.
        radius: R of a projection after every step; None without one.
    """

    steps: int
    lr: float
    deleted: float
    total: float
    gradient: float
    smoothness: float | None = None
    radius: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if self.steps < 0:
            raise UserError(f"steps = {self.steps} is not allowed: it must not be negative")
        if not 0 <= self.deleted < self.total < math.inf:
            raise UserError(
                f"deleted = {self.deleted:g} is not allowed: it must be at least 0 and below total = {self.total:g}"
            )
        for name in ("lr", "gradient", "smoothness", "radius"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UserError(f"{name} = {value} is not allowed: it must be a positive finite number")


@dataclass(frozen=True)
class Bound:
    """One upper bound on the sensitivity, in units of the parameters, and the assumptions it needs."""

    name: str
    value: float
    needs: str


@dataclass(frozen=True)
class Worth:
    """One bound beside the noise it asks for and the claim that it leaves at a fixed noise.

    ``sigma`` is what (epsilon, delta) needs, ``mu`` and ``epsilon`` are what the planned noise gives.
    """

    bound: Bound
    sigma: float
    mu: float
    epsilon: float
    worth: str


@dataclass(frozen=True)
class Plan:
    """What a rewind of ``rewound`` of all steps, the share ``fraction``, is worth by every bound that applies."""

    fraction: float
    rewound: int
    rows: tuple[Worth, ...]

    @property
    def best(self) -> Worth:
        """The row of the smallest bound: the one to claim."""
        return min(self.rows, key=lambda row: row.bound.value)


def growth(setting: Rewinding, rewound: int) -> float:
    """Return ``h(K) = ((1 + eta L n/(n-m))^(T-K) - 1) (1 + eta L)^K`` (Theorem 3.1), dimensionless.

    It falls with K to h(T) = 0, and is infinite where float64 ends.
    """
    _check_rewound(setting, rewound)
    smooth = _smoothness(setting)
    wide = setting.lr * smooth * setting.total / (setting.total - setting.deleted)
    forward = _power_minus_one(wide, setting.steps - rewound)
    return forward * (1.0 + _power_minus_one(setting.lr * smooth, rewound)) if forward > 0 else 0.0


def bounds(setting: Rewinding, rewound: int) -> tuple[Bound, ...]:
    """Return every bound whose constants are given, in the order of the table above.

    Args:
        setting: the recipe and its constants.
        rewound: K, how many of the last steps are taken back and replayed; 0 <= K <= T.

    Raises:
        UserError: if ``rewound`` is out of range.
    """
    _check_rewound(setting, rewound)
    m, n, gradient = setting.deleted, setting.total, setting.gradient
    found = []
    if setting.smoothness is not None:
        smooth, needs = setting.smoothness, "gradients of all records bounded by G and L-Lipschitz, full batches"
        step, scale = setting.lr * smooth, 2.0 * m * gradient / smooth
        replayed = 1.0 + _power_minus_one(step, rewound)
        forward = _power_minus_one(step, setting.steps - rewound)
        narrow = _power_minus_one(step * (n - m) / n, setting.steps - rewound)
        found = [
            Bound(THEOREM, _product(scale / n, growth(setting, rewound)), needs),
            Bound(OWN, _product(scale / n, forward, replayed), needs),
            Bound(RETAINED, _product(scale / (n - m), narrow, replayed), needs),
        ]
    # With T = K both runs see the retained data only: the distance is zero whatever the loss.
    drift = 0.0 if rewound == setting.steps or m == 0 else 2.0 * setting.lr * gradient * setting.steps
    found.append(Bound(GRADIENT, drift, "gradients of all records bounded by G"))
    if setting.radius is not None:
        found.append(Bound(PROJECTION, 2.0 * setting.radius, "every step projected to the ball of radius R"))
    return tuple(found)


def smallest(found: Iterable[Bound]) -> Bound:
    """Return the smallest of some bounds, all of whose assumptions hold."""
    return min(found, key=lambda bound: bound.value)


def published_sigma(sensitivity: float, epsilon: float, delta: float) -> float:
    """Return the noise that the paper asks for: the classic formula up to epsilon 1, the exact Gaussian above."""
    if epsilon <= 1:
        return gaussian.classic_sigma(sensitivity, epsilon, delta)
    return gaussian.sigma_for(sensitivity, epsilon, delta)


def rewind_for(setting: Rewinding, allowed: float, *, bound: str = OWN) -> int:
    """Return how many steps K must be rewound for a sensitivity of at most ``allowed``.

    With ``a = eta L`` the bound "own smoothness" is at most ``allowed`` exactly from
    ``K = ln((1 + a)^T - allowed L n/(2 m G)) / ln(1 + a)`` on; with ``a = eta L n/(n-m)`` the same expression is
    Corollary 3.2, sufficient for Theorem 3.1. ``allowed = sigma mu(epsilon, delta)``, or with the paper's formula
    ``sigma epsilon / sqrt(2 ln(1.25/delta))``.

    Args:
        setting: the recipe and its constants; ``smoothness`` must be given.
        allowed: largest sensitivity, in units of the parameters.
        bound: ``"own smoothness"`` or ``"theorem 3.1"``.

    Raises:
        UserError: if the bound has no such formula, or a constant is missing or out of range.
    """
    if bound not in (THEOREM, OWN):
        raise UserError(f"bound = '{bound}' has no formula for K (allowed: '{OWN}', '{THEOREM}')")
    if not allowed >= 0:
        raise UserError(f"allowed = {allowed} is not allowed: it must not be negative")
    smooth, m, n = _smoothness(setting), setting.deleted, setting.total
    if m == 0:
        return 0
    step = setting.lr * smooth * (n / (n - m) if bound == THEOREM else 1.0)
    whole = setting.steps * math.log1p(step)
    share = allowed * smooth * n / (2.0 * m * setting.gradient) * math.exp(-whole)
    if share >= 1.0:
        return 0
    needed = (whole + math.log1p(-share)) / math.log1p(step)
    steps = min(setting.steps, max(0, math.ceil(needed - 1e-9)))
    while steps < setting.steps and _named(setting, steps, bound) > allowed:  # the logarithms round
        steps += 1
    return steps


def capacity(setting: Rewinding, rewound: int, allowed: float) -> int:
    """Return how many records may be deleted at most so that the smallest bound stays within ``allowed``.

    ``setting.deleted`` is ignored. Later requests count too: it is the total of all deletions since training.
    """
    low, high = 0, max(0, math.ceil(setting.total) - 1)
    while low < high:
        middle = (low + high + 1) // 2
        if smallest(bounds(replace(setting, deleted=middle), rewound)).value <= allowed:
            low = middle
        else:
            high = middle - 1
    return low


def plan(
    setting: Rewinding, fractions: Iterable[float], epsilon: float, delta: float, sigma: float
) -> tuple[Plan, ...]:
    """Return, for each share of the steps that is rewound, every bound with its noise and its worth.

    The paper's recipe fixes sigma by utility and K by what replaying may cost, and reports the epsilon that comes out;
    the other way round, sigma follows from the claim. Both are here, side by side.

    Args:
        setting: the recipe and its constants.
        fractions: shares of the T steps, each in [0, 1]; ``K = floor(fraction T)``.
        epsilon, delta: the claim that ``Worth.sigma`` is for, by the exact Gaussian profile.
        sigma: the planned noise on every parameter, which ``Worth.epsilon`` at ``delta`` is for.
    """
    if not sigma > 0:
        raise UserError(f"sigma = {sigma} is not allowed: it must be a positive number")
    plans = []
    for fraction in fractions:
        if not 0 <= fraction <= 1:
            raise UserError(f"fraction = {fraction} is not allowed: it must lie between 0 and 1")
        rewound = math.floor(fraction * setting.steps + 1e-9)
        rows = tuple(_worth(bound, epsilon, delta, sigma) for bound in bounds(setting, rewound))
        plans.append(Plan(float(fraction), rewound, rows))
    return tuple(plans)


def utility_bound(setting: Rewinding, rewound: int, loss_drop: float, *, dim: int = 0, sigma: float = 0.0) -> float:
    """Return a bound on the sum, over the T iterates of both phases, of the squared gradient norm on retained data.

    ``(2n/(eta (n-m))) drop + (T-K-1) (2 G^2 m/(n-m) + 2 L eta G^2 m/(n-m)) + 2 L^2 d sigma^2``, from the proof of
    Theorem 3.1. The paper prints the last middle term with G, which does not fit its unit; it must be G^2. It holds for
    ``eta <= min(1/L, n/(2 (n-m) L))``.

    Args:
        setting: the recipe and its constants; ``smoothness`` must be given.
        rewound: K.
        loss_drop: retained loss at the start minus retained loss at the end of unlearning.
        dim, sigma: of the noise on the last iterate.

    Raises:
        UserError: if ``lr`` is too large for the bound.
    """
    _check_rewound(setting, rewound)
    smooth, m, n = _smoothness(setting), setting.deleted, setting.total
    largest = min(1.0 / smooth, n / (2.0 * (n - m) * smooth))
    if setting.lr > largest:
        raise UserError(f"lr = {setting.lr:g} is too large for the utility bound (allowed: up to {largest:g})")
    share, squared = m / (n - m), setting.gradient**2
    drift = max(0, setting.steps - rewound - 1) * 2.0 * squared * share * (1.0 + smooth * setting.lr)
    return 2.0 * n / (setting.lr * (n - m)) * loss_drop + drift + 2.0 * smooth**2 * dim * sigma**2


def eicu() -> Rewinding:
    """Return the published operating point on the eICU records: 78 epochs of 47 steps, 1 % deleted, G and L as seen.

    The steps were minibatch steps, and G and L were estimated, so that no theorem applies; the numbers show what the
    certificate would be worth if one did.
    """
    total = 94449
    return Rewinding(
        steps=78 * 47, lr=0.01, deleted=0.01 * total, total=total, gradient=0.5946, smoothness=0.2065
    )  # fmt: skip


def _worth(bound: Bound, epsilon: float, delta: float, sigma: float) -> Worth:
    if bound.value == 0:
        return Worth(bound, 0.0, 0.0, 0.0, worth_of(0.0, delta, 0.0))
    if math.isinf(bound.value):
        return Worth(bound, math.inf, math.inf, math.inf, worth_of(0.0, delta, math.inf))
    mu = bound.value / sigma
    needed = gaussian.sigma_for(bound.value, epsilon, delta)
    return Worth(bound, needed, mu, gaussian.epsilon_of(mu, delta), worth_of(epsilon, delta, mu))


def _named(setting: Rewinding, rewound: int, name: str) -> float:
    return next(bound.value for bound in bounds(setting, rewound) if bound.name == name)


def _power_minus_one(step: float, times: int) -> float:
    """Return ``(1 + step)^times - 1``, infinite where float64 ends."""
    exponent = times * math.log1p(step)
    return math.expm1(exponent) if exponent < 709.0 else math.inf


def _product(*factors: float) -> float:
    """Return the product, where a factor of zero wins over an infinite one: no record deleted, or no step before."""
    return 0.0 if 0.0 in factors else math.prod(factors)


def _smoothness(setting: Rewinding) -> float:
    if setting.smoothness is None:
        raise UserError("smoothness is missing: this bound needs a Lipschitz constant of the gradients")
    return setting.smoothness


def _check_rewound(setting: Rewinding, rewound: int) -> None:
    if not 0 <= rewound <= setting.steps:
        raise UserError(f"rewound = {rewound} is not allowed: it must lie between 0 and steps = {setting.steps}")
