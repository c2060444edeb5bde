"""Two worlds that an auditor tries to tell apart: what the claims of a method are tested on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedunlearn.privacy import Noise, gaussian_noise, publish

Observations = NDArray[np.float64]


@dataclass(frozen=True)
class Game:
    """World 0 unlearned, world 1 retrained (or the certifier).

    Attributes:
        name: a few words for tables and figures.
        kind: ``tight``: chosen to come as near to the claimed sensitivity as the theorem allows; ``natural``: the two
            worlds of a run.
        draw: ``draw(world, trials, seed)`` returns (trials, k) observations with fresh noise in every trial.
        score: maps (trials, k) to (trials,), larger where world 0 is more likely: the likelihood ratio up to a
            monotone map. None where it is not known and a distinguisher must be learned.
        distance: distance of the noise-free vectors, where there is one a world.
        sensitivity: the claimed bound on it.
        sigma: known standard deviation of the noise on the score's unit direction; None if there is none.
    """

    name: str
    kind: Literal["tight", "natural"]
    draw: Callable[[int, int, int], Observations]
    score: Callable[[Observations], NDArray[np.float64]] | None
    distance: float | None = None
    sensitivity: float | None = None
    sigma: float | None = None

    @property
    def ratio(self) -> float | None:
        """Distance over sensitivity, in [0, 1] for a true claim."""
        if self.distance is None or not self.sensitivity:
            return None
        return self.distance / self.sensitivity


def gaussian_game(
    name: str, kind: Literal["tight", "natural"], unlearned: NDArray[np.float64], retrained: NDArray[np.float64],
    sigma: float, sensitivity: float, noise: Noise = "simulated",
) -> Game:  # fmt: skip
    """Return the game of two noise-free vectors (d,) that the release code noises with ``sigma`` and publishes.

    An observation is what the best observer keeps of a release: its projection on the line through both vectors.
    """
    difference = unlearned - retrained
    distance = float(np.linalg.norm(difference))
    direction = difference / distance if distance > 0 else np.eye(1, len(difference))[0]

    def draw(world: int, trials: int, seed: int) -> Observations:
        vector = (unlearned, retrained)[world]
        out = np.empty((trials, 1))
        for trial in range(trials):
            drawn = gaussian_noise(sigma, len(vector), noise, seed, trial, node=world)
            out[trial, 0] = direction @ (publish(vector, drawn).astype(np.float64) - retrained)
        return out

    return Game(name, kind, draw, lambda seen: seen[:, 0], distance, sensitivity, sigma)
