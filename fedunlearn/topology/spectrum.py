"""How fast a mixing matrix mixes: its second-largest eigenvalue modulus and what follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh, splu

from fedunlearn.randomness import uniforms
from fedunlearn.topology.closed_form import eigenvalue_ends
from fedunlearn.topology.graphs import all_alive
from fedunlearn.topology.matching import expected_matching
from fedunlearn.topology.mixing import DENSE_LIMIT, changes_every_round, mixing_matrix, needs_matrix
from fedunlearn.topology.settings import Mixing

_RESTARTS = 40
_SMALL = 1e-12


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues 1 = lambda_1 >= lambda_2 >= ... >= lambda_N of a mixing matrix on its N alive vertices.

    rho : max(|lambda_2|, |lambda_N|), so that |[W^k]_ij - 1/N| <= rho^k (0 for one vertex). gap : 1 - rho, the spectral
    gap. smallest : lambda_N. mixing_time : rounds until [W^k]_ij is within 1/N of 1/N by that bound: ceil(ln N /
    ln(1/rho)); infinite for rho = 1. of : the matrix that the eigenvalues belong to: ``"W"``, or ``"E[W^T W]"`` for
    random matching, where the statements hold for the expected matrix product, and the expected squared distance to
    consensus shrinks by rho a round.
    """

    rho: float
    gap: float
    smallest: float
    mixing_time: float
    of: str = "W"


def spectrum(matrix: sparse.csr_array, alive: NDArray[np.bool_] | None = None, of: str = "W") -> Spectrum:
    """Return the spectrum of a symmetric doubly stochastic (N, N) matrix on its alive vertices.

    Without ``alive``, the vertices with non-empty rows count. All eigenvalues are computed for at most 2,000 vertices.
    Above that only the ends of the spectrum are, by Lanczos iterations; where these stall, which means that the graph
    mixes slowly, by Lanczos iterations on the pseudo-inverse of I - W.
    """
    present = np.diff(matrix.indptr) > 0 if alive is None else all_alive(matrix.shape[0], alive)
    ids = np.flatnonzero(present)
    count = len(ids)
    if count == 0:
        raise ValueError("no vertex is alive")
    if count == 1:
        return _spectrum(1.0, 0.0, 1, of, smallest=1.0)
    inner = sparse.csr_array(matrix[ids][:, ids])
    parts, _ = connected_components(inner, directed=False)
    if count <= DENSE_LIMIT:
        values = np.linalg.eigvalsh(inner.toarray())
        gap, smallest = 1.0 - float(values[-2]), float(values[0])
    else:
        smallest = _smallest(inner, 1e-4)
        gap = 0.0 if parts > 1 else _gap(inner)
        if -smallest > 1.0 - gap - 1e-3:
            smallest = _smallest(inner, 1e-9)
    gap = 0.0 if parts > 1 else gap
    return _spectrum(gap, smallest, count, of, smallest)


def spectrum_of(graph: nx.Graph, rule: Mixing, alive: NDArray[np.bool_] | None = None, seed: int = 0) -> Spectrum:
    """Return the spectrum of a rule on a graph; no matrix is built for ``exact-average`` (rho = 0).

    Rings, lattices, hypercubes and some others have a formula (:mod:`fedunlearn.topology.closed_form`); other spectra
    are computed as :func:`spectrum` does. For ``random-matching`` it is that of E[W^T W], estimated from simulated
    rounds drawn with ``seed``.
    """
    count = int(all_alive(len(graph), alive).sum())
    if not needs_matrix(rule):
        return _spectrum(1.0, 0.0, count, "W", smallest=1.0 if count == 1 else 0.0)
    if changes_every_round(rule):
        return spectrum(expected_matching(graph, seed, alive), alive, of="E[W^T W]")
    matrix = mixing_matrix(graph, rule, alive)
    ends = eigenvalue_ends(graph, matrix) if count == len(graph) else None
    if ends is not None:
        return _spectrum(ends[0], ends[1], count, "W", smallest=ends[1])
    return spectrum(matrix, alive)


def _spectrum(gap: float, other: float, count: int, of: str, smallest: float) -> Spectrum:
    """Return the summary from 1 - lambda_2 and the smallest eigenvalue on vectors of mean zero."""
    gap = min(gap, 1.0 - abs(other))
    gap = 1.0 if gap > 1 - _SMALL else 0.0 if gap < 0 else gap
    rho = 1.0 - gap
    if count == 1:
        rounds = 0.0
    elif gap <= 0:
        rounds = math.inf
    elif gap == 1:
        rounds = 1.0
    else:
        # log1p keeps its accuracy for the gap of 1e-9 of a ring of 100,000 vertices.
        rounds = float(math.ceil(math.log(count) / -math.log1p(-gap) - 1e-9))
    return Spectrum(rho=rho, gap=gap, smallest=smallest, mixing_time=rounds, of=of)


def _start(count: int) -> NDArray[np.float64]:
    """Return a fixed start vector of mean zero, so that the same matrix gives the same digits."""
    vector = uniforms(0, "lanczos", np.arange(count))
    return vector - vector.mean()


def _smallest(matrix: sparse.csr_array, tolerance: float) -> float:
    """Return lambda_N; a rough value does unless -lambda_N is what decides rho."""
    start = _start(matrix.shape[0])
    return float(eigsh(matrix, 1, which="SA", tol=tolerance, v0=start, return_eigenvectors=False)[0])


def _gap(matrix: sparse.csr_array) -> float:
    """Return 1 - lambda_2 of a connected graph."""
    count = matrix.shape[0]

    def centred(x: NDArray[np.float64]) -> NDArray[np.float64]:
        y = matrix @ x.ravel()
        return y - y.mean()

    try:
        operator = LinearOperator((count, count), matvec=centred, dtype=np.float64)
        values = eigsh(
            operator, 1, which="LA", tol=1e-7, ncv=40, maxiter=_RESTARTS, v0=_start(count), return_eigenvectors=False
        )
        return 1.0 - float(values[0])
    except ArpackNoConvergence:
        return _slow_gap(matrix)


def _slow_gap(matrix: sparse.csr_array) -> float:
    """Return 1 - lambda_2 as 1 / (largest eigenvalue of the pseudo-inverse of I - W).

    For a right-hand side of mean zero, (I - W) y = b is solved with one vertex held at zero, then y is centred. Slowly
    mixing graphs (rings, lattices, trees, geometric graphs) have small separators, so the factors stay sparse.
    """
    count = matrix.shape[0]
    laplacian = (sparse.eye_array(count, format="csc") - matrix).tocsc()
    factors = splu(laplacian[1:, 1:], permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})

    def solve(b: NDArray[np.float64]) -> NDArray[np.float64]:
        b = b.ravel() - b.mean()
        y = np.concatenate([[0.0], factors.solve(b[1:])])
        return y - y.mean()

    operator = LinearOperator((count, count), matvec=solve, dtype=np.float64)
    return 1.0 / float(eigsh(operator, 1, which="LA", tol=1e-9, v0=_start(count), return_eigenvectors=False)[0])
