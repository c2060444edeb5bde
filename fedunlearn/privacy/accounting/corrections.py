"""How far a single Newton/Fisher correction can end from retraining: the constants of the broadcast method.

Objective ``F(x) = sum_z w_z l(x; z) + (lam/2)||x||^2`` with weights that sum to one: ``w_z = 1/n`` (``samples``) or
``1/(N n_i)`` for a record of client i (``equal``), functions of the retained counts. After a deletion the network
adds ``v = -Hhat^-1 g`` to every model, as in Wu et al. (arXiv 2601.06436); docs/methods.md derives g and Hhat.

Let gradients of records have norm at most G, F be lam-strongly convex, its Hessian at most L + lam and M-Lipschitz.
Then the retained gradient at ``xbar + v`` has norm at most ``kappa + e_H ||v|| + (M/2)||v||^2`` with ``kappa`` the
residual of the linear solve and ``e_H >= ||Hhat - Hess F||``; divided by lam it is a distance to the retained
minimiser.

Distances are in units of the parameters, gradients in units of the objective per parameter. The constants of softmax
regression hold for rows of norm at most one, a bias entry included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian

SOFTMAX_GRADIENT = math.sqrt(2.0)
"""G: ``||p - e_y|| <= sqrt(2)``."""
SOFTMAX_SMOOTHNESS = 0.5
"""L: the covariance of a distribution on the K unit vectors has no eigenvalue above 1/2."""
LOGISTIC_HESSIAN_LIPSCHITZ = 1.0 / (6.0 * math.sqrt(3.0))
"""Largest third derivative of ``log(1 + exp(z))``, 0.0962."""
SOFTMAX_HESSIAN_LIPSCHITZ = 2.0 * math.sqrt(2.0) * LOGISTIC_HESSIAN_LIPSCHITZ
"""M = 0.2722. The third derivative along a direction is the third cumulant of the logits' changes, which spread over at
most sqrt(2) for a unit direction. At a fixed mean the third central moment is linear in the distribution, so two points
are the worst case: ``sqrt(2)^3 max p(1-p)(1-2p)``. A symmetric trilinear form has its norm on the diagonal (Banach)."""

Forgotten = Sequence[tuple[int, int]]
"""``(m_u, n_u)`` of every client that loses records: how many, and out of how many; ``m_u = n_u`` empties it."""


def deleted_weight(forgotten: Forgotten, clients: int, total: int, weighting: str) -> float:
    """Return the share of the objective that the deleted records had: ``m/n``, or ``sum_u m_u / (N n_u)``.

    Retained records never lose weight, so this is the total variation distance of the weights before and after.

    Args:
        forgotten: records per client that lost some.
        clients: clients with data before the deletion.
        total: records before the deletion.
        weighting: ``equal`` or ``samples``.

    Raises:
        UserError: if the numbers do not describe a deletion that leaves some record.
    """
    removed = sum(m for m, _ in forgotten)
    emptied = sum(m == n for m, n in forgotten)
    if any(not 0 <= m <= n or n < 1 for m, n in forgotten) or removed >= total or emptied >= clients:
        raise UserError(f"forgotten = {list(forgotten)} is not a deletion from {clients} clients with {total} records")
    if weighting == "samples":
        return removed / total
    return sum(m / n for m, n in forgotten) / clients


def retained_gradient_bound(weight: float, tau: float, *, gradient: float, moved: float = 0.0) -> float:
    """Return ``2 G w + tau + moved``, a bound on the retained gradient where all data's had norm at most tau.

    The two data terms are averages under weights that differ by ``w`` in total variation. ``moved`` is (L + lam) times
    the distance to the point at which tau was met. It is at most ``2 m G/n + tau`` for sample weights, below the
    ``m G/(n - m) + n tau/(n - m)`` of the derivation from the forget set, whose G counts the L2 term too.
    """
    return 2 * gradient * weight + tau + moved


def forget_gradient_bound(
    forgotten: Forgotten, clients: int, total: int, weighting: str, tau: float, *, gradient: float
) -> tuple[float, float]:
    """Return bounds on the retained gradient as the deleted records alone show it, and on what they do not show.

    The formulas of docs/methods.md take ``grad F = 0`` for granted, which is wrong by at most ``tau N/N'`` (equal
    weights, N' clients left) or ``tau n/(n - m)``. Where a whole client or a sample weight is concerned the L2 term
    stays in, and ``lam ||x|| <= G + tau``.
    """
    removed = sum(m for m, _ in forgotten)
    left = clients - sum(m == n for m, n in forgotten)
    deleted_weight(forgotten, clients, total, weighting)
    whole = 2 * gradient + tau
    if weighting == "samples":
        return removed * whole / (total - removed), tau * total / (total - removed)
    each = [whole if m == n else 2 * gradient * m / n for m, n in forgotten]
    return sum(each) / left, tau * clients / left


def curvature_error(kind: str, own_data: bool, damping: float = 0.0) -> float | None:
    """Return ``e_H``, a bound on ``||Hhat - Hess F||`` for softmax on rows of norm at most one; None if there is none.

    The data term's Hessian lies between 0 and L = 1/2; so do the true Fisher matrix, which it is, its diagonal and its
    diagonal blocks, whatever records they are taken over. Empirical Fisher matrices lie between 0 and G^2 = 2.

    Args:
        kind: ``auto`` (exact Hessian, by conjugate gradients) or the name of the matrix whose inverse is applied.
        own_data: taken over other records than all retained ones.
        damping: added to the curvature.
    """
    if kind.startswith("empirical"):
        return SOFTMAX_GRADIENT**2 + damping
    if kind in ("fisher-diagonal", "fisher-blocks") or (kind in ("auto", "fisher") and own_data):
        return SOFTMAX_SMOOTHNESS + damping
    return damping if kind in ("auto", "fisher") else None


def step_bound(gradient: float, lam: float, *, damping: float = 0.0, solve: float = 0.0) -> float:
    """Return ``(||g|| + kappa)/(lam + damping)``, a bound on ``||v||``: the public radius of a correction."""
    return (gradient + solve) / (lam + damping)


def sample_weight_radius(removed: int, total: int, tau: float, lam: float) -> float:
    """Return ``(n tau + 2 sqrt(2) m + m tau)/((n - m) lam)``: radius for sample weights (docs/certificates.md T-V1).

    Never below the radius from :func:`retained_gradient_bound`, which the code uses.
    """
    return (total * tau + 2 * SOFTMAX_GRADIENT * removed + removed * tau) / ((total - removed) * lam)


def newton_residual(
    step: float, *, error: float, solve: float = 0.0, unseen: float = 0.0, lipschitz: float = SOFTMAX_HESSIAN_LIPSCHITZ
) -> float:
    """Return ``kappa + unseen + e_H ||v|| + (M/2)||v||^2``, a bound on the retained gradient after the correction."""
    return solve + unseen + error * step + lipschitz / 2 * step**2


def moved_residual(gradient: float, step: float, lam: float) -> float:
    """Return ``||g|| + lam ||v||``, which bounds lam times the distance to the retained minimiser whatever v is.

    The point before the correction was within ``||g||/lam`` of the minimiser, and the correction moved it by ``||v||``.
    Where the deletion is large or lam small this is below :func:`newton_residual`, which grows with ``||v||^2``.
    """
    return gradient + lam * step


def correction_sensitivity(residual: float, tau: float, lam: float, consensus: float = 0.0) -> float:
    """Return ``(r + tau')/lam + 2c``: the distance of one node's corrected model to its retrained one.

    Args:
        residual: bound r on the retained gradient at the mean model after the correction, or on lam times its distance
            to the retained minimiser.
        tau: bound on the retained gradient at the mean of the retrained models.
        lam: strong convexity.
        consensus: bound c on every model's distance to the mean, in both worlds.
    """
    return (residual + tau) / lam + 2 * consensus


def sekhari_sensitivity(removed: int, total: int, lam: float, *, gradient: float, lipschitz: float) -> float:
    """Return ``2 M G^2 m^2 / (lam^3 n^2)`` (Sekhari et al. 2021): exact Hessian, exact optimum, n >= 2m, L2 in G."""
    return 2 * lipschitz * gradient**2 * removed**2 / (lam**3 * total**2)


@dataclass(frozen=True)
class Budget:
    """Public constants of the broadcast method with measured acceptance, fixed before the data are seen.

    Attributes:
        tau: gradient norm at which training and retraining end.
        residual: gradient norm up to which a corrected model is accepted, r_max.
        consensus: distance of every model to the mean up to which it is accepted; 0: one vector.
        releases: answers that the claim covers together.
        sensitivity: ``(r_max + tau)/lam + 2c``.
        sigma: noise standard deviation on each parameter.
    """

    epsilon: float
    delta: float
    lam: float
    tau: float
    residual: float
    consensus: float
    releases: int
    sensitivity: float
    sigma: float


def budget(
    epsilon: float, delta: float, lam: float, *, target_sigma: float, one_vector: bool, releases: int = 1,
    tau: float | None = None, residual: float | None = None, consensus: float | None = None,
) -> Budget:  # fmt: skip
    """Share the distance that the target noise hides among the two gradients and the disagreement of the models.

    What is not given gets its share of ``target_sigma mu(epsilon, delta)/sqrt(releases)``: a quarter goes to ``2c``
    where models differ, the rest in equal parts to ``r_max/lam`` and ``tau/lam``.

    Raises:
        UserError: if a number is out of range.
    """
    for name, value in (("lam", lam), ("target_sigma", target_sigma)):
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} = {value} is not allowed: it must be a positive finite number")
    hidden = target_sigma * gaussian.mu_of(epsilon, delta) / math.sqrt(releases)
    if one_vector:
        consensus = 0.0
    elif consensus is None:
        consensus = hidden / 8
    share = lam * hidden * (1 / 2 if one_vector else 3 / 8)
    tau = max(share, 1e-9) if tau is None else tau
    residual = max(share, 1e-9) if residual is None else residual
    distance = correction_sensitivity(residual, tau, lam, consensus)
    sigma = gaussian.sigma_for(distance * math.sqrt(releases), epsilon, delta)
    return Budget(epsilon, delta, lam, tau, residual, consensus, releases, distance, sigma)
