"""Preconditioners for conjugate gradients: public curvature, Fisher matrices, or none.

A preconditioner changes what meeting the tolerance costs, never what it certifies (docs/certificates.md, T1). One
built from public records at a public point carries nothing about the deleted ones (section 2(g2)), costs no message,
and needs no erasing; one built from retained records is made anew for every request and dropped with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.blas import strsv

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


@dataclass(frozen=True, eq=False)
class PublicCurvature:
    """The factorised public curvature ``M = Hess F_pub(at) + (lambda + s) I``.

    The shift ``s = tr(Hess F_pub)/n_pub`` is the scale of M's sampling error: directions that the few public records
    happen not to see are trusted no more than that. ``factor`` (d, d) is M's lower Cholesky factor, float32 and column
    by column; ``diagonal`` (d,) is M's.
    """

    factor: NDArray[np.float32]
    diagonal: NDArray[np.float64]
    shift: float

    def solve(self, v: Vector) -> Vector:
        """Return ``M^-1 v`` by two triangular solves, in float32: a preconditioner need not be exact.

        BLAS routines for one right-hand side on half the memory take a tenth of the time of LAPACK's solver for many.
        """
        half = strsv(self.factor, v.astype(np.float32), lower=1)
        solution: Vector = strsv(self.factor, half, lower=1, trans=1).astype(np.float64)
        return solution

    def matched(self, diagonal: Vector) -> Preconditioner:
        """Return ``v -> S^-1 M^-1 S^-1 v`` with the diagonal S that gives M this diagonal (within a factor of nine).

        ``diagonal`` is that of the retained data's Fisher matrix plus lambda: one all-reduce tells how much more, or
        less, the clients' records weigh on each parameter than the public ones.
        """
        scale = np.clip(np.sqrt((diagonal + self.shift) / self.diagonal), 1 / 3, 3.0)
        return lambda v: self.solve(v / scale) / scale


def public_curvature(model: Model, public: PublicKnowledge, l2: float, at: Vector | None = None) -> PublicCurvature:
    """Return the curvature of the public mean loss at ``at``, a public or released point (default: the public head)."""
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
    shift = float(np.trace(matrix)) / len(y)
    matrix[np.diag_indices_from(matrix)] += l2 + shift
    diagonal = np.diagonal(matrix).copy()
    factor, _ = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    return PublicCurvature(np.asfortranarray(factor, dtype=np.float32), diagonal, shift)


def choose(
    kind: Curvature,
    objective: NetworkObjective,
    at: Vector,
    public: PublicKnowledge | None,
    cached: PublicCurvature | None,
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
        curvature = cached or public_curvature(model, public, objective.l2)
        return curvature.matched(objective.fisher_diagonal(at, "true"))
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
