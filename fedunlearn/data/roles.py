"""Which client plays which role: selections such as "0-99,120", and the defaults of every source."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data.dataset import Role
from fedunlearn.data.settings import DataSettings
from fedunlearn.errors import UserError

REST = "rest"
_KEYS = {"train_clients": Role.TRAIN, "public_clients": Role.PUBLIC, "never_members": Role.NEVER_MEMBER}
_FEMNIST_WRITERS = 359
_FEMNIST_TRAIN, _FEMNIST_PUBLIC = 100, slice(340, 359)


def parse_selection(text: str, key: str, count: int) -> NDArray[np.int64]:
    """Return the client numbers, increasing, that a selection such as ``"0-9,12,20-29"`` names among ``count`` clients.

    Raises UserError, naming the settings key, for anything else and for numbers that do not exist.
    """
    chosen: set[int] = set()
    for piece in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", piece)
        if match is None:
            raise UserError(
                f"data.{key} = '{text}': '{piece}' is not a client number, a range such as 0-9, or '{REST}'"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise UserError(f"data.{key} = '{text}': the range '{piece}' runs backwards")
        if last >= count:
            raise UserError(f"data.{key} = '{text}': client {last} does not exist (allowed: 0 to {count - 1})")
        chosen.update(range(first, last + 1))
    return np.array(sorted(chosen), dtype=np.int64)


def has_selection(settings: DataSettings) -> bool:
    """Return whether the settings name any client by number."""
    return any(getattr(settings, key).strip() for key in _KEYS)


def select_roles(settings: DataSettings, count: int) -> NDArray[np.uint8]:
    """Return the roles (count,) that the settings' selections give; clients in no selection are UNUSED.

    Raises UserError when a client is named twice, when no train client is named, or when "rest" leaves none to train.
    """
    roles = np.full(count, int(Role.UNUSED), dtype=np.uint8)
    named: dict[int, str] = {}
    rest: str | None = None
    for key in _KEYS:
        text = getattr(settings, key).strip()
        if text == REST:
            rest = key
            continue
        for client in parse_selection(text, key, count).tolist():
            if client in named:
                raise UserError(f"data.{key} = '{text}': client {client} is already named in data.{named[client]}")
            named[client] = key
            roles[client] = _KEYS[key]
    if rest is not None:
        roles[roles == int(Role.UNUSED)] = _KEYS[rest]
    if not (roles == int(Role.TRAIN)).any():
        raise UserError(
            f"data.train_clients = '{settings.train_clients}' names no client; give numbers of 0 to {count - 1}, "
            f"such as '0-{count - 1}', or '{REST}'"
        )
    return roles


def default_roles(source: str, count: int) -> NDArray[np.uint8]:
    """Return the roles (count,) of a source's own clients when the settings name none.

    FEMNIST with 359 writers or more: 0-99 train, 340-358 are public, the others never members. Any other source, and
    a smaller FEMNIST: of N clients the last tenth (at least one) is public, the tenth before it never members, the
    others train. Raises UserError for fewer than three clients.
    """
    roles = np.full(count, int(Role.NEVER_MEMBER), dtype=np.uint8)
    if source.startswith("femnist") and count >= _FEMNIST_WRITERS:
        roles[:_FEMNIST_TRAIN] = Role.TRAIN
        roles[_FEMNIST_PUBLIC] = Role.PUBLIC
        return roles
    if count < 3:
        raise UserError(
            f"data.source = '{source}' has {count} client{'s' if count != 1 else ''}, too few for the default roles "
            f"(train, public, never-member); name them, for instance data.train_clients = '{REST}'"
        )
    tenth = max(1, round(count / 10))
    roles[: count - 2 * tenth] = Role.TRAIN
    roles[count - tenth :] = Role.PUBLIC
    return roles
