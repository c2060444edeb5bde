"""The Hessian of softmax regression for preconditioning: dense, float32, and without what hardly weighs.

``diag(p) - p p^T`` is the Laplacian of a graph on the classes: ``sum_{k<l} p_k p_l (e_k - e_l)(e_k - e_l)^T``. A record
of which the model is nearly sure has few pairs of classes that weigh anything, so the Hessian
``sum_n (diag(p_n) - p_n p_n^T) kron a_n a_n^T`` is assembled pair by pair, over the records where the pair weighs more
than a floor. Its diagonal blocks are kept whole; leaving out the off-diagonal part of a pair adds a positive
semidefinite term, so the result is positive semidefinite whatever the floor.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1024
"""Records whose products of inputs are held at once."""


def thin_hessian(theta: Tensor, x: Tensor, num_classes: int, floor: float = 3e-5) -> Tensor:
    """Return the Hessian (dim, dim) float32 of the mean loss of inputs ``x`` (n, inputs) at ``theta`` (dim,), thinned.

    For heads without bias: ``dim = num_classes * inputs``. Pairs of classes with ``p_k p_l <= floor`` are left out of
    the off-diagonal blocks, which changes an entry by at most ``floor`` times the mean of ``|a_i a_j|``.
    """
    a = x.to(torch.float32)
    p = torch.softmax(a @ theta.to(torch.float32).reshape(num_classes, -1).T, dim=1)
    inputs = a.shape[1]
    dense = torch.zeros((num_classes, inputs, num_classes, inputs))
    own = _weighted_squares(p * (1.0 - p), a)
    for k in range(num_classes):
        dense[k, :, k] = own[k]
        mine = torch.nonzero(p[:, k] > floor)[:, 0]
        records, pairs = a[mine], p[mine] * p[mine, k, None]
        for other in range(k + 1, num_classes):
            heavy = torch.nonzero(pairs[:, other] > floor)[:, 0]
            if len(heavy):
                part = records[heavy]
                block = part.T @ (part * pairs[heavy, other, None])
                dense[k, :, other] = -block
                dense[other, :, k] = -block  # symmetric in the inputs too
    return dense.reshape(num_classes * inputs, -1).div_(len(a))


def _weighted_squares(p: Tensor, a: Tensor) -> Tensor:
    """Return ``sum_n p_nk a_n a_n^T`` of weights p (n, classes) for every class k, (classes, inputs, inputs)."""
    first, second = torch.triu_indices(a.shape[1], a.shape[1])
    total = torch.zeros((p.shape[1], len(first)))
    for start in range(0, len(a), _CHUNK):
        part = a[start : start + _CHUNK]
        total.addmm_(p[start : start + _CHUNK].T, part[:, first] * part[:, second])
    square = torch.zeros((p.shape[1], a.shape[1], a.shape[1]))
    square[:, first, second] = square[:, second, first] = total
    return square
