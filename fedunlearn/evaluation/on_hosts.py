"""Training samples that lie with their hosts alone are measured there: what comes back are three sums over all of them.

A host tells the sums over its own clients, at the ends of its block those of one client. Where one sample is asked for
they say whether the model names it rightly, and where its loss stands: they hide no sample from the conductor. What was
erased cannot be measured any more, by anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.utility import logits_of, losses
from fedunlearn.models import Model
from fedunlearn.network import Network
from fedunlearn.network.block import Block
from fedunlearn.network.declared import node_program

_PROGRAM = "fedunlearn.evaluation.on_hosts:right_and_below"


class Judged(NamedTuple):
    """What a model makes of some training samples: accuracy, and membership AUC where non-members were named."""

    accuracy: float | None
    membership_auc: float | None


def _three(model: Model, params: Mapping[str, Any], samples: Mapping[str, int]) -> int:
    return 3


@node_program("sum", vectors={"at": "d"}, size=_three)
def right_and_below(
    block: Block, population: str, node: int, *, at: str, ids: list[int], others: list[float]
) -> NDArray[np.float64]:
    """Return how many retained samples with these ``ids`` a vertex has, how many the model ``at`` names rightly, and
    over all pairs with the losses ``others`` (rising) how often the sample's loss is the smaller one, ties half."""
    positions = block.samples(population, node)
    positions = positions[np.isin(block.sample_ids(positions), ids)]
    if not len(positions):
        return np.zeros(3)
    labels = block.store["labels"][positions]
    theta = np.asarray(block.array(at), dtype=np.float32)
    logits = logits_of(block.model, theta, block.store["inputs"][positions])
    right = (logits.argmax(1) == labels).sum()
    below = 0.0
    if others:
        mine = losses(block.model, theta, block.store["inputs"][positions], labels)
        beyond = [len(others) - np.searchsorted(others, mine, side=side) for side in ("left", "right")]
        below = float((beyond[0] + beyond[1]).sum()) / 2
    return np.array([len(positions), right, below])


def judge(
    network: Network, theta: NDArray[np.float32], ids: NDArray[np.int64], others: NDArray[np.float64] | None = None
) -> Judged:
    """Let the hosts of a network judge a model (d,) by its retained training samples with these ids.

    ``others``: losses of the model on samples that it was not trained on, to tell members from. Vertices that are away
    tell nothing. A later answer of the network finds neither the model nor the sums on the hosts.
    """
    others = np.zeros(0) if others is None or not np.isfinite(others).all() else np.sort(others)
    found = network.sum(
        _PROGRAM, {"at": "at", "ids": ids.tolist(), "others": others.tolist()}, {"at": theta.astype(np.float64)}, size=3
    )
    network.wipe()
    count, right, below = found.tolist()
    if not count:
        return Judged(None, None)
    return Judged(right / count, below / (count * len(others)) if len(others) else None)
