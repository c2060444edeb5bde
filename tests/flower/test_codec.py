"""Every bit that goes into a message comes out of it, also after Flower's own way over the wire."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from flwr.app import Array, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.flower import codec
from fedunlearn.flower.codec import Address
from fedunlearn.network.transport import Reply, Request

TYPES = ["float32", "float64", "int64", "uint8", "bool", "int32", "float16"]
arrays = st.sampled_from(TYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)

tables = st.dictionaries(st.text(), json_values, max_size=3)
arrays_by_name = st.dictionaries(st.text(), arrays, max_size=3)
addresses = st.builds(Address, st.text("0123456789abcdef"), st.integers(0, 2**31), st.integers(0, 2**62))
HERE = Address("a", 0, 1)


def over_the_wire(content: RecordDict) -> RecordDict:
    """Take content apart into Flower's objects and put it together again, as a SuperLink does."""
    objects = {name: thing.deflate() for name, thing in get_all_nested_objects(content).items()}
    rebuilt = inflate_object_from_contents(content.object_id, objects)
    assert isinstance(rebuilt, RecordDict)
    return rebuilt


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def same_arrays(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in b)


@settings(deadline=None)
@given(st.lists(st.builds(Request, st.text(), tables, arrays_by_name), min_size=1, max_size=3), addresses)
def test_requests_come_back_as_they_went(requests: list[Request], address: Address) -> None:
    *before, last = requests
    sent = replace(last, before=tuple(before))
    for content in (codec.encode_request(sent, address), over_the_wire(codec.encode_request(sent, address))):
        got, place = codec.decode_request(content)
        assert place == address
        assert [(g.op, g.params) for g in (*got.before, got)] == [(r.op, r.params) for r in requests]
        assert all(same_arrays(g.arrays, r.arrays) for g, r in zip((*got.before, got), requests))


@settings(deadline=None)
@given(st.lists(st.builds(Reply, tables, arrays_by_name), min_size=1, max_size=3), addresses)
def test_replies_come_back_as_they_went(replies: list[Reply], address: Address) -> None:
    *before, last = replies
    sent = replace(last, before=tuple(before))
    got, place = codec.decode_reply(over_the_wire(codec.encode_reply(sent, address)))
    assert place == address
    assert [g.params for g in (*got.before, got)] == [r.params for r in replies]
    assert all(same_arrays(g.arrays, r.arrays) for g, r in zip((*got.before, got), replies))


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((0, 7), np.float32),
        np.zeros((3, 0), bool),
        np.array(2.5),
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(20, dtype=np.int64)[::-3],
        np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
        np.broadcast_to(np.float32(1.5), (4, 5)),
    ],
    ids=["no rows", "no columns", "a number", "transposed", "strided", "column major", "broadcast"],
)
def test_shapes_and_layouts(values: np.ndarray) -> None:
    got = codec.decode_array(codec.encode_array(values))
    assert same_bits(got, np.array(values, order="C"))
    assert got.flags.c_contiguous and got.flags.writeable


def test_nan_payloads_survive() -> None:
    bits = np.array([0x7FC00001, 0x7F800123, 0xFFC0FFEE, 0x80000000], np.uint32)
    got = codec.decode_array(codec.encode_array(bits.view(np.float32)))
    assert got.view(np.uint32).tolist() == bits.tolist()


def test_big_endian_arrays_keep_their_values() -> None:
    got = codec.decode_array(codec.encode_array(np.array([1.0, -2.5], ">f8")))
    assert got.dtype == np.float64 and got.tolist() == [1.0, -2.5]


def test_a_received_array_is_nobody_elses() -> None:
    values = np.zeros(3)
    message = codec.encode_array(values)
    first, second = codec.decode_array(message), codec.decode_array(message)
    first[:] = 1
    assert values.tolist() == second.tolist() == [0, 0, 0]


def test_equal_arrays_under_two_names() -> None:
    zeros = np.zeros(5, np.float32)
    sent = codec.encode_reply(Reply({}, {"a": zeros, "b": zeros.copy()}), HERE)
    got, _ = codec.decode_reply(over_the_wire(sent))
    assert same_bits(got.arrays["a"], zeros) and same_bits(got.arrays["b"], zeros)


@pytest.mark.parametrize("values", [np.array([{}], object), np.array(["a"]), np.array([1j]), np.zeros(1, "f4,i8")])
def test_only_plain_numbers_travel(values: np.ndarray) -> None:
    with pytest.raises(TypeError, match="only plain numbers"):
        codec.encode_array(values)


def test_parameters_must_be_json() -> None:
    with pytest.raises(TypeError):
        codec.encode_request(Request("rows", {"node": np.int64(3)}), HERE)


@pytest.mark.parametrize(
    "array",
    [
        Array("object", (1,), "raw.little-endian", pickle.dumps([1])),
        Array("float32", (2,), "numpy.ndarray", b"\0" * 8),
        Array("float32", (2,), "raw.little-endian", b"\0" * 7),
        Array("float32", (1,), "raw.little-endian", b"\0" * 8),
    ],
    ids=["objects", "another form", "too short", "too long"],
)
def test_malformed_arrays_are_refused(array: Array) -> None:
    with pytest.raises(ValueError):
        codec.decode_array(array)


def test_an_error_arrives_as_the_same_sentence() -> None:
    sentence = "data.path = 'x.npz' does not exist; put « it » there"
    with pytest.raises(UserError) as caught:
        codec.decode_reply(over_the_wire(codec.encode_error(UserError(sentence), HERE)))
    assert str(caught.value) == sentence


def test_parameters_are_readable_json() -> None:
    content = codec.encode_request(Request("sum", {"dim": 3}, before=(Request("wipe"),)), HERE)
    (head,) = content.config_records.values()
    assert json.loads(str(head["parts"])) == [["wipe", {}], ["sum", {"dim": 3}]]
    assert (head["session"], head["host"], head["sequence"]) == ("a", 0, 1)
