"""Accuracies beside the retrained model's, and the scores that sum up how far they are from it.

FA, UA, RA and TA of the papers are the accuracy on the forget set, its complement, and the accuracies on the retained
and the test data, all as shares in [0, 1]. A low accuracy on the forget set is not a goal: the retrained model's is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedunlearn.evaluation.measure import COLUMNS, Estimate, Found, Measure, Refusal
from fedunlearn.evaluation.output_distance import COMPARED, same_samples
from fedunlearn.evaluation.outputs import Answers, SetName
from fedunlearn.evaluation.rates import share_of

_ACCURACIES: tuple[tuple[SetName, str], ...] = (
    ("forget", "Accuracy on the forget set (FA): the target is the retrained model's value, not a low one"),
    ("retain", "Accuracy on the retained data (RA): below the retrained model's, the answer did damage"),
    ("test", "Accuracy on the test data (TA): below the retrained model's, the answer did damage"),
    ("never_member", "Accuracy on clients that no model saw: what FA looks like for people who never took part"),
)
_PLAIN = ("average_gap_of_accuracies_from_retrained", "tug_of_war_like_retrained")
_ATTACKED = ("average_gap_from_retrained", "tug_of_war_mia_like_retrained")
_COIN = "the attack's part is chance where its attacker is no better than a coin"
_NO_INTERVAL = "it has no interval, the control shows what chance does"


def average_gap(gaps: Mapping[str, float]) -> float:
    """Return the mean of absolute gaps, such as ``{"forget": |FA_u - FA_r|, "retain": ..., "test": ..., "mia": ...}``.

    The average gap of SalUn (2310.12508), in shares and not in percent; 0 is a perfect match.
    """
    return float(np.mean(list(gaps.values())))


def tug_of_war(gaps: Mapping[str, float]) -> float:
    """Return ``prod_S (1 - gap_S)`` over absolute gaps in [0, 1], 1 for a perfect match: ToW of Zhao (2406.01257)."""
    return float(np.prod([1.0 - gap for gap in gaps.values()]))


def gaps(answers: Answers, mia: Mapping[str, float] | None) -> Found:
    """Return accuracies of all models, and the average gap and tug of war between each model and the retrained one.

    Args:
        answers: what the models say.
        mia: for each model the value in [0, 1] of one membership attack on the forget set, or None.

    Raises ValueError for a value of the attack outside [0, 1], and if two models answer different samples.
    """
    if mia is not None and not all(0.0 <= value <= 1.0 for value in mia.values()):
        raise ValueError(f"the value of a membership attack lies in [0, 1], not {dict(mia)}")
    measures, refusals = _accuracy_lines(answers)
    sets: tuple[SetName, ...] = ("forget", "retain", "test")
    empty = [which for which in sets if not _size(answers, which)]
    if "retrained" not in answers or empty:
        lack = f"{empty[0]} samples, and there are none" if empty else "the retrained model, and there is none"
        refusals += [Refusal(name, "distance", f"gaps need {lack}") for name in _PLAIN + _ATTACKED]
        return Found(tuple(measures), tuple(refusals))

    plain: dict[str, dict[str, float]] = {
        model: {which: abs(_accuracy(answers, model, which) - _accuracy(answers, "retrained", which)) for which in sets}
        for model in COMPARED
        if model in answers
    }
    samples: dict[str, int] = {which: _size(answers, which) for which in sets}
    near_0 = f"0 is a perfect match; {_NO_INTERVAL}."
    near_1 = f"1 is a perfect match; {_NO_INTERVAL}."
    measures += [
        _line(_PLAIN[0], {m: average_gap(g) for m, g in plain.items()}, samples,
              f"Mean of |model - retrained| over the accuracies FA, RA and TA, in [0, 1]: {near_0}"),
        _line(_PLAIN[1], {m: tug_of_war(g) for m, g in plain.items()}, samples,
              f"ToW, the product of 1 - |model - retrained| over FA, RA and TA, in [0, 1]: {near_1}"),
    ]  # fmt: skip
    if mia is None or "retrained" not in mia:
        reason = "the score needs the value of a membership attack on the retrained model, and there is none"
        refusals += [Refusal(name, "distance", reason) for name in _ATTACKED]
        return Found(tuple(measures), tuple(refusals))
    attacked = {model: {**g, "mia": abs(mia[model] - mia["retrained"])} for model, g in plain.items() if model in mia}
    without_forget = {m: {k: gap for k, gap in g.items() if k != "forget"} for m, g in attacked.items()}
    measures += [
        _line(_ATTACKED[0], {m: average_gap(g) for m, g in attacked.items()}, samples,
              f"Mean of |model - retrained| over FA, RA, TA and a membership attack, in [0, 1]; {_COIN}: {near_0}"),
        _line(_ATTACKED[1], {m: tug_of_war(g) for m, g in without_forget.items()}, samples,
              f"ToW-MIA, ToW with a membership attack's value in the place of FA, in [0, 1]; {_COIN}: {near_1}"),
    ]  # fmt: skip
    return Found(tuple(measures), tuple(refusals))


def _accuracy_lines(answers: Answers) -> tuple[list[Measure], list[Refusal]]:
    measures, refusals = [], []
    for which, meaning in _ACCURACIES:
        n = _size(answers, which)
        if not n:
            why = "the data have no never-members" if which == "never_member" else f"there are no {which} samples"
            refusals.append(Refusal(f"accuracy_{which}", "distance", f"accuracy needs samples, and {why}"))
            continue
        right = {model: share_of(answers[model][which].correct) for model in COLUMNS if model in answers}
        measures.append(Measure(f"accuracy_{which}", "distance", f"{meaning}.", samples={which: n}, **right))
        if which == "forget":
            wrong = {model: share_of(~answers[model][which].correct) for model in COLUMNS if model in answers}
            reads = "Error on the forget set (UA = 1 - FA): the target is the retrained model's value, not a high one."
            measures.append(Measure("error_forget", "distance", reads, samples={which: n}, **wrong))
    return measures, refusals


def _line(name: str, values: Mapping[str, float], samples: dict[str, int], reads: str) -> Measure:
    return Measure(name, "distance", reads, samples=samples, **{m: Estimate(value) for m, value in values.items()})


def _size(answers: Answers, which: SetName) -> int:
    return min((len(answers[model][which]) if which in answers[model] else 0 for model in answers), default=0)


def _accuracy(answers: Answers, model: str, which: SetName) -> float:
    reference = answers["retrained"][which]
    return float(same_samples(answers[model][which], reference).correct.mean())
