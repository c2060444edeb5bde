"""What a number of trials can show, known before any is run.

All counts are per world. An audit of ``trials`` uses half of them to choose its test, so ``trials // 2`` are counted.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from fedunlearn.errors import UserError
from fedunlearn.evaluation import bounds
from fedunlearn.evaluation.bounds import LEVEL, lower_limit, mu_from_errors, upper_limit
from fedunlearn.privacy import mu_of
from fedunlearn.randomness import generator

POWER = 0.95
"""Noticed in 9 of 10 audits means: so often at the best fixed threshold, which an audit has to find."""
LARGEST_FAULT = 5.0
"""An audit that would miss noise so many times too small is said to have no power."""


def refutable_epsilon(counted: int, delta: float, level: float = LEVEL) -> float:
    """Return the largest epsilon that ``counted`` trials a world can refute, when not one of them errs.

    ``ln((c - delta)/(1 - c))`` with ``c = level^(1/T)``, the Clopper-Pearson limit of no error in T trials; 0 if none.
    """
    _at_least_one(counted)
    limit = level ** (1.0 / counted)
    return max(0.0, math.log((limit - delta) / -math.expm1(math.log(level) / counted))) if limit > delta else 0.0


def refutable_mu(counted: int) -> float:
    """Return the largest mu that ``counted`` trials a world can refute, when not one of them errs."""
    _at_least_one(counted)
    return max(0.0, 2.0 * float(ndtri(LEVEL ** (1.0 / counted))))


def trials_for_epsilon(epsilon: float, delta: float) -> int:
    """Return how many counted trials a world are needed to refute ``epsilon`` when not one of them errs."""
    if not (epsilon > 0 and math.isfinite(epsilon) and 0 <= delta < 1):
        raise UserError(f"epsilon = {epsilon}, delta = {delta} are not allowed: epsilon > 0 and 0 <= delta < 1")
    low, high = 0, 1
    while refutable_epsilon(high, delta) <= epsilon:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if refutable_epsilon(middle, delta) <= epsilon else (low, middle)
    return high


def power(
    true_mu: float, trials: int, *, mu: float | None, epsilon: float, delta: float, level: float = LEVEL
) -> float:
    """Return the probability that an audit refutes the claim when the score is N(true_mu, 1) against N(0, 1).

    Exact for the best fixed threshold; an audit that has to find its threshold does slightly worse. Decided by the
    trade-off test if ``mu`` is claimed, else by the (epsilon, delta) test. At ``true_mu`` equal to the claim it is the
    probability of a false alarm at that threshold.
    """
    n = trials // 2
    _at_least_one(n)
    thresholds = np.linspace(-4.0, true_mu + 4.0, 241)
    a, b = ndtr(-thresholds), ndtr(thresholds - true_mu)
    if mu is not None:
        best = int(np.argmax(mu_from_errors(upper_limit(a * n, n, level), upper_limit(b * n, n, level))))
        return _trade_off_power(a[best], b[best], n, mu, level)
    gain = np.maximum(lower_limit((1 - b) * n, n, level) - delta, 1e-300)
    best = int(np.argmax(np.log(gain) - np.log(upper_limit(a * n, n, level))))
    return _epsilon_power(a[best], b[best], n, epsilon, delta, level)


def _trade_off_power(a: float, b: float, n: int, mu: float, level: float) -> float:
    alarms = _likely_counts(a, n)
    # An upper limit is below v exactly when so few errors would be rarer than the level under v.
    allowed = ndtr(-ndtri(upper_limit(alarms, n, level)) - mu)
    misses = binom.ppf(level, n, allowed) - 1
    return float(np.sum(binom.pmf(alarms, n, a) * binom.cdf(misses, n, b)))


def _epsilon_power(a: float, b: float, n: int, epsilon: float, delta: float, level: float) -> float:
    alarms = _likely_counts(a, n)
    needed = delta + math.exp(min(epsilon, 700.0)) * upper_limit(alarms, n, level)
    hits = np.where(needed < 1.0, binom.isf(level, n, np.minimum(needed, 1.0)), n)
    return float(np.sum(binom.pmf(alarms, n, a) * binom.sf(hits, n, 1 - b)))


def _likely_counts(p: float, n: int) -> np.ndarray:
    """Return the counts that carry all but 1e-12 of a binomial law, at either end."""
    return np.arange(int(binom.ppf(1e-12, n, p)), int(binom.isf(1e-12, n, p)) + 1)


@lru_cache(maxsize=256)
def detectable_mu(trials: int, *, mu: float | None, epsilon: float, delta: float, level: float = LEVEL) -> float:
    """Return the smallest true mu that refutes the claim in :data:`POWER` of the audits, to 0.1 %; infinite if none."""
    high = 1.0
    while power(high, trials, mu=mu, epsilon=epsilon, delta=delta, level=level) < POWER:
        high *= 2.0
        if high > 64.0:
            return math.inf
    low = 0.0
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        if power(middle, trials, mu=mu, epsilon=epsilon, delta=delta, level=level) < POWER:
            low = middle
        else:
            high = middle
    return high


def simulated_power(
    true_mu: float, trials: int, audits: int, *, mu: float, epsilon: float, delta: float, seed: int = 0
) -> dict[str, float]:
    """Return the share of simulated audits that refute the claim, by test: ``A1``, ``A2`` and ``A3``.

    Scores are N(true_mu, 1) in the unlearned world and N(0, 1) in the retrained one; every audit chooses its own
    threshold on one half, as a real one does.
    """
    half = trials // 2
    _at_least_one(half)
    refuted = np.zeros(3)
    for audit in range(audits):
        noise = generator(seed, "audit power", audit, trials).standard_normal((2, trials))
        noise[0] += true_mu
        (p, p_test), (q, q_test) = np.split(noise[0], [half]), np.split(noise[1], [half])
        by_epsilon = bounds.epsilon_bound(p_test, q_test, bounds.choose_epsilon(p, q, delta), delta)
        by_mu = bounds.trade_off_bound(p_test, q_test, bounds.choose_trade_off(p, q))
        refuted += [by_epsilon > epsilon, by_mu > mu, bounds.parametric_bound(noise[0], noise[1], 1.0) > mu]
    return dict(zip(("A1", "A2", "A3"), (refuted / audits).tolist()))


def trial_budget(epsilon: float, delta: float, mu: float | None = None, fault: float = 3.0) -> int:
    """Return how many trials a world, in steps of a quarter, notice noise ``fault`` times too small on a tight pair.

    Raises:
        UserError: if the fault is not above 1, or a million trials do not suffice.
    """
    if not fault > 1:
        raise UserError(f"fault = {fault} is not allowed: it must be above 1")
    claimed = mu if mu is not None else mu_of(epsilon, delta)
    trials = 20
    while power(fault * claimed, trials, mu=mu, epsilon=epsilon, delta=delta) < POWER:
        trials += math.ceil(trials / 4)
        if trials > 1_000_000:
            raise UserError(f"a million trials do not notice noise {fault:g} times too small for epsilon = {epsilon:g}")
    return trials


def _at_least_one(counted: int) -> None:
    if counted < 1:
        raise UserError(f"trials = {counted} is not allowed: at least one trial a world must be counted, two in all")
