"""A population's way through a trace: one round after the other, with releases and departures in between.

The course says what the conductor must do in a round, and computes it without any message: who is there, who adopts
from whom, and by which matrices rows mix. It depends on the settings, the graph, the seed and on what requests did so
far, never on data or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from fedunlearn.faults.gossip import Flight, Mixed, balanced, hand_over, weighted
from fedunlearn.faults.membership import Gathering, Members, depart, gather, release
from fedunlearn.faults.trace import Trace
from fedunlearn.topology.graphs import all_alive, edge_array
from fedunlearn.topology.settings import Mixing


@dataclass(frozen=True)
class Round:
    """What happens in one round, in this order: ``who`` gathers (adopts, begins anew), local steps, gossip.

    edges (E, 2): working links between active nodes; links: how many the graph has between vertices that are alive.
    mixed: None where nobody mixes, and with a server, which averages the active rows. server: whether there is one.
    """

    number: int
    who: Gathering
    edges: NDArray[np.int64]
    links: int
    mixed: Mixed | None
    server: bool = False

    @property
    def apart(self) -> NDArray[np.bool_]:
        """(N,) those who are here, but hold no current model and found nobody to adopt from."""
        return self.who.here & ~self.who.active

    @property
    def changes_rows(self) -> bool:
        """Whether anybody adopts or begins anew before the local steps."""
        return len(self.who.adopters) + len(self.who.restarts) > 0

    def participants(self) -> NDArray[np.bool_]:
        """Return (N,) who can answer a request in this round: see :meth:`Course.participants`."""
        return self.who.active.copy() if self.server else largest_part(self.who.active, self.edges)


def largest_part(active: NDArray[np.bool_], edges: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (N,) the largest part of the active that edges (E, 2) connect; of equal ones that with the smallest id."""
    edges = edges[active[edges[:, 0]] & active[edges[:, 1]]]
    if not active.any():
        return active.copy()
    ones = np.ones(len(edges), dtype=np.int8)
    matrix = sparse.csr_array((ones, (edges[:, 0], edges[:, 1])), shape=(len(active), len(active)))
    _, label = connected_components(matrix, directed=False)
    sizes = np.bincount(label[active], minlength=label.max() + 1)
    largest = label[active][np.argmax(sizes[label[active]])]  # the first of the largest holds the smallest id
    return active & (label == largest)


@dataclass(frozen=True)
class State:
    """All that a course carries from round to round: small arrays, from which it goes on with the same bits."""

    round: int
    members: Members
    weights: NDArray[np.float64]
    flight: Flight


