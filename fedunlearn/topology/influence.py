"""Predicted influence of a client on every node: the first step of Wu et al. 2026 (arXiv 2601.06436).

In decentralized SGD, a change of client u's gradient in one round changes node j's model k rounds later by the step
size times [W^k]_{ju}, to first order and with later gradients held fixed. It tends to 1/N at rate rho, which is why one
vector, sent to all nodes unchanged, can correct every model once the rounds after the change have mixed it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, count, islice, repeat

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedunlearn.errors import UserError
from fedunlearn.topology.graphs import all_alive
from fedunlearn.topology.matching import random_matching
from fedunlearn.topology.mixing import changes_every_round, mixing_matrix, needs_matrix
from fedunlearn.topology.settings import Mixing


def influence(matrix: sparse.csr_array | Iterable[sparse.csr_array], client: int, rounds: int) -> NDArray[np.float64]:
    """Return [W^k]_{j,client} as a (rounds + 1, N) array whose row k belongs to k rounds after the contribution.

    Row 0 is the unit vector of the client. Matrices W_1, W_2, ... (at least one) instead of W give
    [W_k ... W_1]_{j,client}. Raises UserError for a client that does not exist and ValueError for too few matrices.
    """
    steps = repeat(matrix) if isinstance(matrix, sparse.sparray) else iter(matrix)
    first = next(steps, None)
    if first is None:
        raise ValueError("no mixing matrix is given")
    rows = [_unit(first.shape[0], client)]
    for step in islice(chain([first], steps), rounds):
        rows.append(step @ rows[-1])
    if len(rows) != rounds + 1:
        raise ValueError(f"{rounds} rounds need as many matrices, not {len(rows) - 1}")
    return np.stack(rows)


def predicted_influence(
    graph: nx.Graph, rule: Mixing, client: int, rounds: int, alive: NDArray[np.bool_] | None = None,
    *, seed: int = 0, first_round: int = 0,
) -> NDArray[np.float64]:  # fmt: skip
    """Return :func:`influence` under a mixing rule, as a (rounds + 1, N) array.

    For ``random-matching`` the matchings are those of rounds ``first_round``, ``first_round + 1``, ... under ``seed``.
    No matrix is built for ``exact-average``, where every alive node has 1/n after one round. Raises UserError for a
    client that does not exist or has left.
    """
    alive = all_alive(len(graph), alive)
    start = _unit(len(graph), client)
    if not alive[client]:
        raise UserError(f"client {client} has already left the network, so it has no influence to predict")
    if not needs_matrix(rule):
        return np.concatenate([start[None], np.tile(alive / alive.sum(), (rounds, 1))])
    if changes_every_round(rule):
        return influence((random_matching(graph, seed, t, alive) for t in count(first_round)), client, rounds)
    return influence(mixing_matrix(graph, rule, alive), client, rounds)


def _unit(size: int, client: int) -> NDArray[np.float64]:
    if not 0 <= client < size:
        raise UserError(f"client {client} does not exist; the network has the clients 0 to {size - 1}")
    unit = np.zeros(size)
    unit[client] = 1.0
    return unit
