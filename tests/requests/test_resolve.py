"""From what a user asks to the samples that go; every mistake in one sentence."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedunlearn.data import Role
from fedunlearn.errors import UserError
from fedunlearn.requests import RequestSettings, resolve_requests
from tests.worlds import image_data, table_data


def resolve(dataset, *requests, seed=0):
    return resolve_requests(tuple(RequestSettings(**r) for r in requests), dataset, seed)


def sentence(error) -> str:
    """Return the message, checked to be one line without a traceback."""
    text = str(error.value)
    assert "\n" not in text and text[0] != " " and "Traceback" not in text
    return text


@pytest.fixture
def dataset():
    return image_data(clients=6, classes=4)


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_named_samples_are_positions_among_the_clients_training_samples(dataset):
    (request,) = resolve(dataset, {"level": "sample", "client": 3, "samples": (4, 0, 4)})
    mine = dataset.train_rows(3)
    assert request.sample_ids.tolist() == [mine[0], mine[4]]
    assert (request.level, request.node, request.label, request.leaves, request.number) == ("sample", 3, None, (), 0)
    assert request.describe() == "client 3 deletes 2 of its samples"


def test_counted_samples_are_drawn_by_the_seed_from_what_is_left(dataset):
    asked = {"level": "sample", "client": 3, "count": 3}
    first, second = resolve(dataset, asked, asked)
    mine = dataset.train_rows(3)
    assert len(first.sample_ids) == len(second.sample_ids) == 3
    assert set(first.sample_ids) | set(second.sample_ids) <= set(mine)
    assert not set(first.sample_ids) & set(second.sample_ids)
    assert np.array_equal(resolve(dataset, asked)[0].sample_ids, first.sample_ids)
    draws = {tuple(resolve(dataset, asked, seed=s)[0].sample_ids) for s in range(20)}
    assert len(draws) > 10


def test_a_client_goes_with_everything_it_has_left(dataset):
    part, whole = resolve(dataset, {"level": "sample", "client": 2, "count": 2}, {"level": "client", "client": 2})
    mine = dataset.train_rows(2)
    assert set(whole.sample_ids) == set(mine) - set(part.sample_ids) and whole.leaves == (2,)
    assert not dataset.is_test[whole.sample_ids].any()
    assert whole.describe() == f"client 2 leaves with {len(mine) - 2} samples"


@pytest.mark.parametrize("label", ["c", 2])
def test_a_class_goes_from_every_train_client_and_from_nobody_else(label, dataset):
    (request,) = resolve(dataset, {"level": "class", "label": label})
    train = np.concatenate([dataset.train_rows(int(c)) for c in dataset.clients(Role.TRAIN)])
    assert set(request.sample_ids) == {i for i in train if dataset.labels[i] == 2}
    assert (request.label, request.node) == (2, None)
    assert request.describe() == f"class 2 goes everywhere: {len(request.sample_ids)} samples"


def test_a_class_request_leaves_out_what_was_deleted_before(dataset):
    client, everywhere = resolve(dataset, {"level": "client", "client": 0}, {"level": "class", "label": 1})
    assert not set(client.sample_ids) & set(everywhere.sample_ids)
    assert (dataset.labels[everywhere.sample_ids] == 1).all() and 0 not in everywhere.leaves


def test_whoever_is_left_without_a_sample_leaves():
    dataset = table_data(clients=5)
    dataset.labels[dataset.train_rows(1)] = 0
    dataset.labels[dataset.train_rows(4)] = 0
    assert resolve(dataset, {"level": "class", "label": 0})[0].leaves == (1, 4)
    everything = len(dataset.train_rows(2))
    assert resolve(dataset, {"level": "sample", "client": 2, "count": everything})[0].leaves == (2,)


@given(st.integers(0, 10_000), st.lists(st.sampled_from(["sample", "class", "client"]), max_size=4))
def test_no_sample_goes_twice_and_leavers_are_those_with_nothing_left(seed, levels):
    dataset = table_data(clients=5, seed=seed % 7)
    rng = np.random.default_rng(seed)
    asked = []
    for level in levels:
        more = {"label": int(rng.integers(3))} if level == "class" else {"client": int(rng.integers(5))}
        asked.append({"level": level, **more, **({"count": int(rng.integers(1, 9))} if level == "sample" else {})})
    try:
        resolved = resolve(dataset, *asked)
    except UserError:
        return
    deleted: set[int] = set()
    gone: set[int] = set()
    for number, request in enumerate(resolved):
        assert request.number == number and len(request.sample_ids)
        assert not deleted & set(request.sample_ids)
        assert (np.diff(request.sample_ids) > 0).all()
        deleted |= set(request.sample_ids)
        empty = {c for c in range(5) if set(dataset.train_rows(c)) <= deleted}
        assert set(request.leaves) == empty - gone
        gone = empty
    assert len(gone) < 5


# --- what cannot be answered ------------------------------------------------------------------------------------------

SAMPLE, CLIENT = {"level": "sample", "client": 2}, {"level": "client", "client": 2}
MISTAKES = {
    "a client that does not exist": (
        [{"level": "client", "client": 6}],
        r"requests\.0\.client = 6 does not exist \(allowed: 0 to 5\)",
    ),
    "samples of a client that does not exist": (
        [CLIENT, {"level": "sample", "client": 99, "count": 1}],
        r"requests\.1\.client = 99 does not exist \(allowed: 0 to 5\)",
    ),
    "a client that has left": ([CLIENT, CLIENT], r"requests\.1\.client = 2 was already deleted by an earlier request"),
    "a sample of a client that has left": (
        [CLIENT, {**SAMPLE, "samples": (0,)}],
        r"requests\.1\.client = 2 was already deleted by an earlier request",
    ),
    "a sample that does not exist": (
        [{**SAMPLE, "samples": (0, 500)}],
        r"requests\.0\.samples names sample 500, which does not exist \(allowed: 0 to \d+\)",
    ),
    "a negative sample": (
        [{**SAMPLE, "samples": (-1,)}],
        r"requests\.0\.samples names sample -1, which does not exist \(allowed: 0 to \d+\)",
    ),
    "a sample that was deleted": (
        [{**SAMPLE, "samples": (1, 3)}, {**SAMPLE, "samples": (2, 3)}],
        r"requests\.1\.samples names sample 3, which was already deleted by an earlier request",
    ),
    "more samples than there are": (
        [{**SAMPLE, "count": 1000}],
        r"requests\.0\.count = 1000 is more than the \d+ samples client 2 has left",
    ),
    "a class number that does not exist": (
        [{"level": "class", "label": 4}],
        r"requests\.0\.label = 4 does not exist \(allowed: 0 to 3, or a class name\)",
    ),
    "a class name that does not exist": (
        [{"level": "class", "label": "e"}],
        r"requests\.0\.label = 'e' is not a class \(allowed: a, b, c, d\)",
    ),
    "a class that was deleted": (
        [{"level": "class", "label": "a"}, {"level": "class", "label": 0}],
        r"requests\.1\.label = 0 names a class of which no training sample is left",
    ),
    "the last client": (
        [{"level": "client", "client": c} for c in range(6)],
        r"requests\.5: this request would delete the last client that still has data",
    ),
    "the last class": (
        [{"level": "class", "label": c} for c in range(4)],
        r"requests\.\d: this request would delete the last client that still has data",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_request_that_cannot_be_answered_is_told_in_one_sentence(mistake, dataset):
    requests, message = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        resolve(dataset, *requests)
    assert re.fullmatch(message, sentence(error))


def test_a_misspelt_class_gets_the_nearest_one():
    dataset = dataclasses.replace(table_data(), class_names=("cat", "dog", "bird"))
    with pytest.raises(UserError, match=r"label = 'brid' is not a class.*'bird'.* \(allowed: cat, dog, bird\)"):
        resolve(dataset, {"level": "class", "label": "brid"})


INCOMPLETE = {
    "a client request without a client": ({"level": "client"}, "level 'client' needs the key 'client'"),
    "a sample request without a client": ({"level": "sample", "count": 1}, "level 'sample' needs the key 'client'"),
    "a sample request without samples": (SAMPLE, "needs exactly one of the keys 'samples' and 'count'"),
    "samples and a count": ({**SAMPLE, "samples": (0,), "count": 1}, "exactly one of the keys 'samples' and 'count'"),
    "a class request without a label": ({"level": "class"}, "level 'class' needs the key 'label'"),
    "a client request that names samples": (
        {**CLIENT, "samples": (0,)},
        r"level 'client' has no key 'samples' \(allowed: client\)",
    ),
    "a class request of a client": (
        {"level": "class", "label": 0, "client": 1},
        r"level 'class' has no key 'client' \(allowed: label\)",
    ),
    "a sample request with a label": ({**SAMPLE, "count": 1, "label": 1}, "level 'sample' has no key 'label'"),
    "a negative client": ({"level": "client", "client": -1}, "greater than or equal to 0"),
    "no sample": ({**SAMPLE, "count": 0}, "greater than or equal to 1"),
    "an unknown level": ({"level": "house"}, "'sample', 'class' or 'client'"),
    "an unknown key": ({**CLIENT, "clinet": 1}, "Extra inputs are not permitted|clinet"),
}


@pytest.mark.parametrize("mistake", INCOMPLETE)
def test_a_request_that_says_too_little_or_too_much_is_refused(mistake):
    request, message = INCOMPLETE[mistake]
    with pytest.raises(ValidationError, match=message):
        RequestSettings(**request)
