"""The attack: play a game many times, choose the best test on one half of the trials, count its errors on the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedunlearn.audit import planning
from fedunlearn.audit.verdict import Scores, Verdict
from fedunlearn.audit.whitebox import distance_holds, epsilon_at
from fedunlearn.errors import UserError
from fedunlearn.evaluation import bounds
from fedunlearn.randomness import torch_seed
from fedunlearn.unlearning.games import Game

SMALLEST_TRIALS = 20
"""Fewer trials a world leave too little to choose on and to count."""
_COLUMNS = 64
"""Observations with at most so many entries are also tried entry by entry."""

Array = NDArray[np.float64]
Score = Callable[[Array], Array]


def audit_game(
    game: Game, trials: int, claim_mu: float | None, epsilon: float, delta: float, seed: int, *, method: str = "",
    level: float = bounds.LEVEL,
) -> Verdict:  # fmt: skip
    """Play ``game`` and judge a claim on it.

    Half of the trials choose the score (where the game does not bring the likelihood ratio), the threshold and the
    direction; the other half is counted. A claim of mu is judged by the trade-off test, another by the (epsilon, delta)
    test; the other bounds are reported beside it. If the game knows its noise-free distance and the claimed bound on
    it, a distance above the bound refutes too.

    Args:
        game: two worlds.
        trials: draws of each world, at least 20.
        claim_mu: the claimed Gaussian trade-off; None where only (epsilon, delta) is claimed.
        epsilon, delta: the claim.
        seed: fixes every draw.
        method: name of the unlearning method, for tables.
        level: of each of the two limits behind a bound; the deciding test refutes a true claim with probability
            ``2 level`` at most.

    Raises:
        UserError: if there are too few trials, or a game's scores are not numbers.
    """
    if trials < SMALLEST_TRIALS:
        raise UserError(f"trials = {trials} is not allowed: an audit needs at least {SMALLEST_TRIALS} trials a world")
    half = trials // 2
    drawn = [np.asarray(game.draw(world, trials, torch_seed(seed, "audit", world)), np.float64) for world in (0, 1)]
    chosen = _choose(game, drawn[0][:half], drawn[1][:half], claim_mu is not None, delta)
    p, q = chosen.score(drawn[0][half:]), chosen.score(drawn[1][half:])
    mu_lower = bounds.trade_off_bound(p, q, chosen.trade_off, level)
    epsilon_lower = bounds.epsilon_bound(p, q, chosen.epsilon, delta, level)
    parametric = None
    if game.score is not None and game.sigma:
        parametric = bounds.parametric_bound(chosen.score(drawn[0]), chosen.score(drawn[1]), game.sigma)

    refuted_by: tuple[str, ...] = ()
    if claim_mu is not None and mu_lower > claim_mu:
        refuted_by += ("trade-off",)
    if claim_mu is None and epsilon_lower > epsilon:
        refuted_by += ("epsilon-delta",)
    if game.distance is not None and game.sensitivity is not None:
        refuted_by += () if distance_holds(game.distance, game.sensitivity) else ("distance",)

    pair_mu = game.distance / game.sigma if game.distance is not None and game.sigma else None
    detectable = planning.detectable_mu(trials, mu=claim_mu, epsilon=epsilon, delta=delta, level=level)
    apart = pair_mu
    if apart is None and game.kind == "natural":
        apart = _separation(p, q)
    elif apart is None and claim_mu is not None and game.ratio is not None:
        apart = game.ratio * claim_mu  # the noise is not known, but what the claim makes of such a distance is
    fault = None if apart is None else (max(1.0, detectable / apart) if apart > 0 else float("inf"))
    return Verdict(
        method=method,
        game=game.name,
        kind=game.kind,
        trials=trials,
        confidence=1.0 - 2.0 * level,
        decides="epsilon-delta" if claim_mu is None else "trade-off",
        epsilon=epsilon,
        delta=delta,
        mu=claim_mu,
        epsilon_lower=epsilon_lower,
        mu_lower=max(0.0, mu_lower),
        mu_parametric=parametric,
        refuted_by=refuted_by,
        distance=game.distance,
        sensitivity=game.sensitivity,
        pair_mu=pair_mu,
        pair_epsilon=None if pair_mu is None else epsilon_at(pair_mu, delta),
        largest_refutable=planning.refutable_epsilon(trials - half, delta, level),
        detectable_mu=detectable,
        smallest_refutable=epsilon_at(detectable, delta),
        fault_needed=fault,
        has_power=bool(np.isfinite(detectable) if fault is None else fault <= planning.LARGEST_FAULT),
        scores=Scores(p, q, chosen.deciding.threshold, chosen.deciding.above, chosen.name),
    )


def _separation(p: Array, q: Array) -> float:
    """Return how far apart the scores of two worlds lie, in units of their spread: what an audit can amplify.

    The distance of starts that a walk has mixed since, or of vectors under noise of unknown size, says too much.
    """
    gap, spread = abs(float(p.mean() - q.mean())), float(np.sqrt((p.var() + q.var()) / 2))
    return gap / spread if spread > 0 else (float("inf") if gap > 0 else 0.0)


@dataclass(frozen=True)
class _Chosen:
    name: str
    score: Score
    trade_off: bounds.Event
    epsilon: bounds.Event
    deciding: bounds.Event


def _choose(game: Game, unlearned: Array, retrained: Array, by_trade_off: bool, delta: float) -> _Chosen:
    """Choose score and events from the choosing half alone, (n, k) observations of each world."""
    name, score, fitted = "likelihood ratio", game.score, 0
    if score is None:
        fitted = len(unlearned) // 2
        name, score = _best_score(unlearned, retrained, fitted, by_trade_off, delta)
        if name.startswith("entry"):  # not fitted, so every choosing trial may place its threshold
            fitted = 0
    p, q = score(unlearned[fitted:]), score(retrained[fitted:])
    trade_off, epsilon = bounds.choose_trade_off(p, q), bounds.choose_epsilon(p, q, delta)
    return _Chosen(name, score, trade_off, epsilon, trade_off if by_trade_off else epsilon)


def _best_score(unlearned: Array, retrained: Array, fitted: int, by_trade_off: bool, delta: float) -> tuple[str, Score]:
    """Fit distinguishers on the first ``fitted`` observations; return the candidate that does best on the rest."""
    candidates = learned_scores(unlearned[:fitted], retrained[:fitted])
    if unlearned.shape[1] <= _COLUMNS:
        candidates = [(f"entry {j}", _entry(j)) for j in range(unlearned.shape[1])] + candidates

    def bound(candidate: tuple[str, Score]) -> float:
        p, q = candidate[1](unlearned[fitted:]), candidate[1](retrained[fitted:])
        if by_trade_off:
            return bounds.trade_off_bound(p, q, bounds.choose_trade_off(p, q))
        return bounds.epsilon_bound(p, q, bounds.choose_epsilon(p, q, delta), delta)

    return max(candidates, key=bound)


def _entry(j: int) -> Score:
    return lambda seen: seen[:, j]


def learned_scores(unlearned: Array, retrained: Array) -> list[tuple[str, Score]]:
    """Return distinguishers fitted to observations (n, k) of each world, as (name, score) pairs.

    ``logistic``: linear, for worlds whose means differ. ``quadratic``: the log ratio of Gaussians with independent
    entries, for worlds whose spread differs. ``distance``: how far from the common centre, for the same with few trials
    and many entries.
    """
    from sklearn.linear_model import LogisticRegression

    both = np.concatenate([unlearned, retrained])
    centre, scale = both.mean(0), both.std(0)
    scale = np.where(scale > 0, scale, 1.0)

    def standard(seen: Array) -> Array:
        return (seen - centre) / scale

    x0, x1 = standard(unlearned), standard(retrained)
    labels = np.repeat([1, 0], [len(x0), len(x1)])
    model = LogisticRegression(max_iter=1000).fit(np.concatenate([x0, x1]), labels)
    weights = model.coef_[0].astype(np.float64)
    (m0, v0), (m1, v1) = ((x.mean(0), np.maximum(x.var(0), 1e-12)) for x in (x0, x1))

    def quadratic(seen: Array) -> Array:
        x = standard(seen)
        return 0.5 * (((x - m1) ** 2 / v1 + np.log(v1)) - ((x - m0) ** 2 / v0 + np.log(v0))).sum(1)

    return [
        ("logistic", lambda seen: standard(seen) @ weights),
        ("quadratic", quadratic),
        ("distance", lambda seen: np.square(standard(seen)).sum(1)),
    ]
