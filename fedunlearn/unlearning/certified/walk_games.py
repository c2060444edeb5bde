"""The worlds on which the certificate of a restart walk is audited."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedunlearn.privacy.accounting.walks import walk_mu
from fedunlearn.privacy.claims.walk_facts import WalkFacts
from fedunlearn.randomness import torch_seed
from fedunlearn.unlearning.certified.token_walk import noisy_step
from fedunlearn.unlearning.games import Game

TIGHT = 0.9
"""Share of the claimed distance from which an instance is called tight."""
_DIM = 4
_NUMBERS = 2**19
"""Parameters of the tokens that walk side by side: they stay in a processor's cache."""

Vector = NDArray[np.float64]


class Run(Protocol):
    """Carries tokens (k, d) that start from one model (d,) along the route."""

    def __call__(self, tokens: NDArray[np.float64], start: Vector, seed: int, *, noisy: bool) -> NDArray[np.float64]:
        """Return the tokens at the end of the route, (k, d)."""


def tight(facts: WalkFacts, params: Mapping[str, Any], prepared: Callable[[Vector, Vector], Vector]) -> Game | None:
    """Return the worst walk we know for a retrain certificate with exact alignment (docs/certificates.md T8).

    Two models far outside the public ball become starts at its opposite ends and are pushed apart by saturated
    gradients until the first visit; from there on gradients vanish, for a map that both worlds share cannot tell mixed
    worlds apart. The token is seen where the theorem merges the worlds, in a space of four parameters: no number of the
    claim depends on how many there are. What is claimed comes from ``facts``; what is done, from the ``params`` of the
    walk's hops, its noisy step, and ``prepared(model, centre)``, which makes a start of a model.

    None where the distance that is left falls below :data:`TIGHT` of what the theorem allows for.
    """
    if facts.alignment != "exact" or facts.ball_radius is not None or not facts.visits or not facts.noise:
        return None
    coupling = walk_mu(
        facts.visits, facts.hops, facts.clip, facts.lr, facts.noise, facts.start_radius,
        local_steps=facts.local_steps, contraction=facts.contraction,
    )  # fmt: skip
    last, visits = coupling.step, set(facts.visits)
    lr, keep = params["lr"], 1.0 - params["lr"] * params["l2"]
    law = {name: params[name] for name in ("lr", "l2", "noise", "noise_kind")}

    def walk(tokens: NDArray[np.float64], seed: int, **changes: float) -> NDArray[np.float64]:
        for hop in range(1, last + 1):
            push = np.zeros_like(tokens)
            if hop <= facts.visits[0]:
                push[:, 0] = params["clip"] * np.sign(tokens[:, 0])
            if hop in visits:
                tokens = noisy_step(tokens, push, hop, noise_seed=seed, **{**law, **changes})
                continue
            for _ in range(params["local_steps"]):
                tokens = keep * tokens + lr * push
        return tokens

    def starts(world: int, count: int) -> NDArray[np.float64]:
        far = np.zeros(_DIM)
        far[0] = (1.0 if world == 0 else -1.0) * 1e3 * facts.start_radius
        return np.repeat(prepared(far, np.zeros(_DIM))[None], count, axis=0)

    distance = float(np.linalg.norm(walk(starts(0, 1), 0, noise=0.0) - walk(starts(1, 1), 0, noise=0.0)))
    claimed = coupling.gaps[last]
    if distance < TIGHT * claimed:
        return None

    def draw(world: int, trials: int, seed: int) -> NDArray[np.float64]:
        ends = walk(starts(world, trials), torch_seed(seed, "tight walk", world))
        return ends[:, :1].astype(np.float32).astype(np.float64)

    return Game(
        "two starts at the ends of the ball, gradients that keep them apart", "tight", draw, lambda seen: seen[:, 0],
        distance, claimed, math.sqrt(coupling.variances[last]),
    )  # fmt: skip


def natural(facts: WalkFacts, starts: list[Vector], run: Run, clean: Callable[[], None]) -> Game:
    """Return the game of the run's own walk from two models, world 0 from the first.

    Observations are the last tokens, (trials, 2): projected onto the line through the ends of both walks without noise
    and onto the line through the starts. ``distance`` and ``sensitivity`` are those of the starts, which the walk has
    to hide: a token has no noise-free vector at its end.
    """
    ends = [run(start, start, 0, noisy=False) for start in starts]
    clean()
    lines = np.stack([_direction(ends[0] - ends[1]), _direction(starts[0] - starts[1])])

    def draw(world: int, trials: int, seed: int) -> NDArray[np.float64]:
        start, out = starts[world], []
        size = max(1, _NUMBERS // len(start))
        for first in range(0, trials, size):
            tokens = np.repeat(start[None], min(size, trials - first), axis=0)
            found = run(tokens, start, torch_seed(seed, "natural walk", world, first), noisy=True)
            out.append((found.astype(np.float32).astype(np.float64) - ends[1]) @ lines.T)
        clean()
        return np.concatenate(out)

    gap = float(np.linalg.norm(starts[0] - starts[1]))
    bound = 2 * facts.start_radius if facts.start_projected else None
    return Game("the walk from the trained and from the retrained model", "natural", draw, None, gap, bound)


def _direction(vector: Vector) -> Vector:
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm > 0 else np.eye(1, len(vector))[0]
