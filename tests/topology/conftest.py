"""Graphs that the tests of the topology room share."""

from __future__ import annotations

import networkx as nx
import pytest

from fedunlearn.topology import TopologySettings, build_graph

SMALL: dict[str, tuple[TopologySettings, int]] = {
    "ring": (TopologySettings(generator="ring"), 9),
    "path": (TopologySettings(generator="path"), 8),
    "star": (TopologySettings(generator="star"), 11),
    "complete": (TopologySettings(generator="complete"), 7),
    "grid": (TopologySettings(generator="grid"), 12),
    "torus": (TopologySettings(generator="torus"), 12),
    "tree": (TopologySettings(generator="tree", branching=3), 14),
    "hypercube": (TopologySettings(generator="hypercube"), 16),
    "exponential": (TopologySettings(generator="exponential"), 13),
    "random-regular": (TopologySettings(generator="random-regular"), 20),
    "erdos-renyi": (TopologySettings(generator="erdos-renyi"), 20),
    "watts-strogatz": (TopologySettings(), 20),
    "barabasi-albert": (TopologySettings(generator="barabasi-albert"), 20),
    "stochastic-block": (TopologySettings(generator="stochastic-block", blocks=2, probability_between=0.2), 20),
    "random-geometric": (TopologySettings(generator="random-geometric"), 20),
    "single": (TopologySettings(generator="single"), 1),
    "file": (TopologySettings(generator="file", path="karate-club"), 34),
}


@pytest.fixture(params=sorted(SMALL))
def small_graph(request: pytest.FixtureRequest) -> nx.Graph:
    """One small graph of every generator."""
    settings, nodes = SMALL[request.param]
    return build_graph(settings, nodes, seed=3)
