"""What somebody could ask to have deleted in order to hurt others: choices of samples, and of whom to hurt.

Everything here looks at models and at other people's samples, which the scope of every certificate forbids
(docs/certificates.md, scope line "requests"): an attacker need not keep to it, so the study does not either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedunlearn.data import FederatedDataset, Role
from fedunlearn.models import FeatureMap, Model
from fedunlearn.models.softmax import hvp, per_sample_gradients
from fedunlearn.randomness import uniforms

STRATEGIES = ("random", "boundary", "class", "harm")
"""Samples drawn at random; those that the model is least sure about; all of a class; those whose absence is predicted
to raise a victim's loss most (the influence function, one Newton step; Koh and Liang 2017)."""

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Cast:
    """Who attacks, with how many samples, and who is hurt.

    Attributes:
        members: the vertices of the coalition.
        label: the class of which it holds the largest share.
        budget: how many samples each strategy deletes: as many as the coalition has of that class.
        share: which share of the network's samples of that class these are.
        victim: the vertex outside that holds most samples of the class.
    """

    members: tuple[int, ...]
    label: int
    budget: int
    share: float
    victim: int


def class_counts(dataset: FederatedDataset) -> NDArray[np.int64]:
    """Return how many training samples of each class every vertex has, (N, classes)."""
    return np.stack(
        [
            np.bincount(dataset.labels[dataset.train_rows(int(c))], minlength=dataset.num_classes)
            for c in dataset.clients(Role.TRAIN)
        ]
    )


def cast(dataset: FederatedDataset, size: int, without: Sequence[int] = ()) -> Cast:
    """Return the strongest coalition of this size: the one that holds the largest share of some class.

    Vertices in ``without`` neither attack nor suffer. The best coalition for a class is its largest holders.
    """
    counts = class_counts(dataset)
    counts[list(without)] = 0
    holders = np.argsort(-counts, axis=0, kind="stable")  # (N, classes)
    held = np.take_along_axis(counts, holders[:size], axis=0).sum(axis=0)
    label = int(np.argmax(held / counts.sum(axis=0)))
    budget = int(held[label])
    members = tuple(sorted(int(v) for v in holders[:size, label] if counts[v, label]))
    return Cast(members, label, budget, budget / int(counts[:, label].sum()), int(holders[size, label]))


def chosen(
    strategy: str, players: Cast, dataset: FederatedDataset, model: Model, features: FeatureMap,
    theta: NDArray[np.float64], l2: float, seed: int,
) -> Ids:  # fmt: skip
    """Return the ids that the coalition asks to have deleted, increasing; all are its own.

    Args:
        strategy: one of :data:`STRATEGIES`.
        players: coalition, class and victim.
        dataset, model, features: of the run; the model is a softmax.
        theta: (d,) the model that the attacker looks at.
        l2: the L2 term of its objective.
        seed: of the strategy ``random``.
    """
    clients = dataset.clients(Role.TRAIN)
    own = np.concatenate([dataset.train_rows(int(clients[v])) for v in players.members])
    if strategy == "class":
        return np.sort(own[dataset.labels[own] == players.label])
    if strategy == "random":
        score = uniforms(seed, "attacker", own)
    else:
        at = torch.from_numpy(np.asarray(theta, dtype=np.float64))
        x, y = _prepared(model, features, dataset, own)
        if strategy == "boundary":
            logits = model.logits(at, x).numpy()
            top = np.sort(logits, axis=1)
            score = top[:, -1] - top[:, -2]
        elif strategy == "harm":
            hurt = _prepared(model, features, dataset, dataset.train_rows(int(clients[players.victim])))
            everybody, _ = _prepared(model, features, dataset, dataset.all_train_rows()[0])
            towards = torch.from_numpy(
                newton_direction(
                    lambda v: hvp(at, v, everybody, model.num_classes) / len(everybody) + l2 * v,
                    per_sample_gradients(at, *hurt, model.num_classes).mean(0),
                )
            )
            score = -(per_sample_gradients(at, x, y, model.num_classes) @ towards).numpy()
        else:
            raise ValueError(f"'{strategy}' is not a strategy (allowed: {', '.join(STRATEGIES)})")
    return np.sort(own[np.argsort(score, kind="stable")[: players.budget]])


def newton_direction(
    product: Callable[[torch.Tensor], torch.Tensor], gradient: torch.Tensor, steps: int = 200, tolerance: float = 1e-8
) -> NDArray[np.float64]:
    """Return ``H^-1 g`` (d,) by conjugate gradients; ``product`` maps a direction (d,) to ``H`` times it."""
    x = torch.zeros_like(gradient)
    residual = gradient.clone()
    direction, left = residual.clone(), float(residual @ residual)
    goal = tolerance**2 * left
    for _ in range(steps):
        if left <= goal:
            break
        moved = product(direction)
        step = left / float(direction @ moved)
        x, residual = x + step * direction, residual - step * moved
        now = float(residual @ residual)
        direction, left = residual + (now / left) * direction, now
    return np.asarray(x.numpy(), dtype=np.float64)


def as_requests(ids: Ids, players: Cast, dataset: FederatedDataset) -> list[dict[str, object]]:
    """Return these ids as requests of their owners, one a member, as an experiment has them."""
    clients, found = dataset.clients(Role.TRAIN), []
    for vertex in players.members:
        mine = dataset.train_rows(int(clients[vertex]))
        places = np.flatnonzero(np.isin(mine, ids))
        if len(places):
            found.append({"level": "sample", "client": vertex, "samples": places.tolist()})
    return found


def _prepared(
    model: Model, features: FeatureMap, dataset: FederatedDataset, rows: Ids
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    x = model.prepare(features.apply(dataset.inputs[rows])).to(torch.float64)
    return x, torch.from_numpy(dataset.labels[rows])
