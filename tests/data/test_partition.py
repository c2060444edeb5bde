"""Laws of the partitions, checked by counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.data.partition import cap, draw_pool, hold_out, partition
from fedunlearn.errors import UserError

KINDS = ("iid", "dirichlet", "shards")


def pooled(n: int, classes: int = 5, share: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return rng.integers(0, classes, n), rng.random(n) < share


@given(st.sampled_from(KINDS), st.integers(60, 200), st.integers(1, 9), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_sample_has_one_client_and_every_client_trains(kind: str, n: int, clients: int, seed: int) -> None:
    labels, is_test = pooled(n)
    owner = partition(kind, labels, is_test, clients, seed, alpha=2.0)
    assert owner.shape == (n,) and owner.min() >= 0 and owner.max() < clients
    assert (np.bincount(owner[~is_test], minlength=clients) > 0).all()
    again = partition(kind, labels, is_test, clients, seed, alpha=2.0)
    assert np.array_equal(owner, again)


def test_iid_sizes_differ_by_at_most_one_and_the_seed_matters() -> None:
    labels, is_test = pooled(103)
    owner = partition("iid", labels, is_test, 7, 0)
    for part in (is_test, ~is_test):
        sizes = np.bincount(owner[part], minlength=7)
        assert sizes.max() - sizes.min() <= 1
    assert not np.array_equal(owner, partition("iid", labels, is_test, 7, 1))


def test_dirichlet_concentration_goes_from_one_class_to_the_common_mixture() -> None:
    labels = np.repeat(np.arange(10), 400)

    def spread(alpha: float) -> float:
        owner = partition("dirichlet", labels, None, 10, 3, alpha=alpha)
        counts = np.stack([np.bincount(labels[owner == c], minlength=10) for c in range(10)])
        return float(np.abs(counts / counts.sum(1, keepdims=True) - 0.1).sum(1).mean() / 2)

    assert spread(0.1) > 0.5 > spread(1.0) > spread(1000.0)
    assert spread(1000.0) < 0.05


def test_dirichlet_gives_test_samples_the_same_mixture_as_training_samples() -> None:
    labels = np.tile(np.arange(4), 2000)
    is_test = np.arange(8000) // 4 % 2 == 1
    owner = partition("dirichlet", labels, is_test, 5, 0, alpha=0.5)
    for c in range(5):
        for k in range(4):
            mine = (owner == c) & (labels == k)
            assert abs(int(mine[is_test].sum()) - int(mine[~is_test].sum())) <= 1


def test_shards_limit_the_labels_of_a_client() -> None:
    labels = np.repeat(np.arange(10), 60)
    owner = partition("shards", labels, None, 10, 0, shards_per_client=2)
    assert np.bincount(owner).tolist() == [60] * 10
    assert all(len(np.unique(labels[owner == c])) <= 2 for c in range(10))


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_clients_is_one_sentence(kind: str) -> None:
    labels, is_test = pooled(40)
    with pytest.raises(UserError, match=r"data.clients = 41: \d+ training samples are too few"):
        partition(kind, labels, is_test, 41, 0)


def test_a_hopeless_alpha_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"data.alpha = 0.001: .*raise data.alpha or lower data.clients"):
        partition("dirichlet", np.arange(60) % 2, None, 30, 0, alpha=0.001)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.floats(0.05, 0.95), st.integers(0, 3))
@settings(deadline=None)
def test_hold_out_takes_the_share_of_each_client(sizes: list[int], fraction: float, seed: int) -> None:
    owner = np.repeat(np.arange(len(sizes)), sizes)
    is_test = hold_out(owner, len(sizes), fraction, seed)
    for client, size in enumerate(sizes):
        tests = int(is_test[owner == client].sum())
        assert abs(tests - fraction * size) <= 1
        assert tests < size or size == 0
        assert tests >= 1 or size < 2


def test_hold_out_of_a_client_does_not_depend_on_others_or_on_the_order_of_clients() -> None:
    one = hold_out(np.zeros(30, dtype=np.int64), 2, 0.3, 0)
    both = hold_out(np.repeat([0, 1], [30, 50]), 2, 0.3, 0)
    mixed_owner = np.random.default_rng(0).permutation(np.repeat([0, 1], [30, 50]))
    mixed = hold_out(mixed_owner, 2, 0.3, 0)
    assert np.array_equal(one, both[:30])
    assert np.array_equal(one, mixed[mixed_owner == 0])


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6)), min_size=1, max_size=6), st.integers(1, 10))
@settings(deadline=None)
def test_cap_keeps_enough_of_both_kinds(sizes: list[tuple[int, int]], most: int) -> None:
    owner = np.concatenate([np.full(a + b, c) for c, (a, b) in enumerate(sizes)])
    is_test = np.concatenate([np.arange(a + b) >= a for a, b in sizes])
    kept = cap(owner, is_test, len(sizes), most, 0)
    for client, (train, test) in enumerate(sizes):
        mine = kept & (owner == client)
        assert mine.sum() == min(train + test, most)
        assert (mine & ~is_test).sum() >= 1
        assert abs((mine & is_test).sum() - mine.sum() * test / (train + test)) <= 1


def test_pools_take_a_tenth_of_each_kind_and_at_least_one_training_sample() -> None:
    is_test = np.arange(1000) % 5 == 0
    pool = draw_pool(is_test, 1000, 0.1, 0)
    assert np.bincount(pool[is_test]).tolist() == [160, 20, 20]
    assert np.bincount(pool[~is_test]).tolist() == [640, 80, 80]
    assert np.bincount(draw_pool(None, 4, 0.1, 0)).tolist() == [2, 1, 1]
