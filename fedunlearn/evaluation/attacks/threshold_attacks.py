"""Membership inference by one threshold on loss, entropy or modified entropy (Yeom et al. 2018; 2003.10595).

Two comparisons. *Forget against test* asks what an attacker asks: can forgotten samples be told from samples that were
never trained on? Forgotten samples may be easier or harder than test samples for any model, so the answer is read
beside the retrained model's. *Forget against the retrained model* has no such confound: the same samples under a model
and under the retrained one, so 0.5 says that the model knows them as well as a model that never saw them.

The confidence p_y = exp(-loss) orders samples as the loss does, the other way round. Its curve, area and rates are
those of the loss, and are told once. Entropy does not look at the label; modified entropy does, and differs from both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.attacks import areas
from fedunlearn.evaluation.attacks.attack_lines import Comparison, models_of, resolved, score_lines
from fedunlearn.evaluation.measure import Found, Measure, Refusal, together
from fedunlearn.evaluation.outputs import Answers, Outputs

ATTACKS = {"loss": "loss", "entropy": "entropy", "modified_entropy": "modified entropy"}
"""Features of :class:`Outputs` that are small for members, with their names in words."""


def threshold_attacks(answers: Answers, *, rates: tuple[float, ...], seed: int) -> Found:
    """Return the lines and ROC curves of all threshold attacks on every model.

    Args:
        answers: outputs of every model on ``forget`` and ``test``.
        rates: false positive rates at which true positives are told; empty for the usual ones that the test set
            resolves.
        seed: seed of halves and resamples.

    Raises UserError for a stated rate that the test set cannot resolve, and for outputs that are not numbers.
    """
    models = models_of(answers)
    sense = "forget_below_test"
    told, refused = resolved(rates, len(answers[models[0]]["test"]), "test", sense)
    parts = [refused]
    for attack, words in ATTACKS.items():
        of = Comparison(attack, sense, words, f"has a smaller {words}", "test", "simple")
        if attack == "loss":
            same = "the confidence p_y orders samples as the loss does, so these are its numbers too"
            of = replace(of, target=f"{of.target}; {same}")
        pairs = {m: (_score(answers[m]["forget"], attack), _score(answers[m]["test"], attack)) for m in models}
        parts.append(score_lines(of, pairs, told, seed))
        parts.append(_against_retrained(answers, attack, seed))
    return together(parts)


def _against_retrained(answers: Answers, attack: str, seed: int) -> Found:
    """Return the line of the same forget samples under each model (positive) and the retrained one (negative)."""
    name, words = f"{attack}_auc_forget_below_retrained", ATTACKS[attack]
    if "retrained" not in answers:
        return Found(refusals=(Refusal(name, "membership", "it needs the retrained model, and there is none"),))
    ideal = _score(answers["retrained"]["forget"], attack)
    if len(ideal) < 2:
        reason = f"it needs at least 2 forget samples, and there is {len(ideal)}"
        return Found(refusals=(Refusal(name, "membership", reason),))
    values = {
        model: areas.paired_auc_estimate(_score(answers[model]["forget"], attack), ideal, seed)
        for model in models_of(answers) if model != "retrained"
    }  # fmt: skip
    sides = (
        "the label does not enter, so neither more nor less than 0.5 says by itself that the model knows them"
        if attack == "entropy"
        else "more than 0.5 says that the model knows them better than a model that never saw them, less that it knows "
        "them worse"
    )
    reads = (
        f"chance that a forgotten sample has a smaller {words} under the model than one has under the retrained "
        f"model, the same samples on both sides; {sides}; one retrained model misses 0.5 against another too, with all "
        "its samples together, so a value no further out than the control says nothing; the interval covers samples, "
        "not models"
    )
    return Found((Measure(name, "membership", reads, **values, samples={"forget": len(ideal)}),))


def _score(outputs: Outputs, attack: str) -> NDArray[np.float64]:
    return -np.asarray(getattr(outputs, attack))
