"""Settings of faults: what is refused, in which words, and what they say of themselves."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import numpy as np
import pytest
from pydantic import ValidationError

from fedunlearn.config import Experiment, dump_toml
from fedunlearn.faults import EventSettings, FaultSettings, PartitionSettings, buffer_bytes, buffered_copies
from fedunlearn.validation import explain


def test_everything_is_off_by_default():
    settings = FaultSettings()
    assert not settings.enabled and not settings.acts_on_links and not settings.weighted
    assert buffered_copies(settings) == buffer_bytes(settings, 1000, 1000) == 0


@pytest.mark.parametrize(
    ("keys", "links", "weighted"),
    [
        ({"leave_probability": 0.1}, False, False),
        ({"late_share": 0.2, "late_until": 5}, False, False),
        ({"slow_share": 0.2, "slow_factor": 3.0}, False, False),
        ({"events": [{"round": 3, "kind": "leave", "nodes": [0]}]}, False, False),
        ({"link_failure": 0.1}, True, False),
        ({"gossip": "pairwise"}, True, False),
        ({"partitions": [{"begin": 0, "end": 2, "parts": 2}]}, True, False),
        ({"message_loss": 0.1}, True, True),
        ({"gossip": "push"}, True, True),
        ({"max_delay": 2, "delay_probability": 0.1}, True, True),
        ({"max_delay": 2, "slow_share": 0.1}, True, True),
    ],
)
def test_what_each_key_means_for_the_engine(keys, links, weighted):
    settings = FaultSettings.model_validate(keys)
    assert (settings.enabled, settings.acts_on_links, settings.weighted) == (True, links, weighted)
    assert FaultSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"late_share": 0.5}, "late_share > 0 needs the key 'late_until'"),
        ({"delay_probability": 0.5}, "needs max_delay of at least 1"),
        ({"max_delay": 2}, "max_delay > 0 delays nothing"),
        ({"slow_share": 0.5}, "slow_share > 0 slows nothing down"),
        ({"gossip": "pairwise", "max_delay": 1, "delay_probability": 0.1}, "waits for both messages of a pair"),
        ({"leave_probability": 1.0}, "less than 1"),
        ({"max_delay": 65, "slow_share": 0.1}, "less than or equal to 64"),
        ({"gossip": "pull"}, "'synchronous', 'pairwise' or 'push'"),
        ({"churn": 0.1}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_sense_are_refused(keys, words):
    with pytest.raises(ValidationError, match=words):
        FaultSettings.model_validate(keys)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"round": 1, "kind": "crash"}, "needs the key 'nodes'"),
        ({"round": 1, "kind": "leave", "nodes": [1], "links": [[0, 1]]}, "has no key 'links'"),
        ({"round": 1, "kind": "cut"}, "needs one of the keys 'nodes' and 'links'"),
        ({"round": 1, "kind": "heal", "nodes": [1], "links": [[0, 1]]}, "either 'nodes' or 'links'"),
        ({"round": 0, "kind": "return", "nodes": [1]}, "nobody can return in round 0"),
        ({"round": 0, "kind": "join", "nodes": [1]}, "is there from round 0 on"),
        ({"round": 1, "kind": "cut", "links": [[0, 1, 2]]}, "at most 2 items"),
    ],
)
def test_events_that_are_incomplete_are_refused(keys, words):
    with pytest.raises(ValidationError, match=words):
        EventSettings.model_validate(keys)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"begin": 3, "end": 3, "parts": 2}, "must come after begin = 3"),
        ({"begin": 3, "end": 4}, "exactly one of the keys"),
        ({"begin": 3, "end": 4, "parts": 2, "groups": [[1]]}, "exactly one of the keys"),
        ({"begin": 3, "end": 4, "groups": [[1, 2], [2]]}, "names node 2 twice"),
        ({"begin": 3, "end": 4, "groups": [[]]}, "names no node"),
        ({"begin": 3, "end": 4, "parts": 1}, "greater than or equal to 2"),
    ],
)
def test_partitions_that_make_no_sense_are_refused(keys, words):
    with pytest.raises(ValidationError, match=words):
        PartitionSettings.model_validate(keys)


def test_the_ring_buffer_holds_whole_rows_as_a_store_lays_them_out():
    settings = FaultSettings(max_delay=3, delay_probability=0.1)
    rows = np.zeros((10, 7840 + 16), dtype=np.float32)[:, :7850]  # rows of 7,850 numbers begin every 7,856
    assert buffered_copies(settings) == 3
    assert buffer_bytes(settings, 10, 7850) == 3 * 10 * rows.strides[0]


class WithFaults(Experiment):
    faults: FaultSettings = FaultSettings()


EVERYTHING = {
    "leave_probability": 0.1, "crash_share": 0.5, "late_share": 0.2, "late_until": 9, "link_failure": 0.1,
    "message_loss": 0.1, "on_loss": "gone", "slow_share": 0.1, "slow_factor": 2.0, "delay_probability": 0.2,
    "max_delay": 3, "gossip": "push", "offline_requests": "answer", "wait_limit": 7, "seed": 3,
    "partitions": [{"begin": 3, "end": 5, "parts": 2}, {"begin": 7, "end": 9, "groups": [[0, 1], [2]]}],
    "events": [{"round": 2, "kind": "cut", "links": [[0, 1], [1, 2]]}, {"round": 3, "kind": "leave", "nodes": [4]}],
}  # fmt: skip


@pytest.mark.parametrize("keys", [{}, EVERYTHING])
def test_a_table_written_as_toml_is_read_again(keys):
    experiment = WithFaults.model_validate({"name": "x", "faults": keys})
    table = tomllib.loads(dump_toml(experiment))
    table.pop("schema")
    assert WithFaults.model_validate(table) == experiment


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"max_delay": 3}, "x.toml: faults: max_delay > 0 delays nothing: set delay_probability or slow_share"),
        ({"link_failures": 0.1}, "faults.link_failures = 0.1 is not a known key, did you mean 'link_failure'?"),
        ({"link_failure": 1.5}, "x.toml: faults.link_failure = 1.5 must be a number of at least 0 and less than 1"),
        ({"gossip": "pusch"}, 'faults.gossip = "pusch" must be one of synchronous, pairwise, push, did you mean'),
        (
            {"events": [{"round": 2, "kind": "crash"}]},
            "faults.events.0: an event of kind 'crash' needs the key 'nodes'",
        ),
        ({"events": [{"kind": "heal"}]}, "faults.events.0.round is missing; it must be a whole number of at least 0"),
        (
            {"partitions": [{"begin": 2, "end": 1, "parts": 2}]},
            "faults.partitions.0: end = 1 must come after begin = 2",
        ),
        ({"partitions": 3}, "faults.partitions = 3 must be a list of tables"),
    ],
)
def test_mistakes_are_told_in_one_sentence(keys, sentence):
    data = {"name": "x", "faults": keys}
    with pytest.raises(ValidationError) as caught:
        WithFaults.model_validate(data)
    assert sentence in str(explain(caught.value, WithFaults, data, "x.toml"))


def test_the_room_loads_neither_torch_nor_flower_nor_matplotlib():
    code = "import sys, fedunlearn.faults; print([m for m in ('torch', 'flwr', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
