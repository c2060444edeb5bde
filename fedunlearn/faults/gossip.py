"""One round of gossip under faults, as sparse matrices: W_t where it is symmetric, and push-sum where it is not.

**Balanced rounds.** With gossip ``synchronous`` or ``pairwise``, and messages that arrive at once, the rule's weights
on the working links between active nodes give W_t, symmetric and doubly stochastic on them. The mean of the active rows
is kept, and nobody needs a weight.

**Unbalanced rounds.** Where messages are pushed, lost or late, node j keeps one share of what it has and sends others,
so the shares it hands out sum to one, but what it hears does not. Every node carries a weight w (Kempe, Dobra, Gehrke
2003), shares of which travel with the messages. Rows hold the de-biased model z, and a round is

    z_i <- sum_d sum_j R_d[i, j] z_j(t - d),    R_d[i, j] = P_d[i, j] w_j(t - d) / w_i(t + 1),

with P_d[i, j] the share that j sent to i in round t - d and that arrives now. What is under way counts as mass of a
virtual node, as in push-sum on the augmented graph (Hadjicostis, Charalambous 2014): the weights of the nodes and of
all messages under way add up to the same sum in every round, and so does weight times model. Each R is row-stochastic
over all its ages together.

**What is lost.** ``on_loss = "kept"``: a sender that hears no acknowledgement keeps the share itself, P stays
column-stochastic, and nothing is lost. ``"gone"``: share and weight disappear together, so every z stays an average of
models, but of fewer: the weighted mean moves. The same happens to a message that arrives where nobody takes part, and
to the weight of a node that goes away. ``Mixed.lost_mass`` says how much, in units of the weights.

A node that adopts gets half of its source's weight (an equal part, if several adopt from one source), so an adoption
moves no weighted mean. A node's update counts with its weight of that round; weights are near 1 on regular graphs, and
larger at hubs with ``push``. To keep numbers in range, all weights are scaled by a power of two when their mean leaves
[1/2, 2]: R does not change by a bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedunlearn.faults.membership import Gathering
from fedunlearn.faults.trace import Trace
from fedunlearn.randomness import keys
from fedunlearn.topology.matching import matching_waves
from fedunlearn.topology.mixing import edge_weights, from_edge_weights, row_sums
from fedunlearn.topology.settings import Mixing

_TINY = 1e-150
"""A node that weighs less sends nothing: halving it on would end at 0."""
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Flight:
    """Messages under way, (m,) each: who sent them to whom in which round, when they are due, and their weight."""

    sender: NDArray[np.int64]
    receiver: NDArray[np.int64]
    sent: NDArray[np.int64]
    due: NDArray[np.int64]
    mass: NDArray[np.float64]

    @classmethod
    def none(cls) -> Flight:
        """Return no message."""
        empty = np.zeros(0, dtype=np.int64)
        return cls(empty, empty, empty, empty, np.zeros(0))

    def where(self, chosen: NDArray[np.bool_]) -> Flight:
        """Return the chosen messages (m,) bool."""
        return Flight(*(part[chosen] for part in vars(self).values()))

    def and_(self, other: Flight) -> Flight:
        """Return the messages of both."""
        return Flight(*(np.concatenate(pair) for pair in zip(vars(self).values(), vars(other).values())))


@dataclass(frozen=True)
class Mixed:
    """One round of gossip. ``matrices[d]`` (N, N) acts on the rows as they were sent d rounds ago: always one at least.

    Counts of messages: ``sent``, of which ``lost`` and ``late``; ``dropped`` arrived where nobody takes part.
    ``lost_mass`` is the weight that went with lost and dropped messages and with nodes that went away, and ``scale``
    what all weights were multiplied by: without restarts, ``scale`` times the weight of nodes and messages before the
    round is their weight after it plus ``lost_mass``.
    """

    matrices: tuple[sparse.csr_array, ...]
    weights: NDArray[np.float64]
    flight: Flight
    sent: int
    lost: int = 0
    late: int = 0
    dropped: int = 0
    lost_mass: float = 0.0
    scale: float = 1.0

    def stacked(self) -> sparse.csr_array:
        """Return all matrices side by side, (N, (D + 1) N): column ``d N + j`` is vertex j as it was d rounds ago.

        Entries are sorted by column, so a row is summed in one order however vertices are spread over hosts.
        """
        matrix = sparse.csr_array(sparse.hstack(self.matrices, format="csr"))
        matrix.sort_indices()
        return matrix

    def heard(self) -> NDArray[np.int64]:
        """Return the messages that arrived in this round, (k, 3): receiver, sender, and how many rounds ago it sent."""
        parts = []
        for age, matrix in enumerate(self.matrices):
            entries = matrix.tocoo()
            other = (entries.row != entries.col) & (entries.data > 0)
            ages = np.full(int(other.sum()), age)
            parts.append(np.stack([entries.row[other], entries.col[other], ages], axis=1).astype(np.int64))
        return np.concatenate(parts)


def matched(edges: NDArray[np.int64], num_nodes: int, seed: int, round_: int) -> NDArray[np.int64]:
    """Return the pairs (k, 2) of the random maximal matching of a round, as ``random_matching`` draws them."""
    waves = matching_waves(edges, keys(seed, "matching", edges[:, 0], edges[:, 1], round_), num_nodes)
    return edges[np.concatenate(waves)] if waves else edges


def balanced(
    trace: Trace, who: Gathering, alive: NDArray[np.bool_], edges: NDArray[np.int64], rule: Mixing, seed: int,
    round_: int,
) -> Mixed:  # fmt: skip
    """Return a round whose messages all arrive at once; ``edges`` (E, 2) are working links between active nodes.

    The matrix is symmetric, and doubly stochastic on the active; the rows of others that are alive stay as they are.
    """
    pairs, weight = _pairs(trace, edges, rule, seed, round_)
    matrix = from_edge_weights(pairs, weight, who.active)
    idle = np.flatnonzero(alive & ~who.active)
    if len(idle):
        matrix = sparse.csr_array(matrix + sparse.csr_array((np.ones(len(idle)), (idle, idle)), shape=matrix.shape))
        matrix.sort_indices()
    return Mixed((matrix,), who.active.astype(np.float64), Flight.none(), 2 * len(pairs))


def _pairs(
    trace: Trace, edges: NDArray[np.int64], rule: Mixing, seed: int, round_: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if trace.settings.gossip == "pairwise" or rule == "random-matching":
        pairs = matched(edges, trace.num_nodes, seed, round_)
        return pairs, np.full(len(pairs), 0.5)
    return edges, edge_weights(edges, rule, trace.num_nodes)


def weighted(
    trace: Trace, who: Gathering, alive: NDArray[np.bool_], edges: NDArray[np.int64], rule: Mixing, seed: int,
    round_: int, weights: NDArray[np.float64], flight: Flight,
) -> Mixed:  # fmt: skip
    """Return a round of push-sum; ``weights`` (N,) and ``flight`` are those that the round before left.

    Before round 0, and after a release, all weights are 1 and nothing is under way.
    """
    weights, gone = hand_over(who, weights)
    sender, receiver, share = _shares(trace, edges, rule, seed, round_, weights)
    lost = trace.lost(sender, receiver, round_)
    delay = trace.delays(sender, receiver, round_)
    late = ~lost & (delay > 0)
    given = ~lost if trace.settings.on_loss == "kept" else np.ones_like(lost)
    kept = np.ones(trace.num_nodes)
    np.subtract.at(kept, sender[given], share[given])
    mass = share * weights[sender]
    new = Flight(sender[late], receiver[late], np.full(late.sum(), round_), round_ + delay[late], mass[late])
    arriving, waiting = flight.where(flight.due <= round_), flight.where(flight.due > round_)
    heard = who.active[arriving.receiver]
    dropped, arriving = arriving.where(~heard), arriving.where(heard)
    at_once = ~lost & ~late
    ids = np.flatnonzero(who.active)
    rows = np.concatenate([ids, receiver[at_once], arriving.receiver])
    columns = np.concatenate([ids, sender[at_once], arriving.sender])
    ages = np.concatenate([np.zeros(len(ids) + int(at_once.sum()), np.int64), round_ - arriving.sent])
    parts = np.concatenate([kept[ids] * weights[ids], mass[at_once], arriving.mass])
    after = np.bincount(rows, weights=parts, minlength=trace.num_nodes).astype(np.float64)
    if trace.settings.on_loss == "gone":
        gone += float(mass[lost].sum())
    flight = waiting.and_(new)
    matrices = _by_age(alive & ~who.active, rows, columns, ages, parts / after[rows], 1 + trace.settings.max_delay)
    after, flight, scale = _in_range(after, flight, len(ids))
    return Mixed(
        matrices, after, flight, len(sender), int(lost.sum()), int(late.sum()), len(dropped.mass),
        scale * (gone + float(dropped.mass.sum())), scale,
    )  # fmt: skip


def hand_over(who: Gathering, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return the weights (N,) of the active after adoptions, and the weight that went with those who went away."""
    lasting = np.ones(len(weights), dtype=bool)
    lasting[who.adopters] = lasting[who.restarts] = False
    before = np.where(lasting, weights, 0.0)
    after = np.where(who.active, before, 0.0)
    gone = float(before.sum() - after.sum())
    parts = np.bincount(who.sources, minlength=len(weights)) + 1
    after[who.adopters] = after[who.sources] / parts[who.sources]
    given = np.unique(who.sources)
    after[given] /= parts[given]
    after[who.restarts] = 1.0
    after[who.active & (after == 0.0)] = 1.0  # nobody else was active, and one row goes on
    return after, gone


