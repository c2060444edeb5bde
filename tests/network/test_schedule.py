"""Batches and sampled clients: pure functions of ids, untouched by other people's deletions."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.network.schedule import (
    epoch_order,
    learning_rate,
    local_batches,
    sampled_clients,
    slot_batches,
    stacked_batches,
)
from fedunlearn.network.settings import TrainingSettings


@given(st.integers(2, 60), st.integers(0, 5), st.integers(0, 2**31), st.data())
def test_deletion_leaves_the_order_of_all_other_samples_untouched(n, epoch, seed, data):
    ids = np.arange(1000, 1000 + n)
    gone = data.draw(st.integers(0, n - 1))
    before = ids[epoch_order(seed, 3, ids, epoch)]
    rest = np.delete(ids, gone)
    after = rest[epoch_order(seed, 3, rest, epoch)]
    assert before[before != ids[gone]].tolist() == after.tolist()


@given(st.integers(1, 70), st.integers(1, 40), st.integers(1, 3))
def test_an_epoch_visits_every_sample_once(n, batch, epochs):
    training = TrainingSettings(batch=batch, local_epochs=epochs)
    seen = np.concatenate(local_batches(0, 0, np.arange(n), training, 2))
    assert np.bincount(seen, minlength=n).tolist() == [epochs] * n


def test_steps_continue_where_the_last_round_stopped():
    training = TrainingSettings(batch=4, local_steps=2)
    steps = [b.tolist() for r in range(5) for b in local_batches(0, 7, np.arange(10), training, r)]
    one_epoch = [b.tolist() for b in local_batches(0, 7, np.arange(10), TrainingSettings(batch=4), 0)]
    assert steps[:3] == one_epoch
    assert sorted(i for step in steps[3:6] for i in step) == list(range(10))


def test_epochs_and_clients_differ():
    ids = np.arange(50)
    orders = {tuple(epoch_order(s, c, ids, e)) for s in (0, 1) for c in (0, 1) for e in (0, 1)}
    assert len(orders) == 8


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 7), st.integers(0, 5), st.integers(1, 2),
    st.none() | st.integers(1, 8), st.sampled_from(["compact", "holes"]), st.integers(0, 2**31),
)  # fmt: skip
def test_batches_of_many_clients_at_once_are_those_of_each(counts, batch, round_, epochs, steps, schedule, seed):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ids = np.sort(rng.permutation(500)[: offsets[-1]])
    kept = rng.random(offsets[-1]) < 0.7
    clients = rng.permutation(50)[: len(counts)]
    training = TrainingSettings(batch=batch, local_epochs=epochs, local_steps=steps, schedule=schedule)
    width = min(batch, max(1, *counts, 0))
    found = stacked_batches(seed, clients, offsets, ids, kept, training, round_, width)
    assert found.positions.shape == found.present.shape == (len(counts), max(found.steps), width)
    for i, (client, low, high) in enumerate(zip(clients, offsets[:-1], offsets[1:])):
        own = np.arange(low, high)
        if schedule == "holes":
            slots = slot_batches(seed, client, ids[own], kept[own], training, round_)
            expected = [(own[b].tolist(), count) for b, count in slots]
        else:
            own = own[kept[own]]
            expected = [(own[b].tolist(), len(b)) for b in local_batches(seed, client, ids[own], training, round_)]
        got = [(p[m].tolist(), n) for p, m, n in zip(found.positions[i], found.present[i], found.slots[i])]
        assert found.steps[i] == len(expected) and got[: len(expected)] == expected
        assert all(not p and n == 0 for p, n in got[len(expected) :])


def test_late_rounds_are_slower():
    training = TrainingSettings(lr=0.1, rounds=10, final_rounds=3, final_factor=0.1)
    rates = [learning_rate(training, r) for r in range(10)]
    assert rates == [0.1] * 7 + [0.1 * 0.1] * 3
    assert learning_rate(TrainingSettings(lr=0.1, rounds=10), 9) == 0.1


@given(st.integers(2, 30), st.floats(0.1, 1.0), st.integers(0, 20))
def test_a_leaver_frees_its_place_and_moves_nobody_else(n, fraction, round_):
    alive = np.ones(n, dtype=bool)
    before = set(sampled_clients(5, alive, fraction, round_))
    assert len(before) == min(n, int(np.ceil(fraction * n)))
    leaver = int(next(iter(before)))
    alive[leaver] = False
    after = set(sampled_clients(5, alive, fraction, round_))
    assert before - {leaver} <= after or len(after) < len(before)
    assert leaver not in after
