"""Calibration: is a model that says 0.9 right nine times in ten, and is it still after unlearning?

Expected calibration errors by two kinds of bins, the Brier score and the negative log-likelihood, each with a bootstrap
interval over samples. Calibration errors are never 0 for a finite sample, so only differences between models mean much.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.measure import Estimate, Found, Refusal, together
from fedunlearn.evaluation.outputs import Answers, Outputs, SetName, Vector
from fedunlearn.evaluation.rates import line
from fedunlearn.randomness import generator

BINS = 15
RESAMPLES = 1000
FEWEST = 30
"""Fewest samples: two a bin."""
_CHUNK = 1 << 22
"""Numbers of the resamples held at a time."""
_SETS: tuple[SetName, ...] = ("test", "forget")


def calibration_error(outputs: Outputs, bins: int = BINS) -> float:
    """Return the expected calibration error with bins of equal width, in [0, 1] (Guo et al., 1706.04599, eq. 3).

    ``sum_b |sum_{i in b} (correct_i - confidence_i)| / n`` with the probability of the predicted class as confidence;
    bin b holds the confidences in ``(b/bins, (b+1)/bins]``.
    """
    return _error(_gaps(outputs), equal_width(_confidence(outputs), bins), bins)


def adaptive_calibration_error(outputs: Outputs, bins: int = BINS) -> float:
    """Return the same with bins of equally many samples, by confidence, as in Nixon et al. (1904.01685) for the
    predicted class: it does not depend on where confidences crowd."""
    return _error(_gaps(outputs), equal_mass(_confidence(outputs), bins), bins)


def brier_scores(outputs: Outputs) -> Vector:
    """Return Brier's (1950) score of every sample, (n,) in [0, 2]: the squared distance of the probabilities from the
    label's indicator, summed over classes."""
    away = np.array(outputs.probabilities)
    away[np.arange(len(outputs)), outputs.labels] -= 1.0
    return np.asarray((away**2).sum(1))


def equal_width(confidence: Vector, bins: int) -> NDArray[np.int64]:
    """Return the bin of every confidence in [0, 1] among bins of equal width; the upper edge belongs to the bin."""
    edges = np.arange(1, bins) / bins
    return np.searchsorted(edges, confidence, side="left").astype(np.int64)


def equal_mass(confidence: Vector, bins: int) -> NDArray[np.int64]:
    """Return the bin of every confidence among bins that hold equally many samples, or one more; of equal confidences
    the earlier sample comes first."""
    places = np.empty(len(confidence), dtype=np.int64)
    places[np.argsort(confidence, kind="stable")] = np.arange(len(confidence)) * bins // len(confidence)
    return places


def calibration_measures(answers: Answers, seed: int) -> Found:
    """Return calibration errors, Brier score and negative log-likelihood of all models on the test and forget sets.

    Resamples are the same for all models. The bins stay those of the data. A resampled calibration error is larger on
    average than that of the data, so its interval is the basic one, ``[2 e - q_0.975, 2 e - q_0.025]`` (Davison and
    Hinkley 1997, section 5.2), opened to hold the number where it would not; the other intervals are percentiles.
    """
    return together(_of_set(answers, name, seed) for name in _SETS)


