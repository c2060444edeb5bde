"""What is taken apart comes back as it was, and nothing comes back that was not named."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.results.states import put_together, taken_apart


@dataclass(frozen=True)
class Pair:
    left: object
    right: object = None
    more: list[int] = field(default_factory=list)


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(),
    st.binary(max_size=24).map(lambda b: np.frombuffer(b, dtype=np.uint8).copy()),
    st.lists(st.floats(width=32), max_size=4).map(lambda v: np.array(v, dtype=np.float32).reshape(1, -1)),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers(), st.tuples(st.integers())), inner, max_size=4),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=12,
)  # fmt: skip


def same(a, b) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, Pair):
        return same(vars(a), vars(b))
    return a == b


@given(VALUES)
def test_a_value_comes_back_as_it_was(value):
    plain, arrays = taken_apart(value)
    text = json.dumps(plain, allow_nan=False)
    assert same(put_together(json.loads(text), arrays, [Pair]), value)


def test_numbers_of_numpy_come_back_as_numbers_of_python():
    value = {"a": np.float64(0.1), "b": np.int64(7), "c": np.bool_(True), "d": np.float32(0.1)}
    plain, arrays = taken_apart(value)
    assert not arrays
    assert same(put_together(plain, arrays, []), {"a": 0.1, "b": 7, "c": True, "d": float(np.float32(0.1))})


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", Pair, np.array(["text"]), np.array([None]), lambda: 0])
def test_what_has_no_place_is_refused(value):
    with pytest.raises(TypeError, match="no place in a checkpoint"):
        taken_apart([value])


@pytest.mark.parametrize(
    "plain",
    [
        {}, {"array": "array-9"}, {"array": []}, {"class": "Other", "fields": []}, {"class": "Pair"},
        {"class": "Pair", "fields": [["wrong", 1]]}, {"class": "Pair", "fields": [["left"]]}, {"unknown": 1},
        {"tuple": 3}, {"dict": [[1]]}, {"dict": [[[], 1]]}, {"float": "one"}, {"float": None},
        {"tuple": [], "dict": []}, {"fields": [], "class": "Pair"}, [{"array": None}],
    ],
)  # fmt: skip
def test_what_nobody_wrote_is_refused(plain):
    with pytest.raises(ValueError):
        put_together(plain, {}, [Pair])


def test_only_the_classes_that_are_named_are_made():
    plain, arrays = taken_apart(Pair(1))
    with pytest.raises(ValueError, match="class"):
        put_together(plain, arrays, [])
