"""The battery's lines for one attack by a score: area, balanced accuracy and rates at few false alarms, model by model.

Every attack that gives each sample a number, larger where the sample looks more like a member, is told in the same
lines and the same words, so that attacks can be read against each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.attacks import areas, roc
from fedunlearn.evaluation.measure import COLUMNS, Estimate, Found, Measure, Refusal

Pairs = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Scores (m,) of the positives and (n,) of the negatives by model; the samples are the same for every model."""


@dataclass(frozen=True)
class Comparison:
    """What is compared, in the words that names and figures use.

    Attributes:
        stem, sense: a line is named ``<stem>_auc_<sense>``, and so on; ``sense`` holds the direction.
        attack: name of the attack in figures, such as ``modified entropy``.
        score: what the score is, for the reader: "has a smaller loss".
        negatives: the set that the forget set is compared with, such as ``test``.
        group: kind of attack; the curves of one model stand together in the panel ``<group>, <model>``.
        target: which value says that nothing is left.
        attackers: how many attackers gave the scores, each trained on the samples that the others judge. What one finds
            by chance another finds too, so intervals are widened by the root of their number.
    """

    stem: str
    sense: str
    attack: str
    score: str
    negatives: str
    group: str
    target: str = "the value of the retrained model says that nothing is left, not 0.5"
    attackers: int = 1

    def name(self, what: str) -> str:
        """Return the name of a line."""
        return f"{self.stem}_{what}_{self.sense}"


def score_lines(
    of: Comparison, pairs: Pairs, rates: Sequence[float], seed: int | None = None
) -> Found:  # fmt: skip
    """Return the lines and ROC curves of one attack; positives are forget samples, models are those of ``pairs``.

    Args:
        of: what is compared.
        pairs: scores by model, at least one model of :data:`COLUMNS`.
        rates: false positive rates that the negatives resolve, such as :func:`resolved` returns.
        seed: seed of the halves of the balanced accuracy; None leaves it out.

    Raises UserError if a score is not a number or a rate cannot be resolved.
    """
    forget, others = (len(scores) for scores in next(iter(pairs.values())))
    samples = {"forget": forget, of.negatives: others}
    if min(forget, others) < 2:
        reason = f"it needs at least 2 forget and 2 {of.negatives} samples, and there are {forget} and {others}"
        return Found(refusals=(Refusal(of.name("auc"), "membership", reason),))

    def line(what: str, reads: str, values: Mapping[str, Estimate]) -> Measure:
        wide = {model: _stretched(estimate, math.sqrt(of.attackers)) for model, estimate in values.items()}
        return Measure(of.name(what), "membership", f"{reads}; {of.target}", **wide, samples=samples)

    lines = [
        line(
            "auc",
            f"chance that a forgotten sample {of.score} than a {of.negatives} sample, ties counted half",
            {model: areas.auc_estimate(*pair) for model, pair in pairs.items()},
        )
    ]
    if seed is not None:
        lines.append(
            line(
                "balanced_accuracy",
                f"mean share of right calls on forget and {of.negatives} samples by the best threshold, chosen on "
                "one half and judged on the other, so 0.5 is a coin",
                {model: roc.balanced_accuracy(*pair, seed) for model, pair in pairs.items()},
            )
        )
    for rate in rates:
        found = {model: roc.tpr_at(*pair, rate) for model, pair in pairs.items()}
        lines.append(
            line(
                f"tpr_at_fpr_{rate:g}",
                f"share of the forgotten samples called members when at most {rate:g} of the {of.negatives} samples "
                f"are ({_realised(found, others)})",
                {model: at.tpr for model, at in found.items()},
            )
        )
    curves = [
        roc.roc_curve_table(
            roc.roc_of(*pair), attack=of.attack, label=f"{of.attack}, {model}", positives=f"{model} forget",
            negatives=f"{model} {of.negatives}", group=f"{of.group}, {model}",
        )
        for model, pair in pairs.items()
    ]  # fmt: skip
    return Found(tuple(lines), curves={"roc": curves})


def resolved(rates: Sequence[float], n: int, negatives: str, label: str) -> tuple[tuple[float, ...], Found]:
    """Return the rates to tell with n negatives, and refusals of the usual rates that n cannot resolve.

    Args:
        rates: stated rates, all of which must be resolved; if empty, the usual ones, as far as n goes.
        n: number of negatives.
        negatives: their name.
        label: end of a refusal's name, such as ``forget_below_test``.

    Raises UserError, one sentence, for a stated rate that n negatives cannot resolve.
    """
    for rate in rates:
        roc.check_rate(rate, n)
    if rates:
        return tuple(rates), Found()
    usual = roc.default_rates(n)
    refusals = (
        Refusal(
            f"tpr_at_fpr_{rate:g}_{label}", "membership",
            f"a false positive rate of {rate:g} needs at least {round(1 / rate)} {negatives} samples, "
            f"and there are {n}",
        )
        for rate in roc.RATES if rate not in usual
    )  # fmt: skip
    return usual, Found(refusals=tuple(refusals))


def models_of(answers: Mapping[str, object]) -> list[str]:
    """Return the models that there are answers of, in the order of the columns."""
    return [model for model in COLUMNS if model in answers]


def _stretched(estimate: Estimate, factor: float) -> Estimate:
    """Return an estimate in [0, 1] whose limits are ``factor`` times as far away."""
    value, low, high = estimate.value, estimate.low, estimate.high
    if factor == 1 or low is None or high is None:
        return estimate
    return Estimate(value, max(0.0, value + factor * (low - value)), min(1.0, value + factor * (high - value)))


def _realised(found: Mapping[str, roc.AtRate], n: int) -> str:
    """Return the realised false positive rates in words; ties can make them smaller, model by model."""
    shown = {
        model: f"{at.fpr.value:.3g} [{at.fpr.low:.2g}, {at.fpr.high:.2g}]" for model, at in found.items()
    }  # fmt: skip
    each = set(shown.values())
    told = each.pop() if len(each) == 1 else ", ".join(f"{model} {text}" for model, text in shown.items())
    return f"realised: {told}; {n} samples resolve {roc.smallest_fpr(n):.2g} at best"
