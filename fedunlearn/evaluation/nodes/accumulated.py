"""What mixing alone predicts of a client's influence on every node after whole rounds of training, and how it compares.

In a round of decentralized SGD node i takes its local steps, then rows are mixed:
``x_j <- sum_i W_ji (x_i - eta_k s_i^k)``. Compare two networks that differ in the gradients of client u alone. Let
every local step of u differ by the same vector g, and let nobody's loss gradient depend on the model (curvature 0).
Then after T rounds node j differs by ``-c_j g`` with

    c_j = sum_{k=0}^{T-1} w_k [W^{T-k}]_ju ,    w_k = eta_k * (local steps of u in a round) :

what was added in round k is mixed at the end of that round and of all later ones. The learning-rate schedule enters
through ``eta_k``. Momentum lets ``w_k`` grow to ``1/(1-m)`` times that, and is kept by each node, never mixed. The
curvature of the term ``(l2/2)||x||^2`` is known, so it is not left out: every local step of node i shrinks c_i by
``1 - eta_k l2``. :func:`accumulated_influence` is therefore the recipe itself, run on one number a node; nothing is
fitted. Left out are the curvature of the loss (which pulls models together), clipping, projection, and that the graph
of a retrained network lacks a client that left. First step of Wu et al. 2026 (arXiv 2601.06436), summed over rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from fedunlearn.errors import UserError
from fedunlearn.network import TrainingSettings
from fedunlearn.network.schedule import learning_rate
from fedunlearn.topology import Mixing, mixing_matrix, random_matching

Array = NDArray[np.float64]
FLAT = 1e-6
"""A profile whose relative spread is below this is the same at all nodes, up to rounding."""


def accumulated_influence(
    graph: nx.Graph, mixing: Mixing, client: int, training: TrainingSettings, counts: NDArray[np.int64],
    rounds: Sequence[int], seed: int = 0,
) -> Array:  # fmt: skip
    """Return c after each of ``rounds``, (len(rounds), N), in units of the client's gradient.

    Args:
        graph: before any departure.
        mixing: rule of the matrix; the matchings of ``random-matching`` are those of ``seed``. Federated averaging and
            ``exact-average`` give every node the same.
        client: u.
        training: the recipe.
        counts: (N,) training samples of every client, which say how many local steps it takes.
        rounds: numbers of finished rounds, ascending, at least 0.
        seed: of the run.

    Raises:
        UserError: for a client that does not exist.
    """
    size = len(graph)
    if not 0 <= client < size:
        raise UserError(f"client {client} does not exist; the network has the clients 0 to {size - 1}")
    exact = mixing == "exact-average" or training.algorithm == "fedavg"
    fixed = None if exact or mixing == "random-matching" else mixing_matrix(graph, mixing)
    steps = _steps_a_round(training, counts)
    held, velocity, found = np.zeros(size), np.zeros(size), []
    for round_ in range(max(rounds, default=0) + 1):
        found += [held.copy()] * list(rounds).count(round_)
        rate = learning_rate(training, round_)
        if training.momentum:
            _steps_with_momentum(held, velocity, client, steps, rate, training)
        else:
            shrink = (1.0 - rate * training.l2) ** steps
            own = rate * sum((1.0 - rate * training.l2) ** s for s in range(int(steps[client])))
            held = shrink * held
            held[client] += own
        if exact:
            held = np.full(size, held.mean())
        else:
            held = (random_matching(graph, seed, round_) if fixed is None else fixed) @ held
    return np.stack(found) if found else np.zeros((0, size))


def _steps_a_round(training: TrainingSettings, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    if training.local_steps is not None:
        return np.where(counts > 0, training.local_steps, 0)
    return np.asarray(training.local_epochs * -(-counts // training.batch), dtype=np.int64)


def _steps_with_momentum(
    held: Array, velocity: Array, client: int, steps: NDArray[np.int64], rate: float, training: TrainingSettings
) -> None:
    """Take the local steps of one round in place, with a loss gradient of 1 at the client and 0 elsewhere."""
    for step in range(int(steps.max(initial=0))):
        active = steps > step
        force = -training.l2 * held
        force[client] += 1.0
        velocity[active] = training.momentum * velocity[active] + force[active]
        held[active] += rate * velocity[active]


def flat(profile: Array) -> bool:
    """Return whether a profile, NaN left out, is the same at all nodes, up to rounding."""
    there = profile[~np.isnan(profile)]
    return not len(there) or float(np.ptp(there)) <= FLAT * float(np.abs(there).max())


def scaled_to(predicted: Array, measured: Array) -> Array:
    """Return a predicted profile in units of the measured one: both have the same mean over the nodes measured."""
    there = ~np.isnan(measured)
    mean = float(predicted[there].mean()) if there.any() else 0.0
    return predicted * (float(measured[there].mean()) / mean) if mean > 0 else predicted


def rank_correlation(predicted: Array, measured: Array) -> float:
    """Return Spearman's rank correlation over the nodes measured: 1 if the order is as predicted.

    Raises UserError where one of the two is the same at all nodes, or fewer than three nodes are measured.
    """
    return float(spearmanr(*_comparable(predicted, measured)).statistic)


def log_slope(predicted: Array, measured: Array) -> float:
    """Return the least-squares slope of log(measured) on log(predicted) over the nodes where both are positive.

    1 says that the measured influence falls as predicted, less than 1 that it falls more slowly. Raises UserError as
    :func:`rank_correlation` does.
    """
    keep = (predicted > 0) & ~np.isnan(measured)
    keep[keep] = measured[keep] > 0
    x, y = _comparable(np.where(keep, predicted, np.nan), np.where(keep, measured, np.nan))
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _comparable(predicted: Array, measured: Array) -> tuple[Array, Array]:
    there = ~np.isnan(measured) & ~np.isnan(predicted)
    x, y = predicted[there], measured[there]
    if len(x) < 3:
        raise UserError(f"a predicted profile is compared over at least three nodes, and there are {len(x)}")
    for what, profile in (("predicted", x), ("measured", y)):
        if flat(profile):
            raise UserError(f"the {what} influence is the same at all nodes compared, so there is no order to compare")
    return x, y
