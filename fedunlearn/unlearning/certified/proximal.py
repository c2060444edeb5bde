"""Walking training back step by step, for rewinding without a stored checkpoint (Mu and Klabjan, Algorithm 3).

A step ``y = x - eta (grad F(x) + lambda x)`` is undone by solving ``x = (y + eta grad F(x))/(1 - eta lambda)`` by
iteration, which contracts by ``eta L/(1 - eta lambda)`` and so needs ``eta (L + lambda) < 1``. It needs the deleted
records, hence happens before any request, and one objective for the whole network: one node, or exact averages after
every step. Undoing magnifies every error, also the rounding of training itself, by up to ``1/(1 - eta (L + lambda))`` a
step: what comes out is compared with a public limit before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from fedunlearn.models import Model, gradient_sum, per_sample_gradients
from fedunlearn.network import Network, TrainingSettings
from fedunlearn.network.block import Block
from fedunlearn.network.declared import node_program
from fedunlearn.network.schedule import learning_rate, slot_batches

ITERATIONS = 400
"""Sums that undoing one step may take at most; a contraction of 0.93 needs them to reach the end of float64."""


def walk_back(
    network: Network, training: TrainingSettings, end: NDArray[np.float64], first: int
) -> tuple[NDArray[np.float64], float]:
    """Return where training was after ``first`` rounds, (d,) float64, and the largest remainder that a step left.

    Args:
        network: holds the data that training had; its rows are not touched.
        training: the recipe, one step a round, with schedule ``holes``.
        end: where training ended, the same in all rows, (d,) float64.
        first: how many rounds stay; those after it are undone, the last one first.
    """
    x, worst = np.array(end), 0.0
    for round_ in reversed(range(first, training.rounds)):
        x, remainder = _undo(network, training, x, round_)
        worst = max(worst, remainder)
    return x, worst


def _undo(
    network: Network, training: TrainingSettings, y: NDArray[np.float64], round_: int
) -> tuple[NDArray[np.float64], float]:
    rate = learning_rate(training, round_)
    shrink = 1.0 - rate * training.l2
    params = {"at": "at", "round_": round_, "training": training.model_dump()}
    x, remainder = y / shrink, np.inf
    for _ in range(ITERATIONS):
        total = network.sum("fedunlearn.unlearning.certified.proximal:round_gradient", params, {"at": x})
        network.charge_all_reduce("gradient")
        network.work["gradients"] += 1
        better = (y + rate * total / network.num_alive) / shrink
        found = shrink * float(np.linalg.norm(better - x))  # what x leaves of the equation of its step
        x, before, remainder = better, remainder, found
        if found == 0.0 or not found < before:  # the next iterate is no worse, and rounding stops the progress
            break
    return x, remainder


def _recipe(model: Model, population: str, params: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a step as it is sent to hosts, or None."""
    try:
        TrainingSettings(**params["training"])
    except (ValidationError, TypeError):
        return "parameter 'training' is not a recipe"
    return "parameter 'round_' is negative" if params["round_"] < 0 else None


@node_program("sum", vectors={"at": "d"}, check=_recipe)
def round_gradient(
    block: Block, population: str, node: int, *, at: str, round_: int, training: dict[str, Any]
) -> NDArray[np.float64]:
    """Return a vertex's gradient of one step at the broadcast vector ``at``, as training takes it: (d,) float64."""
    settings = TrainingSettings(**training)
    everything, kept = block.slots(population, node)
    seed, ids = block.seed_of(population), block.sample_ids(everything)
    ((present, slots),) = slot_batches(seed, node, ids, kept, settings, round_)
    if not len(present):
        return np.zeros(block.model.dim)
    x, y = block.batch(everything[present])
    x, theta = x.to(torch.float64), block.vector(at)
    if settings.clip is None:
        return gradient_sum(block.model, theta, x, y).cpu().numpy() / slots
    each = per_sample_gradients(block.model, theta, x, y)
    scale = torch.clamp(settings.clip / each.norm(dim=1).clamp_min(1e-30), max=1.0)
    return (each * scale[:, None]).sum(0).cpu().numpy() / slots
