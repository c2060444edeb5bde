"""Rounds on a GPU: rows, momenta, samples and the mixing matrix stay on the device for a whole command.

Many vertices step together in one launch, closed forms for linear layers, ``vmap`` for other models. The host works out
the minibatches and hands them over as positions; it never waits for a number from the device, so that it prepares the
next round while the device computes this one. Vertices lie in the order of how many steps they take: those that still
have a step to take are the first rows of a chunk, views without copies. Rows return to the store when the command ends.

The same code runs on a CPU, which is how it is tested. The last bits of what a GPU computes are its own.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from fedunlearn.errors import UserError
from fedunlearn.models import Model
from fedunlearn.models.stacked import dense_layers
from fedunlearn.network.block import Block
from fedunlearn.network.local_steps import (
    dense_step,
    finish_step,
    mapped_gradient,
    scales_of,
    stacked_batches_of,
    steps_in_float64,
)
from fedunlearn.network.schedule import learning_rate
from fedunlearn.network.settings import TrainingSettings

_SCRATCH_BYTES = 4 << 30
"""Most memory that the vertices of one launch, or the columns that are mixed at once, may take for intermediates."""


class Samples:
    """A host's samples on a device, as stored; position ``pad`` holds zeros with label 0 and stands for no sample."""

    def __init__(self, block: Block, device: torch.device) -> None:
        self.device, self.generation = device, block.generation
        inputs, labels = block.store["inputs"], block.store["labels"]
        self.pad = len(labels)
        kind = torch.from_numpy(inputs[:0]).dtype
        self.inputs = torch.zeros((self.pad + 1, *inputs.shape[1:]), dtype=kind, device=device)
        self.labels = torch.zeros(self.pad + 1, dtype=torch.int64, device=device)
        self.inputs[:-1].copy_(torch.from_numpy(inputs))
        self.labels[:-1].copy_(torch.from_numpy(labels))

    def batch(self, model: Model, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return prepared inputs (r, b, ...) float32 and labels (r, b) at ``positions`` (r, b), as Block.batch does."""
        flat = positions.reshape(-1)
        x = self.inputs.index_select(0, flat)
        x = x.to(torch.float32).div_(255.0) if x.dtype == torch.uint8 else x.to(torch.float32)
        if model.takes_images:
            x = x.unsqueeze(1) if x.dim() == 3 else x.permute(0, 3, 1, 2)
        else:
            x = x.flatten(1)
        return x.unflatten(0, positions.shape), self.labels.index_select(0, flat).view(positions.shape)

    def poison(self) -> None:
        """Overwrite all samples, so that whoever still holds them reads nothing."""
        self.inputs.fill_(float("nan") if self.inputs.is_floating_point() else 255)
        self.labels.fill_(-1)


_kept: WeakKeyDictionary[Block, Samples] = WeakKeyDictionary()


def samples_of(block: Block, device: torch.device) -> Samples:
    """Return a block's samples on a device; they are sent there once, until arrays are replaced or deleted."""
    found = _kept.get(block)
    if found is None or found.generation != block.generation or found.device != device:
        forget(block)
        found = _kept[block] = Samples(block, device)
    return found


def forget(block: Block) -> None:
    """Overwrite and drop what is kept of a block's samples on a device: some of them have been deleted."""
    found = _kept.pop(block, None)
    if found is not None:
        found.poison()


def takes(block: Block) -> bool:
    """Return whether a block's rounds are run here: where its device is not the CPU."""
    return block.device.type != "cpu"


def run_rounds(
    block: Block, population: str, nodes: list[int], rounds: tuple[int, int], training: TrainingSettings, *,
    mix: bool, device: torch.device | None = None,
) -> None:  # fmt: skip
    """Run the rounds ``rounds[0] <= r < rounds[1]`` on ``nodes`` of a block, in place, on its device.

    ``mix`` mixes after every round: ``nodes`` are then all alive vertices of the network, and the block has all of
    them. ``device`` stands in for the block's.

    Raises:
        UserError: if the rows do not fit in the device's memory.
    """
    if not nodes:
        return
    where = block.device if device is None else device
    try:
        there = Resident(block, population, nodes, training, mix=mix, device=where)
        for round_ in range(*rounds):
            there.round(round_)
        there.save()
    except torch.OutOfMemoryError:
        raise UserError(
            f"runtime.device = '{where.type}': the device has not enough memory for {len(nodes)} rows of "
            f"{block.model.dim} parameters (allowed: 'cpu', or fewer nodes)"
        ) from None


def run_work(block: Block, work: dict[str, Any], first: int, last: int) -> None:
    """Run the rounds of a ``rounds`` request for one population, all of whose vertices are in this block."""
    nodes = block.nodes(work["population"], block.low, block.high)
    training = TrainingSettings(**work["params"]["training"])
    run_rounds(block, work["population"], nodes, (first, last), training, mix=work["mix"])


class Resident:
    """The rows of a population on a device, in the order of falling numbers of steps."""

    def __init__(
        self, block: Block, population: str, nodes: list[int], training: TrainingSettings, *, mix: bool,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.block, self.population, self.training, self.device = block, population, training, device
        ids = np.asarray(nodes, dtype=np.int64)
        counts = np.diff(block.offsets)[block.places(ids)]
        self._width = max(1, min(training.batch, int(counts.max())))
        steps = stacked_batches_of(block, population, ids, 0, training, self._width).steps
        order = np.argsort(-steps, kind="stable")
        self._nodes, self._steps = ids[order], steps[order]
        self._rows = block.places(self._nodes)
        self._layers = dense_layers(block.model)
        self._samples = samples_of(block, device) if steps.any() else None
        kinds = ("theta", "momentum") if training.momentum else ("theta",)
        sent = [torch.from_numpy(block.store[f"{kind}.{population}"][self._rows]).to(device) for kind in kinds]
        self.theta, self.momentum = sent[0], sent[1] if training.momentum else None
        self._weights = self._matrix() if mix else None
        scratch = _scratch(device)
        self._chunk = max(1, scratch // _bytes_a_vertex(block.model, training, self._width))
        self._columns = max(1, scratch // (8 * len(ids)))

    def round(self, round_: int) -> None:
        """Take the local steps of a round, and mix; nothing here waits for the device."""
        if self._samples is not None:
            positions, scales = self._batches(round_)
            edges = [*range(0, len(self._nodes), self._chunk), len(self._nodes)]
            for low, high in pairwise(edges):
                self._steps_of(low, high, positions, scales, learning_rate(self.training, round_))
        if self._weights is not None:
            for part in self.theta.split(self._columns, dim=1):
                part.copy_(self._weights @ part.contiguous())

    def save(self) -> None:
        """Write rows and momenta back to the store."""
        store = self.block.store
        store[f"theta.{self.population}"][self._rows] = self.theta.cpu().numpy()
        if self.momentum is not None:
            store[f"momentum.{self.population}"][self._rows] = self.momentum.cpu().numpy()

    def _steps_of(self, low: int, high: int, positions: Tensor, scales: Tensor, lr: float) -> None:
        """Take the steps of the vertices ``low <= i < high``."""
        model, s, samples = self.block.model, self.training, self._samples
        assert samples is not None
        theta, momentum = self.theta[low:high], None if self.momentum is None else self.momentum[low:high]
        double = steps_in_float64(s, model)
        if double:  # a row is rounded once a round, when it is put back
            theta, momentum = theta.double(), None if momentum is None else momentum.double()
        for step in range(int(self._steps[low])):
            active = int(np.searchsorted(-self._steps[low:high], -step))  # a prefix: steps fall
            x, y = samples.batch(model, positions[low : low + active, step])
            scale = scales[low : low + active, step].to(theta.dtype)
            x, rows = x.to(theta.dtype), theta[:active]
            velocity = None if momentum is None else momentum[:active]
            if self._layers is None:
                finish_step(rows, mapped_gradient(model, rows, x, y, scale, s), velocity, lr, s)
                continue
            parts = self._layers.parameters_of(rows)
            velocities = None if velocity is None else self._layers.parameters_of(velocity)
            dense_step(self._layers, parts, velocities, x, y, scale, lr, s)
        if double:
            self.theta[low:high].copy_(theta)
            if self.momentum is not None and momentum is not None:
                self.momentum[low:high].copy_(momentum)

    def _batches(self, round_: int) -> tuple[Tensor, Tensor]:
        """Return positions of samples, (v, t, b) int64, and their weights, float64, worked out here and sent."""
        assert self._samples is not None
        found = stacked_batches_of(self.block, self.population, self._nodes, round_, self.training, self._width)
        positions = np.where(found.present, found.positions, self._samples.pad)
        return self._sent(positions), self._sent(scales_of(found, self.training))

    def _matrix(self) -> Tensor:
        """Return the mixing matrix over the rows as they lie here, CSR."""
        store, name, rows = self.block.store, f"weights.{self.population}", self._rows
        shape = (self.block.high - self.block.low,) * 2
        indptr = store[f"{name}.indptr"]
        data, indices = (store[f"{name}.{part}"][: indptr[-1]] for part in ("data", "indices"))
        matrix = sparse.csr_array((data, indices, indptr), shape)
        matrix = matrix[rows][:, rows]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
            return torch.sparse_csr_tensor(
                self._sent(matrix.indptr),
                self._sent(matrix.indices),
                self._sent(matrix.data),
                size=matrix.shape,
                check_invariants=False,
            )

    def _sent(self, values: NDArray[np.generic]) -> Tensor:
        """Return a copy on the device; it goes there from pinned memory, so that the host does not wait for it."""
        tensor = torch.from_numpy(np.array(values))
        return (tensor.pin_memory() if self.device.type == "cuda" else tensor).to(self.device, non_blocking=True)


def _scratch(device: torch.device) -> int:
    """Return how many bytes intermediates may take: a quarter of what is free on a GPU, up to a few gigabytes."""
    if device.type != "cuda":
        return _SCRATCH_BYTES
    return min(_SCRATCH_BYTES, torch.cuda.mem_get_info(device)[0] // 4)


def _bytes_a_vertex(model: Model, s: TrainingSettings, width: int) -> int:
    """Return about how much memory a step of one vertex takes beside its row."""
    layers = dense_layers(model)
    if layers is not None:
        numbers = width * sum(inputs + 3 * outputs for outputs, inputs in layers.shapes) + model.dim
        return (16 if steps_in_float64(s, model) else 8) * numbers
    activations = _activations(model)
    if s.clip is not None:
        return 4 * width * (4 * activations + 2 * model.dim)
    return 4 * (4 * width * activations + 2 * model.dim)


def _activations(model: Model) -> int:
    """Return how many numbers the layers of a model put out for one sample."""
    module, found = model.module(), 0

    def count(layer: torch.nn.Module, inputs: object, output: object) -> None:
        nonlocal found
        found += output.numel() if isinstance(output, Tensor) else 0

    for layer in module.modules():
        if not list(layer.children()):
            layer.register_forward_hook(count)
    with torch.no_grad():
        module(model.prepare(np.zeros((1, *model.input_shape), dtype=np.float32)))
    return found
