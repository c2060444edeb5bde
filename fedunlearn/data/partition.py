"""Cutting pooled samples into clients, holding out test samples, and capping clients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.randomness import generator, keys

_DIRICHLET_DRAWS = 50


def partition(
    kind: str, labels: NDArray[np.int64], is_test: NDArray[np.bool_] | None, clients: int, seed: int, *,
    alpha: float = 0.5, shards_per_client: int = 2,
) -> NDArray[np.int64]:  # fmt: skip
    """Return the client (n,) in 0..clients-1 of every pooled sample, by 'iid', 'dirichlet' or 'shards'.

    A source's own test samples (``is_test``) are dealt by the same rule and in the same proportions as its training
    samples, so that a client is tested on the mixture of labels that it trains on.

    Raises UserError when a client would be left without a training sample.
    """
    training = np.ones(len(labels), dtype=bool) if is_test is None else ~is_test
    needed = clients * (shards_per_client if kind == "shards" else 1)
    if training.sum() < needed:
        what = f"{clients} clients" if kind != "shards" else f"{clients} clients of {shards_per_client} shards each"
        raise UserError(
            f"data.clients = {clients}: {int(training.sum())} training samples are too few for {what} "
            f"(at least {needed})"
        )
    if kind == "iid":
        return _iid(training, clients, seed)
    if kind == "dirichlet":
        return _dirichlet(labels, training, clients, alpha, seed)
    if kind == "shards":
        return _shards(labels, training, clients, shards_per_client, seed)
    raise ValueError(f"unknown partition '{kind}'")


def _parts(training: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the positions of the training and of the test samples."""
    return [np.flatnonzero(training), np.flatnonzero(~training)]


def _shuffled(positions: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    return positions[np.argsort(keys(seed, "partition.order", positions), kind="stable")]


def _iid(training: NDArray[np.bool_], clients: int, seed: int) -> NDArray[np.int64]:
    """Deal a shuffled deck: sizes differ by at most one."""
    owner = np.empty(len(training), dtype=np.int64)
    for part in _parts(training):
        owner[_shuffled(part, seed)] = np.arange(len(part)) * clients // max(len(part), 1)
    return owner


def _dirichlet(
    labels: NDArray[np.int64], training: NDArray[np.bool_], clients: int, alpha: float, seed: int
) -> NDArray[np.int64]:
    """Draw for each class the shares of the clients from Dirichlet(alpha) (Hsu, Qi, Brown 2019; Li et al. 2022).

    As there, the whole draw is repeated while a client is left without a training sample, here at most 50 times.
    """
    classes = np.unique(labels)
    groups = [[_shuffled(part[labels[part] == c], seed) for part in _parts(training)] for c in classes]
    for draw in range(_DIRICHLET_DRAWS):
        rng = generator(seed, "partition.dirichlet", draw)
        owner = np.empty(len(labels), dtype=np.int64)
        for parts in groups:
            bounds = np.cumsum(rng.dirichlet(np.full(clients, alpha)))
            bounds[-1] = 1.0
            for part in parts:
                owner[part] = np.searchsorted(bounds, (np.arange(len(part)) + 0.5) / max(len(part), 1))
        if (np.bincount(owner[training], minlength=clients) > 0).all():
            return owner
    raise UserError(
        f"data.alpha = {alpha:g}: in each of {_DIRICHLET_DRAWS} draws one of the {clients} clients got no training "
        "sample; raise data.alpha or lower data.clients"
    )


def _shards(
    labels: NDArray[np.int64], training: NDArray[np.bool_], clients: int, per_client: int, seed: int
) -> NDArray[np.int64]:
    """Sort by label, cut into equal shards, deal ``per_client`` to each client (McMahan et al. 2017, sec. 3)."""
    shards = clients * per_client
    dealt = generator(seed, "partition.shards").permutation(np.repeat(np.arange(clients), per_client))
    owner = np.empty(len(labels), dtype=np.int64)
    for part in _parts(training):
        mixed = _shuffled(part, seed)
        ordered = mixed[np.argsort(labels[mixed], kind="stable")]
        owner[ordered] = dealt[np.arange(len(part)) * shards // max(len(part), 1)]
    return owner


def draw_pool(is_test: NDArray[np.bool_] | None, count: int, share: float, seed: int) -> NDArray[np.int64]:
    """Return which pool (n,) a sample belongs to: 0 the clients', 1 the public one, 2 the never-members'.

    The two small pools take ``share`` of the training and of the test samples each, at least one training sample.
    """
    training = np.ones(count, dtype=bool) if is_test is None else ~is_test
    pool = np.zeros(count, dtype=np.int64)
    for part, least in zip(_parts(training), (1, 0)):
        order = part[np.argsort(keys(seed, "partition.pool", part), kind="stable")]
        size = max(least, round(share * len(part)))
        pool[order[:size]] = 1
        pool[order[size : 2 * size]] = 2
    return pool


def _rank_within(owner: NDArray[np.int64], clients: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """Return each sample's place (n,) in its client's shuffled order, fixed by (seed, client, place in the client)."""
    by_client = np.argsort(owner, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=clients))])
    place = np.arange(len(owner)) - starts[owner[by_client]]
    shuffled = np.lexsort((keys(seed, purpose, owner[by_client], place), owner[by_client]))
    rank = np.empty(len(owner), dtype=np.int64)
    rank[by_client[shuffled]] = place
    return rank


def hold_out(owner: NDArray[np.int64], clients: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return test marks (n,): the share ``fraction`` of each client's samples, rounded.

    A client with two samples or more keeps at least one of each kind; a single sample is for training. Which samples
    of a client are held out depends on nothing but the seed, the client's number and how many it has.
    """
    size = np.bincount(owner, minlength=clients)
    most = np.maximum(size - 1, 0)
    tests = np.clip(np.floor(fraction * size + 0.5).astype(np.int64), np.minimum(1, most), most)
    return _rank_within(owner, clients, seed, "partition.test") < tests[owner]


def cap(owner: NDArray[np.int64], is_test: NDArray[np.bool_], clients: int, most: int, seed: int) -> NDArray[np.bool_]:
    """Return which samples (n,) to keep so that no client has more than ``most``.

    A client's share of test samples is kept as far as whole numbers allow, and one training sample always.
    """
    size = np.bincount(owner, minlength=clients)
    tests = np.bincount(owner[is_test], minlength=clients)
    total = np.minimum(size, most)
    kept_tests = np.minimum(np.floor(total * tests / np.maximum(size, 1)).astype(np.int64), tests)
    kept_tests = np.where(tests < size, np.minimum(kept_tests, total - 1), total)
    room = np.where(is_test, kept_tests[owner], (total - kept_tests)[owner])
    rank = _rank_within(2 * owner + is_test, 2 * clients, seed, "partition.cap")
    return rank < room
