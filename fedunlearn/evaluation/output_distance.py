"""How far a model's outputs are from the retrained model's, sample by sample, beside the floor that chance sets.

Directions: ``kl_retrained_to_model`` is KL(retrained‖model), which is large where the retrained model holds likely what
the model rules out; ``kl_model_to_retrained`` the other way round. All logarithms are natural, so KL is in nats; only
the Jensen-Shannon divergence of ZRF has base 2, which puts it in [0, 1]. Distributions come as log-probabilities, so
that a saturated model gives a large number and never an infinite one.

Intervals say how much the mean would move with other samples of the same kind; they do not cover another training. The
control (another retrained model against the same reference) is what shows the chance of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from fedunlearn.evaluation.distance import total_variation
from fedunlearn.evaluation.measure import Estimate, Found, Measure, Refusal
from fedunlearn.evaluation.outputs import Answers, Outputs, SetName, Vector
from fedunlearn.evaluation.rates import share_of

COMPARED = ("original", "unlearned", "control")
"""The models that are compared with the retrained one."""
LEVEL = 0.95
_SAMPLES_ONLY = "the interval covers the choice of samples, not another training"


def kl_divergence(log_p: Vector, log_q: Vector) -> Vector:
    """Return ``KL(p‖q) = sum_c p_c (log p_c - log q_c)`` in nats of distributions in the last axis, at least 0.

    Args:
        log_p, log_q: (..., classes) natural logarithms of probabilities, finite.
    """
    return np.maximum((np.exp(log_p) * (log_p - log_q)).sum(-1), 0.0)


def jensen_shannon(log_p: Vector, log_q: Vector) -> Vector:
    """Return the Jensen-Shannon divergence to base 2, in [0, 1], of distributions in the last axis.

    ``JS = KL(p‖m)/2 + KL(q‖m)/2`` with ``m = (p + q)/2``; 0 for equal distributions, 1 for disjoint ones. It is the
    divergence, not its square root.
    """
    log_m = np.logaddexp(log_p, log_q) - math.log(2.0)
    nats = (kl_divergence(log_p, log_m) + kl_divergence(log_q, log_m)) / 2
    return np.minimum(nats / math.log(2.0), 1.0)


def mean_estimate(values: NDArray[np.float64], low: float = 0.0, high: float = math.inf) -> Estimate:
    """Return the mean of values (n,), n >= 1, with Student's 95 % interval cut to [low, high]; one value has none."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Estimate(mean)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * float(values.std(ddof=1)) / math.sqrt(n)
    return Estimate(mean, max(low, mean - half), min(high, mean + half))


def _kl_from(model: Outputs, retrained: Outputs) -> Estimate:
    return mean_estimate(kl_divergence(retrained.log_probabilities, model.log_probabilities))


def _kl_to(model: Outputs, retrained: Outputs) -> Estimate:
    return mean_estimate(kl_divergence(model.log_probabilities, retrained.log_probabilities))


def _activation(model: Outputs, retrained: Outputs) -> Estimate:
    return mean_estimate(np.linalg.norm(model.probabilities - retrained.probabilities, axis=1), high=math.sqrt(2.0))


def _variation(model: Outputs, retrained: Outputs) -> Estimate:
    return mean_estimate(total_variation(model.probabilities, retrained.probabilities), high=1.0)


def _other_class(model: Outputs, retrained: Outputs) -> Estimate:
    return share_of(np.asarray(model.logits.argmax(1) != retrained.logits.argmax(1)))


_FLOOR = (
    "0 for equal outputs; above the control is more than another seed explains; below it proves little where the "
    "original is below it too, for the run's models share a seed with the retrained one, and the control does not"
)
_LINES: tuple[tuple[str, Callable[[Outputs, Outputs], Estimate], tuple[SetName, ...], str], ...] = (
    ("kl_retrained_to_model", _kl_from, ("forget", "retain", "test"), "Mean KL(retrained‖model) in nats"),
    ("kl_model_to_retrained", _kl_to, ("forget", "retain", "test"), "Mean KL(model‖retrained) in nats"),
    (
        "activation_distance_from_retrained", _activation, ("forget",),
        "Mean L2 distance between the softmax outputs of the model and the retrained one, in [0, 1.41]",
    ),
    (
        "total_variation_from_retrained", _variation, ("forget", "test"),
        "Mean total variation between the softmax outputs of the model and the retrained one, in [0, 1]",
    ),
    (
        "predicted_class_other_than_retrained", _other_class, ("forget",),
        "Share of samples for which the model predicts another class than the retrained one",
    ),
)  # fmt: skip


def output_distances(answers: Answers) -> Found:
    """Return the distances of outputs to the retrained model's: original, unlearned, and the control's floor.

    Mean KL in both directions on forget, retain and test; activation distance (mean L2 of softmax outputs) on
    forget; total variation on forget and test; share of forget samples with another predicted class.

    Raises ValueError if two models answer different samples.
    """
    if "retrained" not in answers:
        reason = "distances of outputs are measured to the retrained model, and there is none"
        return Found(refusals=(Refusal("output_distances", "distance", reason),))
    measures, refusals = [], []
    for name, distance, sets, meaning in _LINES:
        for which in sets:
            reference = answers["retrained"].get(which)
            if reference is None or not len(reference):
                reason = f"the distance is a mean over {which} samples, and there are none"
                refusals.append(Refusal(f"{name}_{which}", "distance", reason))
                continue
            found = {
                model: distance(same_samples(answers[model][which], reference), reference)
                for model in COMPARED
                if model in answers
            }
            reads = f"{meaning}: {_FLOOR}; {_SAMPLES_ONLY}."
            samples: dict[str, int] = {which: len(reference)}
            measures.append(Measure(f"{name}_{which}", "distance", reads, samples=samples, **found))
    return Found(tuple(measures), tuple(refusals))


def zrf(answers: Answers, random: Outputs) -> Found:
    """Return the zero retrain forgetting score of every model, Chundawat et al. (2205.08096).

    ``1 - mean JS(p_model(x), p_random(x))`` over the forget set. The logarithm has base 2 here, so that the score spans
    [0, 1]; with natural logarithms, ``1 - ln 2 (1 - score)``.

    Args:
        answers: what the models say.
        random: what a randomly initialised, untrained model of the same architecture says about the forget set.

    Raises ValueError if two models answer different samples.
    """
    if not len(random):
        return Found(refusals=(Refusal("zrf_like_random_forget", "distance", "ZRF needs at least one forget sample"),))
    found = {}
    for model in ("original", "unlearned", "retrained", "control"):
        if model in answers:
            outputs = same_samples(answers[model]["forget"], random)
            js = jensen_shannon(outputs.log_probabilities, random.log_probabilities)
            found[model] = mean_estimate(1.0 - js, high=1.0)
    reads = (
        "ZRF, 1 - mean Jensen-Shannon divergence (base 2) from an untrained model: 1 says that the model answers like "
        f"an untrained one, and the target is the retrained model's value, not 1; {_SAMPLES_ONLY}."
    )
    measure = Measure("zrf_like_random_forget", "distance", reads, samples={"forget": len(random)}, **found)
    return Found((measure,))


def same_samples(outputs: Outputs, reference: Outputs) -> Outputs:
    """Return ``outputs`` if they answer the samples of ``reference`` in its order; else raise ValueError."""
    if not (np.array_equal(outputs.rows, reference.rows) and np.array_equal(outputs.labels, reference.labels)):
        raise ValueError("two models are compared on different samples")
    return outputs
