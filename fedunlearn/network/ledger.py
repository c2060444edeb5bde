"""Who received what kind of thing, when, and how many bytes: one compact record per collective operation.

A record names a communication *pattern* on the graph in force at the time, not its single messages, so a round on
100,000 vertices is one record; counters per vertex are kept as arrays, and :meth:`Ledger.received_by` unfolds the
records for one observer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from fedunlearn.network.schedule import first_by_hash
from fedunlearn.topology import random_matching

Pattern = Literal["edges", "matching", "tree", "server", "flood", "walk"]
"""edges: every vertex sends to every neighbour. matching: matched pairs exchange. tree: up a spanning tree to the root
and down again. flood: down the spanning tree from the root. server: every sampled client sends to the server and hears
back. walk: one token moves along a route."""


@dataclass(frozen=True)
class Traffic:
    """One collective operation: ``repeats`` times ``messages`` messages of ``message_bytes`` bytes each."""

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

    @property
    def total_messages(self) -> int:
        """Messages over all repetitions."""
        return self.messages * self.repeats

    @property
    def total_bytes(self) -> int:
        """Bytes over all repetitions."""
        return self.total_messages * self.message_bytes


class Ledger:
    """The message record of one population.

    Who is matched, or sampled by the server, in a round is a function of (seed, round), so a record names the round.
    """

    def __init__(self, num_nodes: int, seed: int = 0) -> None:
        self.num_nodes, self.seed = num_nodes, seed
        self.traffic: list[Traffic] = []
        self._graphs: list[nx.Graph] = []
        self._alive: list[NDArray[np.bool_]] = []
        self._trees: dict[tuple[int, int], dict[int, int]] = {}
        self._step = 0

    def use_graph(self, graph: nx.Graph, alive: NDArray[np.bool_]) -> None:
        """Refer to this graph in the records from now on."""
        self._graphs.append(graph)
        self._alive.append(alive.copy())

    def parents(self, root: int, graph: int | None = None) -> dict[int, int]:
        """Return the breadth-first spanning tree from ``root``: child -> parent."""
        index = len(self._graphs) - 1 if graph is None else graph
        if (index, root) not in self._trees:
            alive = self._alive[index]
            tree = {c: p for c, p in nx.bfs_predecessors(self._graphs[index], root) if alive[c]}
            self._trees[index, root] = tree
        return self._trees[index, root]

    def tree_depth(self, root: int) -> int:
        """Return the number of hops from the root to the farthest alive vertex."""
        depth = {root: 0}
        for child, parent in self.parents(root).items():  # breadth-first order: a parent comes before its children
            depth[child] = depth[parent] + 1
        return max(depth.values())

    def record(
        self, phase: str, kind: str, pattern: Pattern, message_bytes: int, *, repeats: int = 1,
        root: int | None = None, clients: int | None = None, round_: int | None = None,
        route: tuple[int, ...] | None = None,
    ) -> Traffic:  # fmt: skip
        """Add one collective operation and return its record; ``route`` are a walk's vertices, one after the other."""
        alive = int(self._alive[-1].sum())
        messages = {
            "edges": 2 * self._graphs[-1].number_of_edges(),
            "matching": 2 * len(self._pairs(len(self._graphs) - 1, round_)) if pattern == "matching" else 0,
            "tree": 2 * (alive - 1),
            "flood": alive - 1,
            "server": 2 * (alive if clients is None else clients),
            "walk": sum(a != b for a, b in pairwise(route or ())),
        }[pattern]
        entry = Traffic(
            self._step, phase, kind, pattern, messages, message_bytes, repeats, len(self._graphs) - 1, root, round_,
            route,
        )  # fmt: skip
        return self._append(entry)

    def replay(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add collective operations that were recorded before, on the graph in force, as if they happened again now.

        ``records`` are tables as in ``summary()["records"]``; their step and graph are those of this ledger.
        """
        for record in records:
            route = None if record.get("route") is None else tuple(record["route"])
            self._append(Traffic(**{**record, "step": self._step, "graph": len(self._graphs) - 1, "route": route}))

    def _append(self, entry: Traffic) -> Traffic:
        """Add a record, or lengthen the last one where the same operation goes on."""
        last = self.traffic[-1] if self.traffic else None
        self._step += entry.repeats
        if last is not None and asdict(last) | {"step": 0, "repeats": 0} == asdict(entry) | {"step": 0, "repeats": 0}:
            entry = Traffic(**{**asdict(last), "repeats": last.repeats + entry.repeats})
            self.traffic[-1] = entry
        else:
            self.traffic.append(entry)
        return entry

    def totals(self, phase: str | None = None) -> dict[str, int]:
        """Return messages and bytes of a phase (or of all)."""
        chosen = [t for t in self.traffic if phase is None or t.phase == phase]
        return {"messages": sum(t.total_messages for t in chosen), "bytes": sum(t.total_bytes for t in chosen)}

    def received_by(self, node: int) -> list[dict[str, Any]]:
        """Return what one vertex heard: step, phase, kind, senders, bytes a message, repetitions."""
        heard = []
        for t in self.traffic:
            if not self._alive[t.graph][node]:
                continue
            graph = self._graphs[t.graph]
            if t.pattern == "edges":
                senders: list[int | str] = sorted(graph.neighbors(node))
            elif t.pattern == "matching":
                senders = [int(a + b - node) for a, b in self._pairs(t.graph, t.round) if node in (a, b)]
            elif t.pattern == "server":
                senders = ["server"] if self._sampled(t, node) else []
            elif t.pattern == "walk":
                senders = [int(a) for a, b in pairwise(t.route or ()) if b == node and a != node]
            else:
                assert t.root is not None
                parents = self.parents(t.root, t.graph)
                senders = [parents[node]] if node in parents else []
                if t.pattern == "tree":
                    senders += sorted(c for c, p in parents.items() if p == node)
            if senders:
                heard.append(
                    {"step": t.step, "phase": t.phase, "kind": t.kind, "senders": senders,
                     "message_bytes": t.message_bytes, "repeats": t.repeats}
                )  # fmt: skip
        return heard

    def _pairs(self, graph: int, round_: int | None) -> NDArray[np.int64]:
        """Return the matched pairs (k, 2) of a round."""
        assert round_ is not None, "a matching has a round"
        weights = random_matching(self._graphs[graph], self.seed, round_, self._alive[graph]).tocoo()
        upper = weights.row < weights.col
        return np.stack([weights.row[upper], weights.col[upper]], axis=1).astype(np.int64)

    def _sampled(self, t: Traffic, node: int) -> bool:
        alive = self._alive[t.graph]
        if t.round is None or t.messages == 2 * int(alive.sum()):
            return True
        return node in first_by_hash(self.seed, alive, t.messages // 2, t.round)

    def summary(self) -> dict[str, Any]:
        """Return totals by phase and kind, for ``ledger.json``."""
        groups: dict[tuple[str, str], dict[str, int]] = {}
        for t in self.traffic:
            group = groups.setdefault((t.phase, t.kind), {"messages": 0, "bytes": 0, "operations": 0})
            group["messages"] += t.total_messages
            group["bytes"] += t.total_bytes
            group["operations"] += t.repeats
        by_kind = [{"phase": p, "kind": k, **v} for (p, k), v in groups.items()]
        return {**self.totals(), "by_kind": by_kind, "records": [asdict(t) for t in self.traffic]}
