"""What stands out of a battery: eight measures named in advance, one a section, each judged by a rule that fits it.

A battery has some two hundred lines. Whoever looks for the lines whose interval misses the retrained model's value
finds many by chance, and not one in twenty: most intervals cover the choice of samples, while all samples of one model
move together with its seed. Of three models that differ in nothing but their seeds one is the highest and one the
lowest, so with tight intervals a line stands out in two runs of three. So only these lines are judged; all others
describe. A line may stand out, be not told apart from retraining, or be unable to tell: the last where the rule does
not even see the original, which has the deleted data for certain, so that silence about the answer would prove nothing.

Two grades of evidence:

- *models*: the number covers chance over models or writers. A rank p-value of 2.5 % or less; an interval over models
  above 0.5 (one side of 95 %, so 2.5 %); a lower bound above 0 (5 %). By Bonferroni at most 10 % of the runs whose
  answer is like retraining get any such finding.
- *one seed*: one control is all that tells how far a seed moves a number. The interval over samples must lie beyond the
  retrained model's value by more than :data:`SEEDS` times the distance of the control from it, and the number by more
  than :data:`PART` of what the original shows. For normal seeds without noise of samples, an answer like retraining
  does so in at most 11 % of the runs a line (a Cauchy tail; noise of samples makes it fewer), about half of that on
  either side; lines of one run share their seeds and err together. It is a reason to look, not a finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedunlearn.evaluation.measure import Estimate, Found, Measure, Section

SEEDS = 5.0
"""By how many times the control's distance from the retrained model a number must lie beyond it."""
PART = 0.1
"""With one control, a smaller part of the original's distance from the retrained model's value does not stand out: the
control may come close to that value by luck, and then anything would."""
P_VALUE = 0.025
"""Largest p-value that stands out."""

Verdict = Literal["stands out", "not told apart", "cannot tell"]
Rule = Literal["p-value", "interval over models", "lower bound", "one control"]


@dataclass(frozen=True)
class Primary:
    """A measure that is judged, and how.

    Attributes:
        name: of the measure.
        rule: how it is judged.
        nothing: the value of a model equal to the retrained one; None where that is the measure's ``retrained`` column.
        harm: whether it is damage to others and not memory; the original is then no example of it.
        seen: the measure whose original shows that the rule can see memory, if not this one's.
    """

    name: str
    rule: Rule
    nothing: float | None = None
    harm: bool = False
    seen: str | None = None


PRIMARY: dict[Section, tuple[Primary, ...]] = {
    "membership": (
        Primary("user_p_value_deleted_above_never_members", "p-value"),
        Primary("loss_auc_forget_below_retrained", "one control", 0.5),
    ),
    "shadows": (
        Primary(
            "pairs_ulira_auc_above_retrained", "interval over models", 0.5, seen="pairs_lira_auc_above_retrained"
        ),
    ),
    "distance": (Primary("kl_retrained_to_model_forget", "one control", 0.0),),
    "populations": (Primary("population_epsilon_lower_bound_from_retrained", "lower bound", 0.0),),
    "relearning": (Primary("relearn_mean_forget_loss", "one control"),),
    "backdoor": (Primary("backdoor_success_above_retrained", "one control", 0.0),),
    "network": (
        Primary("distance_to_retrained_hop_1", "one control", 0.0),
        Primary("distance_to_retrained_node_mean", "one control", 0.0),
    ),
    "side effects": (Primary("accuracy_loss_forget_classes", "one control", 0.0, harm=True),),
}  # fmt: skip
"""By section the measures that are judged: the first that a battery holds and whose samples can tell anything."""


@dataclass(frozen=True)
class Judgement:
    """What a primary measure says.

    Attributes:
        measure: the line.
        verdict: see the module.
        grade: ``models`` or ``one seed``.
        memory: whether it stands out on the side of the original, as memory does; None where it does not stand out, or
            has no original to compare with.
        sentence: why, in one sentence.
    """

    measure: Measure
    verdict: Verdict
    grade: Literal["models", "one seed"]
    memory: bool | None
    sentence: str


def stands_out(found: Found) -> list[Judgement]:
    """Return the primary measures that stand out, in the order of the sections."""
    return [judgement for judgement in judgements(found) if judgement.verdict == "stands out"]


