"""The trace of a run: what nodes, links and messages do in every round, drawn by identity and round.

A draw is a function of (seed, purpose, ids of the node or of the two ends, round). A vertex that is deleted takes its
own draws away and shifts nobody else's: the retrained twin runs on the same trace, restricted to its vertices.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from fedunlearn.faults.parts import connected_parts
from fedunlearn.faults.settings import EventSettings, FaultSettings
from fedunlearn.randomness import keys, uniforms

HERE, AWAY, SENT_AWAY, NOT_YET = 0, 1, 2, 3
"""Standing of a node: there; away by chance, and may come back so; taken away by an event; yet to join."""


@dataclass(frozen=True)
class Trace:
    """The draws of all rounds. ``slow`` (N,) bool; ``joins`` (N,) the round in which a node joins, 0 for most;
    ``labels`` the part (N,) of every node in each partition of the settings."""

    settings: FaultSettings
    seed: int
    num_nodes: int
    slow: NDArray[np.bool_]
    joins: NDArray[np.int64]
    labels: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, settings: FaultSettings, graph: nx.Graph, seed: int) -> Trace:
        """Compile settings; ``graph`` is the one that the run begins with, before any deletion, and ``seed`` the run's.

        Parts of a partition are cut from that graph, so they do not depend on who is deleted later.
        """
        size = len(graph)
        seed = seed if settings.seed is None else settings.seed
        nodes = np.arange(size)
        slow = uniforms(seed, "fault-slow", nodes) < settings.slow_share
        late = uniforms(seed, "fault-late", nodes) < settings.late_share
        when = 1 + (uniforms(seed, "fault-join", nodes) * (settings.late_until or 1)).astype(np.int64)
        joins = np.where(late, when, 0)
        for event in settings.events:
            if event.kind == "join":
                joins[list(event.nodes)] = event.round
        labels = []
        for partition in settings.partitions:
            if partition.parts is not None:
                labels.append(connected_parts(graph, partition.parts))
                continue
            label = np.zeros(size, dtype=np.int64)
            for number, group in enumerate(partition.groups or (), start=1):
                label[list(group)] = number
            labels.append(label)
        return cls(settings, seed, size, slow, joins, tuple(labels))

    def content(self) -> dict[str, Any]:
        """Return all that the draws depend on, for the key of a trained network: settings, seed and parts.

        Left out is what only requests depend on, and how long slow nodes compute.
        """
        silent = {"offline_requests", "wait_limit", "slow_factor", "seed"}
        parts = [hashlib.sha256(label.astype("<i8").tobytes()).hexdigest() for label in self.labels]
        return {"settings": self.settings.model_dump(mode="json", exclude=silent), "seed": self.seed, "parts": parts}

    # --- nodes -------------------------------------------------------------------------------------------------------

    def standing(self, before: NDArray[np.int8] | None, round_: int) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """Return the standing (N,) in a round from that in the round before (None in round 0), and who crashes (N,)."""
        none = np.zeros(self.num_nodes, dtype=bool)
        if before is None:
            return np.where(self.joins > 0, NOT_YET, HERE).astype(np.int8), none
        s, nodes = self.settings, np.arange(self.num_nodes)
        now, crashed = before.copy(), none
        if s.leave_probability > 0:
            draw = uniforms(self.seed, "fault-churn", nodes, round_)
            goes = (before == HERE) & (draw < s.leave_probability)
            now[goes] = AWAY
            now[(before == AWAY) & (draw < s.return_probability)] = HERE
            crashed = goes & (uniforms(self.seed, "fault-crash", nodes, round_) < s.crash_share)
        now[(before == NOT_YET) & (self.joins <= round_)] = HERE
        for event in s.events:
            if event.round != round_ or not event.nodes:
                continue
            chosen = list(event.nodes)
            if event.kind in ("crash", "leave"):
                now[chosen] = SENT_AWAY
                crashed[chosen] = event.kind == "crash"
            elif event.kind == "return":
                now[chosen] = HERE
        return now, crashed

    # --- links -------------------------------------------------------------------------------------------------------

    def links_up(self, edges: NDArray[np.int64], round_: int) -> NDArray[np.bool_]:
        """Return which of the edges (E, 2), smaller vertex first, work in a round; whoever is at their ends."""
        a, b = edges[:, 0], edges[:, 1]
        up = np.ones(len(edges), dtype=bool)
        for event in sorted(self.settings.events, key=lambda e: e.round):  # the last event about a link decides
            if event.kind in ("cut", "heal") and event.round <= round_:
                up[self._concerned(event, edges)] = event.kind == "heal"
        if self.settings.link_failure > 0:
            up &= uniforms(self.seed, "fault-link", a, b, round_) >= self.settings.link_failure
        for partition, label in zip(self.settings.partitions, self.labels):
            if partition.begin <= round_ < partition.end:
                up &= label[a] == label[b]
        return up

    def _concerned(self, event: EventSettings, edges: NDArray[np.int64]) -> NDArray[np.bool_]:
        if event.nodes:
            inside = np.zeros(self.num_nodes, dtype=bool)
            inside[list(event.nodes)] = True
            return inside[edges[:, 0]] != inside[edges[:, 1]]
        if event.links:
            listed = np.sort(np.array(event.links, dtype=np.int64), axis=1)
            codes = listed[:, 0] * self.num_nodes + listed[:, 1]
            return np.isin(edges[:, 0] * self.num_nodes + edges[:, 1], codes)
        return np.ones(len(edges), dtype=bool)  # a heal that names nothing heals every cut

    # --- messages ----------------------------------------------------------------------------------------------------

    def lost(self, senders: NDArray[np.int64], receivers: NDArray[np.int64], round_: int) -> NDArray[np.bool_]:
        """Return which messages, each from a sender to a receiver, sent in a round never arrive."""
        if self.settings.message_loss == 0:
            return np.zeros(len(senders), dtype=bool)
        return uniforms(self.seed, "fault-loss", senders, receivers, round_) < self.settings.message_loss

    def delays(self, senders: NDArray[np.int64], receivers: NDArray[np.int64], round_: int) -> NDArray[np.int64]:
        """Return by how many rounds messages sent in a round come late: 0, or evenly 1 to ``max_delay``."""
        s = self.settings
        if s.max_delay == 0:
            return np.zeros(len(senders), dtype=np.int64)
        late = self.slow[senders] | (uniforms(self.seed, "fault-late-message", senders, receivers, round_)
                                     < s.delay_probability)  # fmt: skip
        long = 1 + (uniforms(self.seed, "fault-delay", senders, receivers, round_) * s.max_delay).astype(np.int64)
        return np.where(late, long, 0)

    def pushed(self, senders: NDArray[np.int64], receivers: NDArray[np.int64], round_: int) -> NDArray[np.bool_]:
        """Return, among directed links, one of each sender's: the neighbour that it chooses by hash in this round."""
        order = np.lexsort((receivers, keys(self.seed, "fault-push", senders, receivers, round_), senders))
        first = np.ones(len(order), dtype=bool)
        first[1:] = senders[order][1:] != senders[order][:-1]
        chosen = np.zeros(len(senders), dtype=bool)
        chosen[order[first]] = True
        return chosen
