"""Node programs of the battery: what every vertex's own model says about stored samples, and how far rows are apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fedunlearn.evaluation.forward import Forward
from fedunlearn.evaluation.programs import logits_of_nodes
from fedunlearn.network.block import Block
from fedunlearn.network.declared import node_program


@node_program(
    "measure", samples=("inputs", "labels"), size=lambda model, params, samples: 1 + samples["labels"],
    reads_samples=False,
)  # fmt: skip
def sample_losses(block: Block, population: str, nodes: list[int], *, inputs: str, labels: str) -> list[list[float]]:
    """Return accuracy and the loss of every sample at each vertex's model, n + 1 numbers a vertex.

    ``inputs`` and ``labels`` name n samples that were put on the hosts. The softmax is taken in float64, as in
    :func:`fedunlearn.evaluation.utility.losses`. Softmax models are computed in groups: call it with grain ``STACK``.
    """
    forward = Forward(block.model, block.device)
    samples = forward.prepare(block.store[inputs])
    y = torch.from_numpy(block.store[labels]).to(block.device)
    return [
        [
            float((logits.argmax(1) == y).double().mean()),
            *F.cross_entropy(logits.double(), y, reduction="none").tolist(),
        ]
        for logits in logits_of_nodes(forward, samples, block, population, nodes)
    ]


@node_program("measure", vectors={"vector": "d"}, reads_samples=False)
def distance_to_vector(block: Block, population: str, nodes: list[int], *, vector: str) -> list[float]:
    """Return the L2 distance of each vertex's row to an input vector (d,) of the command, computed in float64."""
    target = block.vector(vector).double()
    return [float((block.row(population, i).to(target.device).double() - target).norm()) for i in nodes]
