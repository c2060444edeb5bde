"""Which samples a vertex uses in which local step: a pure function of (seed, client, sample ids, epoch)."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class StackedBatches:
    """The minibatches that several clients use in one round, padded to one shape: v clients, t steps, b places.

    Attributes:
        positions: (v, t, b) positions in the arrays that :func:`stacked_batches` was given; 0 where nothing is present.
        present: (v, t, b) whether a place holds a retained sample.
        slots: (v, t) places of a batch that hold a sample or a hole: what schedule ``holes`` divides by.
        steps: (v,) how many steps each client takes; later ones are none of its business.
    """

    positions: NDArray[np.int64]
    present: NDArray[np.bool_]
    slots: NDArray[np.int64]
    steps: NDArray[np.int64]


def stacked_batches(
    seed: int, clients: NDArray[np.int64], offsets: NDArray[np.int64], sample_ids: NDArray[np.int64],
    kept: NDArray[np.bool_], training: TrainingSettings, round_: int, width: int | None = None,
) -> StackedBatches:  # fmt: skip
    """Return what :func:`local_batches`, or with schedule ``holes`` :func:`slot_batches`, gives for many clients.

    Client ``clients[i]`` has the samples ``offsets[i] <= p < offsets[i + 1]`` of ``sample_ids`` and ``kept``. ``width``
    is b, by default ``training.batch``; it may be smaller where no client has more samples than that.
    """
    where = np.arange(len(sample_ids)) if training.schedule == "holes" else np.flatnonzero(kept)
    edges = np.searchsorted(where, offsets)
    starts, counts = edges[:-1], np.diff(edges)
    batch, width = training.batch, training.batch if width is None else width
    per_epoch = -(-counts // batch)
    if training.local_steps is None:
        steps = training.local_epochs * per_epoch
    else:
        steps = np.where(counts > 0, training.local_steps, 0)
    shape = (len(clients), int(steps.max(initial=0)), width)
    if not shape[1]:
        return StackedBatches(np.zeros(shape, np.int64), np.zeros(shape, bool), np.zeros(shape[:2], np.int64), steps)
    per_epoch = np.maximum(per_epoch, 1)
    first_step = round_ * steps
    first_epoch = first_step // per_epoch
    epochs = np.where(steps > 0, (first_step + steps - 1) // per_epoch - first_epoch + 1, 0)

    # One line for every client and every epoch it is in: its samples, sorted by their hashes, padding at the end.
    owner = np.repeat(np.arange(len(clients)), epochs)
    first_line = np.cumsum(epochs) - epochs
    epoch = first_epoch[owner] + np.arange(len(owner)) - first_line[owner]
    column = np.arange(int(counts.max()))
    sample = np.minimum(starts[owner, None] + column, len(where) - 1)
    hashes = keys(seed, "epoch", clients[owner, None], sample_ids[where[sample]], epoch[:, None])
    hashes[column >= counts[owner, None]] = np.iinfo(np.uint64).max
    order = np.argsort(hashes, axis=1, kind="stable")

    step = np.arange(shape[1])
    epoch_of_step, place = np.divmod(first_step[:, None] + step, per_epoch[:, None])
    line = np.minimum(first_line[:, None] + epoch_of_step - first_epoch[:, None], len(owner) - 1)
    column = place[:, :, None] * batch + np.arange(width)
    used = (column < counts[:, None, None]) & (step < steps[:, None])[:, :, None]
    chosen = starts[:, None, None] + order[line[:, :, None], np.minimum(column, order.shape[1] - 1)]
    positions = where[np.where(used, chosen, 0)]
    present = used & kept[positions]
    return StackedBatches(np.where(present, positions, 0), present, used.sum(2), steps)


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
