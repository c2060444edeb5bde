"""What all forms of local training share: a vertex's minibatches of a round, and the update that ends a step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedunlearn.models import Model, per_sample_gradients
from fedunlearn.network.block import Block
from fedunlearn.network.schedule import local_batches, slot_batches
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
