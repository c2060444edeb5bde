"""Random faults, graphs and courses for the property tests of this room."""

from __future__ import annotations

import networkx as nx
import numpy as np
from hypothesis import strategies as st

from fedunlearn.faults import Course, FaultSettings, Trace

RULES = ("metropolis", "max-degree", "lazy-metropolis", "lazy-max-degree", "random-matching")


@st.composite
def graphs(draw: st.DrawFn, least: int = 2, most: int = 12) -> nx.Graph:
    """A connected graph: a random tree, and random edges on top."""
    size = draw(st.integers(least, most))
    graph = nx.empty_graph(size)
    for node in range(1, size):
        graph.add_edge(node, draw(st.integers(0, node - 1)))
    for a, b in draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=2 * size)):
        if a != b:
            graph.add_edge(a, b)
    return graph


@st.composite
def faults(draw: st.DrawFn, size: int, *, links: bool = True, weighted: bool | None = None) -> FaultSettings:
    """Any valid settings for a network of so many nodes; without ``links`` those that a server knows.

    ``weighted`` asks for settings with push-sum weights (True) or without (False).
    """
    often = st.sampled_from([0.0, 0.1, 0.4, 0.8])
    keys: dict = {
        "leave_probability": draw(often), "return_probability": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "crash_share": draw(often), "late_share": draw(often), "late_until": draw(st.integers(1, 6)),
    }  # fmt: skip
    events, used = [], set()
    for _ in range(draw(st.integers(0, 3))):
        node, round_ = draw(st.integers(0, size - 1)), draw(st.integers(1, 8))
        if node not in used:
            used.add(node)
            events.append({"round": round_, "kind": draw(st.sampled_from(["crash", "leave", "join"])), "nodes": [node]})
            if events[-1]["kind"] != "join" and draw(st.booleans()):
                events.append({"round": round_ + draw(st.integers(1, 5)), "kind": "return", "nodes": [node]})
    if links:
        kinds = ["synchronous", "pairwise", "push"]
        gossip = draw(st.sampled_from(kinds[:2] if weighted is False else kinds))
        delay = 0 if gossip == "pairwise" or weighted is False else draw(st.integers(0, 3))
        loss = 0.0 if weighted is False else draw(often)
        if weighted and gossip != "push" and delay == 0:
            loss = max(loss, 0.2)
        keys |= {
            "gossip": gossip, "link_failure": draw(often), "message_loss": loss,
            "on_loss": draw(st.sampled_from(["kept", "gone"])), "max_delay": delay,
            "delay_probability": draw(st.sampled_from([0.2, 0.7])) if delay else 0.0,
            "slow_share": draw(often) if delay else 0.0,
        }  # fmt: skip
        if draw(st.booleans()):
            begin = draw(st.integers(0, 5))
            keys["partitions"] = [{"begin": begin, "end": begin + draw(st.integers(1, 5)), "parts": 2}]
        if draw(st.booleans()):
            events.append({"round": draw(st.integers(0, 4)), "kind": "cut", "nodes": [draw(st.integers(0, size - 1))]})
            events.append({"round": draw(st.integers(4, 9)), "kind": "heal"})
    return FaultSettings.model_validate({**keys, "events": events})


@st.composite
def courses(
    draw: st.DrawFn, *, links: bool = True, weighted: bool | None = None, least: int = 2, most: int = 12
) -> Course:
    """A course at round 0, of gossip under some rule; without ``links``, of a server."""
    graph = draw(graphs(least, most))
    settings = draw(faults(len(graph), links=links, weighted=weighted))
    rule = draw(st.sampled_from(RULES)) if links else "exact-average"
    if settings.gossip == "push" and rule == "random-matching":
        rule = "metropolis"
    seed = draw(st.integers(0, 2**40))
    return Course(Trace.of(settings, graph, seed), graph, rule, seed)


def course(graph: nx.Graph, *, rule: str = "metropolis", seed: int = 0, **keys) -> Course:
    """A course of these settings."""
    return Course(Trace.of(FaultSettings.model_validate(keys), graph, seed), graph, rule, seed)


def mask(size: int, *nodes: int) -> np.ndarray:
    """These nodes as (size,) bool."""
    chosen = np.zeros(size, dtype=bool)
    chosen[list(nodes)] = True
    return chosen
