"""Local steps of a block of vertices: stochastic gradient descent on each vertex's retained samples.

Two forms of the same recipe. ``loop`` trains one vertex after the other on a module whose parameters *are* the vertex's
row of the store (convolutions on a CPU: channels-last inputs, no copies). ``vmap`` stacks the rows of a group of
vertices and takes their steps together (linear models, multilayer perceptrons). On a GPU all rows are stacked there.
"""

from __future__ import annotations

from typing import Any

from fedunlearn.network import resident
from fedunlearn.network.block import Block
from fedunlearn.network.loop_training import train_loop
from fedunlearn.network.settings import TrainingSettings
from fedunlearn.network.stacked_training import train_stacked


def train(
    block: Block, population: str, nodes: list[int], *, round_: int, training: dict[str, Any], form: str,
    width: int | None = None,
) -> None:  # fmt: skip
    """Take the local steps of one round in place, on the rows (and momenta) of ``nodes``.

    ``width`` is to how many samples the stacked form pads a minibatch, by default ``training.batch``.
    """
    settings = TrainingSettings(**training)
    if resident.takes(block):
        resident.run_rounds(block, population, nodes, (round_, round_ + 1), settings, mix=False)
    elif form == "loop":
        train_loop(block, population, nodes, round_, settings)
    else:
        train_stacked(block, population, nodes, round_, settings, width)


def best_form(form: str, device: str, takes_images: bool) -> str:
    """Return the local-training form that ``auto`` stands for."""
    if form != "auto":
        return form
    return "loop" if device == "cpu" and takes_images else "vmap"
