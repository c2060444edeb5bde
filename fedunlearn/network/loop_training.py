"""The loop form of local training: one vertex after the other, each step as fast as one thread can take it.

For convolutions on a CPU. A row is copied once a round to a place of its own, trained there, and copied back. Networks
that are a plain chain of known layers get their gradients from a :class:`~fedunlearn.models.tape.Tape`, all others from
autograd on a module whose parameters *are* the vector being trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.models.tape import tape_of
from fedunlearn.network.block import Block
from fedunlearn.network.local_steps import Batch, batches_of, clipped_gradient, finish_step
from fedunlearn.network.schedule import learning_rate
from fedunlearn.network.settings import TrainingSettings

Differentiate = Callable[[Tensor, Tensor, int | None], None]
"""Takes inputs (b, ...), labels (b,) and a divisor (None: b), and writes the gradient at the vector being trained."""

_CACHE_LINE = 64
_GATHER = 256
"""Samples that are gathered and converted to floating-point numbers at once."""


def train_loop(block: Block, population: str, nodes: list[int], round_: int, s: TrainingSettings) -> None:
    """Train one vertex after the other."""
    lr = learning_rate(s, round_)
    # One place for all rows, at the beginning of a cache line, as torch's arrays are: some matrix kernels round
    # differently elsewhere.
    theta, gradient = torch.zeros(block.model.dim), torch.zeros(block.model.dim)
    differentiate = _differentiation(block, theta, gradient, s)
    for node in nodes:
        row = block.row(population, node)
        momentum = block.momentum(population, node) if s.momentum else None
        theta.copy_(row)
        for x, y, divisor in _prepared(block, batches_of(block, population, node, round_, s)):
            if len(y):
                differentiate(x if x.data_ptr() % _CACHE_LINE == 0 else x.clone(), y, divisor)
            else:  # a batch of holes alone still takes its L2 step
                gradient.zero_()
            with torch.no_grad():
                finish_step(theta, gradient, momentum, lr, s)
        row.copy_(theta)


def _prepared(block: Block, batches: list[Batch]) -> Iterator[tuple[Tensor, Tensor, int | None]]:
    """Yield inputs, labels and divisor of every minibatch; small ones are gathered several at a time."""
    first = 0
    while first < len(batches):
        last, count = first + 1, len(batches[first][0])
        while last < len(batches) and count + len(batches[last][0]) <= _GATHER:
            count += len(batches[last][0])
            last += 1
        together = batches[first:last]
        x, y = block.batch(np.concatenate([positions for positions, _ in together]))
        sizes = [len(positions) for positions, _ in together]
        yield from zip(x.split(sizes), y.split(sizes), (divisor for _, divisor in together))
        first = last


def _differentiation(block: Block, theta: Tensor, gradient: Tensor, s: TrainingSettings) -> Differentiate:
    """Return the fastest way to write the gradient of a minibatch at ``theta`` (d,) into ``gradient`` (d,)."""
    if s.clip is not None:
        clip = s.clip
        return lambda x, y, divisor: _assign(gradient, clipped_gradient(block, theta, x, y, clip, divisor))
    tape = None if s.bfloat16 else tape_of(block.model, theta, gradient)
    return _autograd(block, theta, gradient, s.bfloat16) if tape is None else tape.differentiate


def _assign(target: Tensor, values: Tensor) -> None:
    target.copy_(values)


def _autograd(block: Block, theta: Tensor, gradient: Tensor, bfloat16: bool) -> Differentiate:
    """Return differentiation by autograd; the module's parameters and gradients are views of the two vectors."""
    module = block.model.module()
    module.train()
    values, gradients = block.model.parameters_of(theta), block.model.parameters_of(gradient)
    for name, parameter in module.named_parameters():
        parameter.data, parameter.grad = values[name], gradients[name]

    def differentiate(x: Tensor, y: Tensor, divisor: int | None) -> None:
        gradient.zero_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = module(x).float()
        if divisor is None:
            loss = F.cross_entropy(logits, y)
        else:
            loss = F.cross_entropy(logits, y, reduction="sum") / divisor
        loss.backward()

    return differentiate
