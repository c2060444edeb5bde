"""The conductor's view of a network that learns: one population of rows, reached through bulk primitives.

Every primitive works the same with one host or many and gives the same bits. A method that is written against them runs
in the decentralized, the federated and the centralized setting (:class:`Network` of one vertex) without change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedunlearn.errors import UserError
from fedunlearn.network.clock import Clock
from fedunlearn.network.ledger import Ledger
from fedunlearn.network.mixing import foreign
from fedunlearn.network.reduction import TreeSum
from fedunlearn.network.session import Session
from fedunlearn.network.transport import Reply, Request
from fedunlearn.topology import Mixing, mixing_matrix, random_matching

_FLOAT32, _FLOAT64 = 4, 8


class Network:
    """One population of models on a graph.

    Parameters
    ----------
    session : the hosts, the data set and the model, shared by all populations of a run.
    name : name of the population; a retrained twin is another population of the same session.
    graph : vertices ``0 .. N-1``; vertex i is the i-th train client.
    mixing : rule of the mixing matrix.
    start : (d,) float32 initial parameters of every row.
    deleted : sample ids that this population never sees.
    alive : (N,) bool; by default everybody.
    seed : what minibatches, sampled clients and random matchings are drawn with; by default the session's seed.
    """

    def __init__(
        self, session: Session, name: str, graph: nx.Graph, mixing: Mixing, start: NDArray[np.float32], *,
        deleted: NDArray[np.int64] | None = None, alive: NDArray[np.bool_] | None = None, momentum: bool = False,
        seed: int | None = None,
    ) -> None:  # fmt: skip
        self.session, self.name, self.mixing = session, name, mixing
        self.num_nodes = session.num_nodes
        self.alive = np.ones(self.num_nodes, dtype=bool) if alive is None else alive.copy()
        self.seed = session.seed if seed is None else seed
        self.away = np.zeros(self.num_nodes, dtype=bool)
        self.ledger = Ledger(self.num_nodes, self.seed)
        self.clock = Clock(session.links)
        self.phase = "train"
        self.has_momentum = momentum
        self.work = {"gradients": 0, "hvps": 0}
        self._outside: list[NDArray[np.int64]] = []
        self.deleted = np.zeros(0, np.int64) if deleted is None else np.asarray(deleted, dtype=np.int64)
        session.later(
            "population",
            {"name": name, "momentum": momentum, "seed": self.seed},
            {
                "start": np.asarray(start, dtype=np.float32),
                "alive": self.alive,
                "deleted": self.deleted,
            },
        )
        self.counts = self._retained_counts()
        self.set_graph(graph)

    # --- structure -------------------------------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Number of parameters of a row."""
        return self.session.model.dim

    @property
    def total_samples(self) -> int:
        """Number of retained training samples of the alive vertices."""
        return int(self.counts[self.alive].sum())

    @property
    def num_alive(self) -> int:
        """Number of vertices that have not left."""
        return int(self.alive.sum())

    @property
    def present(self) -> NDArray[np.bool_]:
        """(N,) vertices that have not left and are not away: those that every primitive acts on."""
        return self.alive & ~self.away

    @property
    def root(self) -> int:
        """The vertex where sums are gathered and releases are drawn: the one of smallest id there, a public rule."""
        return int(np.flatnonzero(self.present)[0])

    def set_graph(self, graph: nx.Graph) -> None:
        """Use this graph, and the mixing matrix that the population's rule gives on its alive vertices."""
        self.graph = graph
        self.ledger.use_graph(graph, self.alive)
        self._max_degree = max((d for _, d in graph.degree()), default=0)
        self._depth = self.ledger.tree_depth(self.root)
        self.weights: sparse.csr_array | None = None
        if self.mixing not in ("exact-average", "random-matching") and self.num_alive > 1:
            self.weights = mixing_matrix(graph, self.mixing, self.alive)
            self._send_weights(self.weights)

    @property
    def rows_stay_on_hosts(self) -> bool:
        """Whether mixing by the present matrix needs no row of another host."""
        return not any(len(outside) for outside in self._outside)

    def _send_weights(self, weights: sparse.csr_array) -> None:
        requests, self._outside = [], []
        for low, high in self.session.blocks:
            part = weights[low:high]
            arrays = {"indptr": part.indptr, "indices": part.indices, "data": part.data}
            arrays = {k: np.asarray(v, np.float64 if k == "data" else np.int64) for k, v in arrays.items()}
            requests.append(Request("topology", {"population": self.name}, arrays))
            self._outside.append(foreign(arrays["indices"], low, high))
        self.session.later_each(requests)

    def _retained_counts(self) -> NDArray[np.int64]:
        """Return the number of samples of every alive vertex that are not deleted, (N,)."""
        rows, edges = self.session.dataset.all_train_rows()
        kept = np.concatenate([[0], np.cumsum(~np.isin(rows, self.deleted))])
        return np.where(self.alive, kept[edges[1:]] - kept[edges[:-1]], 0)

    # --- primitives ------------------------------------------------------------------------------------------------

    def rows(
        self, program: str, params: dict[str, Any], only: Sequence[int] | None = None, grain: int = 1,
        sick: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        """Run a row program on all present vertices, or on those in ``only``; ``grain`` keeps groups of ids together.

        With ``sick`` given, a call ``sick(vertex)`` tells of a vertex that holds NaN or infinity then, once for each
        host that has one, and at the latest when the next answer is waited for.
        """
        request = {**self._program(program, params, only), "grain": grain, "check": sick is not None}

        def look(reply: Reply) -> None:
            if sick is not None and reply.params["sick"] is not None:
                sick(int(reply.params["sick"]))

        self.session.later("rows", request, then=look)

    def sum(
        self, program: str, params: dict[str, Any], vectors: dict[str, NDArray[np.float64]] | None = None,
        only: Sequence[int] | None = None, size: int | None = None,
    ) -> NDArray[np.float64]:  # fmt: skip
        """Return the canonical sum float64 of what a program gives at every alive vertex: (d,), or (size,)."""
        present = self.present
        if only is not None:
            present &= np.isin(np.arange(self.num_nodes), list(only))
        replies = self._ask("sum", {**self._program(program, params, only), "dim": size or self.dim}, vectors or {})
        total = TreeSum(present)
        for reply in replies:
            total.merge(reply.arrays["keys"], reply.arrays["sums"])
        return total.total()

    def measure(
        self, program: str, params: dict[str, Any], vectors: dict[str, NDArray[np.float64]] | None = None,
        only: Sequence[int] | None = None, width: int = 1, grain: int = 1,
    ) -> NDArray[np.float64]:  # fmt: skip
        """Return ``width`` numbers a vertex, (N, width) float64; NaN where a vertex is absent.

        The program is called for many vertices at once, ``program(block, population, nodes, **params)``, and returns
        the numbers of each: (vertices, width), or (vertices,) where the width is one. ``grain`` keeps groups of ids
        together.
        """
        request = {**self._program(program, params, only), "width": width, "grain": grain}
        replies = self._ask("measure", request, vectors or {})
        return np.concatenate([r.arrays["values"] for r in replies])

    def mix(self, rounds: int = 1, round_: int = 0) -> None:
        """Mix all rows ``rounds`` times by the population's rule."""
        for k in range(rounds):
            if self.num_alive == 1:
                return
            if self.mixing == "exact-average":
                self.write(self.mean(phase_cost=True).astype(np.float32), reset_momentum=False)
                continue
            if self.mixing == "random-matching":
                self._send_weights(random_matching(self.graph, self.seed, round_ + k, self.alive))
            self._mix_once()
            if self.mixing == "random-matching":
                self.ledger.record(self.phase, "model", "matching", _FLOAT32 * self.dim, round_=round_ + k)
                self.clock.gossip(1, _FLOAT32 * self.dim)
            else:
                self.charge_gossip()

    def mix_by(self, weights: sparse.csr_array) -> None:
        """Mix once by a row-stochastic matrix (N, N); nothing is charged, and the population's rule comes back with
        :meth:`set_graph`."""
        self._send_weights(weights)
        self._mix_once()

    def _mix_once(self) -> None:
        self.session.later_each(
            [Request("mix", {"population": self.name}, {"halo": h} if len(h) else {}) for h in self._halos()]
        )

    def walk(
        self, program: str, params: dict[str, Any], token: NDArray[np.float64], route: Sequence[tuple[int, bool]],
        vectors: dict[str, NDArray[np.float64]] | None = None, kind: str = "token",
    ) -> NDArray[np.float64]:  # fmt: skip
        """Carry a token along a route and return it, float64 of its shape: (d,), or (k, d) for k tokens side by side.

        ``route`` lists vertices and whether each acts; those that do not only pass the token on. The h-th acting vertex
        calls ``program(block, population, node, h, token, **params)``, which returns the new token. ``vectors`` are
        arrays that the program reads by name. A message of the size of one token is charged for every move.
        """
        stops = [int(node) for node, acts in route if acts]
        lows = [low for low, _ in self.session.blocks]
        block_of = np.searchsorted(lows, stops, side="right") - 1
        token, hop = np.array(token, dtype=np.float64), 0
        common = {"program": program, "params": params, "population": self.name}
        while hop < len(stops):
            end = hop
            while end < len(stops) and block_of[end] == block_of[hop]:
                end += 1
            arrays = {**(vectors or {}), "token": token}
            part = {**common, "route": [[h, stops[h]] for h in range(hop, end)]}
            token = self.session.tell(int(block_of[hop]), "walk", part, arrays).arrays["token"]
            hop = end
        path = tuple(int(node) for node, _ in route)
        record = self.ledger.record(self.phase, kind, "walk", _FLOAT32 * self.dim, route=path)
        self.clock.walk(record.messages, _FLOAT32 * self.dim)
        return token

    def checkpoint(self, label: str) -> None:
        """Keep a copy of all rows on the hosts under a label; later deletions do not change it."""
        self.session.later("checkpoint", {"population": self.name, "label": label})

    def rewind(self, label: str) -> None:
        """Put the rows of the alive vertices back to a checkpoint; momenta are cleared."""
        self.session.later("rewind", {"population": self.name, "label": label})

    def charge_gossip(self, repeats: int = 1) -> None:
        """Write the traffic of gossip rounds over all edges into the ledger and the clock."""
        size = _FLOAT32 * self.dim
        self.ledger.record(self.phase, "model", "edges", size, repeats=repeats)
        for _ in range(repeats):
            self.clock.gossip(self._max_degree, size)

    def _halos(self) -> list[NDArray[np.float32]]:
        """Fetch every row that crosses a block border once, and sort them out by the host that needs them."""
        if self.rows_stay_on_hosts:
            return [np.zeros((0, self.dim), np.float32) for _ in self.session.blocks]
        needed = np.unique(np.concatenate(self._outside))
        replies = self.session.exchange(
            [
                Request("export", {"population": self.name}, {"nodes": needed[(needed >= a) & (needed < b)]})
                for a, b in self.session.blocks
            ]
        )
        rows = np.concatenate([r.arrays["rows"] for r in replies])
        return [rows[np.searchsorted(needed, o)] for o in self._outside]

    def mean(self, weights: NDArray[np.float64] | None = None, *, phase_cost: bool = False) -> NDArray[np.float64]:
        """Return the mean of the present rows, (d,) float64; ``weights`` (N,) if they do not count alike."""
        program = "fedunlearn.network.programs:weighted_row"
        chosen = np.flatnonzero(self.present if weights is None else self.present & (weights > 0))
        only = None if len(chosen) == self.num_alive else chosen.tolist()
        if weights is None or len(np.unique(weights[chosen])) == 1:
            total = self.sum(program, {}, only=only) / len(chosen)
        else:
            shares = {"shares": np.asarray(weights / weights[chosen].sum(), dtype=np.float64)}
            total = self.sum(program, {"weights": "shares"}, shares, only=only)
        if phase_cost:
            self.charge_all_reduce("model", _FLOAT32)
        return total

    def charge_all_reduce(self, kind: str, item_bytes: int = _FLOAT64, items: int | None = None) -> None:
        """Write one tree all-reduce (2(N-1) messages) of d (or ``items``) numbers into the ledger and the clock."""
        size = item_bytes * (items or self.dim)
        self.ledger.record(self.phase, kind, "tree", size, root=self.root)
        self.clock.tree(self._depth, size, there_and_back=True)

    def charge_server(self, clients: int, round_: int) -> None:
        """Write one federated round, model down and up, into the ledger and the clock."""
        size = _FLOAT32 * self.dim
        self.ledger.record(self.phase, "model", "server", size, clients=clients, round_=round_)
        self.clock.server(clients, size)

    def read(self, node: int) -> NDArray[np.float32]:
        """Return the parameters of one vertex, (d,) float32."""
        return self.read_rows([node])[0]

    def read_rows(self, nodes: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the parameters of several vertices, ascending ids, (k, d) float32."""
        ids = np.asarray(nodes, dtype=np.int64)
        replies = self.session.exchange(
            [
                Request("read", {"population": self.name}, {"nodes": ids[(ids >= a) & (ids < b)]})
                for a, b in self.session.blocks
            ]
        )
        return np.concatenate([r.arrays["rows"] for r in replies])

    def write(
        self, vector: NDArray[np.float32], *, nodes: Sequence[int] | None = None,
        operation: Literal["set", "add"] = "set", reset_momentum: bool = True,
    ) -> None:  # fmt: skip
        """Overwrite the rows of all present vertices (or of ``nodes``) by one vector, or add it to them."""
        arrays: dict[str, np.ndarray] = {"vector": np.asarray(vector, dtype=np.float32)}
        if nodes is not None or self.away.any():
            arrays["nodes"] = np.asarray(np.flatnonzero(self.present) if nodes is None else nodes, dtype=np.int64)
        params = {"population": self.name, "operation": operation, "reset_momentum": reset_momentum}
        self.session.later("write", params, arrays)

    def save(self) -> dict[str, NDArray[np.float32]]:
        """Return all that training changes, (N, d) each: ``theta``, and ``momentum`` where the population has it."""
        replies = self._ask("save", {"population": self.name})
        if len(replies) == 1:
            return dict(replies[0].arrays)  # a copy already, and all rows of a large population are not copied twice
        return {kind: np.concatenate([r.arrays[kind] for r in replies]) for kind in replies[0].arrays}

    def restore(self, state: dict[str, NDArray[np.float32]]) -> None:
        """Put back what :meth:`save` returned."""
        self.session.later_each(
            [
                Request("restore", {"population": self.name}, {kind: rows[a:b] for kind, rows in state.items()})
                for a, b in self.session.blocks
            ]
        )

    def broadcast(
        self, vector: NDArray[np.float32], kind: str = "release", operation: Literal["set", "add"] = "set"
    ) -> None:
        """Flood one vector from the root; every present vertex adopts (or adds) it and clears its momentum."""
        self.write(vector, operation=operation)
        size = _FLOAT32 * self.dim
        self.ledger.record(self.phase, kind, "flood", size, root=self.root)
        self.clock.tree(self._depth, size, there_and_back=False)

    # --- deletion --------------------------------------------------------------------------------------------------

    def erase(self, sample_ids: NDArray[np.int64]) -> None:
        """Take samples away from the hosts for good: no program of this session can read them afterwards."""
        self.deleted = np.union1d(self.deleted, np.asarray(sample_ids, dtype=np.int64))
        self.session.later("erase", {"population": self.name}, {"sample_ids": self.deleted})
        self.counts = self._retained_counts()

    def wipe(self) -> None:
        """Overwrite what sums and exchanges left on the hosts: input vectors, partial sums, rows of other hosts.

        A noise-free vector is among them after an optimisation, so no release is done before they are gone.
        """
        self.session.later("wipe", {})

    def leave(self, node: int, graph: nx.Graph) -> None:
        """Take a vertex out; ``graph`` is the graph of those who stay, after its repair."""
        if not self.alive[node]:
            raise UserError(f"client {node} was already deleted")
        self.alive[node] = False
        self.session.later("leave", {"population": self.name}, {"nodes": np.array([node], dtype=np.int64)})
        self.set_graph(graph)

    def drop(self) -> None:
        """Delete this population from the hosts."""
        self.session.later("drop", {"population": self.name})

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _program(self, program: str, params: dict[str, Any], only: Sequence[int] | None) -> dict[str, Any]:
        if only is None and self.away.any():
            only = np.flatnonzero(self.present).tolist()
        chosen = None if only is None else np.unique(np.asarray(only, dtype=np.int64))
        if chosen is not None and np.isin(np.flatnonzero(self.alive), chosen).all():
            chosen = None  # everybody: a long list in every command would say nothing
        chosen = None if chosen is None else chosen.tolist()
        return {"program": program, "params": params, "population": self.name, "only": chosen}

    def _ask(self, op: str, params: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> list[Reply]:
        return self.session.ask(op, params, arrays)
