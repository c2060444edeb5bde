"""A trace in numbers, one a round: for figures, and to see what faults do to mixing before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from fedunlearn.faults.carried import Carried
from fedunlearn.faults.course import Course, Round
from fedunlearn.faults.settings import FaultSettings
from fedunlearn.faults.trace import Trace
from fedunlearn.randomness import uniforms
from fedunlearn.topology.settings import Mixing

_PROBES = 8
_CONSENSUS = 1e-13
"""A round that leaves less than this of the distance has reached consensus, up to rounding."""


class TraceSummary:
    """Collects rounds, in their order, into columns; O(1) numbers a round, whatever the size of the network.

    Columns: ``round``; ``here`` and ``active``, shares of the vertices alive; ``adoptions``; ``links_up``, the share of
    the graph's links that work between active nodes; ``sent``, ``lost``, ``late``, ``dropped`` messages; ``lost_mass``,
    share of the active nodes' push-sum weight that disappeared; ``spread``, largest over smallest weight;
    ``disagreement``, the factor by which this round shrank the distance of the active rows to their mean.

    The last is measured on probes: random vectors that go through the very same adoptions and matrices, and are scaled
    up again after every round. Over many rounds, the geometric mean of these factors is the second Lyapunov factor of
    the product of all W_t; without faults it is rho, the second-largest eigenvalue modulus of W.
    """

    def __init__(self, num_nodes: int, seed: int = 0) -> None:
        self.columns: dict[str, list[float]] = {}
        self.weight = np.zeros(num_nodes)
        self._seed = seed
        self._carried = Carried(self._probes(0))

    def add(self, round_: Round, alive: NDArray[np.bool_]) -> None:
        """Add one round; ``alive`` (N,) are the vertices that have not left for good."""
        who, mixed = round_.who, round_.mixed
        count, active = max(1, int(alive.sum())), max(1, int(who.active.sum()))
        weights = mixed.weights[who.active] if mixed is not None else np.zeros(0)
        entry = {
            "round": round_.number,
            "here": int(who.here.sum()) / count,
            "active": int(who.active.sum()) / count,
            "adoptions": len(who.adopters),
            "links_up": len(round_.edges) / max(1, round_.links),
            "sent": mixed.sent if mixed is not None else 0,
            "lost": mixed.lost if mixed is not None else 0,
            "late": mixed.late if mixed is not None else 0,
            "dropped": mixed.dropped if mixed is not None else 0,
            "lost_mass": mixed.lost_mass / active if mixed is not None else 0.0,
            "spread": float(weights.max() / weights.min()) if len(weights) else 1.0,
            "disagreement": self._shrink(round_),
        }
        for name, value in entry.items():
            self.columns.setdefault(name, []).append(value)
        if mixed is not None:
            self.weight[who.active] += mixed.weights[who.active] / weights.mean()

    def contraction(self, window: int | None = None) -> list[float]:
        """Return the mean factor a round (geometric) over windows of so many rounds, or over all; 1 means no mixing."""
        factors = np.array(self.columns.get("disagreement", []))
        size = len(factors) if window is None else window
        with np.errstate(divide="ignore"):
            logs = np.log(factors)
        return [float(np.exp(logs[i : i + size].mean())) for i in range(0, len(logs) - size + 1, max(1, size))]

    def totals(self) -> dict[str, Any]:
        """Return the few numbers that a run's summary keeps of its trace."""
        columns = {name: np.array(values) for name, values in self.columns.items()}
        rounds = len(columns.get("round", ()))
        if not rounds:
            return {"rounds": 0}
        heard = self.weight[self.weight > 0] / rounds
        whole = self.contraction()[0]
        return {
            "rounds": rounds,
            "active_mean": float(columns["active"].mean()),
            "active_least": float(columns["active"].min()),
            "links_up_mean": float(columns["links_up"].mean()),
            **{name: int(columns[name].sum()) for name in ("adoptions", "sent", "lost", "late", "dropped")},
            "contraction": whole,
            "effective_gap": 1.0 - whole,
            "node_weight_least": float(heard.min()) if len(heard) else 1.0,
            "node_weight_most": float(heard.max()) if len(heard) else 1.0,
        }

    def _shrink(self, round_: Round) -> float:
        carried, active = self._carried, round_.who.active
        carried.adopt(round_)
        before = self._distance(active)
        carried.mix(round_)
        after = self._distance(active)
        if before == 0.0:
            return 1.0
        if after <= _CONSENSUS * before:
            carried.rows = self._probes(round_.number + 1)
            carried.past = dict.fromkeys(carried.past, carried.rows)
            return 0.0
        # A constant added to all rows, and a factor, commute with row-stochastic rounds; so they do with past rows.
        centre, scale = carried.rows[active].mean(axis=0), 1.0 / after
        carried.rows = np.where(active[:, None], (carried.rows - centre) * scale, 0.0)
        carried.past = {number: (rows - centre) * scale for number, rows in carried.past.items()}
        return after / before

    def _probes(self, number: int) -> NDArray[np.float64]:
        nodes, columns = np.meshgrid(np.arange(len(self.weight)), np.arange(_PROBES), indexing="ij")
        return uniforms(self._seed, "fault-probe", nodes, columns, number) - 0.5

    def _distance(self, active: NDArray[np.bool_]) -> float:
        rows = self._carried.rows[active]
        return float(np.sqrt(((rows - rows.mean(axis=0)) ** 2).sum())) if len(rows) else 0.0


def survey(
    settings: FaultSettings, graph: nx.Graph, rule: Mixing, seed: int, rounds: int, *, server: bool = False
) -> TraceSummary:
    """Return the summary of the first rounds of a trace on a graph that nobody leaves for good."""
    course = Course(Trace.of(settings, graph, seed), graph, rule, seed, server=server)
    summary = TraceSummary(len(graph), seed)
    for round_ in _rounds(course, rounds):
        summary.add(round_, course.alive)
    return summary


def _rounds(course: Course, count: int) -> Iterable[Round]:
    return (course.step() for _ in range(count))
