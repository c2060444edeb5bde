"""Closed forms of softmax regression: no automatic differentiation, a handful of matrix products.

The loss of a record is ``l(W; a, y) = log sum_k exp(<w_k, a>) - <w_y, a>``. With ``p = softmax(W a)`` and ``e_y`` the
one-hot label,

    gradient  (p - e_y) a^T,
    Hessian   (diag(p) - p p^T) kron (a a^T),

and the Hessian equals the true Fisher matrix. All functions return *sums over records* of the data term, work in the
dtype of ``theta``, and take ``theta`` (dim,) as a :class:`~fedunlearn.models.Model` lays it out: the (classes, inputs)
weights row by row, then the biases if ``dim = classes * (inputs + 1)``. A bias is the weight of a constant input 1.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROUNDOFF = 2.0**-53
"""Unit roundoff of float64."""
_CHUNK = 1024
"""Records whose pair products are held at once while a dense matrix is assembled."""


def _split(theta: Tensor, x: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return weights (classes, q) and inputs (n, q), with the bias and a 1 as last column where there is a bias."""
    x = x.to(theta.dtype)
    inputs = x.shape[-1]
    if theta.shape[-1] == num_classes * inputs:
        return theta.reshape(num_classes, inputs), x
    weights = theta[: num_classes * inputs].reshape(num_classes, inputs)
    ones = torch.ones_like(x[..., :1])
    return torch.cat([weights, theta[num_classes * inputs :, None]], dim=1), torch.cat([x, ones], dim=-1)


def _flat(matrix: Tensor, inputs: int) -> Tensor:
    """Return a (..., classes, q) array as (..., dim), the inverse of the layout of :func:`_split`."""
    if matrix.shape[-1] == inputs:
        return matrix.flatten(-2)
    return torch.cat([matrix[..., :inputs].flatten(-2), matrix[..., inputs]], dim=-1)


