"""What certified methods do at the end: noise one vector once, store it, hand it to everybody, and certify it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedunlearn.network import Network
from fedunlearn.privacy import Certificate, NoCertificate, gaussian_noise, publish
from fedunlearn.randomness import torch_seed
from fedunlearn.unlearning.base import Outcome, Situation, Unlearner


def release_noise(network: Network, situation: Situation, sigma: float) -> NDArray[np.float64]:
    """Return the noise (d,) of this release: one draw for one vector, of this world and this number."""
    seed = torch_seed(situation.seed, "releases of " + situation.world)
    return gaussian_noise(sigma, network.dim, situation.privacy.noise, seed, situation.release)


def release(network: Network, situation: Situation, vector: NDArray[np.float64], sigma: float) -> NDArray[np.float32]:
    """Add noise drawn once to ``vector`` (d,), store the sum, overwrite all present rows by it, wipe, and return it."""
    released = situation.noised(lambda: publish(vector, release_noise(network, situation, sigma)))
    situation.persist(released)
    network.broadcast(released)
    network.wipe()
    return released


def hashes_of(network: Network, situation: Situation) -> dict[str, str]:
    """Return the hashes of the settings, and of the extractor and its training rows where there is one."""
    features = network.session.features
    pairs = {"extractor": features.weights_sha256, "extractor_training_rows": features.training_rows_sha256}
    return {**situation.hashes, **{name: value for name, value in pairs.items() if value is not None}}


def issue(certify: Callable[[], Certificate]) -> tuple[Certificate | None, str]:
    """Return the certificate that ``certify`` makes, and why there is none or which premises were not enforced."""
    try:
        certificate = certify()
    except NoCertificate as refusal:
        return None, f"none: {refusal}"
    missing = ", ".join(p.name for p in certificate.premises if p.status != "enforced")
    return certificate, f"a premise of the theorem was not enforced: {missing}" if missing else ""


class KeepsItsRelease(Unlearner):
    """A method whose training is private: a request takes no work, and the same vector is released again."""

    def conclude(self, network: Network, situation: Situation) -> Outcome:
        """Release the vector that training ended with: its noise is inside, and every row holds it already."""
        trained = network.read(network.root)
        released = situation.noised(lambda: trained)
        situation.persist(released)
        if released is not trained:  # of a training that was interrupted right after it; its noise is another one's
            network.write(released)
        return Outcome(release=released, certificate_reason="nothing was deleted yet")

    def release_again(self, network: Network, situation: Situation) -> NDArray[np.float32]:
        """Store and return the last release; no message, every node kept it."""
        released = situation.previous_release
        if released is None:
            raise ValueError("a request came before training was concluded")
        situation.persist(released)
        network.write(released)
        return released
