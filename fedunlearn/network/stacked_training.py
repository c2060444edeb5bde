"""The stacked form of local training: the rows of a group of vertices take their steps together.

Models of linear layers (softmax heads, perceptrons) take closed forms, a batched product or two a layer and step; other
models are mapped over the rows by ``vmap``. What is stepped together is gathered once a round, not once a step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedunlearn.data import FederatedDataset, Role
from fedunlearn.models.stacked import DenseLayers, dense_layers
from fedunlearn.network.block import Block
from fedunlearn.network.local_steps import (
    dense_step,
    finish_step,
    mapped_gradient,
    scales_of,
    stacked_batches_of,
    steps_in_float64,
)
from fedunlearn.network.schedule import StackedBatches, learning_rate
from fedunlearn.network.settings import TrainingSettings

SMALLEST_GROUP, LARGEST_GROUP = 8, 64
"""Vertices that step together on a CPU, at least and at most: with fewer, calls cost more than the work in them."""
_GROUP_FLOATS = 1 << 19
"""Parameters of a group: its rows should stay in the processor's cache from step to step."""
_GATHERED_FLOATS = 1 << 22
"""Numbers of the samples that are gathered at once, for as many steps as they suffice."""


def group_size(num_nodes: int, dim: int) -> int:
    """Return how many vertices the stacked form steps together on a CPU: a power of two, or all of a tiny network.

    A group is fixed by the session's order and always computed in full, absent vertices as zero rows: last bits of some
    kernels depend on the shape they are called with, and this shape does not depend on how vertices are spread over
    hosts and workers.
    There are at least eight groups if that is possible, so that workers can share them.
    """
    size = SMALLEST_GROUP
    while size < LARGEST_GROUP and 2 * size * dim <= _GROUP_FLOATS and 16 * size <= num_nodes:
        size *= 2
    return min(size, num_nodes)


def batch_width(dataset: FederatedDataset, batch: int) -> int:
    """Return to how many samples minibatches are padded: no more than the largest client ever had.

    Deletions do not change it, so that they change no bit of what others compute.
    """
    before = np.concatenate([[0], np.cumsum(~dataset.is_test)])
    counts = before[dataset.offsets[1:]] - before[dataset.offsets[:-1]]
    return max(1, min(batch, int(counts[dataset.clients(Role.TRAIN)].max(initial=0))))


def train_stacked(
    block: Block, population: str, nodes: list[int], round_: int, s: TrainingSettings, width: int | None = None
) -> None:
    """Take the local steps of one round on the rows of ``nodes`` (in the session's order), group after group, in place.

    ``width`` is what :func:`batch_width` returns; by default minibatches are padded to the size in the settings.
    """
    size = group_size(block.num_nodes, block.model.dim)
    layers = dense_layers(block.model)
    ids = np.asarray(nodes, dtype=np.int64)
    group = (block.low + block.places(ids)) // size
    for members in np.split(ids, np.flatnonzero(np.diff(group)) + 1):
        if len(members):
            _train_group(block, population, members, size, layers, round_, s, width or s.batch)


