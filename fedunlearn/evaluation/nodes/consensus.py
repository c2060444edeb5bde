"""Consensus distance: how far the models of a network are from one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedunlearn.network import Network


def consensus_distance(network: Network) -> float:
    """Return ``sqrt(mean_j ||x_j - mean_i x_i||^2)`` over the alive vertices, in units of the parameters.

    It is the consensus error of decentralized SGD (Koloskova et al. 2020, arXiv 2003.10422), after its root. 0 says
    that all nodes hold one model, as after a release, an exact average, or where one vertex is alone.
    """
    return root_mean_square(distances_to(network, network.mean()))


def distances_to(network: Network, vector: NDArray[np.float64], only: list[int] | None = None) -> NDArray[np.float64]:
    """Return the L2 distance of every alive vertex's row to ``vector`` (d,), (N,); NaN where a vertex is absent."""
    program = "fedunlearn.evaluation.nodes.node_programs:distance_to_vector"
    vectors = {"target": np.asarray(vector, dtype=np.float64)}
    return network.measure(program, {"vector": "target"}, vectors, only)[:, 0]


def root_mean_square(values: NDArray[np.float64]) -> float:
    """Return the root mean square of the values that are not NaN.

    Raises ValueError where there is none.
    """
    there = values[~np.isnan(values)]
    if not len(there):
        raise ValueError("no value is given")
    return float(np.sqrt(np.square(there).mean()))
