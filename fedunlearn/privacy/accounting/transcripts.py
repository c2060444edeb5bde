"""What the tokens of a walk tell those who see them pass: composition, and the published amplified accountants.

Two walks are accounted. In the *restart walk* (Lamri and Maniatakos 2025, arXiv 2512.08443) one node adds noise at its
visits; :func:`transcript_mu` composes its V noisy steps exactly, which always holds, and :func:`paper_sigma` divides
their cost by N/ln N, which rests on amplification by iteration at hops that add no noise, a step that no theorem
provides. In the *network-private walk* (Cyffers and Bellet 2022, "Privacy amplification by decentralization") every
hop adds noise, and :func:`network_dp_sigma` follows the constants of that paper's experiments.

Noise is in units of gradients, as the clipping norm; everything else is dimensionless.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian
from fedunlearn.privacy.accounting.invert import smallest

SLACK = 1.2
"""Factor on T/N by which the experiments of Cyffers and Bellet bound the contributions of a node."""


def transcript_mu(visits_count: int, sensitivity: float, noise: float) -> float:
    """Return ``sqrt(V) S / sigma``: V noisy steps, each seen by everybody, composed exactly.

    Args:
        visits_count: V, the number of noisy steps.
        sensitivity: S, how far one step moves between the worlds, in units of gradients.
        noise: sigma, noise on one step, in the same units.

    Raises:
        UserError: if a number is out of range.
    """
    if visits_count < 0:
        raise UserError(f"visits_count = {visits_count} is not allowed: it must not be negative")
    _not_negative(sensitivity=sensitivity, noise=noise)
    if visits_count == 0 or sensitivity == 0:
        return 0.0
    return math.sqrt(visits_count) * sensitivity / noise if noise > 0 else math.inf


def transcript_sigma(epsilon: float, delta: float, visits_count: int, sensitivity: float) -> float:
    """Return the least noise at which V steps seen by everybody are (epsilon, delta)-close; 0 where V is 0.

    Raises:
        UserError: if a number is out of range.
    """
    unit = transcript_mu(visits_count, sensitivity, 1.0)
    return gaussian.sigma_for(unit, epsilon, delta) if unit > 0 else 0.0


def transcript_delta(epsilon: float, hops: int, p: float, sensitivity: float, noise: float) -> float:
    """Return ``E[delta_mu(epsilon)]`` with a Binomial(hops, p) number of visits, an upper bound by convexity.

    Never more than the claim for a quantile of the visits with its tail added to delta.

    Raises:
        UserError: if a number is out of range.
    """
    if hops < 0 or not 0 <= p <= 1:
        raise UserError(f"hops = {hops}, p = {p} are not allowed: at least 0, in [0, 1]")
    counts = np.arange(hops + 1)
    deltas = [gaussian.delta_of(transcript_mu(int(count), sensitivity, noise), epsilon) for count in counts]
    return min(1.0, float(binom.pmf(counts, hops, p) @ np.asarray(deltas)))


def visit_quantile(hops: int, p: float, tail: float) -> int:
    """Return the least v with ``P(Binomial(hops, p) > v) <= tail``: a number of visits that is hardly ever exceeded.

    Raises:
        UserError: if a number is out of range.
    """
    if hops < 0 or not 0 <= p <= 1 or not 0 < tail < 1:
        raise UserError(f"hops = {hops}, p = {p}, tail = {tail} are not allowed: at least 0, in [0, 1], in (0, 1)")
    count = max(0, int(binom.isf(tail, hops, p)))
    while count > 0 and binom.sf(count - 1, hops, p) <= tail:
        count -= 1
    while binom.sf(count, hops, p) > tail:
        count += 1
    return count


def quantile_sigma(epsilon: float, delta: float, hops: int, p: float, sensitivity: float, share: float = 0.5) -> float:
    """Return the noise for a quantile of the visits, whose tail ``share delta`` is taken from delta.

    Raises:
        UserError: if a number is out of range.
    """
    if not 0 < share < 1:
        raise UserError(f"share = {share} is not allowed: it must lie strictly between 0 and 1")
    return transcript_sigma(epsilon, (1 - share) * delta, visit_quantile(hops, p, share * delta), sensitivity)


def mean_inverse_delay(q: float) -> float:
    """Return ``E[1/G] = (q/(1-q)) ln(1/q)`` for G ~ Geometric(q), q in (0, 1].

    The expected amplification when an observer sees the token G hops after a visit and every hop adds noise; for
    ``q = (1 - 1/N)/(N - 1) = 1/N`` it is about ``ln N / N``.

    Raises:
        UserError: if q is out of range.
    """
    if not 0 < q <= 1:
        raise UserError(f"q = {q} is not allowed: it must lie in (0, 1]")
    return 1.0 if q == 1 else q / (1 - q) * math.log(1 / q)


def paper_sigma(epsilon: float, delta: float, hops: int, p: float, nodes: int, clip: float) -> float:
    """Return the published noise of the restart walk, ``(2 sqrt 2 C/epsilon) sqrt(p T ln(1/delta) ln N / N)``.

    Lamri and Maniatakos (2025), Corollary 5.2, with sensitivity 2 C. For comparison only: the factor ln N / N has no
    proof where other hops add no noise.

    Raises:
        UserError: if a number is out of range.
    """
    return _paper(delta, hops, p, nodes, clip) / _positive("epsilon", epsilon)


def paper_epsilon(noise: float, delta: float, hops: int, p: float, nodes: int, clip: float) -> float:
    """Return the epsilon that the published formula gives to a noise: the inverse of :func:`paper_sigma`."""
    return _paper(delta, hops, p, nodes, clip) / _positive("noise", noise)


def contributions(hops: int, nodes: int) -> int:
    """Return ``ceil(1.2 T / N)``, the contributions of one node that the network-private walk accounts for."""
    if hops < 1 or nodes < 2:
        raise UserError(f"hops = {hops}, nodes = {nodes} are not allowed: at least 1 and at least 2")
    return math.ceil(SLACK * hops / nodes)


def spotted_contributions(hops: int, nodes: int, delta: float) -> int:
    """Return ``ceil(2 K/N + sqrt(6 K ln(1/delta)/N))``: steps that an observer next to them on the walk sees at once.

    At most K, the number of contributions.
    """
    count = contributions(hops, nodes)
    spotted = math.ceil(2 * count / nodes + math.sqrt(6 * count * math.log(1 / delta) / nodes))
    return min(count, spotted)


def network_dp_sigma(
    epsilon: float, delta: float, nodes: int, hops: int, clip: float, group: int = 1, *, most_spotted: int | None = None
) -> float:
    """Return the noise on every hop of the network-private walk on a complete graph (Cyffers and Bellet 2022).

    Epsilon is the sum of two parts. Contributions that are *spotted* are composed naively or by the advanced theorem,
    whichever is less, with ``delta/K`` for each. Those that are seen after other hops have added noise cost
    ``2 K C^2 alpha ln N/(sigma^2 N) + ln(1/delta)/(alpha - 1)`` at an order alpha with
    ``sigma >= C sqrt(2 alpha (alpha - 1))``; for many contributions that is at most
    ``4 C sqrt(2 K ln N ln(1/delta)/N)/sigma``. The constants are those of the paper's experiments, which spend delta
    on each part and on the number of contributions, and take C for the sensitivity of a spotted step: a baseline to
    compare with, whose delta is a multiple of the one named.

    Args:
        epsilon, delta: the claim, for the view of every other node.
        nodes: N.
        hops: T, noisy steps of the whole walk.
        clip: C, bound on the norm of every gradient.
        group: number of deleted records; the noise grows linearly in it.
        most_spotted: bound on the spotted contributions, by default :func:`spotted_contributions`.

    Raises:
        UserError: if a number is out of range.
    """
    _positive("epsilon", epsilon)
    _positive("clip", clip)
    if not 0 < delta < 1:
        raise UserError(f"delta = {delta} is not allowed: it must lie strictly between 0 and 1")
    if group < 1:
        raise UserError(f"group = {group} is not allowed: it must be at least 1")
    count = contributions(hops, nodes)
    spotted = spotted_contributions(hops, nodes, delta) if most_spotted is None else most_spotted

    def total(sigma: float) -> float:
        return _associated(sigma, delta, count, nodes) + _spotted(sigma, delta / count, spotted)

    return group * clip * smallest(lambda sigma: total(sigma) <= epsilon, what="noise")


def _associated(sigma: float, delta: float, count: int, nodes: int) -> float:
    """Return the epsilon of contributions seen later, sigma in units of the clipping norm."""
    # sigma^2 >= 2 alpha (alpha - 1)
    largest = 0.5 + math.sqrt(0.25 + sigma * sigma / 2)
    slope = 2 * count * math.log(nodes) / (sigma * sigma * nodes)
    alpha = min(largest, 1 + math.sqrt(math.log(1 / delta) / slope))
    return slope * alpha + math.log(1 / delta) / (alpha - 1) if alpha > 1 else math.inf


def _spotted(sigma: float, delta: float, count: int) -> float:
    """Return the epsilon of ``count`` spotted contributions, each at ``delta``, sigma in units of the clipping norm."""
    if count == 0:
        return 0.0
    one = math.sqrt(2 * math.log(1.25 / delta)) / sigma
    if one > 50:
        return math.inf
    return min(count * one, math.sqrt(2 * count * math.log(1 / delta)) * one + count * one * math.expm1(one))


def _paper(delta: float, hops: int, p: float, nodes: int, clip: float) -> float:
    if hops < 1 or nodes < 2 or not 0 < p <= 1 or not 0 < delta < 1:
        raise UserError(
            f"hops = {hops}, nodes = {nodes}, p = {p}, delta = {delta} are not allowed: "
            "at least 1, at least 2, in (0, 1], in (0, 1)"
        )
    return 2 * math.sqrt(2) * clip * math.sqrt(p * hops * math.log(1 / delta) * math.log(nodes) / nodes)


def _positive(name: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{name} = {value} is not allowed: it must be a positive finite number")
    return value


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise UserError(f"{name} = {value} is not allowed: it must be a finite number that is not negative")
