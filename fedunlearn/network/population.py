"""What a population is, as the conductor knows it: its graph, who is there, what it lacks, and what it has cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedunlearn.errors import UserError
from fedunlearn.faults.course import Course
from fedunlearn.network.answer import Answer
from fedunlearn.network.borders import Border, share_borders
from fedunlearn.network.clock import Clock
from fedunlearn.network.ledger import Ledger
from fedunlearn.network.mixing import foreign
from fedunlearn.network.session import Session
from fedunlearn.network.transport import Request
from fedunlearn.topology import Mixing, mixing_matrix

FLOAT32, FLOAT64 = 4, 8
"""Bytes of a number."""
T = TypeVar("T")


class Population:
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
    course : the faults that the population goes through, if there are any; see :mod:`fedunlearn.network.faulty`.
    """

    def __init__(
        self, session: Session, name: str, graph: nx.Graph, mixing: Mixing, start: NDArray[np.float32], *,
        deleted: NDArray[np.int64] | None = None, alive: NDArray[np.bool_] | None = None, momentum: bool = False,
        seed: int | None = None, course: Course | None = None,
    ) -> None:  # fmt: skip
        self.course, self.start = course, np.asarray(start, dtype=np.float32)
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
        self._borders: list[Border] | None = None
        self._turn = 0
        self._known: dict[tuple[Any, ...], Answer[Any]] = {}
        self.deleted = np.zeros(0, np.int64) if deleted is None else np.asarray(deleted, dtype=np.int64)
        session.later(
            "population",
            {"name": name, "momentum": momentum, "seed": self.seed},
            {
                "start": self.start,
                "alive": self.alive,
                "deleted": self.deleted,
            },
        )
        self.counts = self._retained_counts()
        self.set_graph(graph)

    @property
    def dim(self) -> int:
        """Number of parameters of a row."""
        return self.session.model.dim

    @property
    def total_samples(self) -> int:
        """Number of retained training samples of the vertices that are present."""
        return int(self.counts[self.present].sum())

    @property
    def num_alive(self) -> int:
        """Number of vertices that have not left."""
        return int(self.alive.sum())

    @property
    def num_present(self) -> int:
        """Number of vertices that have not left and are not away: those that an answer is given by."""
        return int(self.present.sum())

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
        self.use_links(graph, self.alive)
        self.weights: sparse.csr_array | None = None
        if self.course is None and self.mixing not in ("exact-average", "random-matching") and self.num_alive > 1:
            self.weights = mixing_matrix(graph, self.mixing, self.alive)
            self._send_weights(self.weights)

    def use_links(self, graph: nx.Graph, there: NDArray[np.bool_]) -> None:
        """Let what is sent from now on be charged on this graph, of the vertices that are ``there`` (N,)."""
        self.ledger.use_graph(graph, there)
        self.measure_links()

    def measure_links(self) -> None:
        """Work out the largest degree of the ledger's graph in force, and the depth of its tree."""
        self._max_degree = max((d for _, d in self.ledger.graph.degree()), default=0)
        self._depth = self.ledger.tree_depth(self.root) if self.present.any() else 0

    @property
    def rows_stay_on_hosts(self) -> bool:
        """Whether mixing by the present matrix needs no row of another host."""
        return not any(len(outside) for outside in self._outside)

    def _send_weights(self, weights: sparse.csr_array, past: Sequence[int] = ()) -> None:
        """Send every host its rows of a matrix (N, N), or (N, (k + 1) N) over the rows now and in k past slots."""
        parts, self._outside = [], []
        params = {"population": self.name, **({"past": list(past)} if past else {})}
        weights = weights.sorted_indices()  # every row is summed in the order of ids, wherever its neighbours are
        for low, high in self.session.blocks:
            own = self.session.order[low:high]
            part = weights[low:high] if self.session.in_order_of_ids else weights[own]
            arrays = {"indptr": part.indptr, "indices": part.indices, "data": part.data}
            arrays = {k: np.asarray(v, np.float64 if k == "data" else np.int64) for k, v in arrays.items()}
            parts.append(arrays)
            everywhere = (self.num_nodes * np.arange(len(past) + 1)[:, None] + own).ravel()
            self._outside.append(foreign(arrays["indices"], everywhere))
        self._borders = None
        if self.session.some_beside and not past:
            borders = share_borders(self._outside, self.session.host_of, self.session.places)
            if any(len(border.nodes) for border in borders):
                self._borders = borders
                for arrays, each in zip(parts, borders):
                    arrays |= {"border": each.nodes, "holders": each.holders, "at": each.at}
        self.session.later_each([Request("topology", params, arrays) for arrays in parts])

    def _retained_counts(self) -> NDArray[np.int64]:
        """Return the number of samples of every alive vertex that are not deleted, (N,)."""
        rows, edges = self.session.dataset.all_train_rows()
        kept = np.concatenate([[0], np.cumsum(~np.isin(rows, self.deleted))])
        return np.where(self.alive, kept[edges[1:]] - kept[edges[:-1]], 0)

    def rows_changed(self) -> None:
        """Forget what was told of rows that have changed since."""
        self._known.clear()

    def unchanged(self, key: tuple[Any, ...], ask: Callable[[], Answer[T]]) -> Answer[T]:
        """Return what ``ask`` gives, and the same again without a message until a row changes or is wiped."""
        if key not in self._known:
            self._known[key] = ask()
        return self._known[key]

    # --- what it costs -----------------------------------------------------------------------------------------------

    def charge_gossip(self, repeats: int = 1) -> None:
        """Write the traffic of gossip rounds over all edges into the ledger and the clock."""
        size = FLOAT32 * self.dim
        self.ledger.record(self.phase, "model", "edges", size, repeats=repeats)
        for _ in range(repeats):
            self.clock.gossip(self._max_degree, size)

    def charge_all_reduce(self, kind: str, item_bytes: int = FLOAT64, items: int | None = None) -> None:
        """Write one tree all-reduce (2(N-1) messages) of d (or ``items``) numbers into the ledger and the clock."""
        size = item_bytes * (items or self.dim)
        self.ledger.record(self.phase, kind, "tree", size, root=self.root)
        self.clock.tree(self._depth, size, there_and_back=True)

    def charge_server(self, clients: int, round_: int) -> None:
        """Write one federated round, model down and up, into the ledger and the clock."""
        size = FLOAT32 * self.dim
        self.ledger.record(self.phase, "model", "server", size, clients=clients, round_=round_)
        self.clock.server(clients, size)

    # --- deletion ----------------------------------------------------------------------------------------------------

    def erase(self, sample_ids: NDArray[np.int64]) -> None:
        """Take samples away from the hosts for good: no program of this session can read them afterwards."""
        self.deleted = np.union1d(self.deleted, np.asarray(sample_ids, dtype=np.int64))
        self.session.later("erase", {"population": self.name}, {"sample_ids": self.deleted})
        self.counts = self._retained_counts()

    def wipe(self) -> None:
        """Overwrite what sums and exchanges left on the hosts: input vectors, partial sums, rows of other hosts.

        A noise-free vector is among them after an optimisation, so no release is done before they are gone.
        """
        self.rows_changed()
        self.session.later("wipe", {})

    def leave(self, node: int, graph: nx.Graph) -> None:
        """Take a vertex out; ``graph`` is the graph of those who stay, after its repair."""
        if not self.alive[node]:
            raise UserError(f"client {node} was already deleted")
        self.alive[node] = False
        self.rows_changed()
        self.session.later("leave", {"population": self.name}, {"nodes": np.array([node], dtype=np.int64)})
        if self.course is not None:
            self.course.remove(node, graph)
        self.set_graph(graph)

    def drop(self) -> None:
        """Delete this population from the hosts."""
        self.session.later("drop", {"population": self.name})

    # --- for the primitives ------------------------------------------------------------------------------------------

    def _program(self, program: str, params: dict[str, Any], only: Sequence[int] | None) -> dict[str, Any]:
        if only is None and self.away.any():
            only = np.flatnonzero(self.present).tolist()
        chosen = None if only is None else np.unique(np.asarray(only, dtype=np.int64))
        if chosen is not None and np.isin(np.flatnonzero(self.alive), chosen).all():
            chosen = None  # everybody: a long list in every command would say nothing
        chosen = None if chosen is None else chosen.tolist()
        return {"program": program, "params": params, "population": self.name, "only": chosen}
