"""The loop form of local training: one vertex after the other, on a module whose parameters *are* the vertex's row.

For convolutions on a CPU: channels-last inputs, and no copies of rows or gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fedunlearn.network.block import Block
from fedunlearn.network.local_steps import batches_of, clipped_gradient, finish_step
from fedunlearn.network.schedule import learning_rate
from fedunlearn.network.settings import TrainingSettings


def train_loop(block: Block, population: str, nodes: list[int], round_: int, s: TrainingSettings) -> None:
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
        for positions, divisor in batches_of(block, population, node, round_, s):
            gradient.zero_()
            if len(positions):  # a batch of holes alone still takes its L2 step
                x, y = block.batch(positions)
                if s.clip is not None:
                    gradient.copy_(clipped_gradient(block, theta, x, y, s.clip, divisor))
                else:
                    with torch.autocast("cpu", torch.bfloat16, enabled=s.bfloat16):
                        logits = module(x).float()
                    if divisor is None:
                        loss = F.cross_entropy(logits, y)
                    else:
                        loss = F.cross_entropy(logits, y, reduction="sum") / divisor
                    loss.backward()
            with torch.no_grad():
                finish_step(theta, gradient, momentum, lr, s)
