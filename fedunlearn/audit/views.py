"""Games about several vectors seen together: all node models, successive releases, the messages of a view.

Vectors that each carry a fresh draw are judged by one number, the matched filter on the stacked difference: the
likelihood ratio if the noise is as claimed. It says nothing about draws that are *not* fresh. Wherever a draw is used
twice, the difference of the two vectors carries no noise, so every difference is observed as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.privacy import Noise, gaussian_noise, publish
from fedunlearn.unlearning.games import Game, Observations

Vector = NDArray[np.float64]
Release = Callable[[int, int, int], Sequence[NDArray[np.floating]]]
"""``release(world, trial, seed)`` gives the vectors of one trial as the observer gets them."""


def joint_game(
    name: str, kind: Literal["tight", "natural"], unlearned: Sequence[Vector], retrained: Sequence[Vector],
    sigmas: Sequence[float], claim_mu: float, *, release: Release | None = None, noise: Noise = "simulated",
) -> Game:  # fmt: skip
    """Return the game of several noised vectors that one observer sees in every trial.

    Observations are the matched filter, in units of its own noise, and for every two vectors of equal length the
    projection of their difference on the line where the worlds differ. The game's distance and sensitivity are in units
    of the noise: the joint mu of this pair, and the claimed one.

    Args:
        name, kind: as in :class:`~fedunlearn.unlearning.games.Game`.
        unlearned, retrained: the noise-free vectors of the two worlds, equally many, (d_i,) each.
        sigmas: claimed noise of each vector.
        claim_mu: claimed mu of all of them together.
        release: how the vectors of one trial come about; by default every vector gets its own fresh draw.
        noise: of the default release.

    Raises:
        UserError: if the numbers of vectors differ or there are none.
    """
    if not len(unlearned) == len(retrained) == len(sigmas) or not len(sigmas):
        raise UserError(
            f"a joint game needs as many vectors in both worlds as sigmas, and at least one, "
            f"not {len(unlearned)}, {len(retrained)} and {len(sigmas)}"
        )
    count = len(sigmas)
    worlds = (list(unlearned), list(retrained))
    differences = [a - b for a, b in zip(unlearned, retrained)]
    joint = math.sqrt(sum(float(d @ d) / s**2 for d, s in zip(differences, sigmas)))
    filters = [d / (s**2 * joint) if joint > 0 else d for d, s in zip(differences, sigmas)]
    pairs = [
        (i, j, (differences[i] - differences[j]) / length)
        for i, j in combinations(range(count), 2)
        if len(differences[i]) == len(differences[j])
        and (length := float(np.linalg.norm(differences[i] - differences[j]))) > 0
    ]

    def fresh(world: int, trial: int, seed: int) -> list[NDArray[np.float32]]:
        return [
            publish(vector, gaussian_noise(sigmas[i], len(vector), noise, seed, trial, node=world * count + i))
            for i, vector in enumerate(worlds[world])
        ]

    def draw(world: int, trials: int, seed: int) -> Observations:
        out = np.empty((trials, 1 + len(pairs)))
        for trial in range(trials):
            seen = (release or fresh)(world, trial, seed)
            # Relative to the retrained world, so that offsets of the models do not drown small differences.
            offset = [np.asarray(y, np.float64) - m for y, m in zip(seen, retrained)]
            out[trial, 0] = sum(float(f @ y) for f, y in zip(filters, offset))
            out[trial, 1:] = [direction @ (offset[i] - offset[j]) for i, j, direction in pairs]
        return out

    return Game(name, kind, draw, None if pairs else lambda seen: seen[:, 0], joint, claim_mu, 1.0)


def message_game(name: str, messages: Sequence[Vector], clip: float, sigmas: Sequence[float], claim_mu: float) -> Game:
    """Return the game of clipped and noised messages against dummies (docs/certificates.md T-V1).

    World 0 sends ``clip(v) + noise`` for every message v, (d_i,); world 1 answers a dummy request and sends noise
    alone, from the same models. It is the view of an observer who receives all of them.
    """
    clipped = [v * min(1.0, clip / max(float(np.linalg.norm(v)), 1e-300)) for v in messages]
    full = all(float(np.linalg.norm(v)) >= 0.9 * clip for v in clipped)
    kind: Literal["tight", "natural"] = "tight" if full else "natural"
    return joint_game(name, kind, clipped, [np.zeros_like(v) for v in clipped], sigmas, claim_mu)
