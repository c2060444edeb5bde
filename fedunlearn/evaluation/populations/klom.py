"""KLoM: do the margins of unlearned models spread over seeds as those of retrained models do? (2410.23232)

For every sample, the margins ``log(p_y / (1 - p_y))`` of N unlearned and of N retrained models make two histograms, and
KLoM is the KL divergence of the first from the second. Choices, where the paper and its code leave them open:

- margins are cut to [-100, 100]; 20 bins of equal width span the smallest to the largest margin of *both* populations.
  With bins of their own, two shifted copies of one population would be "equal";
- the largest margin belongs to the last bin (the code of EasyDUB drops it);
- where unlearned models are and no retrained one is, the retrained share is raised to 1e-5 and the histogram scaled to
  sum to 1 again, which keeps the divergence at or above 0.

The estimate is far above 0 for equal populations of few models: every unlearned model alone in its bin adds
``ln(1e5/N)/N``. So it is read beside its control and at the control's number of models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.measure import Estimate, Found, Measure
from fedunlearn.evaluation.output_distance import mean_estimate
from fedunlearn.evaluation.outputs import SetName
from fedunlearn.evaluation.populations.model_halves import Population, at_half_size, control_at_half_size, too_few

BINS = 20
CLIP = 100.0
SMALLEST_SHARE = 1e-5
_SETS: tuple[SetName, ...] = ("forget", "retain", "test")


def klom(models: Population, retrained: Population) -> NDArray[np.float64]:
    """Return KL(models‖retrained) of binned margins for every sample (n,), in nats, at least 0.

    Args:
        models, retrained: margins (N, n) and (M, n), N, M >= 1, finite.
    """
    first, second = np.clip(models, -CLIP, CLIP), np.clip(retrained, -CLIP, CLIP)
    low = np.minimum(first.min(0), second.min(0))
    width = np.maximum(first.max(0), second.max(0)) - low
    p, q = (_shares(margins, low, width) for margins in (first, second))
    q = np.where(p > 0, np.maximum(q, SMALLEST_SHARE), q)
    q /= q.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / q), 0.0)
    return np.maximum(terms.sum(1), 0.0)


def klom_scores(shadow: ShadowMargins, *, seed: int) -> Found:
    """Return mean and 95th percentile of KLoM over the samples of every set, at N models and at N/2 with the control.

    ``seed`` fixes the halves of the models. Fewer than 64 models of each kind are refused.
    """
    if refusal := too_few("klom", shadow.count):
        return Found(refusals=(refusal,))
    measures: list[Measure] = []
    for which in _SETS:
        if which in shadow.retrained and shadow.retrained[which].shape[1]:
            measures += _lines(shadow, which, seed)
    return Found(tuple(measures))


def _shares(margins: Population, low: NDArray[np.float64], width: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of models in every bin (n, BINS)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.where(width > 0, (margins - low) / width, 0.0)
    bins = np.minimum((place * BINS).astype(np.int64), BINS - 1)
    samples = margins.shape[1]
    counts = np.bincount((bins + BINS * np.arange(samples)).ravel(), minlength=BINS * samples)
    return counts.reshape(samples, BINS) / len(margins)


def _mean_and_p95(models: Population, retrained: Population) -> NDArray[np.float64]:
    scores = klom(models, retrained)
    return np.array([scores.mean(), np.quantile(scores, 0.95)])


def _lines(shadow: ShadowMargins, which: SetName, seed: int) -> list[Measure]:
    worlds = {"original": shadow.original[which], "unlearned": shadow.unlearned[which]}
    retrained = shadow.retrained[which]
    size, half = shadow.count, shadow.count // 2
    scores = {name: klom(margins, retrained) for name, margins in worlds.items()}
    halved = {model: at_half_size(_mean_and_p95, margins, retrained, seed) for model, margins in worlds.items()}
    halved["control"] = control_at_half_size(_mean_and_p95, retrained, seed)
    measures = []
    for i, (name, what) in enumerate((("mean", "Mean"), ("p95", "95th percentile"))):
        full = {
            model: mean_estimate(values) if name == "mean" else Estimate(float(np.quantile(values, 0.95)))
            for model, values in scores.items()
        }
        at_half = {model: Estimate(float(values[i])) for model, values in halved.items()}
        told = f"{what} over {which} samples of KLoM, KL(models‖retrained) of margins in {BINS} bins, in nats"
        line = f"klom_model_to_retrained_{which}_{name}"
        samples: dict[str, int] = {which: retrained.shape[1]}
        measures += [
            Measure(line, "populations",
                    f"{told}, from {size} models of each kind: biased upward, so judge it by the line with half the "
                    "models, which has the control; an interval covers the choice of samples.",
                    samples={**samples, "models": size}, **full),
            Measure(f"{line}_half_the_models", "populations",
                    f"{told}, from {half} models of each kind: the control, one half of the retrained models against "
                    "the other, has the same bias, and unlearned as low as the control says that nothing is left.",
                    samples={**samples, "models": half}, **at_half),
        ]  # fmt: skip
    return measures
