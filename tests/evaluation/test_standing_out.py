"""What stands out: the rules on made-up lines, and how often they err when nothing but seeds differs."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.evaluation.measure import Estimate, Found, Measure
from fedunlearn.evaluation.standing_out import PRIMARY, judgements, stands_out
from fedunlearn.randomness import generator

KL = "kl_retrained_to_model_forget"
P = "user_p_value_deleted_above_never_members"
AUC = "loss_auc_forget_below_retrained"
PAIRS = "pairs_ulira_auc_above_retrained"
SEEN = "pairs_lira_auc_above_retrained"
EPSILON = "population_epsilon_lower_bound_from_retrained"
RELEARN = "relearn_mean_forget_loss"
HARM = "accuracy_loss_forget_classes"
SECTION = {p.name: section for section, candidates in PRIMARY.items() for p in candidates} | {SEEN: "shadows"}


def estimate(value):
    return None if value is None else Estimate(*value) if isinstance(value, tuple) else Estimate(value)


def line(name, original=None, unlearned=None, retrained=None, control=None, samples=None):
    columns = [estimate(value) for value in (original, unlearned, retrained, control)]
    return Measure(name, SECTION[name], "what it means", *columns, samples or {})


def writers(original, unlearned, never=100, deleted=1):
    return line(P, original, unlearned, 0.5, 0.6, {"deleted writers": deleted, "never-members": never})


def verdicts(*lines):
    return {j.measure.name: (j.verdict, j.grade, j.memory) for j in judgements(Found(lines))}


def test_every_section_has_its_primary_and_no_measure_is_judged_twice():
    names = [p.name for candidates in PRIMARY.values() for p in candidates]
    assert len(PRIMARY) == 8 and len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("lines", "name", "expected"),
    [
        ([writers(0.01, 0.01)], P, ("stands out", "models", True)),
        ([writers(0.01, 0.2)], P, ("not told apart", "models", None)),
        ([writers(0.3, 0.2)], P, ("cannot tell", "models", None)),
        ([writers(0.1, 0.1, never=9)], P, ("cannot tell", "models", None)),
        ([line(PAIRS, None, (0.7, 0.6, 0.8)), line(SEEN, (0.9, 0.8, 1))], PAIRS, ("stands out", "models", True)),
        ([line(PAIRS, None, (0.6, 0.5, 0.7)), line(SEEN, (0.9, 0.8, 1))], PAIRS, ("not told apart", "models", None)),
        ([line(PAIRS, None, (0.3, 0.2, 0.4)), line(SEEN, (0.9, 0.8, 1))], PAIRS, ("not told apart", "models", None)),
        ([line(PAIRS, None, (0.6, 0.5, 0.7)), line(SEEN, (0.6, 0.4, 1))], PAIRS, ("cannot tell", "models", None)),
        ([line(PAIRS, None, (0.6, 0.5, 0.7))], PAIRS, ("cannot tell", "models", None)),
        ([line(EPSILON, 2.0, 0.1, None, 0.0)], EPSILON, ("stands out", "models", True)),
        ([line(EPSILON, 2.0, 0.0, None, 0.0)], EPSILON, ("not told apart", "models", None)),
        ([line(EPSILON, 0.0, 0.0, None, 0.0)], EPSILON, ("cannot tell", "models", None)),
        ([line(KL, 3.0, (0.7, 0.51, 1), None, 0.1)], KL, ("stands out", "one seed", True)),
        ([line(KL, 9.0, (0.7, 0.49, 1), None, 0.1)], KL, ("not told apart", "one seed", None)),
        ([line(KL, 0.4, (0.3, 0.2, 1), None, 0.1)], KL, ("cannot tell", "one seed", None)),
        ([line(KL, 9.0, 3.0)], KL, ("cannot tell", "one seed", None)),
        ([line(AUC, 0.9, (0.2, 0.19, 0.21), None, 0.52)], AUC, ("stands out", "one seed", False)),
        ([line(RELEARN, 0.2, 1.0, 1.0, 1.01)], RELEARN, ("not told apart", "one seed", None)),
        ([line(RELEARN, 0.2, 0.9, 1.0, 1.01)], RELEARN, ("stands out", "one seed", True)),
        ([line(RELEARN, 0.2, 0.93, 1.0, 1.0)], RELEARN, ("not told apart", "one seed", None)),
        ([line(RELEARN, 0.2, 0.91, 1.0, 1.0)], RELEARN, ("stands out", "one seed", True)),
        ([line(RELEARN, 0.2, 1.09, 1.0, 1.0)], RELEARN, ("stands out", "one seed", False)),
        ([line(RELEARN, 0.2, 0.9)], RELEARN, ("cannot tell", "one seed", None)),
        ([line(HARM, 0.0, (0.3, 0.2, 0.4), None, 0.01)], HARM, ("stands out", "one seed", None)),
        ([line(HARM, 0.0, (0.0, -0.1, 0.1), None, 0.01)], HARM, ("not told apart", "one seed", None)),
    ],
)
def test_each_rule(lines, name, expected):
    assert verdicts(*lines)[name] == expected
    shown = stands_out(Found(tuple(lines)))
    assert [j.measure.name for j in shown] == ([name] if expected[0] == "stands out" else [])
    (judgement,) = judgements(Found(tuple(lines)))
    assert judgement.sentence and "nan" not in judgement.sentence and ". " not in judgement.sentence


def test_the_stand_in_is_judged_where_the_first_choice_cannot_tell_whatever_it_says():
    other = line(AUC, 0.9, (0.8, 0.7, 0.9), None, 0.51)
    assert list(verdicts(writers(0.01, 0.2), other)) == [P]
    assert list(verdicts(writers(0.5, 0.5, never=1), other)) == [AUC]
    assert list(verdicts(other)) == [AUC]
    assert verdicts() == {} and stands_out(Found()) == []


def test_a_run_that_was_merely_retrained_rarely_stands_out():
    """Three models of one law, intervals over samples as good as points: the worst case for a rule with one control."""
    draw, hits, kept, trials = generator(1, "test-standing-out"), 0, 0, 4000
    for unlearned, retrained, control in draw.normal(1.0, 0.1, size=(trials, 3)):
        shown = stands_out(Found((line(RELEARN, 0.9, unlearned, retrained, control),)))
        hits += bool(shown)
        kept += bool(shown) and unlearned < retrained
    assert 0.09 < hits / trials < 0.13 and kept / trials < 0.07


def test_the_p_value_errs_as_often_as_it_says():
    draw, hits, trials = generator(2, "test-standing-out"), 0, 2000
    for scores in draw.normal(size=(trials, 101)):
        p = (1 + int((scores[1:] >= scores[0]).sum())) / 101
        hits += bool(stands_out(Found((writers(0.01, p),))))
    assert hits / trials < 0.025 + 3 * np.sqrt(0.025 / trials)