def judgements(found: Found) -> list[Judgement]:
    """Return what every primary measure of a battery says, at most one a section, in the order of the sections."""
    lines = {measure.name: measure for measure in found.measures}
    told = []
    for candidates in PRIMARY.values():
        able = [p for p in candidates if p.name in lines and lines[p.name].unlearned is not None]
        if not able:
            continue
        primary = next((p for p in able if p.rule != "p-value" or _smallest(lines[p.name]) <= P_VALUE), able[-1])
        told.append(_judged(primary, lines[primary.name], lines.get(primary.seen or primary.name)))
    return told


def _judged(primary: Primary, line: Measure, positive: Measure | None) -> Judgement:
    grade: Literal["models", "one seed"] = "one seed" if primary.rule == "one control" else "models"
    if lack := _lacking(primary, line):
        return Judgement(line, "cannot tell", grade, None, lack)
    assert line.unlearned is not None
    out = _side(primary, line, line.unlearned)
    original = None if positive is None else positive.original
    before = 0 if original is None or positive is None else _side(primary, positive, original)
    if out:
        memory = None if primary.harm or not before else out == before
        return Judgement(line, "stands out", grade, memory, f"the answer {_said(primary, line, out)}")
    if not before and not primary.harm:
        why = "is not told from retraining either" if original is not None else "is not at hand"
        return Judgement(
            line,
            "cannot tell",
            grade,
            None,
            f"the original, which has the deleted data, {why}, so silence proves nothing",
        )
    return Judgement(line, "not told apart", grade, None, f"the answer {_said(primary, line, 0)}")


def _side(primary: Primary, line: Measure, value: Estimate) -> int:
    """Return 1 where a model's number stands out above, -1 where below, else 0."""
    low, high = (value.value if limit is None else limit for limit in (value.low, value.high))
    if primary.rule == "p-value":
        return int(value.value <= P_VALUE)
    if primary.rule != "one control":
        return int((value.value if value.low is None else low) > (primary.nothing or 0.0))
    ideal, room = _ideal(primary, line), SEEDS * _seed(primary, line)
    if line.original and not primary.harm and abs(value.value - ideal) <= PART * abs(line.original.value - ideal):
        return 0
    return 1 if low > ideal + room else -1 if high < ideal - room else 0


def _ideal(primary: Primary, line: Measure) -> float:
    if primary.nothing is not None:
        return primary.nothing
    assert line.retrained is not None
    return line.retrained.value


def _seed(primary: Primary, line: Measure) -> float:
    """Return how far another seed alone has moved the number."""
    assert line.control is not None
    return abs(line.control.value - _ideal(primary, line))


def _lacking(primary: Primary, line: Measure) -> str | None:
    """Return in one sentence why a line cannot be judged at all, or None."""
    if primary.rule == "p-value" and _smallest(line) > P_VALUE:
        return f"with so few never-members the p-value cannot fall below {_smallest(line):.3g}"
    if primary.rule == "one control" and line.control is None:
        return "there is no control, so nothing says how far another seed would move the number"
    if primary.rule == "one control" and primary.nothing is None and line.retrained is None:
        return "the retrained model's value is missing"
    return None


def _smallest(line: Measure) -> float:
    """Return the smallest p-value that the line could have."""
    deleted, others = line.samples["deleted writers"], line.samples["never-members"]
    return min(1.0, deleted / (others + 1))


def _said(primary: Primary, line: Measure, out: int) -> str:
    assert line.unlearned is not None
    value = f"{line.unlearned.value:.3g}"
    if primary.rule == "p-value":
        return f"has a p-value of {value}, {'at most' if out else 'above'} {P_VALUE:g}"
    if primary.rule == "interval over models":
        return f"has {value}, and the interval over models {'lies above' if out else 'holds or lies below'} 0.5"
    if primary.rule == "lower bound":
        return f"has a lower bound of {value}, {'above 0' if out else 'which shows nothing'}"
    where = {1: "lies above", -1: "lies below", 0: "does not lie beyond"}[out]
    bar = f"{SEEDS:g} times the {_seed(primary, line):.3g} that another seed moved it"
    if line.original is not None and not primary.harm:
        bar += f" and {PART:.0%} of the {abs(line.original.value - _ideal(primary, line)):.3g} of the original"
    return f"has {value}, which {where} {_ideal(primary, line):.4g} by more than {bar}"
