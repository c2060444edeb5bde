"""A token that walks: what the vertices on its route do to it (docs/certificates.md T8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedunlearn.models import Model, gradient_sum, per_sample_gradients, softmax
from fedunlearn.network.block import Block
from fedunlearn.network.declared import node_program
from fedunlearn.privacy import Noise, gaussian_noise
from fedunlearn.randomness import keys

Tokens = NDArray[np.float64]
"""(k, d): k tokens side by side, which take the same route and the same minibatches."""

_NUMBERS = 2**24
"""Numbers of per-sample gradients held at once."""


def shrink(vectors: Tokens, radius: float | None) -> Tokens:
    """Return vectors (k, d), each scaled down to a Euclidean norm of at most ``radius``; a 1-Lipschitz map."""
    if radius is None:
        return vectors
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors * np.minimum(1.0, radius / np.maximum(norms, 1e-300))


def project(tokens: Tokens, centre: NDArray[np.float64] | None, radius: float | None) -> Tokens:
    """Return tokens (k, d) projected onto the ball around ``centre`` (d,)."""
    if radius is None or centre is None:
        return tokens
    return centre + shrink(tokens - centre, radius)


def noisy_visit(
    moved: Tokens, noise: Tokens, *, first: bool = False, centre: NDArray[np.float64] | None = None,
    ball: float | None = None, reference: NDArray[np.float64] | None = None, trust: float | None = None,
) -> Tokens:  # fmt: skip
    """Return what leaves the noisy vertex: ``moved`` (k, d) is what its step made of the tokens.

    Noise comes last, after the projections onto the public ball and onto the trust region; with ``first`` it comes
    before the trust region, as published: then an active projection leaves the token on a sphere, where two worlds
    with unlike ``reference`` are told apart with certainty (docs/certificates.md T8).
    """
    moved = project(moved, centre, ball)
    if first:
        return project(moved + noise, reference, trust)
    return project(moved, reference, trust) + noise


def noisy_step(
    tokens: Tokens, direction: Tokens, hop: int, *, lr: float, l2: float, noise: float, noise_kind: Noise,
    noise_seed: int, first: bool = False, centre: NDArray[np.float64] | None = None, ball: float | None = None,
    reference: NDArray[np.float64] | None = None, trust: float | None = None,
) -> Tokens:  # fmt: skip
    """Return what leaves the noisy vertex: tokens (k, d) after a step along ``direction`` (k, d) and its noise.

    A step is ``x -> (1 - lr l2) x + lr direction``, the noise has standard deviation ``lr noise``. Every noisy hop goes
    through here, and so does the worst walk that an auditor plays.
    """
    drawn = lr * noise_rows(noise, tokens, noise_kind, noise_seed, hop)
    moved = (1.0 - lr * l2) * tokens + lr * direction
    return noisy_visit(moved, drawn, first=first, centre=centre, ball=ball, reference=reference, trust=trust)


# --- node programs ---------------------------------------------------------------------------------------------------


def _hop_params(model: Model, population: str, params: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the parameters of a hop, or None."""
    least = {"clip": 0, "noise": 0, "l2": 0, "lr": 0, "noise_seed": 0, "batch_seed": 0, "first": 0, "local_steps": 0}
    least |= {"minibatches": 1, "batch": 1}
    low = [name for name, bound in least.items() if name in params and params[name] < bound]
    return f"parameter '{low[0]}' = {params[low[0]]} is too small" if low else None


