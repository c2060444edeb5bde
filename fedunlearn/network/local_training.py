"""Local steps of a block of vertices: stochastic gradient descent on each vertex's retained samples.

Two forms of the same recipe. ``loop`` trains one vertex after the other on a module whose parameters *are* the vertex's
row of the store (convolutions on a CPU: channels-last inputs, no copies). ``vmap`` stacks the rows of a chunk of
vertices and takes their steps together (linear models, multilayer perceptrons, and any model on a GPU).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad, vmap

from fedunlearn.models import Model, per_sample_gradients
from fedunlearn.network.block import Block
from fedunlearn.network.schedule import learning_rate, local_batches, slot_batches
from fedunlearn.network.settings import TrainingSettings

GROUP = 16
"""Vertices that the vmap form steps together on a CPU: those with the same id // GROUP."""
GROUP_CUDA = 256
"""The same on a GPU."""


def train(block: Block, population: str, nodes: list[int], *, round_: int, training: dict[str, Any], form: str) -> None:
    """Take the local steps of one round in place, on the rows (and momenta) of ``nodes``."""
    settings = TrainingSettings(**training)
    if form == "loop":
        _train_loop(block, population, nodes, round_, settings)
    else:
        size = group_size(block.device.type, block.num_nodes)
        for group in sorted({n // size for n in nodes}):
            members = [n for n in nodes if n // size == group]
            _train_group(block, population, group * size, size, members, round_, settings)


def steps_in_float64(training: TrainingSettings, model: Model) -> bool:
    """Return whether local steps are computed in float64, so that a row is rounded once a round, when it is stored.

    So it is for a softmax head over a schedule with holes: what rewinding claims then allows for every rounding.
    """
    return training.schedule == "holes" and model.convex


def group_size(device: str, num_nodes: int) -> int:
    """Return how many vertices the vmap form steps together.

    A group is fixed by ids and always computed in full, absent vertices as zero rows: last bits of some kernels depend
    on the shape they are called with, and this shape does not depend on how vertices are spread over hosts and workers.
    """
    return min(GROUP if device == "cpu" else GROUP_CUDA, num_nodes)


_Batch = tuple[NDArray[np.int64], int | None]
"""Positions of retained samples, and what the sum of their gradients is divided by (None: their number)."""


def _batches(block: Block, population: str, node: int, round_: int, s: TrainingSettings) -> list[_Batch]:
    if s.schedule == "holes":
        everything, kept = block.slots(population, node)
        slots = slot_batches(block.seed, node, block.sample_ids(everything), kept, s, round_)
        return [(everything[b], count) for b, count in slots]
    positions = block.samples(population, node)
    order = local_batches(block.seed, node, block.sample_ids(positions), s, round_)
    return [(positions[b], None if s.clip is None else s.batch) for b in order]


def _clipped_gradient(block: Block, theta: Tensor, x: Tensor, y: Tensor, clip: float, divisor: int | None) -> Tensor:
    """Return ``(1/divisor) sum_z clip_C(grad l(theta; z))``: the divisor is fixed, never the realised count."""
    assert divisor is not None
    each = per_sample_gradients(block.model, theta, x, y)
    scale = torch.clamp(clip / each.norm(dim=1).clamp_min(1e-30), max=1.0)
    return (each * scale[:, None]).sum(0) / divisor


def _finish_step(theta: Tensor, step: Tensor, momentum: Tensor | None, lr: float, s: TrainingSettings) -> None:
    """Apply L2, momentum, the step and the projection, in place. Works on one row (d,) and on stacked rows (r, d)."""
    if s.l2:
        step.add_(theta, alpha=s.l2)
    if momentum is not None:
        step = momentum.mul_(s.momentum).add_(step)
    theta.add_(step, alpha=-lr)
    if s.radius is not None:
        theta.mul_((s.radius / theta.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp(max=1.0))


def _train_loop(block: Block, population: str, nodes: list[int], round_: int, s: TrainingSettings) -> None:
    """Train one vertex after the other; the module's parameters and gradients are views of two flat vectors."""
    lr = learning_rate(s, round_)
    module = block.model.module()
    module.train()
    gradient = torch.zeros(block.model.dim)
    gradients = block.model.parameters_of(gradient)
    parameters = dict(module.named_parameters())
    for name, parameter in parameters.items():
        parameter.grad = gradients[name]
    for node in nodes:
        theta = block.row(population, node)
        momentum = block.momentum(population, node) if s.momentum else None
        for name, view in block.model.parameters_of(theta).items():
            parameters[name].data = view
        for positions, divisor in _batches(block, population, node, round_, s):
            gradient.zero_()
            if len(positions):  # a batch of holes alone still takes its L2 step
                x, y = block.batch(positions)
                if s.clip is not None:
                    gradient.copy_(_clipped_gradient(block, theta, x, y, s.clip, divisor))
                else:
                    with torch.autocast("cpu", torch.bfloat16, enabled=s.bfloat16):
                        logits = module(x).float()
                    if divisor is None:
                        loss = F.cross_entropy(logits, y)
                    else:
                        loss = F.cross_entropy(logits, y, reduction="sum") / divisor
                    loss.backward()
            with torch.no_grad():
                _finish_step(theta, gradient, momentum, lr, s)


def _train_group(
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
    batches: list[list[_Batch]] = [[] for _ in range(size)]
    for node, slot in zip(nodes, slots):
        batches[slot] = _batches(block, population, node, round_, s)

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
        _finish_step(theta, gradient, momentum, lr, s)
        theta[idle] = kept[0]
        if momentum is not None and kept[1] is not None:
            momentum[idle] = kept[1]
    block.store[f"theta.{population}"][rows] = theta[slots].cpu().numpy()
    if momentum is not None:
        block.store[f"momentum.{population}"][rows] = momentum[slots].cpu().numpy()


def _divisor(batch: _Batch | None) -> float:
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


def best_form(form: str, device: str, takes_images: bool) -> str:
    """Return the local-training form that ``auto`` stands for."""
    if form != "auto":
        return form
    return "loop" if device == "cpu" and takes_images else "vmap"
