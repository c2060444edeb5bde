"""The score of the NeurIPS-2023 unlearning challenge (2406.09073; google-deepmind/unlearning_evaluation).

For every forget sample, N unlearned and N retrained models give two sets of scaled confidences. Decision rules try to
tell the two apart; the best of them turns into an epsilon, epsilons into points in buckets of width 1/2, and the mean
of the points is the forgetting quality F. Rules, as released:

- single: "positive" (the population with the larger median) if at or above one of 100 thresholds a unit;
- double: "peaky" (the population with the smaller range) if inside a window. 400 right ends run from 2 below to 2 above
  the largest peaky value, and for each one 400 left ends within 2 of (right end - range).

The best of so many rules looks good by chance: equal Gaussian populations have a median epsilon near 1.6 and F near
0.19 at any number of models (1.1 and 0.35 with the single rule alone), so the score is only read beside its control. It
is no bound on epsilon; see :mod:`fedunlearn.evaluation.populations.population_epsilon`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.special import expit

from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.measure import Estimate, Found, Measure, Refusal
from fedunlearn.evaluation.output_distance import mean_estimate
from fedunlearn.evaluation.outputs import Answers
from fedunlearn.evaluation.populations.model_halves import Population, at_half_size, control_at_half_size, too_few

DELTA = 1e-5
CAP = 50.0
PER_UNIT = 100
BUFFER = 2.0
BUCKET = 0.5
_TINY = 1e-45
_POINTS = round(2 * BUFFER * PER_UNIT)

Vector = NDArray[np.float64]


def scaled_confidence(margins: Vector) -> Vector:
    """Return ``log(p_y + 1e-45) - log(1 - p_y + 1e-45)`` of margins: the margins themselves, cut near 103.6."""
    return np.asarray(np.log(expit(margins) + _TINY) - np.log(expit(-np.asarray(margins)) + _TINY))


@lru_cache(maxsize=4)
def _table(models: int) -> Vector:
    """Return the epsilon of a rule for every pair of error counts, (models + 1, models + 1), symmetric.

    ``max(0, log(1 - delta - FPR) - log FNR, log(1 - delta - FNR) - log FPR)`` with delta = 1e-5; infinite without
    errors, and -inf (the rule is discarded) with errors of one kind only, or with nothing but errors.
    """
    rates = np.arange(models + 1) / models
    with np.errstate(divide="ignore", invalid="ignore"):
        one = np.log(1 - DELTA - rates)[:, None] - np.log(rates)[None, :]
    table = np.maximum(np.fmax(one, one.T), 0.0)
    table[0, :] = table[:, 0] = table[-1, -1] = -np.inf
    table[0, 0] = np.inf
    table.setflags(write=False)
    return table


def sample_epsilon(unlearned: Vector, retrained: Vector) -> float:
    """Return the challenge's epsilon of one sample, in [0, 50], from scaled confidences (N,) of each population.

    Where confidences differ by less than the grid of thresholds, no rule may survive, and the released code stops with
    an error. Then the values are first scaled to a pooled standard deviation of 1.
    """
    ranges = float(np.ptp(unlearned)), float(np.ptp(retrained))
    if max(ranges) == 0:
        return 0.0 if unlearned[0] == retrained[0] else CAP
    if min(ranges) / max(ranges) < 0.01:
        return CAP
    best = _best_rule(unlearned, retrained)
    spread = math.sqrt((float(unlearned.var()) + float(retrained.var())) / 2)
    if best == -math.inf and spread > 0:
        best = _best_rule(unlearned / spread, retrained / spread)
    if best == -math.inf:  # the gap between two separate populations is too small for the finer grid as well
        separate = unlearned.min() > retrained.max() or retrained.min() > unlearned.max()
        best = CAP if separate else 0.0
    return min(best, CAP)


def _best_rule(unlearned: Vector, retrained: Vector) -> float:
    first, second = np.sort(unlearned), np.sort(retrained)
    return max(single_rule(first, second), double_rule(first, second))


def single_rule(unlearned: Vector, retrained: Vector) -> float:
    """Return the largest epsilon of "positive if at or above t", -inf if no rule survives.

    Both populations are sorted scaled confidences (N,).
    """
    n = len(unlearned)
    positive, negative = unlearned, retrained
    if np.median(retrained) > np.median(unlearned):
        positive, negative = retrained, unlearned
    low, high = min(unlearned[0], retrained[0]), max(unlearned[-1], retrained[-1])
    thresholds = np.linspace(low, high, math.ceil((high - low) * PER_UNIT))
    false_negative = np.searchsorted(positive, thresholds, side="left")
    false_positive = n - np.searchsorted(negative, thresholds, side="left")
    return float(_table(n)[false_positive, false_negative].max(initial=-math.inf))


def double_rule(unlearned: Vector, retrained: Vector) -> float:
    """Return the largest epsilon of "peaky if left <= c <= right", -inf if no rule survives; inputs as above."""
    n = len(unlearned)
    peaky, other = unlearned, retrained
    if np.ptp(unlearned) >= np.ptp(retrained):
        peaky, other = retrained, unlearned
    # Right ends and left ends have one spacing, so left end j of right end i is point i + j of one line of points. Its
    # middle is the smallest peaky value itself.
    step = 2 * BUFFER / (_POINTS - 1)
    right = peaky[-1] - BUFFER + step * np.arange(_POINTS)
    left = peaky[0] + step * (np.arange(2 * _POINTS - 1) - (_POINTS - 1))
    inside = []
    for c in (peaky, other):
        below = np.searchsorted(c, left, side="left").astype(np.int32)
        below_or_at = np.searchsorted(c, right, side="right").astype(np.int32)
        inside.append(np.maximum(below_or_at[:, None] - sliding_window_view(below, _POINTS), 0))
    return float(_table(n).ravel().take(inside[1] * (n + 1) + (n - inside[0])).max())


def epsilons(unlearned: Population, retrained: Population) -> Vector:
    """Return the challenge's epsilon of every sample (n,) from margins (N, n) of each population.

    Raises ValueError unless both have the same shape and at least two models.
    """
    if unlearned.shape != retrained.shape or len(unlearned) < 2:
        raise ValueError(f"populations of shapes {unlearned.shape} and {retrained.shape} give no forgetting score")
    first, second = scaled_confidence(unlearned), scaled_confidence(retrained)
    return np.array([sample_epsilon(first[:, i], second[:, i]) for i in range(first.shape[1])])


def points(epsilon: Vector, models: int) -> Vector:
    """Return 1, 1/2, 1/4, ... for epsilons in buckets of width 1/2, and 0 from ``ceil(ln(models - 1))`` on."""
    scores = 2.0 ** -np.floor(np.minimum(epsilon, CAP) / BUCKET)
    return np.where(epsilon < math.ceil(math.log(models - 1)), scores, 0.0)


def quality_and_median(unlearned: Population, retrained: Population) -> Vector:
    """Return the forgetting quality F, the mean of the points of all samples in [0, 1], and the median epsilon."""
    eps = epsilons(unlearned, retrained)
    return np.array([points(eps, len(unlearned)).mean(), np.median(eps)])


def forgetting_scores(answers: Answers, shadow: ShadowMargins, *, seed: int) -> Found:
    """Return F, the final score and the median epsilon, at N models and at N/2 with the retrain-vs-retrain control.

    The final score is ``F (RA_u/RA_r) (TA_u/TA_r)``, with the accuracies of the models in ``answers``. ``seed`` fixes
    the halves of the models. Fewer than 64 models of each kind are refused.
    """
    if refusal := too_few("forgetting_score", shadow.count):
        return Found(refusals=(refusal,))
    worlds = {"original": shadow.original["forget"], "unlearned": shadow.unlearned["forget"]}
    retrained = shadow.retrained["forget"]
    size, samples = shadow.count, retrained.shape[1]
    if not samples:
        reason = "forgetting_score is a mean over forget samples, and there are none"
        return Found(refusals=(Refusal("forgetting_score", "populations", reason),))
    eps = {model: epsilons(margins, retrained) for model, margins in worlds.items()}
    full = {model: mean_estimate(points(e, size), high=1.0) for model, e in eps.items()}
    medians = {model: Estimate(float(np.median(e))) for model, e in eps.items()}
    at_half = {model: at_half_size(quality_and_median, m, retrained, seed) for model, m in worlds.items()}
    at_half["control"] = control_at_half_size(quality_and_median, retrained, seed)
    half, half_medians = ({model: Estimate(float(pair[i])) for model, pair in at_half.items()} for i in (0, 1))

    told = "NeurIPS-2023 forgetting quality F, in [0, 1], larger for models more like retrained ones"
    final = "NeurIPS-2023 final score F (RA/RA_retrained) (TA/TA_retrained), with the accuracies of the run's models"
    median = "Median over forget samples of the challenge's epsilon, biased upward and no bound"
    factors, refusals = _utility(answers)
    lines: list[tuple[str, str, dict[str, Estimate], dict[str, Estimate]]] = [
        ("forgetting_quality_like_retrained", told, full, half),
        ("forgetting_epsilon_median_from_retrained", median, medians, half_medians),
    ]
    if factors:
        finals = [{m: Estimate(e.value * factors[m]) for m, e in f.items() if m in factors} for f in (full, half)]
        lines.insert(1, ("forgetting_score_like_retrained", final, finals[0], finals[1]))
    measures = []
    for name, what, whole, halved in lines:
        for count, values, suffix, advice in (
            (size, whole, "", "judge it by the line with half the models, which has the control"),
            (size // 2, halved, "_half_the_models", "what the control has is what equal populations get"),
        ):
            reads = f"{what}, from {count} models of each kind: {advice}."
            counts = {"forget": samples, "models": count}
            measures.append(Measure(f"{name}{suffix}", "populations", reads, samples=counts, **values))
    return Found(tuple(measures), refusals)


def _utility(answers: Answers) -> tuple[dict[str, float], tuple[Refusal, ...]]:
    """Return ``(RA/RA_retrained) (TA/TA_retrained)`` of every model, or the refusal that says why there is none."""
    name = "forgetting_score_like_retrained"
    try:
        right = {m: [float(sets[s].correct.mean()) for s in ("retain", "test")] for m, sets in answers.items()}
    except KeyError:
        right = {}
    base = right.get("retrained")
    if base is None or not all(base):
        reason = "the final score divides by the retrained model's accuracy on retained and test data, which is missing"
        return {}, (Refusal(name, "populations", reason if base is None else f"{reason} or 0"),)
    return {m: (ra / base[0]) * (ta / base[1]) for m, (ra, ta) in right.items()}, ()