def _train_group(
    block: Block, population: str, nodes: NDArray[np.int64], size: int, layers: DenseLayers | None, round_: int,
    s: TrainingSettings, width: int,
) -> None:  # fmt: skip
    """Train one group together; a vertex whose batches are used up keeps its row and its momentum."""
    model, lr, rows = block.model, learning_rate(s, round_), block.places(nodes)
    slots = (block.low + rows) % size
    batches = stacked_batches_of(block, population, nodes, round_, s, width)
    dtype = torch.float64 if steps_in_float64(s, model) else torch.float32
    scale = np.zeros((batches.present.shape[1], size, width))
    scale[:, slots] = scales_of(batches, s).swapaxes(0, 1)
    scales = torch.from_numpy(scale).to(dtype)

    places = _Places(rows, slots, size, layers)
    theta = places.load(block.store[f"theta.{population}"], dtype)
    momentum = places.load(block.store[f"momentum.{population}"], dtype) if s.momentum else None
    moving = [*theta, *(momentum or ())]
    drifts = s.l2 > 0 or s.momentum > 0 or s.radius is not None  # whether a step without a gradient moves a row
    steps = np.zeros(size, dtype=np.int64)
    steps[slots] = batches.steps
    for step, (x, y) in enumerate(_gathered(block, batches, slots, size)):
        idle = torch.from_numpy(np.flatnonzero(steps <= step)) if drifts else None
        before = [] if idle is None else [part[idle] for part in moving]
        if layers is None:
            gradient = mapped_gradient(model, theta[0], x.to(dtype), y, scales[step], s)
            finish_step(theta[0], gradient, None if momentum is None else momentum[0], lr, s)
        else:
            dense_step(layers, theta, momentum, x.to(dtype), y, scales[step], lr, s)
        for part, kept in zip(moving, before):
            part[idle] = kept
    places.save(theta, block.store[f"theta.{population}"])
    if momentum is not None:
        places.save(momentum, block.store[f"momentum.{population}"])


class _Places:
    """Where the rows of a group lie: in the store, and side by side in memory, one tensor a parameter.

    Rows are copied: last bits of some products depend on how the weights lie to borders of 16 bytes, which differs from
    host to host. A group is small enough for the copies to stay in the cache.
    """

    def __init__(
        self, rows: NDArray[np.int64], slots: NDArray[np.int64], size: int, layers: DenseLayers | None
    ) -> None:
        gapless = int(rows[-1] - rows[0]) == len(rows) - 1
        self._rows: slice | NDArray[np.int64] = slice(int(rows[0]), int(rows[-1]) + 1) if gapless else rows
        self._slots: slice | Tensor = slice(int(slots[0]), int(slots[-1]) + 1) if gapless else torch.from_numpy(slots)
        self._size, self._layers = size, layers

    def load(self, store: NDArray[np.float32], dtype: torch.dtype) -> list[Tensor]:
        """Return the rows by parameter, (size, ...) each and contiguous, zero where a vertex is absent."""
        out = []
        for part in self._parts(torch.from_numpy(store[self._rows])):
            rows = torch.zeros((self._size, *part.shape[1:]), dtype=dtype)
            rows[self._slots] = part.to(dtype)
            out.append(rows)
        return out

    def save(self, rows: list[Tensor], store: NDArray[np.float32]) -> None:
        """Put back what :meth:`load` returned, rounded to float32."""
        values = store[self._rows]
        for part, new in zip(self._parts(torch.from_numpy(values)), rows):
            part.copy_(new[self._slots])
        if not isinstance(self._rows, slice):
            store[self._rows] = values

    def _parts(self, rows: Tensor) -> list[Tensor]:
        return [rows] if self._layers is None else self._layers.parameters_of(rows)


def _gathered(
    block: Block, batches: StackedBatches, slots: NDArray[np.int64], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the padded minibatches of every step: x (size, b, ...) and y (size, b).

    Padding is a sample that the group uses anyway: nothing but retained samples is ever read.
    """
    _, steps, width = batches.present.shape
    if not steps:
        return
    inputs = block.store["inputs"]
    chunk = max(1, _GATHERED_FLOATS // (size * width * max(1, inputs[:1].size)))
    used = batches.positions[batches.present]
    for first in range(0, steps, chunk):
        part = slice(first, min(first + chunk, steps))
        flat = np.full((part.stop - first, size, width), used[0] if len(used) else 0)
        flat[:, slots] = np.where(batches.present[:, part], batches.positions[:, part], flat[0, 0, 0]).swapaxes(0, 1)
        if len(used):
            x, y = block.batch(flat.reshape(-1))
        else:  # holes alone
            x = block.model.prepare(np.zeros((flat.size, *inputs.shape[1:]), inputs.dtype))
            y = torch.zeros(flat.size, dtype=torch.int64)
        yield from zip(x.unflatten(0, flat.shape), y.view(flat.shape))