def _of_set(answers: Answers, name: SetName, seed: int) -> Found:
    by_model = {model: sets[name] for model, sets in answers.items() if name in sets and len(sets[name])}
    if "unlearned" not in by_model or "retrained" not in by_model:
        return _refused(name, f"there are no {name} samples")
    count = len(by_model["retrained"])
    if count < FEWEST:
        return _refused(name, f"{BINS} bins need at least {FEWEST} {name} samples, and there are {count}")
    if not all(np.isfinite(outputs.loss).all() for outputs in by_model.values()):
        return _refused(name, f"a model's loss on the {name} set is not a finite number")
    tables = {model: _Table.of(outputs) for model, outputs in by_model.items()}
    drawn = {model: np.empty((RESAMPLES, 4)) for model in tables}
    draw = generator(seed, "calibration", _SETS.index(name))
    rows = max(1, _CHUNK // count)
    for low in range(0, RESAMPLES, rows):
        k = min(rows, RESAMPLES - low)
        picked = draw.integers(count, size=(k, count)) + (np.arange(k) * count)[:, None]
        weights = np.bincount(picked.ravel(), minlength=k * count).reshape(k, count).astype(np.float64)
        for model, table in tables.items():
            drawn[model][low : low + k] = table.numbers(weights)
    names = ("calibration_error", "calibration_error_equal_mass", "brier_score", "negative_log_likelihood")
    says = (
        f"mean gap between confidence and accuracy in {BINS} bins of equal width",
        f"mean gap between confidence and accuracy in {BINS} bins of equally many samples",
        "mean squared distance of the probabilities from the truth, 0 to 2",
        "mean cross-entropy in nats",
    )
    values = {model: table.numbers(np.ones((1, count)))[0] for model, table in tables.items()}
    found = []
    for i, (measure, says_what) in enumerate(zip(names, says)):
        estimates = {m: _estimate(values[m][i], drawn[m][:, i], basic=i < 2) for m in tables}
        reads = f"{says_what} on the {name} set; to be compared with the retrained model and its control"
        found.append(line(f"{measure}_{name}", "side effects", reads, estimates, {name: count}))
    gaps = {
        m: _estimate(values[m][0] - values["retrained"][0], drawn[m][:, 0] - drawn["retrained"][:, 0], basic=False)
        for m in tables
        if m != "retrained"
    }
    reads = (
        f"calibration error on the {name} set less that of the retrained model: 0 where unlearning did not disturb it"
    )
    found.append(line(f"calibration_error_above_retrained_{name}", "side effects", reads, gaps, {name: count}))
    return Found(tuple(found))


class _Table:
    """What one model's four numbers are made of: gaps by bin, twice, and two scores of every sample."""

    def __init__(self, gaps: Vector, bins: tuple[NDArray[np.int64], NDArray[np.int64]], scores: Vector) -> None:
        self._binned = [np.where(places[:, None] == np.arange(BINS), gaps[:, None], 0.0) for places in bins]
        self._scores = scores

    @classmethod
    def of(cls, outputs: Outputs) -> _Table:
        """Prepare the outputs of a model."""
        confidence = _confidence(outputs)
        bins = equal_width(confidence, BINS), equal_mass(confidence, BINS)
        return cls(_gaps(outputs), bins, np.stack([brier_scores(outputs), outputs.loss], axis=1))

    def numbers(self, weights: Vector) -> Vector:
        """Return the four numbers of samples that count ``weights`` (k, n) times, (k, 4)."""
        errors = [np.abs(weights @ binned).sum(1) for binned in self._binned]
        return np.column_stack([*errors, weights @ self._scores]) / weights.shape[1]


def _estimate(value: float, drawn: Vector, *, basic: bool) -> Estimate:
    low, high = (float(q) for q in np.quantile(drawn, [0.025, 0.975]))
    if basic:
        low, high = max(0.0, 2 * value - high), 2 * value - low
    return Estimate(float(value), min(low, float(value)), max(high, float(value)))


def _confidence(outputs: Outputs) -> Vector:
    return np.asarray(outputs.probabilities.max(1))


def _gaps(outputs: Outputs) -> Vector:
    return outputs.correct.astype(np.float64) - _confidence(outputs)


def _error(gaps: Vector, places: NDArray[np.int64], bins: int) -> float:
    return float(np.abs(np.bincount(places, weights=gaps, minlength=bins)).sum() / len(gaps))


def _refused(name: str, reason: str) -> Found:
    return Found(refusals=(Refusal(f"calibration_error_{name}", "side effects", reason),))
