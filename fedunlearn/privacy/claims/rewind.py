"""The rewind certificate as arithmetic: how far replaying from a checkpoint can end from retraining.

The run on all records and the run on the retained ones start together and follow one public schedule; until the rewind
point they drift apart by what the deleted records push, afterwards they run the same steps. The recursion that bounds
their distance is in :mod:`fedunlearn.privacy.accounting.replay` (docs/certificates.md 4f), the published closed forms
for full batches in :mod:`fedunlearn.privacy.accounting.rewinding`. The mean of the rows, with Gaussian noise of a
scale fixed before training, is released by training and by unlearning alike.

What an honest recursion gives can be far too much for any useful noise. Then the certificate is valid and worth
nothing, and it says so: the distance by every bound, the noise and the epsilon stand side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian
from fedunlearn.privacy.accounting import rewinding
from fedunlearn.privacy.accounting.replay import (
    Descent,
    Row,
    average_distance,
    gradient_only,
    inverse_error,
    joint_distance,
)
from fedunlearn.privacy.certificate import Certificate, NoCertificate, Noise
from fedunlearn.privacy.claims.rewind_facts import RewindFacts
from fedunlearn.privacy.claims.rewind_wording import limits_of, premises_of, scope_of, theorem_of, view_of


def obtained(sensitivity: float, sigma: float, epsilon: float, delta: float) -> float:
    """Return the claim that a fixed noise gives: ``epsilon`` where it is reached, else the smallest that is.

    Raises:
        NoCertificate: if no finite epsilon is.
    """
    mu = sensitivity / sigma
    if gaussian.delta_of(mu, epsilon) <= delta:
        return epsilon
    found = gaussian.epsilon_of(mu, delta) if math.isfinite(mu) else math.inf
    if not math.isfinite(found):
        raise NoCertificate(
            f"the two noise-free vectors may be {sensitivity:.3g} apart, and no finite epsilon follows from noise of "
            f"sigma = {sigma:g}"
        )
    return found


def certify(
    facts: RewindFacts, epsilon: float, delta: float, *, noise: Noise, hashes: Mapping[str, str] | None = None
) -> Certificate:
    """Return the certificate of one release.

    Args:
        facts: what the run did.
        epsilon, delta: the claim: what was asked for, or what :func:`obtained` gives at the fixed noise.
        noise: where the noise came from.
        hashes: SHA-256 hashes; ``settings.toml`` fixes the recipe and the noise.

    Raises:
        NoCertificate: if a step size breaks the condition of the loss' row, or the noise is too small for the claim.
        UserError: if a number is out of range.
    """
    hashes = dict(hashes or {})
    if not (facts.sigma_drawn > 0 and math.isfinite(facts.sigma_drawn)):
        raise UserError(f"sigma_drawn = {facts.sigma_drawn} is not allowed: it must be a positive finite number")
    try:
        descent = facts.descent()
        if facts.start_rows == "public" and facts.rewound != descent.steps:
            raise UserError(f"rewound = {facts.rewound} of {descent.steps} steps does not lead to the public start")
        sensitivity = average_distance(descent, facts.rewound)
        constants = _constants(facts, descent, delta)
    except UserError as refusal:
        raise NoCertificate(str(refusal)) from refusal
    mu = sensitivity / facts.sigma_drawn
    if not math.isfinite(mu) or gaussian.delta_of(mu, epsilon) > delta * (1 + 1e-9):
        raise NoCertificate(
            f"the noise drawn has sigma = {facts.sigma_drawn:.6g}, which gives mu = {mu:.6g} for a distance of at most "
            f"{sensitivity:.6g}: more than epsilon = {epsilon:g} at delta = {delta:g} allows"
        )
    exact = sensitivity == 0
    theorem, claim = theorem_of(facts, exact)
    view, reason = view_of(facts, exact)
    return Certificate(
        method=facts.method,
        kind="exact" if exact else "retrain-equivalence",
        granularity=facts.granularity,
        epsilon=float(epsilon),
        delta=float(delta),
        mu=float(mu),
        sigma=float(facts.sigma_drawn),
        sensitivity=float(sensitivity),
        theorem=theorem,
        claim=claim,
        scope=scope_of(facts, noise),
        view=view,
        view_reason=reason,
        premises=premises_of(facts, hashes),
        constants=constants,
        noise=noise,
        hashes=hashes,
        limits=limits_of(facts),
        facts=facts.to_dict(),
    )


def from_facts(
    facts: Mapping[str, Any], epsilon: float, delta: float, *, noise: Noise, hashes: Mapping[str, str] | None = None
) -> Certificate:
    """Return the certificate of facts as :meth:`RewindFacts.to_dict` wrote them; raises as :func:`certify` does."""
    return certify(RewindFacts.from_dict(facts), epsilon, delta, noise=noise, hashes=hashes)


def _constants(facts: RewindFacts, descent: Descent, delta: float) -> dict[str, float]:
    """Return the numbers that enter, and the distance by every bound whose assumptions hold, infinite ones left out."""
    mu = average_distance(descent, facts.rewound) / facts.sigma_drawn
    numbers: dict[str, float | None] = {
        "steps": descent.steps, "rewound": facts.rewound, "nodes": facts.nodes, "deleted": facts.deleted,
        "total": facts.total, "dim": facts.dim, "l2": facts.l2, "gradient_bound": facts.gradient_bound,
        "smoothness": facts.smoothness, "radius": facts.radius, "offset": facts.offset, "rounding": descent.rounding,
        "start_norm": facts.start_norm,
        "distance_all_rows": joint_distance(descent, facts.rewound),
        "epsilon_at_this_noise": gaussian.epsilon_of(mu, delta),
    }  # fmt: skip
    for row in ("strongly-convex", "convex", "smooth", "clipped"):
        if (value := _by_row(descent, row, facts)) is not None:
            numbers[f"distance_{row.replace('-', '_')}"] = value
    if all(rate * facts.l2 <= 2 for _, rate in facts.rates):  # no step expands
        numbers["distance_gradient_only"] = gradient_only(descent) + facts.offset
    if facts.radius is not None:
        numbers["distance_projection"] = 2.0 * facts.radius
    if (published := _published(facts, descent)) is not None:
        numbers["distance_published"] = published
    if facts.residual is not None and facts.smoothness is not None:
        rate = max(rate for _, rate in facts.rates)
        numbers["offset_from_residual"] = inverse_error(facts.residual, rate, facts.l2, facts.smoothness, facts.rewound)
    return {name: float(value) for name, value in numbers.items() if value is not None and math.isfinite(value)}


def _by_row(descent: Descent, row: Row, facts: RewindFacts) -> float | None:
    """Return the distance of the released mean by one row, where its assumptions hold for this loss."""
    order: tuple[Row, ...] = ("strongly-convex", "convex", "smooth", "clipped")
    if order.index(row) < order.index(descent.row) or (row == "convex" and descent.row == "strongly-convex"):
        return None
    return average_distance(replace(descent, row=row), facts.rewound)


def _published(facts: RewindFacts, descent: Descent) -> float | None:
    """Return Theorem 3.1 of Mu and Klabjan where it applies: full batches on one node, from a stored checkpoint."""
    rates, shares = ({value for _, value in part} for part in (facts.rates, facts.shares))
    if facts.smoothness is None or len(rates) != 1 or not 0 < facts.deleted < facts.total or not facts.smoothness > 0:
        return None
    if facts.nodes > 1 or facts.offset > 0 or shares != {facts.deleted / facts.total}:
        return None
    setting = rewinding.Rewinding(
        descent.steps, rates.pop(), facts.deleted, facts.total, facts.gradient_bound, facts.smoothness + facts.l2
    )
    return rewinding.bounds(setting, facts.rewound)[0].value
