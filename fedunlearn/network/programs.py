"""Node programs: pure functions of a vertex's row or of one broadcast vector, and its retained samples.

A *sum* program returns the vertex's float64 contribution; its weight turns sums over records into the objective
``F(x) = sum_i w_i mean_{z in S_i} l(x; z)``: ``w_i = 1/N`` for equal client weights, ``n_i/n`` for sample weights
(counts of retained samples). The L2 term is added once by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedunlearn.models import (
    Model,
    fisher_blocks_sum,
    fisher_diagonal_sum,
    fisher_sum,
    gradient_sum,
    hvp_sum,
)
from fedunlearn.network.block import Block
from fedunlearn.network.declared import node_program


def _data(block: Block, population: str, node: int) -> tuple[Tensor, Tensor]:
    x, y = block.batch(block.samples(population, node))
    return x.to(torch.float64), y


def _client_scale(weighting: str, count: int, clients: int, total: int) -> float:
    """Return the weight of one record of a client with ``count`` retained records."""
    return 1.0 / (clients * count) if weighting == "equal" else 1.0 / total


def _weighed(model: Model, population: str, params: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the parameters that say how records count, or None."""
    if params["weighting"] not in ("equal", "samples"):
        return "parameter 'weighting' is neither equal nor samples"
    if params.get("kind", "true") not in ("true", "empirical"):
        return "parameter 'kind' is neither true nor empirical"
    if params["clients"] < 0 or params["total"] < 0:
        return "parameters 'clients' and 'total' are numbers of clients and samples"
    return None


@node_program("sum", vectors={"at": "d"}, check=_weighed)
def gradient(
    block: Block, population: str, node: int, *, at: str, weighting: str, clients: int, total: int
) -> NDArray[np.float64]:
    """Return a vertex's share of the gradient of the data term at the broadcast vector ``at``, (d,) float64."""
    x, y = _data(block, population, node)
    if not len(y):
        return np.zeros(block.model.dim)
    return gradient_sum(block.model, block.vector(at), x, y).cpu().numpy() * _client_scale(
        weighting, len(y), clients, total
    )


@node_program("sum", vectors={"at": "d", "direction": "d"}, check=_weighed)
def hessian_vector(
    block: Block, population: str, node: int, *, at: str, direction: str, weighting: str, clients: int, total: int
) -> NDArray[np.float64]:
    """Return a vertex's share of ``Hess(data term)(at) direction``, (d,) float64."""
    x, y = _data(block, population, node)
    if not len(y):
        return np.zeros(block.model.dim)
    product = hvp_sum(block.model, block.vector(at), block.vector(direction), x, y)
    return product.cpu().numpy() * _client_scale(weighting, len(y), clients, total)


@node_program("sum", vectors={"at": "d"}, check=_weighed)
def fisher_diagonal(
    block: Block, population: str, node: int, *, at: str, kind: str, weighting: str, clients: int, total: int
) -> NDArray[np.float64]:
    """Return a vertex's share of the diagonal of the Fisher matrix (``kind``: true or empirical), (d,) float64."""
    x, y = _data(block, population, node)
    if not len(y):
        return np.zeros(block.model.dim)
    diagonal = fisher_diagonal_sum(block.model, block.vector(at), x, y, kind=kind)  # type: ignore[arg-type]
    return diagonal.cpu().numpy() * _client_scale(weighting, len(y), clients, total)


@node_program("sum", vectors={"at": "d"}, check=_weighed, size=lambda model, params, samples: model.dim**2)
def fisher_matrix(
    block: Block, population: str, node: int, *, at: str, kind: str, weighting: str, clients: int, total: int
) -> NDArray[np.float64]:
    """Return a vertex's share of the full Fisher matrix, flat (d * d,) float64."""
    x, y = _data(block, population, node)
    if not len(y):
        return np.zeros(block.model.dim**2)
    matrix = fisher_sum(block.model, block.vector(at), x, y, kind=kind)  # type: ignore[arg-type]
    return matrix.cpu().numpy().reshape(-1) * _client_scale(weighting, len(y), clients, total)