def _shares(
    trace: Trace, edges: NDArray[np.int64], rule: Mixing, seed: int, round_: int, weights: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return sender, receiver and share (m,) of every message that is sent in a round."""
    if trace.settings.gossip == "push":
        sender, receiver = np.concatenate([edges, edges[:, ::-1]]).T
        chosen = trace.pushed(sender, receiver, round_)
        sender, receiver, share = sender[chosen], receiver[chosen], np.full(int(chosen.sum()), 0.5)
    else:
        pairs, weight = _pairs(trace, edges, rule, seed, round_)
        sender, receiver = np.concatenate([pairs, pairs[:, ::-1]]).T
        share = np.concatenate([weight, weight])
    heavy = weights[sender] >= _TINY
    order = np.lexsort((receiver[heavy], sender[heavy]))
    return sender[heavy][order], receiver[heavy][order], share[heavy][order]


def _by_age(
    idle: NDArray[np.bool_], rows: NDArray[np.int64], columns: NDArray[np.int64], ages: NDArray[np.int64],
    values: NDArray[np.float64], count: int,
) -> tuple[sparse.csr_array, ...]:  # fmt: skip
    """Return one matrix for each age, checked to be row-stochastic together; rows that are ``idle`` stay in place."""
    size, stay = len(idle), np.flatnonzero(idle)
    rows, columns = np.concatenate([rows, stay]), np.concatenate([columns, stay])
    ages = np.concatenate([ages, np.zeros(len(stay), np.int64)])
    values = np.concatenate([values, np.ones(len(stay))])
    matrices, total = [], np.zeros(size)
    for age in range(count):
        chosen = ages == age
        matrix = sparse.csr_array((values[chosen], (rows[chosen], columns[chosen])), shape=(size, size))
        matrix.sort_indices()
        total += row_sums(matrix)
        matrices.append(matrix)
    filled = np.bincount(rows, minlength=size) > 0
    if not np.allclose(total, filled, rtol=0, atol=_TOLERANCE) or (values < 0).any():
        raise AssertionError("a round of push-sum is not row-stochastic")
    return tuple(matrices)


def _in_range(weights: NDArray[np.float64], flight: Flight, count: int) -> tuple[NDArray[np.float64], Flight, float]:
    """Return weights and flight scaled by a power of two, so that the mean weight lies in [1/2, 2], and that factor."""
    mean = (weights.sum() + flight.mass.sum()) / max(1, count)
    if mean == 0 or 0.5 <= mean <= 2:
        return weights, flight, 1.0
    scale = float(2.0 ** -np.round(np.log2(mean)))
    flight = Flight(flight.sender, flight.receiver, flight.sent, flight.due, flight.mass * scale)
    return weights * scale, flight, scale
