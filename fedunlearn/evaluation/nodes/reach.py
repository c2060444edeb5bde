"""How far a client's influence reaches in a network, by graph distance.

It is what every node has that it would not have without the client's data: the distance of its model to the one that
the same node has in the retrained network, and what its model says about the deleted samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.evaluation.attacks.membership import loss_threshold_auc
from fedunlearn.evaluation.evaluator import SampleSet, Snapshot
from fedunlearn.evaluation.forward import STACK
from fedunlearn.evaluation.nodes.consensus import distances_to
from fedunlearn.network import Network
from fedunlearn.randomness import uniforms

Array = NDArray[np.float64]
LARGE = 2000
"""Nodes up to which all are looked at; of a larger network a sample of every hop."""
PER_HOP = 200


def hops_from(graph: nx.Graph, client: int) -> NDArray[np.int64]:
    """Return every node's graph distance from a client, (N,); -1 where no path leads.

    Raises UserError for a client that does not exist.
    """
    if client not in graph:
        raise UserError(f"client {client} does not exist; the network has the clients 0 to {len(graph) - 1}")
    hops = np.full(len(graph), -1, dtype=np.int64)
    for node, distance in nx.single_source_shortest_path_length(graph, client).items():
        hops[node] = distance
    return hops


def nodes_looked_at(hops: NDArray[np.int64], seed: int) -> list[int] | None:
    """Return None (all) up to :data:`LARGE` nodes, else at most :data:`PER_HOP` of every hop: those of smallest hash.

    Where there are very many hops they are fewer, about :data:`LARGE` in all.
    """
    if len(hops) <= LARGE:
        return None
    distances = np.unique(hops)
    most = min(PER_HOP, max(1, LARGE // len(distances)))
    order = np.argsort(uniforms(seed, "battery nodes", np.arange(len(hops))), kind="stable")
    chosen = [order[hops[order] == h][:most] for h in distances]
    return sorted(int(i) for i in np.concatenate(chosen))


def by_hop(values: Array, hops: NDArray[np.int64]) -> list[float | None]:
    """Return the mean of ``values`` (N,) over the nodes at 0, 1, 2, … hops, NaN left out; None for a hop without."""
    found = []
    for hop in range(int(hops.max(initial=-1)) + 1):
        here = values[hops == hop]
        here = here[~np.isnan(here)]
        found.append(float(here.mean()) if len(here) else None)
    return found


def half_hop(profile: Sequence[float | None]) -> int | None:
    """Return the first hop at which a profile by hop is at most half of its value at hop 1; None if it never is,
    or is 0 there."""
    if len(profile) < 2 or not profile[1]:
        return None
    return next((h for h, x in enumerate(profile) if h > 1 and x is not None and x <= profile[1] / 2), None)


def node_distances(mine: Snapshot, ideal: Snapshot, only: list[int] | None = None) -> Array:
    """Return the L2 distance of every node's parameters to its retrained counterpart, (N,); NaN where one is absent.

    A snapshot with a vector (what a release was before its noise) has it at all nodes, as in
    :meth:`fedunlearn.evaluation.evaluator.Evaluator.compare`.
    """
    a, b = mine.rows or mine.network, ideal.rows or ideal.network
    if mine.vector is not None and ideal.vector is not None:
        found = np.full(a.num_nodes, np.linalg.norm(mine.vector - ideal.vector))
    elif mine.vector is not None:
        found = distances_to(b, mine.vector, only)
    elif ideal.vector is not None:
        found = distances_to(a, ideal.vector, only)
    else:
        program = "fedunlearn.evaluation.programs:row_distance"
        found = a.measure(program, {"other": b.name}, only=only)[:, 0]
    found[~(a.alive & b.alive)] = np.nan
    if only is not None:
        found[np.setdiff1d(np.arange(len(found)), only)] = np.nan
    return found


def node_losses(
    network: Network, name: str, count: int, only: list[int] | None = None
) -> tuple[Array, Array]:  # fmt: skip
    """Return every node's accuracy (N,) on a set that :func:`put_samples` put, and its losses (N, count); NaN where
    a node is absent."""
    params: dict[str, Any] = {"inputs": f"evaluation.{name}_inputs", "labels": f"evaluation.{name}_labels"}
    found = network.measure(
        "fedunlearn.evaluation.nodes.node_programs:sample_losses", params, only=only, width=count + 1,
        grain=STACK if network.session.model.convex else 1,
    )  # fmt: skip
    return found[:, 0], found[:, 1:]


def put_samples(network: Network, name: str, samples: SampleSet) -> None:
    """Send samples to the hosts under a name of their own; no training reads them."""
    arrays = {f"evaluation.{name}_inputs": samples.inputs, f"evaluation.{name}_labels": samples.labels}
    network.session.put(arrays)


def membership_at_nodes(losses: Array, reference: Array) -> Array:
    """Return, for every node, the area of "the loss is below that at the retrained counterpart", (N,).

    ``losses`` and ``reference`` (N, n) are of the same samples in two worlds. 0.5 says that the two models treat the
    deleted samples alike, 1 that every loss is below every one of the retrained model. NaN where a node is absent.
    """
    return _areas(losses, reference)


def share_below(losses: Array, reference: Array) -> Array:
    """Return, for every node, the share of samples whose loss is below the same sample's loss in the reference, (N,).

    Ties count half. Sample is compared with sample, so it sees a small shift of all losses that the area over all
    pairs (:func:`membership_at_nodes`) loses among the differences between samples. 0.5 says no shift. Arguments as
    there.
    """
    shares = ((losses < reference) + 0.5 * (losses == reference)).mean(1)
    return np.where(np.isnan(losses[:, 0]) | np.isnan(reference[:, 0]), np.nan, shares)


def learned_from_both(before: Array, after: Array, test_before: Array, test_after: Array) -> Array:
    """Return, for every node, the area of "the loss rises more on deleted samples than on test samples", (N,).

    It is what a node finds that kept its old model and compares it with its new one (Chen et al. 2021, arXiv
    2005.02205, with the difference of losses as its feature). Losses are (N, n) and (N, m). NaN where a node is absent.
    """
    return _areas(before - after, test_before - test_after)  # a large rise is a small fall


def _areas(small: Array, others: Array) -> Array:
    """Return a node's area of "the first is smaller than the second" from rows (N, n) and (N, m)."""
    absent = np.isnan(small[:, 0]) | np.isnan(others[:, 0])
    return np.array([np.nan if absent[i] else loss_threshold_auc(small[i], others[i]) for i in range(len(small))])
