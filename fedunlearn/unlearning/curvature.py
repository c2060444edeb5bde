"""Preconditioners for conjugate gradients: public curvature, Fisher matrices, or none.

A preconditioner changes what meeting the tolerance costs, never what it certifies (docs/certificates.md, T1). One
built from public records at a public point carries nothing about the deleted ones (section 2(g2)), costs no message,
and needs no erasing; one built from retained records is made anew for every request and dropped with it.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.blas import strsv

from fedunlearn.errors import UserError
from fedunlearn.models import Model, hessian_sum
from fedunlearn.models.extractor import one_thread
from fedunlearn.models.thin_hessian import thin_hessian
from fedunlearn.results.cache import ContentCache, content_key, default_folder
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
SHIFT = 0.015
"""Factor of the shift, near the best on FEMNIST with 19 and with 200 public writers; both curves are flat."""
_FOLDER_LIMIT = 1 << 30
"""Largest folder of cached factors, in bytes: what was stored first makes room."""


@dataclass(frozen=True, eq=False)
class PublicCurvature:
    """The factorised public curvature ``M = Hess F_pub(at) + (lambda + s) I``.

    The shift ``s = 0.015 tr(Hess F_pub)/sqrt(n_pub)`` follows the scale of M's sampling error: directions that the few
    public records happen not to see are trusted no more than that. ``factor`` (d, d) is M's lower Cholesky factor,
    float32 and column by column; ``diagonal`` (d,) is M's. ``seconds`` is what it took to get it in this run,
    ``built_in`` what it took to build.
    """

    factor: NDArray[np.float32]
    diagonal: NDArray[np.float64]
    shift: float
    seconds: float = 0.0
    built_in: float = 0.0
    cached: bool = False

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


def public_curvature(
    model: Model, public: PublicKnowledge, l2: float, at: Vector | None = None, *, cache: bool = False
) -> PublicCurvature:
    """Return the curvature of the public mean loss at ``at``, a public or released point (default: the public head).

    With ``cache`` a factor at the public head is looked for on disk, and kept there: it depends on public records, the
    head and lambda alone, so no deletion concerns it.
    """
    if model.dim > FULL_LIMIT:
        raise UserError(
            f"unlearning.curvature = 'public' forms a {model.dim} x {model.dim} matrix; it is offered up to "
            f"{FULL_LIMIT} parameters: use model.features = 'frozen' with a smaller model.extractor_width, or "
            "curvature = 'fisher-diagonal'"
        )
    if at is not None or not cache:
        return _built(model, public, l2, public.head if at is None else at)
    entries = ContentCache(default_folder() / "curvature")
    key = content_key(_content(model, public, l2))
    began = time.perf_counter()
    found = entries.get(key)
    if found is not None:
        factor, diagonal = found.arrays["factor"].T, found.arrays["diagonal"]
        seconds = {"seconds": time.perf_counter() - began, "built_in": float(found.info["seconds"])}
        return PublicCurvature(factor, diagonal, float(found.info["shift"]), **seconds, cached=True)
    made = _built(model, public, l2, public.head)
    entries.put(
        key, {"factor": made.factor.T, "diagonal": made.diagonal}, {"shift": made.shift, "seconds": made.built_in}
    )
    entries.trim(_FOLDER_LIMIT)
    return made


def _built(model: Model, public: PublicKnowledge, l2: float, point: Vector | None) -> PublicCurvature:
    assert point is not None, "a public point is needed"
    began = time.perf_counter()
    x, theta = model.prepare(public.inputs), torch.from_numpy(point)
    with one_thread():
        if model.convex and model.dim == model.num_classes * x.shape[-1]:
            matrix = thin_hessian(theta, x, model.num_classes)
        else:
            y = torch.from_numpy(public.labels)
            matrix = (hessian_sum(model, theta, x.to(torch.float64), y) / len(y)).to(torch.float32)
        shift = SHIFT * float(matrix.trace()) / len(public.labels) ** 0.5
        matrix.diagonal().add_(l2 + shift)
        diagonal = matrix.diagonal().to(torch.float64).numpy()
        factor = _cholesky(matrix, diagonal.max())
    seconds = time.perf_counter() - began
    return PublicCurvature(np.asfortranarray(factor), diagonal, shift, seconds, seconds)


def _cholesky(matrix: torch.Tensor, largest: float) -> NDArray[np.float32]:
    """Return the lower Cholesky factor; where float32 finds the matrix not positive, its rounding error is added."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    while bool(failed):
        matrix.diagonal().add_(len(matrix) * largest * 2.0**-24)
        factor, failed = torch.linalg.cholesky_ex(matrix)
    return factor.numpy()


def _content(model: Model, public: PublicKnowledge, l2: float) -> dict[str, object]:
    """Return all that the public curvature depends on, as the table that is hashed."""
    assert public.head is not None, "a public head is needed"
    arrays = {"inputs": public.inputs, "labels": public.labels, "head": public.head}
    hashes = {name: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for name, array in arrays.items()}
    code = hashlib.sha256(b"".join(Path(inspect.getfile(f)).read_bytes() for f in (_built, thin_hessian))).hexdigest()
    spec = {name: value for name, value in model.spec.items() if name != "checkpoint"}
    return {"model": spec, "l2": l2, **hashes, "torch": torch.__version__, "code": code}


def choose(
    kind: Curvature,
    objective: NetworkObjective,
    at: Vector,
    public: PublicKnowledge | None,
    cached: PublicCurvature | None,
    diagonal: Vector | None = None,
) -> Preconditioner:
    """Return the preconditioner a user asked for; ``auto`` is public curvature where there is some, else the diagonal.

    Parameters
    ----------
    at : (d,) the point at which Fisher matrices of the retained data are taken.
    cached : the public curvature of this run, if it was built before.
    diagonal : (d,) that of the true Fisher matrix at ``at``, lambda included, if it is known already.
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
        return curvature.matched(objective.fisher_diagonal(at, "true") if diagonal is None else diagonal)
    if kind in ("fisher-diagonal", "empirical-fisher-diagonal"):
        if diagonal is None or kind == "empirical-fisher-diagonal":
            diagonal = objective.fisher_diagonal(at, "true" if kind == "fisher-diagonal" else "empirical")
        scale = diagonal
        return lambda v: v / scale
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
