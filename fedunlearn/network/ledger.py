"""Who received what kind of thing, when, and how many bytes: one compact record per collective operation.

A record names a communication *pattern* on the graph in force at the time, not its single messages, so a round on
100,000 vertices is one record, and :meth:`Ledger.received_by` unfolds the records for one observer. A summary holds
the graphs too, each as its difference from the one before, so that a ledger can be rebuilt from ``ledger.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order

from fedunlearn.errors import UserError
from fedunlearn.network.schedule import first_by_hash
from fedunlearn.network.traffic import Pattern, Traffic
from fedunlearn.topology import random_matching
from fedunlearn.topology.graphs import edge_array

EDGE_LIMIT = 100_000
"""Edges, over all graphs of a run, up to which a summary holds the graphs."""
_MOST_NODES = 5_000_000


class Ledger:
    """The message record of one population.

    Who is matched, or sampled by the server, in a round is a function of (seed, round), so a record names the round.

    Attributes:
        traffic: the records, in the order of time.
        request: number of the deletion request that is being answered, None before and after.
    """

    def __init__(self, num_nodes: int, seed: int = 0) -> None:
        self.num_nodes, self.seed = num_nodes, seed
        self.traffic: list[Traffic] = []
        self.request: int | None = None
        self._graphs: list[nx.Graph] = []
        self._alive: list[NDArray[np.bool_]] = []
        self._trees: dict[tuple[int, int], dict[int, int]] = {}
        self._step = self._edges = self._listed = 0

    def use_graph(self, graph: nx.Graph, alive: NDArray[np.bool_]) -> None:
        """Refer to this graph in the records from now on."""
        self._graphs.append(graph)
        self._edges = graph.number_of_edges()
        self._alive.append(alive.copy())

    def parents(self, root: int, graph: int | None = None) -> dict[int, int]:
        """Return the breadth-first spanning tree from ``root``: child -> parent; a function of the edges alone."""
        index = len(self._graphs) - 1 if graph is None else graph
        if (index, root) not in self._trees:
            edges, alive = edge_array(self._graphs[index]), self._alive[index]
            ones = np.ones(2 * len(edges), dtype=np.int8)
            ends = np.concatenate([edges, edges[:, ::-1]])
            matrix = sparse.csr_array((ones, (ends[:, 0], ends[:, 1])), shape=(len(alive), len(alive)))
            matrix.sort_indices()  # neighbours are visited in the order of their ids
            order, before = breadth_first_order(matrix, root, return_predecessors=True)
            reached = order[1:][alive[order[1:]]]
            self._trees[index, root] = dict(zip(reached.tolist(), before[reached].tolist()))
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
            "edges": 2 * self._edges,
            "matching": 2 * len(self._pairs(len(self._graphs) - 1, round_)) if pattern == "matching" else 0,
            "tree": 2 * (alive - 1),
            "flood": alive - 1,
            "server": 2 * (alive if clients is None else clients),
            "walk": sum(a != b for a, b in pairwise(route or ())),
        }[pattern]
        entry = Traffic(
            self._step, phase, kind, pattern, messages, message_bytes, repeats, len(self._graphs) - 1, root, round_,
            route, self.request,
        )  # fmt: skip
        return self._append(entry)

    def record_heard(
        self, phase: str, kind: str, message_bytes: int, round_: int, messages: int, pairs: NDArray[np.int64]
    ) -> None:
        """Add the messages of one round under faults: how many were sent, and ``pairs`` (k, 2), who heard whom.

        Pairs are listed up to some number of them in a run; what comes later is counted, but not told of.
        """
        self._listed += len(pairs)
        heard = tuple(pairs.ravel().tolist()) if self._listed <= EDGE_LIMIT else None
        self._append(
            Traffic(self._step, phase, kind, "trace", messages, message_bytes, 1, len(self._graphs) - 1, None, round_,
                    None, self.request, heard)
        )  # fmt: skip

    def replay(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add collective operations that were recorded before, on the graph in force, as if they happened again now.

        ``records`` are tables as in ``summary()["records"]``; their step, graph and request are those of this ledger.
        """
        for record in records:
            route, heard = (None if record.get(k) is None else tuple(record[k]) for k in ("route", "heard"))
            self._listed += len(heard or ()) // 2
            now = {"step": self._step, "graph": len(self._graphs) - 1, "route": route, "request": self.request}
            now["heard"] = heard
            self._append(Traffic(**{**record, **now}))

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
        """Return what one vertex heard: step, phase, request, kind, senders, bytes a message, repetitions."""
        heard = []
        for t in self.traffic:
            senders: list[int | str] = []
            if t.pattern != "trace" and not self._alive[t.graph][node]:
                continue
            graph = self._graphs[t.graph]
            if t.pattern == "edges":
                senders = sorted(graph.neighbors(node))
            elif t.pattern == "trace":
                if t.heard is None:
                    raise UserError(
                        f"more than {EDGE_LIMIT:,} messages arrived under faults, and later ones are not listed, so "
                        "what each node received is not known"
                    )
                pairs = zip(t.heard[::2], t.heard[1::2])
                senders = sorted({"server" if a == -1 else a for b, a in pairs if b == node}, key=str)
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
                    {"step": t.step, "phase": t.phase, "request": t.request, "kind": t.kind, "senders": senders,
                     "message_bytes": t.message_bytes, "repeats": t.repeats}
                )  # fmt: skip
        return heard

    def held_release(self, node: int, request: int) -> bool:
        """Return whether a vertex sent or heard the last release that was flooded before a request was answered.

        Under faults also one that has adopted since from a vertex that had it.
        """
        begun = next((i for i, t in enumerate(self.traffic) if t.request == request), len(self.traffic))
        adopted: list[Traffic] = []
        for t in reversed(self.traffic[:begun]):
            if t.pattern == "flood" and t.kind == "release":
                assert t.root is not None
                holders = {t.root, *self.parents(t.root, t.graph)}
                for later in reversed(adopted):
                    heard = later.heard or ()
                    holders |= {b for b, a in zip(heard[::2], heard[1::2]) if a in holders}
                return node in holders
            if t.pattern == "trace" and t.kind == "adopted model":
                adopted.append(t)
        return False

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

    # --- to go on with ---------------------------------------------------------------------------------------------

    @property
    def graph(self) -> nx.Graph:
        """The graph in force."""
        return self._graphs[-1]

    def state(self) -> dict[str, Any]:
        """Return everything that :meth:`from_state` needs to go on, however large the graphs are."""
        return {
            "nodes": self.num_nodes, "seed": self.seed, "step": self._step, "request": self.request,
            "edges": [edge_array(graph) for graph in self._graphs], "alive": list(self._alive),
            "records": [asdict(record) for record in self.traffic], "listed": self._listed,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Ledger:
        """Return the ledger that :meth:`state` described: its next record is the one that would have come next."""
        ledger = cls(state["nodes"], state["seed"])
        for edges, alive in zip(state["edges"], state["alive"]):
            graph = nx.empty_graph(ledger.num_nodes)
            graph.add_edges_from(edges.tolist())
            ledger.use_graph(graph, alive)
        ledger.traffic = [Traffic(**record) for record in state["records"]]
        ledger._step, ledger.request, ledger._listed = state["step"], state["request"], state["listed"]
        return ledger

    # --- as plain tables ---------------------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """Return totals by phase and kind, the records and the graphs, for ``ledger.json``."""
        groups: dict[tuple[str, str], dict[str, int]] = {}
        for t in self.traffic:
            group = groups.setdefault((t.phase, t.kind), {"messages": 0, "bytes": 0, "operations": 0})
            group["messages"] += t.total_messages
            group["bytes"] += t.total_bytes
            group["operations"] += t.repeats
        by_kind = [{"phase": p, "kind": k, **v} for (p, k), v in groups.items()]
        return {
            **self.totals(), "by_kind": by_kind, "nodes": self.num_nodes, "seed": self.seed, **self._plain_graphs(),
            "records": [asdict(t) for t in self.traffic],
        }  # fmt: skip

    def _plain_graphs(self) -> dict[str, Any]:
        """Return every graph as ``added`` and ``removed`` edges since the one before, ``a0, b0, a1, b1, ...``.

        ``gone`` are the vertices that were not alive. Edges are sorted, so equal graphs give equal tables.
        """
        plain: list[dict[str, list[int]]] = []
        before, stored = np.zeros(0, np.int64), 0
        for graph, alive in zip(self._graphs, self._alive):
            edges = edge_array(graph)
            codes = edges[:, 0] * self.num_nodes + edges[:, 1]
            added, removed = np.setdiff1d(codes, before), np.setdiff1d(before, codes)
            stored += len(added) + len(removed)
            if stored > EDGE_LIMIT:
                return {"graphs": None, "graphs_left_out": f"the graphs have more than {EDGE_LIMIT:,} edges"}
            pairs = (np.stack(np.divmod(c, self.num_nodes), axis=1).ravel().tolist() for c in (added, removed))
            plain.append({**dict(zip(("added", "removed"), pairs)), "gone": np.flatnonzero(~alive).tolist()})
            before = codes
        return {"graphs": plain}

    @classmethod
    def from_summary(cls, plain: Mapping[str, Any]) -> Ledger:
        """Rebuild a ledger from the tables that :meth:`summary` gave; every vertex then hears what it heard.

        Raises:
            UserError: if the graphs were left out, or an entry is missing or malformed.
        """
        if "graphs" in plain and plain["graphs"] is None:
            raise UserError(f"graphs = null: {plain.get('graphs_left_out')}, so what each node received is not known")
        try:
            if not 1 <= int(plain["nodes"]) <= _MOST_NODES:
                raise ValueError(f"nodes = {plain['nodes']} is no number of nodes (allowed: 1 to {_MOST_NODES})")
            ledger = cls(int(plain["nodes"]), int(plain["seed"]))
            codes = np.zeros(0, np.int64)
            for entry in plain["graphs"]:
                parts = {key: np.asarray(entry[key], dtype=np.int64).reshape(-1, 2) for key in ("added", "removed")}
                added, removed = (ledger._codes(parts[key]) for key in ("added", "removed"))
                codes = np.union1d(np.setdiff1d(codes, removed), added)
                graph = nx.empty_graph(ledger.num_nodes)
                graph.add_edges_from(zip(*(half.tolist() for half in np.divmod(codes, ledger.num_nodes))))
                alive = np.ones(ledger.num_nodes, dtype=bool)
                alive[np.asarray(entry["gone"], dtype=np.int64)] = False
                ledger.use_graph(graph, alive)
            for record in plain["records"]:
                ledger.traffic.append(
                    Traffic.from_table(record, len(ledger.traffic), ledger.num_nodes, len(ledger._graphs))
                )
        except KeyError as missing:
            raise UserError(f"the ledger has no entry {missing}, which every ledger must have") from None
        except (IndexError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"the ledger is malformed: {error}") from None
        ledger._step = sum(t.repeats for t in ledger.traffic)
        return ledger

    def _codes(self, edges: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return one number an edge (k, 2), smaller vertex first."""
        if len(edges) and not (edges.min() >= 0 and edges.max() < self.num_nodes):
            raise ValueError(f"an edge leads to a vertex that is not among 0 .. {self.num_nodes - 1}")
        return edges[:, 0] * self.num_nodes + edges[:, 1]
