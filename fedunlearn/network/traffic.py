"""One entry of the message record: a collective operation, by the pattern in which its messages go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

_WORDS = ("phase", "kind", "pattern")

Pattern = Literal["edges", "matching", "tree", "server", "flood", "walk", "trace"]
"""edges: every vertex sends to every neighbour. matching: matched pairs exchange. tree: up a spanning tree to the root
and down again. flood: down the spanning tree from the root. server: every sampled client sends to the server and hears
back. walk: one token moves along a route. trace: under faults, single messages that arrived, each listed."""


@dataclass(frozen=True)
class Traffic:
    """One collective operation: ``repeats`` times ``messages`` messages of ``message_bytes`` bytes each.

    ``graph`` numbers the graph in force, ``request`` the deletion request that was being answered. ``heard`` lists, of
    a trace, who heard whom: receiver, sender, receiver, sender, ..., where -1 is the server; None if it was left out.
    """

    step: int
    phase: str
    kind: str
    pattern: Pattern
    messages: int
    message_bytes: int
    repeats: int
    graph: int
    root: int | None = None
    round: int | None = None
    route: tuple[int, ...] | None = None
    request: int | None = None
    heard: tuple[int, ...] | None = None

    @property
    def total_messages(self) -> int:
        """Messages over all repetitions."""
        return self.messages * self.repeats

    @property
    def total_bytes(self) -> int:
        """Bytes over all repetitions."""
        return self.total_messages * self.message_bytes

    @classmethod
    def from_table(cls, record: Mapping[str, Any], place: int, num_nodes: int, num_graphs: int) -> Traffic:
        """Return a record of ``ledger.json``, the ``place``-th.

        Raises:
            ValueError, TypeError, KeyError, OverflowError: if an entry is missing, of the wrong kind, or names a vertex
                or a graph that is not there.
        """
        route = None if record["route"] is None else tuple(int(v) for v in record["route"])
        heard = None if record.get("heard") is None else tuple(int(v) for v in record["heard"])
        found = cls(**{**record, "route": route, "heard": heard})
        if any(not -1 <= v < num_nodes for v in heard or ()) or len(heard or ()) % 2:
            raise ValueError(f"record {place} lists vertices that are not there")
        words = {name: value for name, value in record.items() if name in _WORDS}
        rest = [value for name, value in record.items() if name not in (*_WORDS, "route", "heard")]
        if not all(isinstance(w, str) for w in words.values()) or any(
            not isinstance(n, int) or abs(n) >= 2**63 for n in rest if n is not None
        ):
            raise ValueError(f"record {place} holds an entry of the wrong kind")
        needed = {"tree": found.root, "flood": found.root, "matching": found.round}
        known = 0 <= found.graph < num_graphs and found.pattern in get_args(Pattern)
        if not known or needed.get(found.pattern, 0) is None:
            raise ValueError(f"record {place} names no graph, pattern, root or round that is there")
        return found
