"""What every method that releases a walking token does at the end: round it, and certify it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.network import Network
from fedunlearn.privacy import Certificate
from fedunlearn.privacy.claims.walk import certify
from fedunlearn.privacy.claims.walk_facts import WalkFacts
from fedunlearn.unlearning.base import Situation
from fedunlearn.unlearning.certified.release import hashes_of, issue


def rounded(token: NDArray[np.float64], lr: float) -> NDArray[np.float32]:
    """Return the token as it is released, (d,) float32; its noise is inside.

    Raises UserError where it is not finite.
    """
    with np.errstate(over="ignore"):
        released = token.astype(np.float32)
    if not np.isfinite(released).all():
        raise UserError(f"unlearning.lr = {lr:g} makes the walk diverge (allowed: a smaller rate)")
    return released


def certified(facts: WalkFacts, situation: Situation, network: Network) -> tuple[Certificate | None, str]:
    """Return the certificate of a walk for the claim of the settings, and why there is none or it is not valid."""
    privacy, hashes = situation.privacy, hashes_of(network, situation)
    return issue(lambda: certify(facts, privacy.epsilon, privacy.delta, noise=privacy.noise, hashes=hashes))
