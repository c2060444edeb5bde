"""Node programs: pure functions of a vertex's row or of one broadcast vector, and its retained samples.

A *sum* program returns the vertex's float64 contribution; its weight turns sums over records into the objective
``F(x) = sum_i w_i mean_{z in S_i} l(x; z)``: ``w_i = 1/N`` for equal client weights, ``n_i/n`` for sample weights
(counts of retained samples). The L2 term is added once by the caller.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedunlearn.models import fisher_diagonal_sum, gradient_sum, hvp_sum, loss_sum
from fedunlearn.network.block import Block


def _data(block: Block, population: str, node: int) -> tuple[Tensor, Tensor]:
    x, y = block.batch(block.samples(population, node))
    return x.to(torch.float64), y


def _client_scale(weighting: str, count: int, clients: int, total: int) -> float:
    """Return the weight of one record of a client with ``count`` retained records."""
    return 1.0 / (clients * count) if weighting == "equal" else 1.0 / total


def gradient(
    block: Block, population: str, node: int, *, at: str, weighting: str, clients: int, total: int
) -> NDArray[np.float64]:
    """Return a vertex's share of the gradient of the data term at the broadcast vector ``at``, (d,) float64."""
    x, y = _data(block, population, node)
    if not len(y):
        return np.zeros(block.model.dim)
    return gradient_sum(block.model, block.vector(at), x, y).numpy() * _client_scale(weighting, len(y), clients, total)


def hessian_vector(
    block: Block, population: str, node: int, *, at: str, direction: str, weighting: str, clients: int, total: int
) -> NDArray[np.float64]:
    """Return a vertex's share of ``Hess(data term)(at) direction``, (d,) float64."""
    x, y = _data(block, population, node)
    if not len(y):
        return np.zeros(block.model.dim)
    product = hvp_sum(block.model, block.vector(at), block.vector(direction), x, y)
    return product.numpy() * _client_scale(weighting, len(y), clients, total)


def fisher_diagonal(
    block: Block, population: str, node: int, *, at: str, kind: str, weighting: str, clients: int, total: int
) -> NDArray[np.float64]:
    """Return a vertex's share of the diagonal of the Fisher matrix (``kind``: true or empirical), (d,) float64."""
    x, y = _data(block, population, node)
    if not len(y):
        return np.zeros(block.model.dim)
    diagonal = fisher_diagonal_sum(block.model, block.vector(at), x, y, kind=kind)
    return diagonal.numpy() * _client_scale(weighting, len(y), clients, total)


def weighted_row(block: Block, population: str, node: int, *, weights: dict[str, float] | None = None) -> NDArray[np.float64]:
    """Return a vertex's row times its weight (1 when none are given), (d,) float64."""
    row = block.store[f"theta.{population}"][node - block.low].astype(np.float64)
    return row if weights is None else row * weights[str(node)]


def squared_deviation(block: Block, population: str, node: int, *, centre: str) -> list[float]:
    """Return ``||x_i - centre||^2`` of a vertex."""
    row = block.store[f"theta.{population}"][node - block.low].astype(np.float64)
    return [float(np.square(row - block.store[centre]).sum())]


def finite(block: Block, population: str, node: int) -> list[float]:
    """Return 1 if every parameter of the vertex is a finite number, else 0."""
    return [float(np.isfinite(block.store[f"theta.{population}"][node - block.low]).all())]


def counts(block: Block, population: str, node: int) -> list[float]:
    """Return the number of retained samples of a vertex."""
    return [float(len(block.samples(population, node)))]


def retained_loss(block: Block, population: str, node: int) -> list[float]:
    """Return the mean loss of a vertex's own model on its own retained samples."""
    x, y = block.batch(block.samples(population, node))
    return [float(loss_sum(block.model, block.row(population, node), x, y)) / max(1, len(y))]
