"""Who takes part in a round, and whose model a node adopts before it may: no stale row is ever mixed or trained.

A node is *here* when the trace says so and it has not left for good, and *active* when it also holds a current model:
one that descends from the last release (or from the public start, before there is one) without an interruption. What a
node that was away holds is old, however short it was away, so before it takes part again it adopts:

- with gossip, the model of the active neighbour of smallest id over a link that works in this round. Sources were
  active before this round, so all their rows are equally new and one adoption never builds on another. A node without
  such a neighbour stays *apart*: it neither trains nor mixes, and tries again in the next round;
- with a server, the server's model, which is the row of any vertex that took part in the last round that had one.

If nobody is active, the newest current row that is here goes on (smallest id first), and the others adopt from it in
later rounds. While no vertex, here or away, holds a current model, whoever is here begins from the public start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedunlearn.faults.trace import HERE, Trace


@dataclass(frozen=True)
class Members:
    """What is known of all vertices between two rounds.

    standing (N,) int8, None before round 0: see :mod:`fedunlearn.faults.trace`. active (N,) bool. memory (N,) bool:
    holds a model and momentum of its own. version (N,): number of the last release that its row descends from; ``last``
    is the number of the network's last release. trained (N,): last round in which it was active, -1 for never.
    """

    standing: NDArray[np.int8] | None
    active: NDArray[np.bool_]
    memory: NDArray[np.bool_]
    version: NDArray[np.int64]
    trained: NDArray[np.int64]
    last: int = 0

    @classmethod
    def begin(cls, trace: Trace, alive: NDArray[np.bool_]) -> Members:
        """Return the state before round 0: everybody who does not join late holds the public start."""
        there = alive & (trace.joins == 0)
        zeros = np.zeros(trace.num_nodes, dtype=np.int64)
        return cls(None, there, there, zeros, zeros - 1)

    def stale(self, alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return (N,) the vertices whose row may hold what the last release was to forget: they have not adopted since.

        A vertex that has no model, or has left for good, holds nothing.
        """
        return alive & self.memory & (self.version < self.last)


@dataclass(frozen=True)
class Gathering:
    """Who is there in one round, and what must happen before its local steps.

    here, active (N,) bool. adopters, sources (k,): ``row[adopters] = row[sources]``, all at once, for no source adopts.
    restarts: vertices that begin from the public start. forget: of those two, the ones whose momentum is cleared.
    crashed: vertices that lost model and momentum in this round.
    """

    here: NDArray[np.bool_]
    active: NDArray[np.bool_]
    adopters: NDArray[np.int64]
    sources: NDArray[np.int64]
    restarts: NDArray[np.int64]
    forget: NDArray[np.int64]
    crashed: NDArray[np.int64]


def gather(
    trace: Trace, members: Members, alive: NDArray[np.bool_], edges: NDArray[np.int64], round_: int, *, server: bool
) -> tuple[Members, Gathering]:
    """Return the state in a round, and who gathers in it. ``edges`` (E, 2) are the links that work in this round."""
    standing, crashed = trace.standing(members.standing, round_)
    crashed &= alive
    here = alive & (standing == HERE)
    steady = members.active & here
    members = replace(members, standing=standing, memory=members.memory & ~crashed)
    new = here & ~steady
    adopters, sources, restarts = _NONE, _NONE, _NONE
    resumed = np.zeros_like(here)
    if not steady.any() and new.any():
        holders = alive & (members.version == members.last) & (members.trained >= 0)
        if server:
            kept = holders & (members.trained == members.trained[holders].max(initial=-1))
            if kept.any():
                adopters = np.flatnonzero(new)
                sources = np.full(len(adopters), np.flatnonzero(kept)[0])
            else:
                restarts = np.flatnonzero(new)
        else:
            holders &= members.memory
            if (holders & new).any():
                newest = members.trained[holders & new].max()
                resumed[np.flatnonzero(holders & new & (members.trained == newest))[0]] = True
            elif not holders.any():
                restarts = np.flatnonzero(new)
    elif server:
        adopters = np.flatnonzero(new)
        sources = np.full(len(adopters), np.flatnonzero(steady)[0] if len(adopters) else 0)
    else:
        adopters, sources = _from_neighbours(new, steady, edges)
    taken = np.concatenate([adopters, restarts])
    forget = taken[~members.memory[taken] | (members.version[taken] < members.last)]
    active = steady | resumed
    active[taken] = True
    memory, version = members.memory.copy(), members.version.copy()
    memory[taken], version[taken] = True, members.last
    trained = np.where(active, round_, members.trained)
    after = replace(members, active=active, memory=memory, version=version, trained=trained)
    return after, Gathering(here, active, adopters, sources, restarts, forget, np.flatnonzero(crashed))


def release(members: Members, participants: NDArray[np.bool_]) -> Members:
    """Return the state after all ``participants`` (N,) adopted one released vector; what all others hold is stale."""
    version = np.where(participants, members.last + 1, members.version)
    return replace(
        members, active=members.active & participants, version=version, last=members.last + 1,
        memory=members.memory | participants,
    )  # fmt: skip


def depart(members: Members, node: int) -> Members:
    """Return the state after a vertex has left for good."""
    gone = np.arange(len(members.active)) == node
    return replace(members, active=members.active & ~gone, memory=members.memory & ~gone)


_NONE = np.zeros(0, dtype=np.int64)


def _from_neighbours(
    new: NDArray[np.bool_], steady: NDArray[np.bool_], edges: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the newcomers that have a steady neighbour, and the one of smallest id of each."""
    both = np.concatenate([edges, edges[:, ::-1]])
    usable = both[new[both[:, 0]] & steady[both[:, 1]]]
    usable = usable[np.lexsort((usable[:, 1], usable[:, 0]))]
    adopters, first = np.unique(usable[:, 0], return_index=True)
    return adopters, usable[first, 1]
