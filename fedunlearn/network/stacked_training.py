"""The stacked form of local training: the rows of a group of vertices take their steps together.

For linear models and multilayer perceptrons, and for any model on a GPU.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad, vmap

from fedunlearn.models import per_sample_gradients
from fedunlearn.network.block import Block
from fedunlearn.network.local_steps import Batch, batches_of, finish_step, steps_in_float64
from fedunlearn.network.schedule import learning_rate
from fedunlearn.network.settings import TrainingSettings

GROUP = 16
"""Vertices that the vmap form steps together on a CPU: those with the same id // GROUP."""
GROUP_CUDA = 256
"""The same on a GPU."""


def group_size(device: str, num_nodes: int) -> int:
    """Return how many vertices the vmap form steps together.

    A group is fixed by ids and always computed in full, absent vertices as zero rows: last bits of some kernels depend
    on the shape they are called with, and this shape does not depend on how vertices are spread over hosts and workers.
    """
    return min(GROUP if device == "cpu" else GROUP_CUDA, num_nodes)


def train_group(
    block: Block, population: str, first: int, size: int, nodes: list[int], round_: int, s: TrainingSettings
) -> None:
    """Train one group together; a vertex whose batches are used up keeps its row and its momentum."""
    lr, model, device = learning_rate(s, round_), block.model, block.device
    rows, slots = [n - block.low for n in nodes], [n - first for n in nodes]
    dtype = torch.float64 if steps_in_float64(s, model) else torch.float32
    theta = _in_slots(block.store[f"theta.{population}"][rows], slots, size).to(device, dtype)
    momentum = None
    if s.momentum:
        momentum = _in_slots(block.store[f"momentum.{population}"][rows], slots, size).to(device, dtype)
    batches: list[list[Batch]] = [[] for _ in range(size)]
    for node, slot in zip(nodes, slots):
        batches[slot] = batches_of(block, population, node, round_, s)

    def data_loss(row: Tensor, x: Tensor, y: Tensor, w: Tensor, divisor: Tensor) -> Tensor:
        each = F.cross_entropy(model.logits(row, x), y, reduction="none")
        return (each * w).sum() / divisor

    stacked_gradient = vmap(grad(data_loss))
    for step in range(max(len(b) for b in batches)):
        now = [b[step] if step < len(b) else None for b in batches]
        divisor = torch.tensor([_divisor(b) for b in now], dtype=dtype, device=device)
        chosen = [None if b is None else b[0] for b in now]
        if not any(positions is not None and len(positions) for positions in chosen):
            gradient = torch.zeros_like(theta)  # holes alone
        else:
            x, y, w = _padded(block, chosen, s.batch)
            x, w = x.to(dtype), w.to(dtype)
            if s.clip is None:
                gradient = stacked_gradient(theta, x, y, w, divisor)
            else:
                each = vmap(lambda row, xs, ys: per_sample_gradients(model, row, xs, ys))(theta, x, y)
                scale = torch.clamp(s.clip / each.norm(dim=2).clamp_min(1e-30), max=1.0) * w
                gradient = torch.einsum("rb,rbd->rd", scale, each) / divisor[:, None]
        idle = torch.tensor([step >= len(b) for b in batches], device=device)
        kept = (theta[idle], momentum[idle] if momentum is not None else None)
        finish_step(theta, gradient, momentum, lr, s)
        theta[idle] = kept[0]
        if momentum is not None and kept[1] is not None:
            momentum[idle] = kept[1]
    block.store[f"theta.{population}"][rows] = theta[slots].cpu().numpy()
    if momentum is not None:
        block.store[f"momentum.{population}"][rows] = momentum[slots].cpu().numpy()


def _divisor(batch: Batch | None) -> float:
    if batch is None:
        return 1.0
    positions, fixed = batch
    return float(len(positions) if fixed is None else fixed)


def _in_slots(values: NDArray[np.float32], slots: list[int], size: int) -> Tensor:
    out = torch.zeros((size, values.shape[1]))
    out[slots] = torch.from_numpy(values)
    return out


def _padded(block: Block, chosen: list[NDArray[np.int64] | None], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gather one minibatch a slot, padded to ``size`` samples of weight zero: x (r, b, ...), y (r, b), w (r, b)."""
    filler = next(c for c in chosen if c is not None and len(c))[0]  # a retained sample: nothing else is ever read
    flat = np.full((len(chosen), size), filler, dtype=np.int64)
    weight = np.zeros((len(chosen), size), dtype=np.float32)
    for i, positions in enumerate(chosen):
        if positions is not None:
            flat[i, : len(positions)] = positions
            weight[i, : len(positions)] = 1.0
    x, y = block.batch(flat.reshape(-1))
    shape = (len(chosen), size)
    return x.reshape(*shape, *x.shape[1:]), y.reshape(shape), torch.from_numpy(weight).to(block.device)
