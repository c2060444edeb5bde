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

from fedunlearn.errors import UserError
from fedunlearn.faults.course import Course
from fedunlearn.faults.trace import Trace
from fedunlearn.network.answer import Answer
from fedunlearn.network.exchange import RowExchange
from fedunlearn.network.ledger import Ledger
from fedunlearn.network.messages import all_finite
from fedunlearn.network.population import FLOAT32
from fedunlearn.network.reduction import TreeSum
from fedunlearn.network.session import Session
from fedunlearn.network.transport import Reply, Request
from fedunlearn.topology import random_matching
from fedunlearn.topology.graphs import edge_array


class Network(RowExchange):
    """A population of models on a graph, with the primitives that methods are written against.

    Its arguments are those of :class:`~fedunlearn.network.population.Population`.
    """

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

        self.rows_changed()
        self.session.later("rows", request, then=look)

    def sum(
        self, program: str, params: dict[str, Any], vectors: dict[str, NDArray[np.float64]] | None = None,
        only: Sequence[int] | None = None, size: int | None = None,
    ) -> NDArray[np.float64]:  # fmt: skip
        """Return the canonical sum float64 of what a program gives at every present vertex: (d,), or (size,)."""
        return self.sum_later(program, params, vectors, only, size).get()

    def sum_later(
        self, program: str, params: dict[str, Any], vectors: dict[str, NDArray[np.float64]] | None = None,
        only: Sequence[int] | None = None, size: int | None = None,
    ) -> Answer[NDArray[np.float64]]:  # fmt: skip
        """Ask for a :meth:`sum` that is needed later."""
        present = self.present
        if only is not None:
            present &= np.isin(np.arange(self.num_nodes), list(only))
        request = Request("sum", {**self._program(program, params, only), "dim": size or self.dim}, vectors or {})

        def added(replies: list[Reply | None]) -> NDArray[np.float64]:
            total = TreeSum(present[self.session.order])
            for reply in replies:
                if reply is not None:
                    total.merge(reply.arrays["keys"], reply.arrays["sums"])
            return total.total()

        return self.session.asked([request if present[own].any() else None for own in self.session.members], added)

    def measure(
        self, program: str, params: dict[str, Any], vectors: dict[str, NDArray[np.float64]] | None = None,
        only: Sequence[int] | None = None, width: int = 1, grain: int = 1,
    ) -> NDArray[np.float64]:  # fmt: skip
        """Return ``width`` numbers a vertex, (N, width) float64; NaN where a vertex is absent.

        The program is called for many vertices at once, ``program(block, population, nodes, **params)``, and returns
        the numbers of each: (vertices, width), or (vertices,) where the width is one. ``grain`` keeps groups of ids
        together.
        """
        return self.measure_later(program, params, vectors, only, width, grain).get()

    def measure_later(
        self, program: str, params: dict[str, Any], vectors: dict[str, NDArray[np.float64]] | None = None,
        only: Sequence[int] | None = None, width: int = 1, grain: int = 1,
    ) -> Answer[NDArray[np.float64]]:  # fmt: skip
        """Ask for what :meth:`measure` returns, to be needed later."""
        params = {**self._program(program, params, only), "width": width, "grain": grain}
        request = Request("measure", params, vectors or {})
        return self.session.asked(
            [request for _ in self.session.members],
            lambda replies: self.session.gathered([r.arrays["values"] for r in replies if r is not None]),
        )

    def mix(self, rounds: int = 1, round_: int = 0) -> None:
        """Mix all rows ``rounds`` times by the population's rule."""
        for k in range(rounds):
            self.begin_mix(round_ + k)()

    def begin_mix(self, round_: int = 0) -> Callable[[], None]:
        """Ask hosts for what a mixing needs of others; the function that is returned ends the mixing.

        Several populations that begin before the first of them ends mix in the same messages.
        """
        if self.course is not None:
            raise ValueError("rows of a network with faults are mixed by the rounds of its course")
        if self.num_alive == 1:
            return lambda: None
        if self.mixing == "exact-average":
            mean = self.mean_later(phase_cost=True)
            return lambda: self.write(mean.get().astype(np.float32), reset_momentum=False)
        if self.mixing == "random-matching":
            self._send_weights(random_matching(self.graph, self.seed, round_, self.alive))
        foreign = self._foreign_rows()

        def end() -> None:
            self._mix_with(foreign)
            if self.mixing == "random-matching":
                self.ledger.record(self.phase, "model", "matching", FLOAT32 * self.dim, round_=round_)
                self.clock.gossip(1, FLOAT32 * self.dim)
            else:
                self.charge_gossip()

        return end

    def walk(
        self, program: str, params: dict[str, Any], token: NDArray[np.float64], route: Sequence[tuple[int, bool]],
        vectors: dict[str, NDArray[np.float64]] | None = None, kind: str = "token",
    ) -> NDArray[np.float64]:  # fmt: skip
        """Carry a token along a route and return it, float64 of its shape: (d,), or (k, d) for k tokens side by side.

        ``route`` lists vertices and whether each acts; those that do not only pass the token on. The h-th acting vertex
        calls ``program(block, population, node, h, token, **params)``, which returns the new token. ``vectors`` are
        arrays that the program reads by name. A message of the size of one token is charged for every move
        (:meth:`charge_walk`).
        """
        stops = [int(node) for node, acts in route if acts]
        block_of = self.session.host_of[stops]
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
        self.charge_walk(route, kind)
        return token

    def charge_walk(self, route: Sequence[tuple[int, bool]], kind: str = "token") -> None:
        """Write a :meth:`walk` along a route into the ledger and the clock; nobody is contacted."""
        path = tuple(int(node) for node, _ in route)
        record = self.ledger.record(self.phase, kind, "walk", FLOAT32 * self.dim, route=path)
        self.clock.walk(record.messages, FLOAT32 * self.dim)

    def checkpoint(self, label: str) -> None:
        """Keep a copy of all rows on the hosts under a label; later deletions do not change it."""
        self.session.later("checkpoint", {"population": self.name, "label": label})

    def rewind(self, label: str) -> None:
        """Put the rows of the alive vertices back to a checkpoint; momenta are cleared."""
        self.rows_changed()
        self.session.later("rewind", {"population": self.name, "label": label})

    def mean(self, weights: NDArray[np.float64] | None = None, *, phase_cost: bool = False) -> NDArray[np.float64]:
        """Return the mean of the present rows, (d,) float64; ``weights`` (N,) if they do not count alike."""
        return self.mean_later(weights, phase_cost=phase_cost).get()

    def mean_later(
        self, weights: NDArray[np.float64] | None = None, *, phase_cost: bool = False
    ) -> Answer[NDArray[np.float64]]:
        """Ask for a :meth:`mean` that is needed later; that of all present rows is asked for once until rows change."""
        if phase_cost:
            self.charge_all_reduce("model", FLOAT32)
        program = "fedunlearn.network.programs:weighted_row"
        chosen = np.flatnonzero(self.present if weights is None else self.present & (weights > 0))
        only = None if len(chosen) == self.num_alive else chosen.tolist()
        if weights is None or len(np.unique(weights[chosen])) == 1:
            key = ("mean", chosen.tobytes())
            return self.unchanged(key, lambda: self.sum_later(program, {}, only=only)).then(lambda t: t / len(chosen))
        shares = {"shares": np.asarray(weights / weights[chosen].sum(), dtype=np.float64)}
        return self.sum_later(program, {"weights": "shares"}, shares, only=only)

    def write(
        self, vector: NDArray[np.float32], *, nodes: Sequence[int] | None = None,
        operation: Literal["set", "add"] = "set", reset_momentum: bool = True,
    ) -> None:  # fmt: skip
        """Overwrite the rows of all present vertices (or of ``nodes``) by one vector, or add it to them."""
        arrays: dict[str, np.ndarray] = {"vector": np.asarray(vector, dtype=np.float32)}
        if not all_finite(arrays["vector"]):
            raise UserError(
                "training diverges: a model that holds NaN or infinity was about to be given to the nodes "
                "(allowed: a smaller training.lr, or set training.clip)"
            )
        if nodes is not None or self.away.any():
            arrays["nodes"] = np.asarray(np.flatnonzero(self.present) if nodes is None else nodes, dtype=np.int64)
        params = {"population": self.name, "operation": operation, "reset_momentum": reset_momentum}
        self.rows_changed()
        self.session.later("write", params, arrays)
        if self.course is not None and nodes is None and operation == "set" and reset_momentum:
            self.course.release(self.present)  # whoever is not here holds an older model from now on

    def save(self, *, copies: bool = False) -> dict[str, NDArray[np.float32]]:
        """Return all that training changes, (N, d) each: ``theta``, and ``momentum`` where the population has it.

        With ``copies`` also what :meth:`checkpoint` has kept, under ``checkpoint-<label>``.
        """
        replies = self.session.ask("save", {"population": self.name, "copies": copies})
        return {kind: self.session.gathered([r.arrays[kind] for r in replies]) for kind in replies[0].arrays}

    def restore(self, state: dict[str, NDArray[np.float32]]) -> None:
        """Put back what :meth:`save` returned."""
        self.rows_changed()
        members: list[Any] = self.session.members if len(self.session.members) > 1 else [slice(None)]
        self.session.later_each(
            [
                Request("restore", {"population": self.name}, {kind: rows[own] for kind, rows in state.items()})
                for own in members
            ]
        )

    def state(self) -> dict[str, Any]:
        """Return all that makes this population what it is, here and on the hosts, in numbers, tables and arrays."""
        return {
            "name": self.name, "mixing": self.mixing, "seed": self.seed, "momentum": self.has_momentum,
            "alive": self.alive, "away": self.away, "deleted": self.deleted, "phase": self.phase,
            "work": dict(self.work), "clock": self.clock.counts(), "ledger": self.ledger.state(),
            "rows": self.save(copies=True),
            "course": None if self.course is None else self._course_state(),
        }  # fmt: skip

    def _course_state(self) -> dict[str, Any]:
        assert self.course is not None
        where, server = self.course.save(), self.course.server
        return {"edges": edge_array(self.graph), "start": self.start, "where": where, "server": server}

    @classmethod
    def from_state(
        cls, session: Session, state: dict[str, Any], *, erase: bool = False, trace: Trace | None = None
    ) -> Network:
        """Make the population of another session, of the same data and model, that :meth:`state` described.

        With ``erase`` what it has deleted is erased on the hosts of this session too, for all populations. ``trace``
        is that of the run, for a population that goes through faults.
        """
        ledger = Ledger.from_state(state["ledger"])
        graph, start, course, under = ledger.graph, np.zeros(session.model.dim, np.float32), None, state["course"]
        if under is not None:
            assert trace is not None, "a population under faults has a trace"
            graph = nx.empty_graph(session.num_nodes)
            graph.add_edges_from(under["edges"].tolist())
            server, start = under["server"], under["start"]
            course = Course(trace, graph, state["mixing"], state["seed"], alive=state["alive"], server=server)
            course.restore(under["where"])
        network = cls(
            session, state["name"], graph, state["mixing"], start, deleted=state["deleted"], alive=state["alive"],
            momentum=state["momentum"], seed=state["seed"], course=course,
        )  # fmt: skip
        network.away, network.ledger, network.phase = state["away"].copy(), ledger, state["phase"]
        network.measure_links()
        network.work |= state["work"]
        network.clock.samples, network.clock.waits, network.clock.bytes = state["clock"]
        if erase and len(network.deleted):
            network.erase(network.deleted)
        network.restore(state["rows"])
        return network

    def broadcast(
        self, vector: NDArray[np.float32], kind: str = "release", operation: Literal["set", "add"] = "set"
    ) -> None:
        """Flood one vector from the root; every present vertex adopts (or adds) it and clears its momentum."""
        self.write(vector, operation=operation)
        size = FLOAT32 * self.dim
        self.ledger.record(self.phase, kind, "flood", size, root=self.root)
        self.clock.tree(self._depth, size, there_and_back=False)