class Course:
    """The rounds of one population.

    Parameters
    ----------
    trace : the draws, compiled from the graph that the run began with.
    graph : the graph in force; ``0 .. N-1``.
    rule : mixing rule; ``exact-average`` means a server, which everybody who is there can reach.
    seed : what random matchings are drawn with: the population's.
    alive : (N,) bool; by default everybody.
    server : whether rows are averaged by a server; by default as ``rule`` says.
    """

    def __init__(
        self, trace: Trace, graph: nx.Graph, rule: Mixing, seed: int, *, alive: NDArray[np.bool_] | None = None,
        server: bool = False,
    ) -> None:  # fmt: skip
        self.trace, self.rule, self.seed = trace, rule, seed
        self.server = server or rule == "exact-average"
        if len(graph) != trace.num_nodes:
            raise ValueError(f"a trace of {trace.num_nodes} vertices is not one of a graph of {len(graph)}")
        if self.server and trace.settings.weighted:
            raise ValueError("messages between neighbours are not defined where a server averages")
        self.alive = all_alive(len(graph), alive).copy()
        self.set_graph(graph)
        self.restart()

    def restart(self) -> None:
        """Go back to the beginning of the trace, where everybody who is alive holds the public start, late ones aside.

        Retraining follows the very rounds of the training, restricted to who is left.
        """
        members = Members.begin(self.trace, self.alive)
        self.state = State(0, members, members.active.astype(np.float64), Flight.none())

    def set_graph(self, graph: nx.Graph) -> None:
        """Use this graph from the next round on."""
        self._edges = edge_array(graph, self.alive)

    def step(self, *, mixes: bool = True) -> Round:
        """Return the next round and move on. Without ``mixes`` nobody sends, and what was under way is dropped."""
        state, number = self.state, self.state.round
        up = self._edges[self.trace.links_up(self._edges, number)]
        members, who = gather(self.trace, state.members, self.alive, up, number, server=self.server)
        edges = up[who.active[up[:, 0]] & who.active[up[:, 1]]]
        mixed = None
        weights, flight = state.weights, Flight.none()
        if mixes and not self.server:
            if self.trace.settings.weighted:
                mixed = weighted(
                    self.trace, who, self.alive, edges, self.rule, self.seed, number, state.weights, state.flight
                )
            else:
                mixed = balanced(self.trace, who, self.alive, edges, self.rule, self.seed, number)
            weights, flight = mixed.weights, mixed.flight
        elif self.trace.settings.weighted:
            weights = hand_over(who, weights)[0]
        self.state = State(number + 1, members, weights, flight)
        return Round(number, who, edges, len(self._edges), mixed, self.server)

    def links(self) -> NDArray[np.int64]:
        """Return the links (E, 2) of the graph in force that work in the last round, between active nodes."""
        up = self._edges[self.trace.links_up(self._edges, max(0, self.state.round - 1))]
        active = self.state.members.active
        return up[active[up[:, 0]] & active[up[:, 1]]]

    def participants(self) -> NDArray[np.bool_]:
        """Return (N,) who takes part in an answer that is given now, after the last round and all departures so far.

        With a server all active nodes do, else the largest part of them that working links connect. They are public: a
        function of settings, graph, seed and requests. They stay until the answer is there, and it is about their data.
        """
        active = self.state.members.active
        return active.copy() if self.server else largest_part(active, self.links())

    def admit(self, participants: NDArray[np.bool_]) -> None:
        """Tell that all ``participants`` (N,) hold a current model now, whoever of them did not before."""
        members = self.state.members
        version = np.where(participants, members.last, members.version)
        members = replace(
            members, active=members.active | participants, memory=members.memory | participants, version=version
        )  # fmt: skip
        weights = np.where(participants & (self.state.weights == 0), 1.0, self.state.weights)
        self.state = replace(self.state, members=members, weights=weights)

    def release(self, participants: NDArray[np.bool_]) -> None:
        """Tell that all ``participants`` now hold one released vector (or the start of a retraining).

        From here on every other row is stale: whoever holds one adopts before it trains or mixes. Weights begin again
        at 1, and messages under way, which tell of models before the release, are dropped by their receivers.
        """
        members = release(self.state.members, participants & self.alive)
        weights = members.active.astype(np.float64)
        self.state = replace(self.state, members=members, weights=weights, flight=Flight.none())

    def come_back(self, state: State, participants: NDArray[np.bool_]) -> None:
        """Go back to the round of ``state`` from a retraining, of which all ``participants`` (N,) hold the end.

        The trace goes on from there as if the retraining had taken no round. Every other row is stale; whoever lost its
        model in that round, or in the retraining, has none.
        """
        members = replace(state.members, memory=state.members.memory & self.state.members.memory)
        self.state = replace(state, members=members)
        self.release(participants)

    def remove(self, node: int, graph: nx.Graph) -> None:
        """Take a vertex out for good; ``graph`` is the repaired graph of those who stay. Its messages are dropped."""
        self.alive[node] = False
        state, flight = self.state, self.state.flight
        weights = np.where(self.alive, state.weights, 0.0)
        flight = flight.where((flight.sender != node) & (flight.receiver != node))
        self.state = replace(state, members=depart(state.members, node), weights=weights, flight=flight)
        self.set_graph(graph)

    @property
    def released(self) -> bool:
        """Whether there was a release since the beginning of the trace."""
        return self.state.members.last > 0

    def stale(self) -> NDArray[np.bool_]:
        """Return (N,) the vertices whose row may hold what the last release was to forget. None of them is active."""
        return self.state.members.stale(self.alive)

    def lost(self) -> NDArray[np.bool_]:
        """Return (N,) the vertices without a model whose rows may hold what is left of one before the last release.

        Such a row was a server's copy until then, and is of no use any more.
        """
        members = self.state.members
        return self.alive & ~members.memory & (members.version < members.last)

    def wait(self, until: Callable[[Round], bool], limit: int) -> list[Round]:
        """Step through at most ``limit`` rounds without training or gossip, until one of which ``until`` is true.

        At least one round passes: it is the one in which an answer begins. The last round returned is that one, or the
        last that was waited for.
        """
        rounds = [self.step(mixes=False)]
        while not until(rounds[-1]) and len(rounds) <= limit:
            rounds.append(self.step(mixes=False))
        return rounds

    # --- to be kept and taken up again -------------------------------------------------------------------------------

    def save(self) -> dict[str, NDArray[Any]]:
        """Return the state as arrays, small beside one row a vertex."""
        members, flight = self.state.members, self.state.flight
        arrays: dict[str, NDArray[Any]] = {
            f"members.{f.name}": np.asarray(getattr(members, f.name)) for f in fields(Members) if f.name != "standing"
        }
        arrays["members.standing"] = np.zeros(0, np.int8) if members.standing is None else members.standing
        arrays |= {f"flight.{f.name}": getattr(flight, f.name) for f in fields(Flight)}
        return arrays | {"round": np.array(self.state.round), "weights": self.state.weights}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up a state that :meth:`save` gave, on the same graph with the same vertices alive."""
        parts = {f.name: arrays[f"members.{f.name}"] for f in fields(Members) if f.name not in ("last", "standing")}
        standing = arrays["members.standing"] if len(arrays["members.standing"]) else None
        members = Members(standing=standing, last=arrays["members.last"].item(), **parts)
        flight = Flight(**{f.name: arrays[f"flight.{f.name}"] for f in fields(Flight)})
        self.state = State(arrays["round"].item(), members, arrays["weights"], flight)