def _probabilities(weights: Tensor, x: Tensor) -> Tensor:
    """Return softmax(x weights^T), (n, classes), in the order of operations that :func:`rounding_bound` assumes."""
    z = x @ weights.T
    e = (z - z.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def _residuals(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return ``p - e_y``, (n, classes)."""
    p = _probabilities(weights, x)
    return p - (y[..., None] == torch.arange(p.shape[-1], device=y.device)).to(p.dtype)


def gradient(theta: Tensor, x: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return the gradient (dim,) of the summed loss of inputs ``x`` (n, inputs) with labels ``y`` (n,)."""
    weights, a = _split(theta, x, num_classes)
    return _flat(_residuals(weights, a, y).T @ a, x.shape[-1])


def hvp(theta: Tensor, v: Tensor, x: Tensor, num_classes: int) -> Tensor:
    """Return the Hessian of the summed loss times ``v`` (dim,); labels do not enter."""
    weights, a = _split(theta, x, num_classes)
    direction, _ = _split(v.to(theta.dtype), x, num_classes)
    p = _probabilities(weights, a)
    pu = p * (a @ direction.T)
    return _flat((pu - p * pu.sum(-1, keepdim=True)).T @ a, x.shape[-1])


def per_sample_gradients(theta: Tensor, x: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return the gradient of every record's loss, (n, dim)."""
    weights, a = _split(theta, x, num_classes)
    return _flat(_residuals(weights, a, y)[..., :, None] * a[..., None, :], x.shape[-1])


def gradients_at(thetas: Tensor, x: Tensor, y: Tensor, num_classes: int, clip: float | None = None) -> Tensor:
    """Return the gradients (k, dim) of the summed loss at several parameter vectors ``thetas`` (k, dim).

    With ``clip`` every record's gradient is scaled down to a norm of at most that before the sum; it is an outer
    product, so its norm is that of the residual times that of the inputs. Two products of whole matrices serve all k.
    """
    inputs, count = x.shape[-1], len(thetas)
    a = x.to(thetas.dtype)
    weights = thetas[:, : num_classes * inputs].reshape(count, num_classes, inputs)
    if thetas.shape[-1] != num_classes * inputs:
        weights = torch.cat([weights, thetas[:, num_classes * inputs :, None]], dim=2)
        a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1)
    z = (a @ weights.flatten(0, 1).T).reshape(len(a), count, num_classes)
    residuals = torch.softmax(z, dim=-1) - (y[:, None, None] == torch.arange(num_classes, device=y.device)).to(z.dtype)
    if clip is not None:
        norms = residuals.norm(dim=-1) * a.norm(dim=-1)[:, None]
        residuals = residuals * torch.clamp(clip / norms.clamp_min(1e-30), max=1.0)[..., None]
    return _flat((residuals.flatten(1).T @ a).reshape(count, num_classes, -1), inputs)


def _class_weights(weights: Tensor, a: Tensor, y: Tensor, kind: str) -> Tensor:
    """Return what a record adds to the Fisher block of each class, times ``a a^T``: (n, num_classes)."""
    if kind == "true":
        p = _probabilities(weights, a)
        return p * (1.0 - p)
    return _residuals(weights, a, y).square()


def fisher_diagonal(theta: Tensor, x: Tensor, y: Tensor, num_classes: int, kind: str) -> Tensor:
    """Return the diagonal (dim,) of the summed Fisher matrix; ``kind``: ``true`` (= Hessian) or ``empirical``."""
    weights, a = _split(theta, x, num_classes)
    scale = _class_weights(weights, a, y, kind)
    return _flat(scale.T @ a.square(), x.shape[-1])


def class_blocks(theta: Tensor, x: Tensor, y: Tensor, num_classes: int, kind: str) -> list[tuple[Tensor, Tensor]]:
    """Return the diagonal blocks of the summed Fisher matrix, one for each class's weights (and bias).

    A list of ``(positions in theta (q,), block (q, q))``; ``kind`` as in :func:`fisher_diagonal`.
    """
    weights, a = _split(theta, x, num_classes)
    scale = _class_weights(weights, a, y, kind)
    places = torch.arange(theta.shape[-1], device=theta.device)
    positions, _ = _split(places.to(torch.float64), x[:1], num_classes)
    return [(positions[k].long(), (a * scale[:, k, None]).T @ a) for k in range(num_classes)]


def hessian(theta: Tensor, x: Tensor, num_classes: int, weights: Tensor | None = None) -> Tensor:
    """Return the dense Hessian (dim, dim) of the summed loss, or of the sum weighted by ``weights`` (n,).

    Entry ((k, i), (l, j)) is ``sum_n (p_k [k = l] - p_k p_l) a_i a_j``. Both factors are symmetric, so one matrix
    product over the pairs k <= l and i <= j gives every entry: a quarter of the work of the plain block assembly.
    """
    matrix, a = _split(theta, x, num_classes)
    q = a.shape[1]
    rows, columns = torch.triu_indices(num_classes, num_classes, device=theta.device)
    first, second = torch.triu_indices(q, q, device=theta.device)
    pairs = torch.zeros((len(rows), len(first)), dtype=theta.dtype, device=theta.device)
    for start in range(0, len(a), _CHUNK):
        part = a[start : start + _CHUNK]
        p = _probabilities(matrix, part)
        curvature = p[:, rows] * ((rows == columns).to(p.dtype) - p[:, columns])
        if weights is not None:
            curvature = curvature * weights[start : start + _CHUNK, None].to(p.dtype)
        pairs.addmm_(curvature.T, part[:, first] * part[:, second])
    class_pair = torch.empty((num_classes, num_classes), dtype=torch.long, device=theta.device)
    class_pair[rows, columns] = class_pair[columns, rows] = torch.arange(len(rows), device=theta.device)
    input_pair = torch.empty((q, q), dtype=torch.long, device=theta.device)
    input_pair[first, second] = input_pair[second, first] = torch.arange(len(first), device=theta.device)
    blocks = pairs[:, input_pair.reshape(-1)].reshape(-1, q, q)[class_pair.reshape(-1)]
    dense = blocks.reshape(num_classes, num_classes, q, q).transpose(1, 2).reshape(num_classes * q, num_classes * q)
    if q == x.shape[-1]:
        return dense
    order = _flat(torch.arange(len(dense), device=theta.device).reshape(num_classes, q), x.shape[-1])
    return dense[order][:, order]


def _gamma(k: int) -> float:
    """Return ``k u / (1 - k u)``, the relative error of k rounded operations (Higham 2002, lemma 3.1)."""
    return k * ROUNDOFF / (1.0 - k * ROUNDOFF)


def rounding_bound(
    theta: Tensor | NDArray[np.float64],
    lam: float,
    num_records: int,
    num_inputs: int,
    num_classes: int,
    row_norm: float = 1.0,
) -> float:
    """Return a bound ``e64 >= ||fl(grad F) - grad F||`` on the rounding error of a float64 gradient, in its unit.

    ``F(W) = sum_z a_z l(W; z) + (lam/2)||W||^2`` with record weights that sum to one, over ``num_records`` records of
    ``num_inputs`` inputs, each of norm at most ``row_norm`` (with the constant 1 of a bias, where there is one); any
    order of summation. Source: the tolerance certificate's theorem T3, stated there for R = 1; with R = ``row_norm``,
    q inputs,

        e64 = R (g_{q+4} R max_k ||w_k|| + g_{K+12} + 1.5 g_{n+8}) + 2u (lam ||W|| + 2R).

    ValueError unless ``theta`` (dim,) is float64: nothing useful can be proved about a gradient taken in float32.
    """
    theta = torch.as_tensor(theta)
    _require_float64(theta)
    weights, _ = _split(theta, torch.zeros((1, num_inputs), device=theta.device), num_classes)
    largest, norm = float(weights.norm(dim=1).max()), float(weights.norm())
    logit = _gamma(weights.shape[1] + 4) * row_norm * largest
    data = row_norm * (logit + _gamma(num_classes + 12) + 1.5 * _gamma(num_records + 8))
    return (data + 2.0 * ROUNDOFF * (lam * norm + 2.0 * row_norm)) * (1.0 + 2.0**-30)  # the bound is itself rounded


def gradient_norm_bound(gradient: Tensor | NDArray[np.float64], e64: float) -> float:
    """Return ``(1 + g_{d+2}) ||fl(grad F)|| + e64 >= ||grad F||``: what is compared with the tolerance tau (T3).

    ValueError unless ``gradient`` (dim,), L2 term included, is float64.
    """
    gradient = torch.as_tensor(gradient)
    _require_float64(gradient)
    return (1.0 + _gamma(gradient.numel() + 2)) * float(gradient.norm()) + e64


def _require_float64(values: Tensor) -> None:
    if values.dtype != torch.float64:
        raise ValueError(f"a certified gradient norm needs float64, not {values.dtype}")
