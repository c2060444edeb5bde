"""Searches for the edge of a monotone claim: exact for counts, on the safe side for numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.privacy import epsilon_of, mu_of
from fedunlearn.privacy.accounting.invert import (
    largest,
    largest_count,
    load_for,
    noise_for,
    smallest,
    smallest_count,
    steps_for,
)

edges = st.floats(-12, 12).map(lambda exponent: 10.0**exponent)


@given(edge=edges, start=edges)
def test_smallest_finds_the_edge_from_above(edge: float, start: float) -> None:
    found = smallest(lambda x: x >= edge, start=start)
    assert edge <= found <= edge * (1 + 1e-11)


@given(edge=edges, start=edges)
def test_largest_finds_the_edge_from_below(edge: float, start: float) -> None:
    found = largest(lambda x: x <= edge, start=start)
    assert edge * (1 - 1e-11) <= found <= edge


@given(edge=st.integers(1, 10**9))
def test_counts_are_exact(edge: int) -> None:
    assert smallest_count(lambda n: n >= edge) == edge
    assert largest_count(lambda n: n <= edge) == edge


@given(edge=st.integers(0, 60), least=st.integers(1, 60), limit=st.integers(61, 70))
def test_counts_ask_nothing_outside_their_range(edge: int, least: int, limit: int) -> None:
    asked: list[int] = []

    def holds(n: int) -> bool:
        asked.append(n)
        return n >= edge

    assert smallest_count(holds, least=least, limit=limit) == max(edge, least)
    assert all(least <= n <= limit for n in asked)


def test_limits() -> None:
    assert largest_count(lambda n: True, limit=77) == 77
    assert largest(lambda x: True, limit=1e6) == 1e6
    assert smallest(lambda x: True, floor=1e-6) == 1e-6
    for search in (smallest, largest):
        with pytest.raises(UserError, match="no noise"):
            search(lambda x: False, what="noise", limit=1e6, floor=1e-6)
    with pytest.raises(UserError, match="no hops up to 50 is enough"):
        smallest_count(lambda n: False, what="hops", limit=50)
    with pytest.raises(UserError, match="records = 1 is too many"):
        largest_count(lambda n: False, what="records")


@given(epsilon=st.floats(0.05, 20))
def test_inverting_the_profile_gives_its_own_inverse(epsilon: float) -> None:
    sigma = noise_for(lambda s: epsilon_of(1 / s, 1e-5), epsilon, relative=1e-10)
    assert sigma == pytest.approx(1 / mu_of(epsilon, 1e-5), rel=1e-9)
    assert epsilon_of(1 / sigma, 1e-5) <= epsilon


def test_loads_and_steps() -> None:
    assert load_for(lambda n: 0.1 * n, 1.05) == 10
    assert load_for(lambda n: 2.0 * n, 1.0) == 0
    assert steps_for(lambda n: 10 / n, 1.5) == 7
