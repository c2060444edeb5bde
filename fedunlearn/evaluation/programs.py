"""Node programs that evaluate: they read evaluation samples from the store, never training samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fedunlearn.network.block import Block


def node_utility(block: Block, population: str, node: int, *, inputs: str, labels: str) -> list[float]:
    """Return accuracy and mean loss of a vertex's model on stored evaluation samples."""
    x, y = block.model.prepare(block.store[inputs]), torch.from_numpy(block.store[labels])
    with torch.no_grad():
        logits = block.model.logits(block.row(population, node), x)
        return [float((logits.argmax(1) == y).double().mean()), float(F.cross_entropy(logits, y))]


def row_distance(block: Block, population: str, node: int, *, other: str) -> list[float]:
    """Return the L2 distance between a vertex's rows in two populations of the same hosts."""
    return [float((block.row(population, node).double() - block.row(other, node).double()).norm())]


def prediction_distance(block: Block, population: str, node: int, *, other: str, inputs: str) -> list[float]:
    """Return the mean total variation between a vertex's predictions in two populations."""
    x = block.model.prepare(block.store[inputs])
    with torch.no_grad():
        mine = block.model.logits(block.row(population, node), x).softmax(1)
        theirs = block.model.logits(block.row(other, node), x).softmax(1)
    return [float((mine - theirs).abs().sum(1).mean() / 2)]