@node_program("walk", shared={"centre": "ball", "reference": "trust"}, check=_hop_params)
def restart_hop(
    block: Block, population: str, node: int, hop: int, token: NDArray[np.float64], *, visited: int, lr: float,
    noise: float, clip: float, l2: float, minibatches: int, batch: int, local_steps: int, optimiser: str,
    noise_first: bool, ball: float | None, trust: float | None, batch_seed: int, noise_kind: Noise, noise_seed: int,
    forget: list[int] | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """Return what one hop of the restart walk makes of a token (d,), or of k tokens (k, d).

    At ``visited``: one step down the clipped per-sample gradients of its retained samples (with ``forget``: up those of
    these sample ids, divided by the number of all samples), then noise of standard deviation ``lr noise``. Elsewhere:
    ``local_steps`` steps down the mean of ``minibatches`` minibatch gradients, each clipped. The L2 term stands beside
    the clipped part: a step is ``x -> (1 - lr l2) x + u(x)`` with ``||u|| <= lr clip`` unless Adam takes it.
    """
    tokens = np.atleast_2d(token)
    centre = _shared(block, "centre", ball)
    positions = block.samples(population, node)
    if node != visited:
        moved = _descend(
            block, tokens, positions, lr=lr, clip=clip, keep=1.0 - lr * l2, minibatches=minibatches, batch=batch,
            local_steps=local_steps, optimiser=optimiser, key=(batch_seed, node, hop),
        )  # fmt: skip
        return project(moved, centre, ball).reshape(token.shape)
    if forget is None:
        direction = -clipped_mean(block, tokens, positions, clip, len(positions))
    else:
        going = positions[np.isin(block.sample_ids(positions), forget)]
        direction = clipped_mean(block, tokens, going, clip, len(positions))
    return noisy_step(
        tokens, direction, hop, lr=lr, l2=l2, noise=noise, noise_kind=noise_kind, noise_seed=noise_seed,
        first=noise_first, centre=centre, ball=ball, reference=_shared(block, "reference", trust), trust=trust,
    ).reshape(token.shape)  # fmt: skip


@node_program("walk", check=_hop_params)
def private_hop(
    block: Block, population: str, node: int, hop: int, token: NDArray[np.float64], *, lr: float, noise: float,
    clip: float, l2: float, first: int, silent: list[int], noise_kind: Noise, noise_seed: int,
) -> NDArray[np.float64]:  # fmt: skip
    """Return ``x - lr (l2 x + clipped mean gradient + Z)``, Z ~ N(0, noise^2 I): a hop of network-private descent.

    The walk goes on after its ``first`` hops. In the hops of ``silent`` (numbered from 1 over the whole walk) the
    vertex has used up its contributions and adds noise alone (Cyffers and Bellet, AISTATS 2022).
    """
    tokens, hop = np.atleast_2d(token), first + hop + 1
    gradient = np.zeros_like(tokens)
    if hop not in silent:
        positions = block.samples(population, node)
        gradient = clipped_mean(block, tokens, positions, clip, len(positions))
    return noisy_step(
        tokens, -gradient, hop, lr=lr, l2=l2, noise=noise, noise_kind=noise_kind, noise_seed=noise_seed
    ).reshape(token.shape)


def noise_rows(sigma: float, tokens: Tokens, kind: Noise, seed: int, hop: int) -> Tokens:
    """Return fresh noise for one visit, a vector of N(0, sigma^2 I) for each token; none where sigma is 0."""
    if sigma == 0:
        return np.zeros_like(tokens)
    return gaussian_noise(sigma, tokens.size, kind, seed, hop).reshape(tokens.shape)


def clipped_mean(block: Block, tokens: Tokens, positions: NDArray[np.int64], clip: float, divisor: int) -> Tokens:
    """Return ``(1/divisor) sum_z clip_C(grad l(token; z))`` for each token, (k, d); its norm is at most C.

    ``divisor`` is at least the number of samples and the same number in all worlds that the token's certificate
    compares; the cap holds in float64 whatever the gradients' own arithmetic. A sum that overflows there counts as 0:
    a walk that gave up would tell where its token had been.
    """
    if not len(positions):
        return np.zeros_like(tokens)
    model = block.model
    x, y = block.batch(positions)

    if model.convex:
        return shrink(_finite(_side_by_side(block, tokens, x, y, clip)) / divisor, clip)

    def total(theta: Tensor) -> Tensor:
        size, out = max(1, _NUMBERS // model.dim), torch.zeros_like(theta)
        for first in range(0, len(y), size):
            each = per_sample_gradients(model, theta, x[first : first + size], y[first : first + size])
            scale = torch.clamp(clip / each.norm(dim=1).clamp_min(1e-30), max=1.0)
            out = out + scale @ each
        return out

    return shrink(_finite(_one_by_one(block, tokens, total)) / divisor, clip)


def _descend(
    block: Block, tokens: Tokens, positions: NDArray[np.int64], *, lr: float, clip: float, keep: float,
    minibatches: int, batch: int, local_steps: int, optimiser: str, key: tuple[int, int, int],
) -> Tokens:  # fmt: skip
    """Return the tokens (k, d) after a vertex's local steps, each of which first scales them by ``keep``.

    Adam starts from empty moments at every hop: a token carries nothing but its parameters, and no vertex remembers.
    """
    first = second = np.zeros_like(tokens)
    for step in range(local_steps):
        direction = np.zeros_like(tokens)
        for part in range(minibatches):
            direction += minibatch_gradient(block, tokens, positions, batch, clip, (*key, step, part)) / minibatches
        if optimiser == "adam":
            first, second = 0.9 * first + 0.1 * direction, 0.999 * second + 0.001 * direction**2
            unbiased = second / (1.0 - 0.999 ** (step + 1))
            direction = first / (1.0 - 0.9 ** (step + 1)) / (np.sqrt(unbiased) + 1e-8)
        tokens = keep * tokens - lr * direction
    return tokens


def minibatch_gradient(
    block: Block, tokens: Tokens, positions: NDArray[np.int64], batch: int, clip: float, key: tuple[int, ...]
) -> Tokens:
    """Return the mean gradient of a minibatch of ``batch`` samples (or all, if there are fewer), clipped to C, (k, d).

    The samples are those of smallest hash(key, id), so which ones enter depends on no deleted sample.
    """
    seed, *rest = key
    ids = block.sample_ids(positions)
    order = np.argsort(keys(seed, "walk minibatch", ids, *rest), kind="stable")[:batch]
    chosen = positions[np.sort(order)]
    x, y = block.batch(chosen)
    if block.model.convex:
        sums = _side_by_side(block, tokens, x, y)
    else:
        sums = _one_by_one(block, tokens, lambda theta: gradient_sum(block.model, theta, x, y))
    return shrink(_finite(sums) / len(chosen), clip)


def _finite(sums: Tokens) -> Tokens:
    """Return gradients (k, d), those with an entry that is not finite replaced by zeros."""
    return np.where(np.isfinite(sums).all(axis=1, keepdims=True), sums, 0.0)


def _side_by_side(block: Block, tokens: Tokens, x: Tensor, y: Tensor, clip: float | None = None) -> Tokens:
    """Return the summed gradients of a convex model at every token, (k, d), in float64."""
    rows = torch.from_numpy(np.ascontiguousarray(tokens)).to(block.device)
    classes = block.model.num_classes
    size = max(1, _NUMBERS // max(block.model.dim, len(y) * classes))
    parts = [softmax.gradients_at(part, x, y, classes, clip) for part in rows.split(size)]
    return torch.cat(parts).cpu().numpy()


def _one_by_one(block: Block, tokens: Tokens, function: Callable[[Tensor], Tensor]) -> Tokens:
    """Return ``function`` of every token, (k, d), in float32."""
    rows = torch.from_numpy(tokens.astype(np.float32)).to(block.device)
    return torch.stack([function(row).detach() for row in rows]).cpu().numpy().astype(np.float64)


def _shared(block: Block, name: str, radius: float | None) -> NDArray[np.float64] | None:
    """Return a vector that travels with the walk, where the radius of a ball around it says that it is needed."""
    return None if radius is None else np.array(block.array(name), dtype=np.float64)
