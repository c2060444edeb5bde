"""Node programs that evaluate: they read evaluation samples from the store, never training samples."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from fedunlearn.evaluation.forward import STACK, Forward
from fedunlearn.network.block import Block
from fedunlearn.network.declared import node_program


@node_program("measure", samples=("inputs", "labels"), size=lambda model, params, samples: 2, reads_samples=False)
def node_utility(block: Block, population: str, nodes: list[int], *, inputs: str, labels: str) -> list[list[float]]:
    """Return accuracy and mean loss of each vertex's model on stored evaluation samples."""
    forward = Forward(block.model, block.device)
    samples = forward.prepare(block.store[inputs])
    y = torch.from_numpy(block.store[labels]).to(block.device)
    return [
        [float((logits.argmax(1) == y).double().mean()), float(F.cross_entropy(logits, y))]
        for logits in logits_of_nodes(forward, samples, block, population, nodes)
    ]


def logits_of_nodes(
    forward: Forward, samples: list[Tensor], block: Block, population: str, nodes: list[int]
) -> Iterator[Tensor]:
    """Yield the logits (n, classes) of each vertex's model on prepared samples, softmax models in stacked groups.

    A group is fixed by positions and computed in full, absent vertices as zeros: ask for it with grain ``STACK``.
    """
    if not block.model.convex:
        yield from (forward.logits(block.row(population, node), samples) for node in nodes)
        return
    theta = block.store[f"theta.{population}"]
    for _, group in groupby(nodes, lambda node: block.position(node) // STACK):
        members = list(group)
        slots = [block.position(node) % STACK for node in members]
        rows = torch.zeros((STACK, block.model.dim))
        rows[slots] = torch.from_numpy(theta[block.places(members)])
        yield from forward.stacked_logits(rows, samples)[slots]


@node_program("measure", populations=("other",), reads_samples=False)
def row_distance(block: Block, population: str, nodes: list[int], *, other: str) -> list[float]:
    """Return the L2 distance between the rows of each vertex in two populations of the same hosts."""
    return [float((block.row(population, i).double() - block.row(other, i).double()).norm()) for i in nodes]


@node_program("measure", samples=("inputs",), populations=("other",), reads_samples=False)
def prediction_distance(block: Block, population: str, nodes: list[int], *, other: str, inputs: str) -> list[float]:
    """Return the mean total variation between the predictions of each vertex in two populations."""
    forward = Forward(block.model, block.device)
    samples, found = forward.prepare(block.store[inputs]), []
    for node in nodes:
        mine, theirs = (forward.logits(block.row(name, node), samples).softmax(1) for name in (population, other))
        found.append(float((mine - theirs).abs().sum(1).mean() / 2))
    return found
