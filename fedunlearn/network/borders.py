"""Which rows hosts on one machine read from each other's stores instead of sending them through the conductor.

Every host lays out the rows that the hosts beside it need as one array, its *border*; the conductor learns its digest
only, and passes that on; whoever reads a border checks it. There are two borders, written in turn: a host that is
ahead writes the one that nobody reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedunlearn.network.store import Store

TRAVELS = -1
"""Stands for the conductor where a row has no host beside that could be read."""
BORDERS = ("border-0", "border-1")
"""Kinds of arrays that hold borders; which of them is written alternates."""
PLAN = ("border", "holders", "at")
"""The parts of a :class:`Border` that a host keeps beside its rows of the mixing matrix."""
Beside = Callable[[int], Path | None]
"""Gives the folder of another host's store on this machine; None where there is none that may be read."""


def nobody_beside(host: int) -> Path | None:
    """Return None: no other host's store can be read."""
    return None


@dataclass(frozen=True)
class Border:
    """What one host lays out for others, and where it finds the foreign rows that it needs itself.

    Attributes:
        nodes: (b,) own vertices whose rows hosts beside it need, ascending.
        holders: (m,) for each foreign row, the host in whose border it lies; ``TRAVELS`` where it comes in messages.
        at: (m,) its place in that border; 0 where it travels.
    """

    nodes: NDArray[np.int64]
    holders: NDArray[np.int64]
    at: NDArray[np.int64]

    @property
    def read(self) -> list[int]:
        """The hosts whose borders this host reads, ascending."""
        return np.unique(self.holders[self.holders != TRAVELS]).tolist()

    @property
    def travelling(self) -> NDArray[np.bool_]:
        """(m,) which foreign rows come in messages."""
        return self.holders == TRAVELS


def share_borders(
    outside: Sequence[NDArray[np.int64]], host_of: NDArray[np.int64], places: Sequence[str]
) -> list[Border]:
    """Return the border of every host.

    Args:
        outside: for every host the foreign vertices that it needs, ascending.
        host_of: (N,) host of every vertex.
        places: for every host a name that is the same for hosts that can open each other's stores; empty where a host
            cannot or will not.
    """
    holders = []
    for place, needed in zip(places, outside):
        beside = np.array([bool(place) and place == other for other in places])
        holders.append(np.where(beside[host_of[needed]], host_of[needed], TRAVELS))
    nodes = []
    for host in range(len(places)):
        wanted = [needed[holder == host] for needed, holder in zip(outside, holders)]
        nodes.append(np.unique(np.concatenate(wanted)))
    found = []
    for own, needed, holder in zip(nodes, outside, holders):
        at = np.zeros(len(needed), np.int64)
        for host in np.unique(holder[holder != TRAVELS]):
            at[holder == host] = np.searchsorted(nodes[host], needed[holder == host])
        found.append(Border(own, holder, at))
    return found


def rows_read(holders: NDArray[np.int64], at: NDArray[np.int64]) -> dict[int, int]:
    """Return for every host whose border is read how many rows it must have at least."""
    hosts = np.unique(holders[holders != TRAVELS])
    return {int(host): int(at[holders == host].max()) + 1 for host in hosts}


def border_name(population: str, turn: int) -> str:
    """Return the name of the array that a border is."""
    return f"{BORDERS[turn]}.{population}"


def find_border(folder: Path | None, name: str) -> NDArray[np.float32] | None:
    """Return a border in the store of another host, (b, d), or None where there is nothing of that kind."""
    try:
        border = None if folder is None else Store(folder).peek(name)
    except (OSError, ValueError):
        return None
    return border if border is not None and border.dtype == np.float32 and border.ndim == 2 else None


def digest_of(border: NDArray[np.float32]) -> str:
    """Return the SHA-256 of the rows of a border, which lie one after the other."""
    return hashlib.sha256(border.reshape(-1).view(np.uint8).data).hexdigest()
