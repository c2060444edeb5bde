"""The tolerance certificate as arithmetic: what a small gradient on the retained data is worth.

The objective on the retained data is lam-strongly convex, so a point whose gradient norm is at most tau lies within
tau/lam of its only minimiser. Unlearning and retraining both stop by that rule, hence end within ``2 tau/lam`` of each
other whatever was deleted and however they got there, and Gaussian noise of a fixed scale hides the rest. Statements T1
to T5 with the ideas of their proofs are in docs/certificates.md. Distances and sigma are in units of the parameters;
lam and tau in units of the objective per squared parameter and per parameter.

Order of use: :func:`calibrate` before training (its result is public and must not depend on deletable records),
:func:`meets_tolerance` as the stopping rule, :func:`certify` after the release.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian
from fedunlearn.privacy.certificate import Certificate, NoCertificate, Noise
from fedunlearn.privacy.claims.tolerance_facts import RunFacts
from fedunlearn.privacy.claims.tolerance_wording import limits_of, premises_of, scope_of, theorem_of, view_of

SMALLEST_TAU = 1e-9
"""Tolerances below this are not accepted as proved: float64 gradients of a million records round at up to 1e-11."""

TARGET_SIGMA = 0.05
"""Default noise on each parameter; the standard deviation of a logit's noise where feature rows have norm one."""

_UNIT_ROUNDOFF = 2.0**-53


@dataclass(frozen=True)
class Calibration:
    """Public constants of a run, fixed before training.

    Attributes:
        epsilon, delta: the claim to be made for every record, class or client that is deleted.
        lam: L2 coefficient on all parameters.
        tau: tolerance on the gradient norm.
        sensitivity: largest distance of the noise-free vectors of the two worlds, for one release.
        sigma: noise standard deviation on each parameter.
        mu: privacy number of all releases that the claim covers together.
        releases: how many releases that is: 1 unless the network restarts from noise-free models.
    """

    epsilon: float
    delta: float
    lam: float
    tau: float
    sensitivity: float
    sigma: float
    mu: float
    releases: int


def tolerance_for(target_sigma: float, lam: float, epsilon: float, delta: float, releases: int = 1) -> float:
    """Return the tau for which the noise comes out as ``target_sigma``: ``target_sigma lam mu / (2 sqrt(releases))``.

    At (1, 1e-5) and the default target this is 0.0067 lam.
    """
    _positive("target_sigma", target_sigma)
    _positive("lam", lam)
    return target_sigma * lam * gaussian.mu_of(epsilon, delta) / (2 * math.sqrt(_count("releases", releases)))


def sensitivity(tau: float, lam: float, consensus_bound: float = 0.0) -> float:
    """Return ``2 (tau/lam + c)``: the distance of two vectors that both met the tolerance (T1).

    With ``consensus_bound = c`` it is the distance of one node's model, which is within c of such a vector (T2).
    """
    _positive("tau", tau)
    _positive("lam", lam)
    if not consensus_bound >= 0:
        raise UserError(f"consensus_bound = {consensus_bound} is not allowed: it must not be negative")
    return 2 * (tau / lam + consensus_bound)


def joint_sensitivity(tau: float, lam: float, nodes: int, consensus_bound: float) -> float:
    """Return ``2 sqrt(N (tau/lam)^2 + c_F^2)``: the distance of all N node models stacked, with independent draws (T2).

    ``consensus_bound`` is a public bound c_F on the Frobenius norm of the rows' deviations from their mean, which are
    orthogonal to the difference of the means; hence the Pythagorean sum.
    """
    radius = sensitivity(tau, lam) / 2
    if not consensus_bound >= 0:
        raise UserError(f"consensus_bound = {consensus_bound} is not allowed: it must not be negative")
    return 2 * math.hypot(math.sqrt(_count("nodes", nodes)) * radius, consensus_bound)


def mu_over_releases(mu: float, releases: int, start: Literal["released", "public", "secret"]) -> float:
    """Return the mu of k successive releases together: ``sqrt(k) mu`` from secret starts (T5.2), else ``mu`` (T5.3)."""
    return math.sqrt(_count("releases", releases)) * mu if start == "secret" else mu


def calibrate(
    epsilon: float,
    delta: float,
    lam: float,
    *,
    tau: float | None = None,
    target_sigma: float = TARGET_SIGMA,
    releases: int = 1,
    nodes: int = 1,
    consensus_bound: float = 0.0,
) -> Calibration:
    """Return the public constants of a run that wants (epsilon, delta) for each of its releases.

    Args:
        epsilon, delta: the claim.
        lam: L2 coefficient, positive.
        tau: tolerance; by default :func:`tolerance_for` the target noise, but at least :data:`SMALLEST_TAU`.
        target_sigma: noise on each parameter that the default tau aims at.
        releases: releases to cover together, where the network restarts from noise-free models.
        nodes: models released with a draw each; 1 where one vector is broadcast.
        consensus_bound: public bound on the rows' deviations from their mean, where more than one model is released.

    Raises:
        UserError: if a number is out of range.
    """
    if tau is None:
        tau = max(tolerance_for(target_sigma, lam, epsilon, delta, releases), SMALLEST_TAU)
    distance = joint_sensitivity(tau, lam, nodes, consensus_bound) if nodes > 1 else sensitivity(tau, lam)
    sigma = gaussian.sigma_for(distance * math.sqrt(_count("releases", releases)), epsilon, delta)
    mu = math.sqrt(releases) * distance / sigma
    return Calibration(epsilon, delta, lam, tau, distance, sigma, mu, releases)


