"""Which samples a vertex uses in which local step: a pure function of (seed, client, sample ids, epoch)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedunlearn.network.settings import TrainingSettings
from fedunlearn.randomness import keys, uniforms


def epoch_order(seed: int, client: int, sample_ids: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
    """Return the order in which a client visits its samples in an epoch, as positions in ``sample_ids``.

    It is the argsort of ``hash(seed, client, sample id, epoch)``: deleting samples leaves the relative order of the
    others, and the orders of all other clients, untouched.
    """
    return np.argsort(keys(seed, "epoch", client, sample_ids, epoch), kind="stable").astype(np.int64)


def local_batches(
    seed: int, client: int, sample_ids: NDArray[np.int64], training: TrainingSettings, round_: int
) -> list[NDArray[np.int64]]:
    """Return the minibatches of one round as positions in ``sample_ids``; the last of an epoch may be smaller."""
    count = len(sample_ids)
    if count == 0:
        return []
    per_epoch = -(-count // training.batch)
    if training.local_steps is None:
        steps = range(round_ * training.local_epochs * per_epoch, (round_ + 1) * training.local_epochs * per_epoch)
    else:
        steps = range(round_ * training.local_steps, (round_ + 1) * training.local_steps)
    orders: dict[int, NDArray[np.int64]] = {}
    batches = []
    for step in steps:
        epoch, place = divmod(step, per_epoch)
        if epoch not in orders:
            orders[epoch] = epoch_order(seed, client, sample_ids, epoch)
        batches.append(orders[epoch][place * training.batch : (place + 1) * training.batch])
    return batches


def slot_batches(
    seed: int, client: int, sample_ids: NDArray[np.int64], kept: NDArray[np.bool_], training: TrainingSettings,
    round_: int,
) -> list[tuple[NDArray[np.int64], int]]:  # fmt: skip
    """Return the minibatches of one round and the number of slots each has, with schedule ``holes``.

    ``sample_ids`` are all ids the client ever had, ``kept`` says which are retained: the batches are those of
    :func:`local_batches` for all of them, a deleted id leaves its slot empty, and the gradient sum of a batch is
    divided by its slots. So the schedule is the same with and without any deletion.
    """
    return [(b[kept[b]], len(b)) for b in local_batches(seed, client, sample_ids, training, round_)]


def learning_rate(training: TrainingSettings, round_: int) -> float:
    """Return the step size of a round: ``lr``, and ``lr * final_factor`` in the last ``final_rounds`` rounds."""
    late = round_ >= training.rounds - training.final_rounds
    return training.lr * training.final_factor if late and training.final_rounds else training.lr


def sampled_clients(seed: int, alive: NDArray[np.bool_], fraction: float, round_: int) -> NDArray[np.int64]:
    """Return the clients that federated averaging samples in a round, ascending.

    The ``ceil(fraction * n)`` alive clients with the smallest hash(seed, client, round): a client that left frees its
    place for the next one and moves nobody else.
    """
    count = int(alive.sum())
    return first_by_hash(seed, alive, count if fraction >= 1.0 else max(1, int(np.ceil(fraction * count))), round_)


def first_by_hash(seed: int, alive: NDArray[np.bool_], count: int, round_: int) -> NDArray[np.int64]:
    """Return the ``count`` alive clients with the smallest hash(seed, client, round), ascending."""
    ids = np.flatnonzero(alive)
    if count >= len(ids):
        return ids
    order = np.argsort(uniforms(seed, "client sampling", ids, round_), kind="stable")
    return np.sort(ids[order[:count]])
