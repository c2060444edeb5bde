"""The data term of the objective and its derivatives, as sums over records: no weights, no L2 term.

Every function takes ``theta`` (dim,), prepared inputs ``x`` (n, ...) and labels ``y`` (n,) on one device, works in the
dtype of ``theta``, and returns what :func:`loss_sum`, the summed cross-entropy, gives when differentiated. Softmax
regression takes the closed forms of :mod:`fedunlearn.models.softmax`; other models take automatic differentiation.

The *true* Fisher matrix averages ``grad log p(k) grad log p(k)^T`` over the model's own classes k, the *empirical* one
takes the record's label. For softmax regression the true one is the Hessian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jacrev, vjp, vmap

from fedunlearn.errors import UserError
from fedunlearn.models import softmax
from fedunlearn.models.model import Model

FisherKind = Literal["true", "empirical"]

MAX_DENSE = 8192
"""Largest side of a dense curvature matrix (512 MiB in float64)."""
_RECORDS = 1024
"""Records differentiated at once, so that memory does not grow with the number of records."""
_FACTOR_NUMBERS = 2**25
"""Numbers of per-record factors held at once."""


def loss_sum(model: Model, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the summed cross-entropy of the records, a scalar; differentiable, and usable under ``vmap``."""
    return F.cross_entropy(model.logits(theta, x), y, reduction="sum")


def gradient_sum(model: Model, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient (dim,) of :func:`loss_sum`."""
    if model.convex:
        return softmax.gradient(theta, x, y, model.num_classes)
    total = torch.zeros_like(theta)
    for part in _chunks(len(y), _RECORDS):
        total = total + grad(_loss_at(model, x[part], y[part]))(theta)
    return total


def hvp_sum(model: Model, theta: Tensor, v: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the Hessian of :func:`loss_sum` times ``v`` (dim,)."""
    if model.convex:
        return softmax.hvp(theta, v, x, model.num_classes)
    v = v.to(theta.dtype)
    total = torch.zeros_like(theta)
    for part in _chunks(len(y), _RECORDS):
        # The Hessian is symmetric, so reverse mode twice serves; it asks less of a module than forward mode does.
        pull = vjp(grad(_loss_at(model, x[part], y[part])), theta)[1]
        total = total + pull(v)[0]
    return total


def per_sample_gradients(model: Model, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of every record's loss, (n, dim)."""
    if model.convex:
        return softmax.per_sample_gradients(theta, x, y, model.num_classes)
    return vmap(grad(lambda t, a, b: loss_sum(model, t, a[None], b[None])), in_dims=(None, 0, 0))(theta, x, y)


def fisher_diagonal_sum(model: Model, theta: Tensor, x: Tensor, y: Tensor, *, kind: FisherKind = "true") -> Tensor:
    """Return the diagonal (dim,) of the Fisher matrix, summed over records."""
    _check_kind(kind)
    if model.convex:
        return softmax.fisher_diagonal(theta, x, y, model.num_classes, kind)
    total = torch.zeros_like(theta)
    for factor in _fisher_factors(model, theta, x, y, kind):
        total = total + factor.square().sum(0)
    return total


def fisher_sum(model: Model, theta: Tensor, x: Tensor, y: Tensor, *, kind: FisherKind = "true") -> Tensor:
    """Return the dense Fisher matrix (dim, dim), summed over records; UserError above ``MAX_DENSE`` parameters."""
    _check_kind(kind)
    _refuse_large(model.dim, "a dense Fisher matrix", "a block or diagonal one")
    if model.convex and kind == "true":
        return softmax.hessian(theta, x, model.num_classes)
    total = theta.new_zeros((model.dim, model.dim))
    for factor in _fisher_factors(model, theta, x, y, kind):
        total.addmm_(factor.T, factor)
    return total


def fisher_blocks_sum(
    model: Model, theta: Tensor, x: Tensor, y: Tensor, *, kind: FisherKind = "true"
) -> list[tuple[Tensor, Tensor]]:
    """Return diagonal blocks of the Fisher matrix, summed over records: ``(positions in theta (b,), block (b, b))``.

    One block for each parameter tensor, for softmax regression one for each class. UserError when the largest block has
    more than ``MAX_DENSE`` rows.
    """
    _check_kind(kind)
    if model.convex:
        _refuse_large(model.dim // model.num_classes, "a Fisher block of one class", "a diagonal one")
        return softmax.class_blocks(theta, x, y, model.num_classes, kind)
    positions = model.parameters_of(torch.arange(model.dim, device=theta.device))
    places = [p.reshape(-1) for p in positions.values()]
    _refuse_large(max(len(p) for p in places), "the Fisher block of the largest parameter tensor", "a diagonal one")
    blocks = [theta.new_zeros((len(p), len(p))) for p in places]
    for factor in _fisher_factors(model, theta, x, y, kind):
        for place, block in zip(places, blocks):
            part = factor[:, place[0] : place[-1] + 1]
            block.addmm_(part.T, part)
    return list(zip(places, blocks))


def hessian_sum(model: Model, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the dense Hessian (dim, dim) of :func:`loss_sum`; UserError above ``MAX_DENSE`` parameters."""
    _refuse_large(model.dim, "a dense Hessian", "Hessian-vector products")
    if model.convex:
        return softmax.hessian(theta, x, model.num_classes)
    directions = torch.eye(model.dim, dtype=theta.dtype, device=theta.device)
    rows = [vmap(lambda v: hvp_sum(model, theta, v, x, y))(part) for part in directions.split(64)]
    dense = torch.cat(rows)
    return (dense + dense.T) / 2.0


def _loss_at(model: Model, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda theta: loss_sum(model, theta, x, y)


def _fisher_factors(model: Model, theta: Tensor, x: Tensor, y: Tensor, kind: FisherKind) -> Iterator[Tensor]:
    """Yield matrices A (m, dim) with ``sum A^T A`` = the summed Fisher matrix, for chunks of records."""
    if kind == "empirical":
        for part in _chunks(len(y), max(1, _FACTOR_NUMBERS // model.dim)):
            yield per_sample_gradients(model, theta, x[part], y[part])
        return

    def log_probabilities(t: Tensor, record: Tensor) -> tuple[Tensor, Tensor]:
        values = F.log_softmax(model.logits(t, record[None])[0], dim=0)
        return values, values

    def factor(record: Tensor) -> Tensor:
        scores, values = jacrev(log_probabilities, has_aux=True)(theta, record)
        return scores * (values / 2.0).exp()[:, None]  # row k is sqrt(p_k) grad log p_k

    for part in _chunks(len(y), max(1, _FACTOR_NUMBERS // (model.dim * model.num_classes))):
        yield vmap(factor)(x[part]).flatten(0, 1)


def _chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _check_kind(kind: str) -> None:
    if kind not in ("true", "empirical"):
        raise ValueError(f"kind must be 'true' or 'empirical', not {kind!r}")


def _refuse_large(side: int, what: str, instead: str) -> None:
    if side > MAX_DENSE:
        raise UserError(f"{what} would have {side} rows, but at most {MAX_DENSE} are kept in memory; use {instead}")
