"""The Streisand effect: has unlearning made the deleted samples stand out?

A method that pushes the loss on the forget set up may push it beyond that of samples the model has never seen. Then an
attacker finds the deleted samples as those the model is oddly wrong about, and the deletion has told more than no
deletion would have (Golatkar et al., 1911.04933; Chundawat et al., 2201.05629). The retrained model sets the measure.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t as student

from fedunlearn.evaluation.attacks.areas import auc_estimate, paired_auc_estimate
from fedunlearn.evaluation.measure import Estimate, Found, Measure, Refusal
from fedunlearn.evaluation.outputs import Answers, Outputs, Vector
from fedunlearn.evaluation.rates import line, share_of

FORGET_ABOVE = "streisand_forget_loss_above_retrained"
DIFFERENCE = "streisand_forget_loss_minus_retrained"
ENTROPY = "streisand_entropy_auc_forget_above_test"
_PERCENT = (95, 99)


def loss_above(forget: Outputs, test: Outputs, percent: int) -> Estimate:
    """Return the share of forget samples whose loss is above the ``percent`` percentile of the test losses.

    ``100 - percent`` percent of never-seen samples of the same kind would lie there. The percentile is the smallest
    test loss that at least ``percent`` percent of the test losses do not exceed. The Clopper-Pearson interval is that
    of the forget samples, the threshold taken as given.
    """
    threshold = np.quantile(test.loss, percent / 100, method="inverted_cdf")
    return share_of(forget.loss > threshold)


def mean_difference(first: Vector, second: Vector) -> Estimate:
    """Return the mean of ``first - second`` of the same n >= 2 samples, with Student's 95 % interval."""
    away = first - second
    half = float(student.ppf(0.975, len(away) - 1)) * float(away.std(ddof=1)) / math.sqrt(len(away))
    value = float(away.mean())
    return Estimate(value, value - half, value + half)


def streisand_measures(answers: Answers, seed: int) -> Found:
    """Return whether the forget set stands out, for all models, beside the retrained model and its control."""
    forget = {model: sets["forget"] for model, sets in answers.items() if "forget" in sets}
    test = {model: sets["test"] for model, sets in answers.items() if "test" in sets}
    few = min(len(side["retrained"]) if "retrained" in side else 0 for side in (forget, test))
    if few < 2:
        reason = "the Streisand effect needs at least two forget and two test samples"
        return Found(refusals=(Refusal(FORGET_ABOVE, "side effects", reason),))
    if any(not np.isfinite(outputs.loss).all() for outputs in forget.values()):
        reason = "a model's loss on the forget set is not a finite number"
        return Found(refusals=(Refusal(FORGET_ABOVE, "side effects", reason),))
    ideal, others = forget["retrained"].loss, [model for model in forget if model != "retrained"]
    count = {"forget": len(ideal), "test": len(test["retrained"])}
    found = [
        line(
            FORGET_ABOVE,
            "side effects",
            "chance that a random forget sample has a larger loss than another under the retrained model; above 0.5 "
            "means over-forgetting, below 0.5 that something is left, 0.5 (see control) neither",
            {model: paired_auc_estimate(forget[model].loss, ideal, seed) for model in others},
            {"forget": len(ideal)},
        ),
        line(
            DIFFERENCE,
            "side effects",
            "mean loss on the forget set less that of the retrained model on the same samples, in nats; its sign reads "
            "as that of the line above less 0.5",
            {model: mean_difference(forget[model].loss, ideal) for model in others},
            {"forget": len(ideal)},
        ),
    ]
    refusals = []
    for percent in _PERCENT:
        name = f"streisand_forget_loss_above_{percent}_percent_of_test"
        need = round(100 / (100 - percent))
        if count["test"] < need:
            reason = f"the {percent} percentile needs at least {need} test samples, and there are {count['test']}"
            refusals.append(Refusal(name, "side effects", reason))
            continue
        found.append(_tail(name, percent, forget, test, count))
    found.append(
        line(
            ENTROPY,
            "side effects",
            "chance that a forget sample's output has a larger entropy than a test sample's; above the retrained "
            "model's where the model is made unsure about the forget set, which shows it",
            {model: auc_estimate(forget[model].entropy, test[model].entropy) for model in forget if model in test},
            count,
        )
    )
    return Found(tuple(found), tuple(refusals))


def _tail(
    name: str, percent: int, forget: dict[str, Outputs], test: dict[str, Outputs], count: dict[str, int]
) -> Measure:
    shares = {model: loss_above(forget[model], test[model], percent) for model in forget if model in test}
    reads = (
        f"share of forget samples with a loss beyond {percent} % of the test samples, {(100 - percent) / 100:g} for "
        "samples like them; above the retrained model's where they have become conspicuous"
    )
    return line(name, "side effects", reads, shares, count)
