"""Local steps of a block of vertices: stochastic gradient descent on each vertex's retained samples.

Two forms of the same recipe. ``loop`` trains one vertex after the other on a module whose parameters *are* the vertex's
row of the store (convolutions on a CPU: channels-last inputs, no copies). ``vmap`` stacks the rows of a group of
vertices and takes their steps together (linear models, multilayer perceptrons). On a GPU all rows are stacked there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fedunlearn.models import Model
from fedunlearn.network import resident
from fedunlearn.network.block import Block
from fedunlearn.network.declared import node_program
from fedunlearn.network.loop_training import train_loop
from fedunlearn.network.settings import TrainingSettings
from fedunlearn.network.stacked_training import train_stacked

_WIDEST = 2**20
"""Samples to which a minibatch is padded at most."""


def _recipe(model: Model, population: str, params: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a recipe as it is sent to hosts, or None."""
    try:
        training = TrainingSettings(**params["training"])
    except (ValidationError, TypeError):
        return "parameter 'training' is not a recipe"
    width = params["width"] if params.get("width") is not None else training.batch
    if params["form"] not in ("loop", "vmap") or params["round_"] < 0 or not 1 <= width <= _WIDEST:
        return "parameters 'form', 'round_' and 'width' do not say how to train"
    return None


@node_program("rows", check=_recipe, recipe="training")
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
