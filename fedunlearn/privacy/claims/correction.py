"""The certificate of a broadcast correction: ``x_i + v + noise``, one draw for all nodes.

Source: docs/certificates.md T2 (one node's own model) with the error of one Newton/Fisher step from
:mod:`fedunlearn.privacy.accounting.corrections`. Both worlds end within a public distance of the retained minimiser,
the mean of the models by strong convexity, each model within c of the mean. Where every node holds the same bits the
release is one vector, and whatever follows is post-processing. Where models differ, the claim is about *one* node's
model alone: differences of two models carry no noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian
from fedunlearn.privacy.accounting import corrections
from fedunlearn.privacy.certificate import Certificate, NoCertificate, Noise, Premise
from fedunlearn.privacy.claims.correction_facts import CorrectionFacts
from fedunlearn.privacy.claims.correction_wording import claim_of, limits_of, scope_of, theorem_of, view_reason_of
from fedunlearn.privacy.claims.tolerance import SMALLEST_TAU, stopping_value

_L, _G = corrections.SOFTMAX_SMOOTHNESS, corrections.SOFTMAX_GRADIENT


def gradient_bounds(facts: CorrectionFacts) -> tuple[float, float]:
    """Return public bounds on the gradient that the step was made from, and on what that gradient does not show."""
    if facts.gradient == "forget-set":
        return corrections.forget_gradient_bound(
            facts.forgotten, facts.clients, facts.total, facts.weighting, facts.tau, gradient=_G
        )
    weight = corrections.deleted_weight(facts.forgotten, facts.clients, facts.total, facts.weighting)
    moved = (_L + facts.lam) * _shift(facts)
    return corrections.retained_gradient_bound(weight, facts.tau, gradient=_G, moved=moved), 0.0


def _shift(facts: CorrectionFacts) -> float:
    """Return how far the mean of those who stay can be from the mean of all."""
    return facts.consensus_bound * facts.leavers / facts.nodes


def numbers_of(facts: CorrectionFacts) -> dict[str, float]:
    """Return the constants of the theorem: bounds on gradient, step and residual, and the sensitivity."""
    if not facts.lam > 0:
        raise NoCertificate(f"lam = {facts.lam:g}: without an L2 term no distance follows from a small gradient")
    gradient, unseen = gradient_bounds(facts)
    if facts.bound == "measured":
        step, residual = math.nan, facts.residual_bound
    else:
        error = corrections.curvature_error(facts.curvature, facts.own_curvature, facts.damping)
        if error is None:
            raise NoCertificate(f"no bound on the error of the curvature '{facts.curvature}' is known")
        if facts.gradient == "forget-set":  # gradient at the mean of all, curvature at the mean of those who stay
            error += corrections.SOFTMAX_HESSIAN_LIPSCHITZ * _shift(facts)
        solve = facts.solve * gradient
        step = corrections.step_bound(gradient, facts.lam, damping=facts.damping, solve=solve)
        residual = min(
            corrections.newton_residual(step, error=error, solve=solve, unseen=unseen),
            corrections.moved_residual(gradient + unseen, step, facts.lam),
        )
    distance = corrections.correction_sensitivity(residual, facts.tau, facts.lam, facts.consensus_bound)
    numbers = {"gradient_bound": gradient, "step_bound": step, "residual_bound": residual, "sensitivity": distance}
    return {name: value for name, value in numbers.items() if not math.isnan(value)}


def certify(
    facts: CorrectionFacts, epsilon: float, delta: float, *, noise: Noise, hashes: Mapping[str, str] | None = None
) -> Certificate:
    """Return the certificate of one answer.

    For a model that is not convex it is conditional: its premises say what would have to be true, and what was seen.

    Raises:
        NoCertificate: if a convex run missed a public bound, there is no L2 term, or the noise is too small.
        UserError: if epsilon, delta or a constant is out of range.
    """
    hashes = dict(hashes or {})
    numbers = numbers_of(facts)
    if facts.convex_loss:
        _refuse(facts, numbers)
    if not facts.sigma_drawn > 0:
        raise UserError(f"sigma_drawn = {facts.sigma_drawn} is not allowed: it must be a positive number")
    mu = math.sqrt(facts.releases) * numbers["sensitivity"] / facts.sigma_drawn
    needed = gaussian.mu_of(epsilon, delta)
    if not mu <= needed * (1 + 1e-12):
        raise NoCertificate(
            f"the noise drawn has sigma = {facts.sigma_drawn:.6g}, which gives mu = {mu:.6g}, "
            f"but epsilon = {epsilon:g} at delta = {delta:g} needs mu <= {needed:.6g}"
        )
    constants = {
        "lam": facts.lam, "tau": facts.tau, "consensus_bound": facts.consensus_bound, "dim": facts.dim,
        "nodes": facts.nodes, "releases": facts.releases, "correction_norm": facts.correction_norm, **numbers,
    }  # fmt: skip
    if facts.bound == "worst-case":
        constants["hessian_lipschitz"] = corrections.SOFTMAX_HESSIAN_LIPSCHITZ
    whole = "retrain-equivalence" if facts.retraining_always_stops else "certifier"
    return Certificate(
        method=facts.method, kind=whole if facts.one_vector else "single-node",  # type: ignore[arg-type]
        granularity=facts.granularity, epsilon=epsilon, delta=delta, mu=float(mu), sigma=float(facts.sigma_drawn),
        sensitivity=float(numbers["sensitivity"]), theorem=theorem_of(facts), claim=claim_of(facts),
        scope=scope_of(facts, noise), view="none", view_reason=view_reason_of(facts),
        premises=premises_of(facts, numbers, hashes), constants={k: float(v) for k, v in constants.items()},
        noise=noise, hashes=hashes, limits=limits_of(facts, numbers["sensitivity"]), facts=facts.to_dict(),
    )  # fmt: skip


def from_facts(
    facts: Mapping[str, Any], epsilon: float, delta: float, *, noise: Noise, hashes: Mapping[str, str] | None = None
) -> Certificate:
    """Return the certificate of facts as they lie in a file; raises as :func:`certify` does, UserError if malformed."""
    return certify(CorrectionFacts.from_dict(facts), epsilon, delta, noise=noise, hashes=hashes)


def _value(facts: CorrectionFacts, norm: float) -> float:
    return stopping_value(norm, facts.dim, facts.rounding_bound or 0.0)


def _within(facts: CorrectionFacts, numbers: Mapping[str, float]) -> tuple[bool, str]:
    """Return whether what was measured of the correction keeps to its public bound, and a sentence about it."""
    if facts.fell_back:
        value = math.inf if facts.residual_norm is None else _value(facts, facts.residual_norm)
        said = "the correction was not accepted: the network retrained, to a gradient norm of at most"
        return value <= facts.tau, f"{said} {value:.3e}, tau = {facts.tau:.3e}"
    if facts.bound == "measured":
        if facts.residual_norm is None:
            return False, "nobody measured the retained gradient after the correction"
        value = _value(facts, facts.residual_norm)
        said = f"retained gradient after the correction at most {value:.3e} with rounding"
        return value <= facts.residual_bound, f"{said}, r_max = {facts.residual_bound:.3e}"
    if facts.clipped:
        return False, "the correction was shortened to a public radius, so it is no Newton step any more"
    if not facts.first_answer and facts.gradient_norm is None:
        return False, "the models carry the noise of an earlier answer, so nothing bounds their gradient"
    if facts.gradient == "retained":
        if facts.gradient_norm is None or facts.residual_norm is None:
            return False, "nobody measured the gradient that the step was made from"
        value = _value(facts, facts.gradient_norm)
        if not value <= numbers["gradient_bound"]:
            return False, f"retained gradient {value:.3e} before the correction, above {numbers['gradient_bound']:.3e}"
    error = corrections.curvature_error(facts.curvature, facts.own_curvature, facts.damping) or 0.0
    allowed = facts.solve * numbers["gradient_bound"] + (0.0 if facts.own_curvature else error * numbers["step_bound"])
    said = f"error of a Newton step at most {numbers['residual_bound']:.3e} in the gradient"
    if facts.residual_norm is None or not _value(facts, facts.residual_norm) <= allowed:
        left = "not measured" if facts.residual_norm is None else f"{facts.residual_norm:.3e}"
        return False, f"{said}, but what is left of the linear system is {left}, allowed {allowed:.3e}"
    return True, said


def _refuse(facts: CorrectionFacts, numbers: Mapping[str, float]) -> None:
    met, said = _within(facts, numbers)
    if not met:
        raise NoCertificate(said)
    if not facts.consensus_residual <= facts.consensus_bound:
        raise NoCertificate(
            f"a model is {facts.consensus_residual:.6g} away from the mean, more than the public bound "
            f"{facts.consensus_bound:.6g} (T2)"
        )


def premises_of(facts: CorrectionFacts, numbers: Mapping[str, float], hashes: Mapping[str, str]) -> tuple[Premise, ...]:
    """Return the premises of the theorem and how this run met them."""

    def premise(name: str, enforced: bool, yes: str, no: str) -> Premise:
        return Premise(name, "enforced" if enforced else "assumed", yes if enforced else no)

    met, said = _within(facts, numbers)
    provable = facts.rounding_bound is not None and facts.softmax_rows and facts.convex_loss
    small = facts.bound == "measured" and min(facts.tau, facts.residual_bound) < SMALLEST_TAU
    error = premise(
        "error of the correction", met and not small, said, said if not met else f"{said}, too small to prove"
    )
    if facts.bound == "measured" and facts.always_sent and met:
        error = Premise(
            "error of the correction", "measured", f"{said}; had it been above, it would have been sent too"
        )
    recovered = {
        "none": "nothing followed the noise",
        "local": "steps on the node's own retained data, from its own model alone, are post-processing",
        "round": "all nodes held one vector, so a round of training on retained data is post-processing",
    }[facts.recovery]
    lone = f"every model is within {facts.consensus_residual:.3e} of the mean, bound {facts.consensus_bound:.3e}"
    premises = [
        premise(
            "strong convexity", facts.convex_loss,
            f"the loss is convex and the L2 term of lam = {facts.lam:g} covers all {facts.dim} parameters",
            f"the loss is not convex in the parameters; strong convexity with lam = {facts.lam:g} is only supposed",
        ),
        error,
        premise(
            "bounded rows", provable, "softmax regression on rows of norm at most one: "
            f"constants and the rounding bound {facts.rounding_bound or 0:.1e} are proved",
            "constants and rounding bounds are those of softmax regression on rows of norm at most one, and this model "
            "or its features are something else",
        ),
        premise(
            "retraining ends at tau", facts.convex_loss,
            f"retraining ends at a gradient norm of at most {facts.tau:.3e}" if facts.retraining_always_stops
            else "the comparison is with the retained minimiser, which needs no stopping rule",
            f"nothing shows that retraining ends at a gradient norm of at most {facts.tau:.3e}",
        ),
        premise(
            "agreement of the models", facts.consensus_residual <= facts.consensus_bound,
            "all nodes held one vector, bit for bit" if facts.one_vector else lone,
            f"{lone}: the bound was missed",
        ),
        premise(
            "single draw", facts.fresh_draw, "the noise was drawn for this answer and used once",
            "nothing prevented the noise from serving another answer too",
        ),
        premise(
            "recovery", facts.one_vector or facts.recovery != "round", recovered,
            "a round of training mixed models that share one draw; nothing is proved about a node's model after it",
        ),
        premise(
            "public features",
            facts.extractor == "none"
            or (facts.extractor == "public" and {"extractor", "extractor_training_rows"} <= set(hashes)),
            "features are a fixed rule of each record, or an extractor recorded by hash that saw no client's record",
            "nothing shows that the extractor never saw records that may be deleted",
        ),
        premise(
            "public settings", "settings.toml" in hashes,
            "lam, tau, r_max, c and the noise follow from the settings file with the recorded hash and the request's "
            "counts", "no hash of the settings was recorded",
        ),
    ]  # fmt: skip
    return tuple(premises)
