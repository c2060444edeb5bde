"""What all forms of local training share: a vertex's minibatches of a round, and the update that ends a step."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad, vmap

from fedunlearn.models import Model, per_sample_gradients
from fedunlearn.models.stacked import DenseLayers, factors
from fedunlearn.network.block import Block
from fedunlearn.network.schedule import StackedBatches, local_batches, slot_batches, stacked_batches
from fedunlearn.network.settings import TrainingSettings

Batch = tuple[NDArray[np.int64], int | None]
"""Positions of retained samples, and what the sum of their gradients is divided by (None: their number)."""


def batches_of(block: Block, population: str, node: int, round_: int, s: TrainingSettings) -> list[Batch]:
    if s.schedule == "holes":
        everything, kept = block.slots(population, node)
        slots = slot_batches(block.seed_of(population), node, block.sample_ids(everything), kept, s, round_)
        return [(everything[b], count) for b, count in slots]
    positions = block.samples(population, node)
    order = local_batches(block.seed_of(population), node, block.sample_ids(positions), s, round_)
    return [(positions[b], None if s.clip is None else s.batch) for b in order]


def stacked_batches_of(
    block: Block, population: str, nodes: NDArray[np.int64], round_: int, s: TrainingSettings, width: int | None = None
) -> StackedBatches:
    """Return the minibatches of several vertices of the block in one round: positions in the host's sample arrays."""
    rows = block.places(nodes)
    starts = block.offsets[rows]
    lengths = block.offsets[rows + 1] - starts
    edges = np.concatenate([[0], np.cumsum(lengths)])
    own = np.arange(edges[-1]) + np.repeat(starts - edges[:-1], lengths)
    kept = block.store[f"keep.{population}"][own]
    found = stacked_batches(block.seed_of(population), nodes, edges, block.sample_ids(own), kept, s, round_, width)
    return replace(found, positions=own[found.positions]) if len(own) else found


def scales_of(batches: StackedBatches, s: TrainingSettings) -> NDArray[np.float64]:
    """Return the weight of every place in its step's gradient, (v, t, b): one over the divisor, 0 for padding."""
    fixed = s.clip is not None and s.schedule != "holes"
    divisor = np.full_like(batches.slots, s.batch) if fixed else np.maximum(batches.slots, 1)
    return batches.present / divisor[:, :, None]


def steps_in_float64(training: TrainingSettings, model: Model) -> bool:
    """Return whether local steps are computed in float64, so that a row is rounded once a round, when it is stored.

    So it is for a softmax head over a schedule with holes: what rewinding claims then allows for every rounding.
    """
    return training.schedule == "holes" and model.convex


def clipped_gradient(block: Block, theta: Tensor, x: Tensor, y: Tensor, clip: float, divisor: int | None) -> Tensor:
    """Return ``(1/divisor) sum_z clip_C(grad l(theta; z))``: the divisor is fixed, never the realised count."""
    assert divisor is not None
    each = per_sample_gradients(block.model, theta, x, y)
    scale = torch.clamp(clip / each.norm(dim=1).clamp_min(1e-30), max=1.0)
    return (each * scale[:, None]).sum(0) / divisor


def finish_step(theta: Tensor, step: Tensor, momentum: Tensor | None, lr: float, s: TrainingSettings) -> None:
    """Apply L2, momentum, the step and the projection, in place. Works on one row (d,) and on stacked rows (r, d)."""
    if s.l2:
        step.add_(theta, alpha=s.l2)
    if momentum is not None:
        step = momentum.mul_(s.momentum).add_(step)
    theta.add_(step, alpha=-lr)
    if s.radius is not None:
        theta.mul_((s.radius / theta.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp(max=1.0))


def mapped_gradient(model: Model, theta: Tensor, x: Tensor, y: Tensor, scale: Tensor, s: TrainingSettings) -> Tensor:
    """Return ``sum_s scale_s grad l(theta_r; x_s, y_s)`` for stacked rows (r, d) of any model, clipped if so set."""
    if s.clip is not None:
        each = vmap(lambda row, xs, ys: per_sample_gradients(model, row, xs, ys))(theta, x, y)
        factor = torch.clamp(s.clip / each.norm(dim=2).clamp_min(1e-30), max=1.0) * scale
        return torch.bmm(factor.unsqueeze(1), each).squeeze(1)

    def loss(row: Tensor, xs: Tensor, ys: Tensor, weights: Tensor) -> Tensor:
        cast = torch.autocast(theta.device.type, torch.bfloat16, cache_enabled=False) if s.bfloat16 else nullcontext()
        with cast:
            logits = model.logits(row, xs)
        return (F.cross_entropy(logits.to(theta.dtype), ys, reduction="none") * weights).sum()

    return vmap(grad(loss))(theta, x, y, scale)


def dense_step(
    layers: DenseLayers, theta: list[Tensor], momentum: list[Tensor] | None, x: Tensor, y: Tensor, scale: Tensor,
    lr: float, s: TrainingSettings,
) -> None:  # fmt: skip
    """Take one step of stacked rows of linear layers in place: what :func:`finish_step` does, without the gradient.

    ``theta`` and ``momentum`` are as :meth:`DenseLayers.parameters_of` gives them; ``x`` (r, b, inputs) and ``scale``
    (r, b) have their dtype.
    """
    half = s.bfloat16 and s.clip is None and x.dtype == torch.float32
    found = factors(layers, theta, x, y, scale, clip=s.clip, bfloat16=half)
    shrink = 1.0 - lr * s.l2
    targets = layers.pairs(theta if momentum is None else momentum)
    keep, rate = (shrink, -lr) if momentum is None else (s.momentum, 1.0)
    for (weight, bias), (delta, inputs) in zip(targets, found):
        if half:
            weight.mul_(keep).add_(torch.bmm(delta.bfloat16(), inputs.bfloat16().transpose(1, 2)), alpha=rate)
        else:
            weight.baddbmm_(delta, inputs.transpose(1, 2), beta=keep, alpha=rate)
        if bias is not None:
            bias.mul_(keep).add_(delta.sum(2, keepdim=True), alpha=rate)
    if momentum is not None:
        for part, velocity in zip(theta, momentum):
            if s.l2:
                velocity.add_(part, alpha=s.l2)
            part.add_(velocity, alpha=-lr)
    if s.radius is not None:
        norms = torch.stack([part.square().sum((1, 2)) for part in theta]).sum(0).sqrt()
        inside = (s.radius / norms.clamp_min(1e-30)).clamp(max=1.0)[:, None, None]
        for part in theta:
            part.mul_(inside)
