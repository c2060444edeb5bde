"""Preconditioners for conjugate gradients: public curvature, Fisher matrices, or none.

A preconditioner changes what meeting the tolerance costs, never what it certifies (provable.md, remark viii of T1). One
built from public records at a public point carries nothing about the deleted ones (section 2(g2)), costs no message,
and needs no erasing; one built from retained records is made anew for every request and dropped with it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from fedunlearn.errors import UserError
from fedunlearn.models import Model, hessian_sum
from fedunlearn.unlearning.base import PublicKnowledge
from fedunlearn.unlearning.objective import NetworkObjective
from fedunlearn.unlearning.optimise import Preconditioner, Vector

Curvature = Literal[
    "auto",
    "public",
    "fisher-diagonal",
    "empirical-fisher-diagonal",
    "fisher",
    "empirical-fisher",
    "fisher-blocks",
    "none",
]
FULL_LIMIT = 6000
"""Largest number of parameters for which a full matrix is formed (d = 6000: 0.3 GB)."""


def public_curvature(model: Model, public: PublicKnowledge, l2: float, at: Vector | None = None) -> Preconditioner:
    """Return ``v -> M^-1 v`` with ``M = Hess F_pub(at) + lambda I``; ``at`` is the public head unless given.

    ``F_pub`` is the mean loss over the public clients' records; ``at`` must be public, or a released model.
    """
    if model.dim > FULL_LIMIT:
        raise UserError(
            f"unlearning.curvature = 'public' forms a {model.dim} x {model.dim} matrix; it is offered up to "
            f"{FULL_LIMIT} parameters: use model.features = 'frozen' with a smaller model.extractor_width, or "
            "curvature = 'fisher-diagonal'"
        )
    point = public.head if at is None else at
    assert point is not None, "a public point is needed"
    x = model.prepare(public.inputs).to(torch.float64)
    y = torch.from_numpy(public.labels)
    matrix = hessian_sum(model, torch.from_numpy(point), x, y).numpy() / len(y)
    matrix[np.diag_indices_from(matrix)] += l2
    factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    return lambda v: cho_solve(factor, v, check_finite=False)


def choose(
    kind: Curvature,
    objective: NetworkObjective,
    at: Vector,
    public: PublicKnowledge | None,
    cached: Preconditioner | None,
) -> Preconditioner:
    """Return the preconditioner a user asked for; ``auto`` is public curvature where there is some, else the diagonal.

    Parameters
    ----------
    at : (d,) the point at which Fisher matrices of the retained data are taken.
    cached : the public curvature of this run, if it was built before.
    """
    model = objective.network.session.model
    have_public = public is not None and public.head is not None and model.convex and model.dim <= FULL_LIMIT
    if kind == "auto":
        kind = "public" if have_public else "fisher-diagonal"
    if kind == "none":
        return lambda v: v
    if kind == "public":
        if public is None or public.head is None:
            raise UserError("unlearning.curvature = 'public' needs public clients: set data.public_clients")
        return cached or public_curvature(model, public, objective.l2)
    if kind in ("fisher-diagonal", "empirical-fisher-diagonal"):
        diagonal = objective.fisher_diagonal(at, "true" if kind == "fisher-diagonal" else "empirical")
        return lambda v: v / diagonal
    if kind == "fisher-blocks":
        return _blocks(objective, at)
    if model.dim > FULL_LIMIT:
        raise UserError(
            f"unlearning.curvature = '{kind}' forms a full matrix; it is offered up to {FULL_LIMIT} parameters, this "
            f"model has {model.dim}: use '{kind}-diagonal' or 'fisher-blocks'"
        )
    matrix = objective.fisher(at, "true" if kind == "fisher" else "empirical")
    factor = cho_factor(matrix, lower=True, check_finite=False)
    return lambda v: cho_solve(factor, v, check_finite=False)


def _blocks(objective: NetworkObjective, at: Vector) -> Preconditioner:
    """Return the block-diagonal Fisher preconditioner: one block a parameter tensor (or a class of a softmax head)."""
    factors = [(part, cho_factor(block, lower=True, check_finite=False)) for part, block in objective.fisher_blocks(at)]

    def apply(v: Vector) -> Vector:
        out = np.empty_like(v)
        for part, factor in factors:
            out[part] = cho_solve(factor, v[part], check_finite=False)
        return out

    return apply