def block_positions(model: Model) -> list[NDArray[np.int64]]:
    """Return which parameters each diagonal block of :func:`fisher_block_matrices` covers."""
    x = model.prepare(np.zeros((1, *model.input_shape), dtype=np.float32)).to(torch.float64)
    blocks = fisher_blocks_sum(model, torch.zeros(model.dim, dtype=torch.float64), x, torch.zeros(1, dtype=torch.int64))
    return [positions.numpy() for positions, _ in blocks]


def _numbers_of_blocks(model: Model, params: Mapping[str, Any], samples: Mapping[str, int]) -> int:
    return sum(len(positions) ** 2 for positions in block_positions(model))


@node_program("sum", vectors={"at": "d"}, check=_weighed, size=_numbers_of_blocks)
def fisher_block_matrices(
    block: Block, population: str, node: int, *, at: str, weighting: str, clients: int, total: int
) -> NDArray[np.float64]:
    """Return a vertex's share of the diagonal blocks of the true Fisher matrix, one after the other, flat float64."""
    x, y = _data(block, population, node)
    if not len(y):
        return np.zeros(sum(len(p) ** 2 for p in block_positions(block.model)))
    blocks = fisher_blocks_sum(block.model, block.vector(at), x, y, kind="true")
    flat = np.concatenate([b.cpu().numpy().reshape(-1) for _, b in blocks])
    return flat * _client_scale(weighting, len(y), clients, total)


@node_program("sum", vectors={"at": "d"}, check=_weighed)
def forget_gradient(
    block: Block, population: str, node: int, *, at: str, ids: list[int], leaves: list[int], weighting: str, l2: float,
    clients: int, total: int, removed: int,
) -> NDArray[np.float64]:  # fmt: skip
    """Return a vertex's share of ``grad F^{-U}(at)`` from the samples ``ids`` that are about to be deleted.

    The formulas are those of docs/methods.md, f with the L2 term inside; see
    :func:`fedunlearn.unlearning.certified.correction.gradient_from_forget_set`.
    """
    theta = block.vector(at)
    positions = block.samples(population, node)
    going = np.isin(block.sample_ids(positions), ids)
    m, n = int(going.sum()), len(positions)
    if m == 0:
        return np.zeros(block.model.dim)
    x, y = block.batch(positions)
    x = x.to(torch.float64)
    forget = gradient_sum(block.model, theta, x[going], y[going]).cpu().numpy()
    pull = l2 * theta.cpu().numpy()
    if weighting == "samples":
        return -(forget + m * pull) / (total - removed)
    everything = gradient_sum(block.model, theta, x, y).cpu().numpy()
    if node in leaves:
        return -(everything / n + pull) / (clients - len(leaves))
    # Clients that stay weigh 1/(clients - leavers) afterwards; without leavers, the plain 1/N of docs/methods.md.
    return (m * everything / n - forget) / ((clients - len(leaves)) * (n - m))


@node_program("sum", vectors={"weights": "N"}, reads_samples=False)
def weighted_row(block: Block, population: str, node: int, *, weights: str | None = None) -> NDArray[np.float64]:
    """Return a vertex's row times its weight in the vector ``weights`` (N,) (1 when none is named), (d,) float64."""
    row = block.store[f"theta.{population}"][block.place(node)].astype(np.float64)
    return row if weights is None else row * block.array(weights)[node]


@node_program("measure", reads_samples=False)
def finite(block: Block, population: str, nodes: list[int]) -> NDArray[np.bool_]:
    """Return 1 for every vertex whose parameters are all finite numbers, else 0.

    The sum of a row is not finite if any of its entries is not. A sum of finite entries can overflow too: only such
    rows are looked at entry by entry.
    """
    theta, rows = block.store[f"theta.{population}"], block.places(nodes)
    sums = np.empty(len(rows), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for i, row in enumerate(rows):
            sums[i] = theta[row].sum()
    healthy = np.isfinite(sums)
    for place in np.flatnonzero(~healthy):
        healthy[place] = np.isfinite(theta[rows[place]]).all()
    return healthy


def first_sick(block: Block, population: str, nodes: list[int]) -> int | None:
    """Return the smallest id in ``nodes`` whose row holds NaN or infinity, or None."""
    return min((node for node, healthy in zip(nodes, finite(block, population, nodes)) if not healthy), default=None)
