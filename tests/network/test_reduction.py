"""Canonical sums: the same bits for every split of the vertices."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.network.reduction import TreeSum, tree_sum


def recursive(vectors: np.ndarray, present: np.ndarray, low: int, high: int) -> np.ndarray | None:
    """The definition, written the other way round: split the id range in two halves."""
    if low >= len(vectors):
        return None
    if high - low == 1:
        return vectors[low] if present[low] else None
    middle = (low + high) // 2
    left, right = recursive(vectors, present, low, middle), recursive(vectors, present, middle, high)
    if left is None or right is None:
        return right if left is None else left
    return left + right


@st.composite
def cases(draw):
    n = draw(st.integers(1, 40))
    present = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    if not present.any():
        present[draw(st.integers(0, n - 1))] = True
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = rng.normal(size=(n, 3)) * 10.0 ** rng.integers(-12, 12, size=(n, 1))
    return vectors, present, [0, *cuts, n], rng


@given(cases())
def test_any_split_and_any_order_gives_the_bits_of_the_definition(case):
    vectors, present, cuts, rng = case
    size = 1 << int(len(vectors) - 1).bit_length()
    expected = recursive(vectors, present, 0, size)
    total = TreeSum(present)
    blocks = list(pairwise(cuts))
    for k in rng.permutation(len(blocks)):
        part = TreeSum(present)
        for i in rng.permutation(np.arange(*blocks[k])):
            if present[i]:
                part.add(0, int(i), vectors[i])
        total.merge(*part.partials())
    assert np.array_equal(total.total(), expected)
    assert np.array_equal(tree_sum(vectors, present), expected)


def test_a_block_sends_few_partial_sums():
    n = 1000
    part = TreeSum(np.ones(n, dtype=bool))
    for i in range(333, 777):
        part.add(0, i, np.ones(1))
    names, sums = part.partials()
    assert len(names) <= 2 * np.log2(n)
    assert sums.sum() == 444


def test_a_missing_vertex_is_noticed():
    part = TreeSum(np.array([True, True, True]))
    part.add(0, 0, np.ones(2))
    part.add(0, 2, np.ones(2))
    with pytest.raises(RuntimeError, match="incomplete"):
        part.total()