def stopping_value(gradient_norm: float, dim: int, rounding_bound: float = 0.0, slack: float = 0.0) -> float:
    """Return ``(1 + g_{d+2}) norm + e64 + slack``, a bound on the true gradient norm (T3, T4), g_k = k u/(1 - k u).

    Args:
        gradient_norm: norm computed in float64 from a float64 gradient.
        dim: number of entries of the gradient; the first term covers the rounding of the norm itself.
        rounding_bound: bound on the rounding error of the gradient.
        slack: bound on what gossip averaging left out.
    """
    growth = (dim + 2) * _UNIT_ROUNDOFF
    return (1 + growth / (1 - growth)) * gradient_norm + rounding_bound + slack


def meets_tolerance(
    gradient_norm: float, tau: float, dim: int, rounding_bound: float = 0.0, slack: float = 0.0
) -> bool:
    """Return whether the true gradient norm is proved to be at most tau; False for NaN."""
    return stopping_value(gradient_norm, dim, rounding_bound, slack) <= tau


def certify(
    facts: RunFacts, epsilon: float, delta: float, *, noise: Noise, hashes: Mapping[str, str] | None = None
) -> Certificate:
    """Return the certificate of one release.

    Args:
        facts: what the run did and saw.
        epsilon, delta: the claim that the noise was calibrated for.
        noise: where the noise came from.
        hashes: SHA-256 hashes; ``settings.toml`` fixes the public constants, ``extractor`` and
            ``extractor_training_rows`` the features. Hashes of released models may be added later.

    Raises:
        NoCertificate: if the stopping rule was not met, there is no L2 term, one draw was shared by different models,
            or the noise that was drawn is too small for the claim.
        UserError: if epsilon, delta or a constant is out of range.
    """
    hashes = dict(hashes or {})
    _refuse_the_uncertifiable(facts)
    distance = (
        joint_sensitivity(facts.tau, facts.lam, facts.nodes, facts.consensus_bound)
        if facts.release == "per-node"
        else sensitivity(facts.tau, facts.lam)
    )
    mu = mu_over_releases(distance / facts.sigma_drawn, facts.releases, facts.start)
    needed = gaussian.mu_of(epsilon, delta)
    if mu > needed * (1 + 1e-12):
        raise NoCertificate(
            f"the noise drawn has sigma = {facts.sigma_drawn:.6g}, which gives mu = {mu:.6g}, "
            f"but epsilon = {epsilon:g} at delta = {delta:g} needs mu <= {needed:.6g}"
        )
    value = stopping_value(facts.gradient_norm, facts.dim, facts.rounding_bound or 0.0, facts.gradient_slack)
    theorem, claim = theorem_of(facts)
    view, reason = view_of(facts)
    constants = {
        "lam": facts.lam,
        "tau": facts.tau,
        "radius": facts.tau / facts.lam,
        "gradient_norm": facts.gradient_norm,
        "gradient_norm_bound": value,
        "dim": facts.dim,
        "nodes": facts.nodes,
        "releases": facts.releases,
    }
    if facts.rounding_bound is not None:
        constants["rounding_bound"] = facts.rounding_bound
    if facts.release == "per-node":
        constants["consensus_bound"] = facts.consensus_bound
    return Certificate(
        method=facts.method,
        kind="retrain-equivalence" if facts.retraining_always_stops else "certifier",
        granularity=facts.granularity,
        epsilon=epsilon,
        delta=delta,
        mu=float(mu),
        sigma=float(facts.sigma_drawn),
        sensitivity=float(distance),
        theorem=theorem,
        claim=claim,
        scope=scope_of(facts, noise),
        view=view,
        view_reason=reason,
        premises=premises_of(facts, hashes, value, SMALLEST_TAU),
        constants={name: float(number) for name, number in constants.items()},
        noise=noise,
        hashes=hashes,
        limits=limits_of(facts),
        facts=facts.to_dict(),
    )


def from_facts(
    facts: Mapping[str, Any], epsilon: float, delta: float, *, noise: Noise, hashes: Mapping[str, str] | None = None
) -> Certificate:
    """Return the certificate of facts as :meth:`RunFacts.to_dict` wrote them; raises as :func:`certify` does."""
    return certify(RunFacts.from_dict(facts), epsilon, delta, noise=noise, hashes=hashes)


def _refuse_the_uncertifiable(facts: RunFacts) -> None:
    if not facts.lam > 0:
        raise NoCertificate(f"lam = {facts.lam:g}: without an L2 term no distance follows from a small gradient")
    if not facts.gradient_norm <= facts.tau:
        raise NoCertificate(
            f"the stopping rule was not met: gradient norm {facts.gradient_norm:.6g} is above tau = {facts.tau:.6g}"
        )
    if facts.release == "shared-draw" and facts.nodes > 1:
        raise NoCertificate(
            "one noise vector was added to different models: their differences carry no noise, so no sigma helps (T2)"
        )
    if facts.release == "per-node" and not facts.consensus_residual <= facts.consensus_bound:
        raise NoCertificate(
            f"the models deviate from their mean by {facts.consensus_residual:.6g}, more than the public bound "
            f"{facts.consensus_bound:.6g} (T2)"
        )
    _positive("sigma_drawn", facts.sigma_drawn)


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{name} = {value} is not allowed: it must be a positive finite number")


def _count(name: str, value: int) -> int:
    if value < 1:
        raise UserError(f"{name} = {value} is not allowed: it must be at least 1")
    return value
