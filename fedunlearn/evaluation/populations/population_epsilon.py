"""A sound lower bound on how well unlearned and retrained models can be told apart, with whole models as trials.

If a method is (epsilon, delta)-indistinguishable from retraining, no rule that calls models "unlearned" can have a true
positive rate above ``e^epsilon FPR + delta``. Models of independent seeds are independent trials, so error counts give
a bound on epsilon by Clopper and Pearson's interval, provided that everything about the rule was chosen on other
models. Half of the models choose, the other half count. It is wrong in at most 5 % of the cases for any method, unlike
the epsilon of the NeurIPS-2023 score, and small because models are few; so the largest bound that as many models could
have shown stands beside it.

Rules put a threshold on one number a model: the mean margin over the forget set (a shift of all samples together), or
the sum over samples of log ratios of two Gaussians fitted to the choosing half, as LiRA does (2112.03570). The sum
counts dependent samples as independent ones; that weakens it, and the counts still hold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.bounds import LEVEL, choose_epsilon, epsilon_bound, lower_limit, upper_limit
from fedunlearn.evaluation.measure import Estimate, Found, Measure, Refusal
from fedunlearn.evaluation.populations.model_halves import Population, halves

DELTA = 1e-5
LEAST = 4
"""Models of each kind: two choose and two count."""
FITTED = 4
"""So many choosing models of each kind are needed before Gaussians are fitted to them."""
_PRIOR = 8.0
"""A few models fix no variance of a single sample: the mean over samples counts as so many degrees of freedom."""
_RESOLUTION = 1e-8
"""Relative: smaller differences of margins are rounding, and a variance of 0 would make the ratio infinite."""

Vector = NDArray[np.float64]


def statistics_used(choosing: int) -> int:
    """Return how many statistics are tried with so many choosing models of each kind."""
    return 2 if choosing >= FITTED else 1


def largest_bound(counting: int, statistics: int, delta: float = DELTA) -> float:
    """Return the bound that perfect separation of ``counting`` models of each kind would give, at least 0."""
    level = LEVEL / statistics
    gain = float(lower_limit(counting, counting, level)) - delta
    return max(0.0, float(np.log(gain / upper_limit(0, counting, level)))) if gain > 0 else 0.0


def population_bound(models: Population, retrained: Population, *, seed: int, delta: float = DELTA) -> float:
    """Return a 95 % lower bound on epsilon at ``delta`` between two populations of independent models, at least 0.

    Thresholds, directions and Gaussians come from one half of the models. Each statistic's bound, counted on the other
    half, shares the 5 % (Bonferroni), and the largest is returned.

    Args:
        models, retrained: margins (N, n) and (M, n), N, M >= 4, n >= 1; rows are independent.
        seed: seed of the halves.

    Raises ValueError for fewer models.
    """
    if min(len(models), len(retrained)) < LEAST:
        raise ValueError(f"a bound needs {LEAST} models of each kind, not {len(models)} and {len(retrained)}")
    worlds = (models, retrained)
    parts = [halves(len(world), seed, which) for which, world in enumerate(worlds)]
    chosen = tuple(world[choose] for world, (choose, _) in zip(worlds, parts))
    counted = tuple(world[count] for world, (_, count) in zip(worlds, parts))
    pairs = [tuple((chosen[w].mean(1), counted[w].mean(1)) for w in (0, 1))]
    if statistics_used(min(map(len, chosen))) > 1:
        fitted = log_ratios(chosen[0], chosen[1], np.concatenate(counted))
        out = (fitted[: len(counted[0])], fitted[len(counted[0]) :])
        pairs.append(tuple((_left_out(chosen, w), out[w]) for w in (0, 1)))
    level = LEVEL / len(pairs)
    bounds = []
    for (choose0, count0), (choose1, count1) in pairs:
        event = choose_epsilon(choose0, choose1, delta)
        bounds.append(epsilon_bound(count0, count1, event, delta, level))
    return max(bounds)


def log_ratios(first: Population, second: Population, of: Population) -> Vector:
    """Return ``sum_i log N(x_i; first) - log N(x_i; second)`` for every model of ``of`` (k,).

    Args:
        first, second: margins (a, n), (b, n) that Gaussians are fitted to, sample by sample, a, b >= 2. Variances are
            shrunk towards their mean over the samples.
        of: margins (k, n).
    """
    total = np.zeros(len(of))
    for world, sign in ((first, 1.0), (second, -1.0)):
        mean, variance = world.mean(0), world.var(0, ddof=1)
        freedom = len(world) - 1
        variance = (freedom * variance + _PRIOR * variance.mean()) / (freedom + _PRIOR)
        variance = variance + (_RESOLUTION * (1.0 + np.abs(mean))) ** 2
        total -= sign * 0.5 * (np.log(variance) + (of - mean) ** 2 / variance).sum(1)
    return total


def _left_out(chosen: tuple[Population, ...], world: int) -> Vector:
    """Return the log ratio of every choosing model by Gaussians that did not see it: the others look too separate."""
    scores = []
    for i in range(len(chosen[world])):
        fit = list(chosen)
        fit[world] = np.delete(chosen[world], i, axis=0)
        scores.append(log_ratios(fit[0], fit[1], chosen[world][i : i + 1])[0])
    return np.array(scores)


def population_epsilons(shadow: ShadowMargins, *, seed: int) -> Found:
    """Return the bound for original and unlearned models, the control of retrained halves, and the largest possible.

    ``seed`` fixes all halves. Fewer than 4 models of each kind are refused; the control needs 8.
    """
    name, most = "population_epsilon_lower_bound_from_retrained", "population_epsilon_largest_showable"
    size, retrained = shadow.count, shadow.retrained["forget"]
    if size < LEAST or not retrained.shape[1]:
        need = f"{LEAST} shadow models of each kind, and there are {size}: ask for --shadows {LEAST}"
        reason = f"the bound needs at least {need}" if size < LEAST else "the bound needs at least one forget sample"
        return Found(refusals=(Refusal(name, "populations", reason),))
    bounds = {
        "original": Estimate(population_bound(shadow.original["forget"], retrained, seed=seed)),
        "unlearned": Estimate(population_bound(shadow.unlearned["forget"], retrained, seed=seed)),
    }
    possible = dict.fromkeys(bounds, Estimate(_largest(size)))
    refusals: tuple[Refusal, ...] = ()
    if size // 2 >= LEAST:
        first, second = halves(size, seed, 2)
        bounds["control"] = Estimate(population_bound(retrained[first], retrained[second], seed=seed))
        possible["control"] = Estimate(_largest(size // 2))
    else:
        reason = (
            f"the control compares two halves of the retrained models and needs at least {2 * LEAST} of them, "
            f"and there are {size}: ask for --shadows {2 * LEAST}"
        )
        refusals = (Refusal(f"{name}_control", "populations", reason),)
    samples = {"forget": retrained.shape[1], "models": size}
    idle = "" if possible["unlearned"].value > 0 else f"; {size} models of each kind show nothing, whatever they are"
    measures = (
        Measure(name, "populations",
                f"Sound 95 % lower bound on epsilon at delta = {DELTA:g} between this model's kind and retrained ones, "
                f"0 if nothing is shown; it proves a difference when above 0 and nothing when 0{idle}.",
                samples=samples, **bounds),
        Measure(most, "populations",
                "The bound above for models that one threshold separates without an error: nothing counted on half of "
                "so many models can show more, and the control has half as many.",
                samples=samples, **possible),
    )  # fmt: skip
    return Found(measures, refusals)


def _largest(models: int) -> float:
    return largest_bound(models - models // 2, statistics_used(models // 2))
