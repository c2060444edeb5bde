"""The release of the tolerance certificate: one noise-free vector that met the stopping rule, one draw, one broadcast.

Shared by every method that ends in the rule ``||grad F|| <= tau`` (docs/certificates.md T1); how it was
met does not matter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedunlearn.models import rounding_bound
from fedunlearn.network import Network, TrainingSettings
from fedunlearn.privacy import (
    Calibration,
    Certificate,
    PrivacySettings,
    RunFacts,
    calibrate,
    certify,
)
from fedunlearn.requests import DeletionRequest
from fedunlearn.unlearning.base import Situation
from fedunlearn.unlearning.certified.release import hashes_of, issue
from fedunlearn.unlearning.certified.release import release as noised
from fedunlearn.unlearning.optimise import Solution, Stop, Vector


def calibration(privacy: PrivacySettings, l2: float, target_sigma: float, tolerance: float | None) -> Calibration:
    """Return tau, sensitivity ``2 tau/lambda`` and sigma: functions of the settings, fixed before data are seen."""
    return calibrate(privacy.epsilon, privacy.delta, l2, tau=tolerance, target_sigma=target_sigma)


def stopping_rule(network: Network, l2: float, tau: float) -> Stop:
    """Return the rule with the rounding bound e64 of T3, which holds for softmax heads on rows of norm at most one."""
    model = network.session.model
    total = network.total_samples

    def rounding(x: Vector) -> float:
        return rounding_bound(x, l2, total, model.input_shape[-1], model.num_classes)

    return Stop(tau, rounding if bounded(network) else lambda x: 0.0)


def bounded(network: Network) -> bool:
    """Return whether the model is a softmax head on rows whose norm is enforced to be at most one."""
    return network.session.model.convex and network.session.features.kind != "raw"


def release(
    network: Network,
    situation: Situation,
    solution: Solution,
    public: Calibration,
    request: DeletionRequest | None,
    *,
    method: str,
    start: str,
) -> tuple[NDArray[np.float32], Certificate | None, str]:
    """Add noise drawn once to ``solution.x``, overwrite every present row by the result, and certify it.

    Returns the release, its certificate (for a request; the end of training certifies nothing yet) and, where there is
    no certificate, the reason. The caller drops ``solution`` and the noise is gone when this function returns.
    """
    released = noised(network, situation, solution.x, public.sigma)
    if request is None:
        return released, None, "nothing was deleted yet"
    features = network.session.features
    # A session refuses an extractor that saw a client's row, so whatever runs here is public.
    extractor = "public" if features.kind == "frozen" else "none"
    safe = bounded(network)
    facts = RunFacts(
        method=method,
        granularity=request.level,  # type: ignore[arg-type]
        lam=situation.training.l2,
        l2_on_all_parameters=True,
        convex_loss=network.session.model.convex,
        retained_objective=True,
        retraining_always_stops=safe and cannot_diverge(situation.training),
        tau=public.tau,
        gradient_norm=float(np.linalg.norm(solution.gradient)),
        gradient_dtype=str(solution.gradient.dtype),
        rounding_bound=rounding_bound(
            solution.x, situation.training.l2, network.total_samples, network.session.model.input_shape[-1],
            network.session.model.num_classes,
        ) if safe else None,
        softmax_loss=network.session.model.convex,
        features_bounded=features.kind != "raw",
        dim=network.dim,
        extractor=extractor,  # type: ignore[arg-type]
        release="one-vector",
        nodes=network.num_present,
        away=network.num_alive - network.num_present,
        fresh_draw=True,
        sigma_drawn=public.sigma,
        start=start,  # type: ignore[arg-type]
        state_erased=True,
        # A checkpoint from elsewhere may have seen anything. The release does not depend on it (T1), messages do.
        retained_messages_only=network.session.model.spec["checkpoint"] is None,
    )  # fmt: skip
    privacy, hashes = situation.privacy, hashes_of(network, situation)
    certificate, reason = issue(
        lambda: certify(facts, privacy.epsilon, privacy.delta, noise=privacy.noise, hashes=hashes)
    )
    return released, certificate, reason


def cannot_diverge(training: TrainingSettings) -> bool:
    """Return whether the recipe ends in finite models whatever the data are, so that the search has a start.

    Softmax gradients are bounded where rows are; with ``lr lambda <= 1`` a step shrinks the model before it adds one,
    also with momentum, and mixing does not expand. The search that follows has a proved number of steps.
    """
    return training.lr * max(1.0, training.final_factor) * training.l2 <= 1.0
