"""Local steps of a block of vertices: stochastic gradient descent on each vertex's retained samples.

Two forms of the same recipe. ``loop`` trains one vertex after the other on a module whose parameters *are* the vertex's
row of the store (convolutions on a CPU: channels-last inputs, no copies). ``vmap`` stacks the rows of a chunk of
vertices and takes their steps together (linear models, multilayer perceptrons, and any model on a GPU).
"""

from __future__ import annotations

from typing import Any

from fedunlearn.network.block import Block
from fedunlearn.network.loop_training import train_loop
from fedunlearn.network.settings import TrainingSettings
from fedunlearn.network.stacked_training import group_size, train_group


def train(block: Block, population: str, nodes: list[int], *, round_: int, training: dict[str, Any], form: str) -> None:
    """Take the local steps of one round in place, on the rows (and momenta) of ``nodes``."""
    settings = TrainingSettings(**training)
    if form == "loop":
        train_loop(block, population, nodes, round_, settings)
    else:
        size = group_size(block.device.type, block.num_nodes)
        for group in sorted({n // size for n in nodes}):
            members = [n for n in nodes if n // size == group]
            train_group(block, population, group * size, size, members, round_, settings)


def best_form(form: str, device: str, takes_images: bool) -> str:
    """Return the local-training form that ``auto`` stands for."""
    if form != "auto":
        return form
    return "loop" if device == "cpu" and takes_images else "vmap"
