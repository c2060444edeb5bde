"""What two models together give away, against loops and scikit-learn run by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import FunctionTransformer

from fedunlearn.errors import UserError
from fedunlearn.evaluation.attacks import two_models as module
from fedunlearn.evaluation.attacks.areas import auc_interval_of
from fedunlearn.evaluation.attacks.attack_lines import Comparison, score_lines
from fedunlearn.evaluation.attacks.two_models import (
    logistic_scores,
    loss_rise,
    outputs_move,
    two_models,
    update_features,
)
from fedunlearn.randomness import generator, uniforms
from tests.evaluation.made_answers import answers, outputs

SIZES = {"forget": 60, "retain": 150, "test": 120}
BOOSTS = {
    "original": {"forget": 10.0, "retain": 10.0, "test": 1.0},
    "unlearned": {"forget": 0.0, "retain": 10.0, "test": 1.0},
    "retrained": {"forget": 2.0, "retain": 10.0, "test": 1.0},
    "control": {"forget": 2.0, "retain": 10.0, "test": 1.0},
}


@pytest.fixture(scope="module")
def world():
    return answers(BOOSTS, SIZES)


@pytest.fixture(scope="module")
def found(world):
    return two_models(world, seed=1, rates=())


@pytest.fixture(scope="module")
def lines(found):
    return {measure.name: measure for measure in found.measures}


def test_differences_against_loops():
    before, after = outputs(20, 1.0, 1), outputs(20, 1.0, 2)
    for i in range(20):
        y = before.labels[i]
        p, q = (np.exp(o.logits[i]) / np.exp(o.logits[i]).sum() for o in (before, after))
        assert loss_rise(before, after)[i] == pytest.approx(np.log(p[y]) - np.log(q[y]))
        assert outputs_move(before, after)[i] == pytest.approx(max(sum((p - q)[k] for k in s) for s in subsets(5)))
        order = sorted(range(5), key=lambda k: -p[k])
        row = [p[k] for k in order] + [q[k] for k in order] + [abs(p[k] - q[k]) for k in order]
        assert update_features(before, after)[i] == pytest.approx([*row, np.log(p[y]) - np.log(q[y])])


def subsets(n):
    return [[k for k in range(n) if mask >> k & 1] for mask in range(2**n)]


@pytest.mark.parametrize("others", ["test", "retain"])
@pytest.mark.parametrize("model", ["unlearned", "retrained", "control"])
def test_areas_are_those_of_scikit_learn(world, lines, model, others):
    truth = np.repeat([1, 0], [60, SIZES[others]])
    for kind, score in (("loss_rises", loss_rise), ("outputs_move", outputs_move)):
        scores = [score(world["original"][name], world[model][name]) for name in ("forget", others)]
        value = getattr(lines[f"update_auc_forget_{kind}_more_than_{others}"], model).value
        assert value == pytest.approx(roc_auc_score(truth, np.concatenate(scores)), abs=1e-12)


def test_forgetting_shows_to_those_who_kept_the_old_model_and_retraining_does_too(lines):
    for others in ("test", "retain"):
        line = lines[f"update_auc_forget_loss_rises_more_than_{others}"]
        assert line.unlearned.low > 0.8
        assert line.retrained.low > 0.6
        assert line.unlearned.value >= line.retrained.value
        assert "which is not chance" in line.reads
        assert line.original is None
        assert lines[f"update_auc_logistic_forget_above_{others}"].unlearned.low > 0.8


def test_the_old_model_alone_tells_forget_from_test_but_not_from_retain(lines):
    assert lines["update_auc_logistic_forget_above_test"].original.low > 0.6
    line = lines["update_auc_logistic_forget_above_retain"].original
    assert line.low < 0.5 < line.high


def test_an_update_that_changes_nothing_gives_nothing_away(world):
    same = {**world, "unlearned": world["original"]}
    lines = {measure.name: measure for measure in two_models(same, seed=1, rates=()).measures}
    for others in ("test", "retain"):
        for kind in ("loss_rises", "outputs_move"):
            assert lines[f"update_auc_forget_{kind}_more_than_{others}"].unlearned.value == 0.5
            assert lines[f"update_tpr_at_fpr_0.1_forget_{kind}_more_than_{others}"].unlearned.value == 0.0
        line = lines[f"update_auc_logistic_forget_above_{others}"]
        assert line.unlearned == line.original


def test_the_trained_attacker_against_scikit_learn_run_by_hand():
    draw = generator(1, "test-two-models")
    positives, negatives = draw.normal(0.5, 2, (21, 3)), draw.normal(0, 2, (34, 3))
    found = logistic_scores(positives, negatives, seed=5)
    sets, first = (positives, negatives), []
    for which, rows in enumerate(sets):
        order = np.argsort(uniforms(5, "two-models", np.arange(len(rows)), which), kind="stable")
        first.append(set(order[: len(rows) // 2].tolist()))
    for judged_first in (True, False):
        train, judged = [], []
        for rows, half in zip(sets, first):
            mine = np.array([(i in half) == judged_first for i in range(len(rows))])
            train.append(rows[~mine])
            judged.append((rows[mine], mine))
        x, y = np.concatenate(train), np.repeat([1, 0], [len(t) for t in train])
        mean, sd = x.mean(0), x.std(0)
        attacker = LogisticRegression(class_weight="balanced").fit((x - mean) / sd, y)
        raw = [attacker.decision_function((rows - mean) / sd) for rows, _ in judged]
        every = np.concatenate(raw)
        for values, (_, mine), scores in zip(raw, judged, found):
            ranks = [((every < v).sum() + (every <= v).sum() + 1) / 2 / len(every) for v in values]
            assert scores[mine] == pytest.approx(ranks)


def test_the_trained_attacker_finds_nothing_in_noise():
    areas = []
    for k in range(40):
        draw = generator(2, "test-two-models", k)
        inside, outside = logistic_scores(draw.normal(size=(30, 4)), draw.normal(size=(60, 4)), seed=k)
        areas.append(np.mean((inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)))
    assert abs(np.mean(areas) - 0.5) < 3.5 * np.std(areas) / np.sqrt(40)
    assert abs(np.mean(areas) - 0.5) < 0.05


def test_the_cap_is_on_training_alone(monkeypatch):
    draw = generator(3, "test-two-models")
    positives, negatives = draw.normal(1, 1, (50, 2)), draw.normal(0, 1, (70, 2))
    whole = logistic_scores(positives, negatives, seed=1)
    monkeypatch.setattr(module, "TRAIN_CAP", 15)
    capped = logistic_scores(positives, negatives, seed=1)
    assert [len(scores) for scores in capped] == [50, 70]
    assert not np.array_equal(whole[0], capped[0])


def test_names_rates_curves_and_refusals(world, found, lines):
    assert {refusal.name for refusal in found.refusals} == {
        f"tpr_at_fpr_0.001_update_forget_more_than_{others}" for others in ("test", "retain")
    }
    assert sum("_auc_" in name for name in lines) == 6
    assert {c["group"] for c in found.curves["roc"]} == {f"update, {model}" for model in BOOSTS}
    assert len(found.curves["roc"]) == 2 * (3 + 3 + 4)
    with pytest.raises(UserError, match=r"0\.008 needs at least 125 non-members, and there are 120"):
        two_models(world, seed=1, rates=(0.008,))


def test_few_samples_are_refused(world):
    few = {m: {**sets, "forget": sets["forget"].take(np.arange(9))} for m, sets in world.items()}
    found = two_models(few, seed=1, rates=())
    reasons = {refusal.name: refusal.reason for refusal in found.refusals}
    assert reasons["update_auc_logistic_forget_above_test"].endswith("and there are 9 and 120")
    assert "update_auc_forget_loss_rises_more_than_test" in {measure.name for measure in found.measures}


def test_the_interval_of_the_trained_attacker_covers_chance():
    """Two attackers that teach each other's judges find the same noise; as independent they would cover 85 %."""
    draw, hits, trials = generator(8, "test-two-models"), 0, 120
    of = Comparison("update", "forget_above_test", "a", "b", "test", "update", attackers=2)
    for k in range(trials):
        pair = logistic_scores(draw.normal(size=(60, 5)), draw.normal(size=(120, 5)), k)
        found = score_lines(of, {"unlearned": pair}, ()).measures[0].unlearned
        hits += found.low <= 0.5 <= found.high
    assert hits / trials >= 0.91


def test_the_trained_lines_of_the_battery_are_widened(world, lines):
    line = lines["update_auc_logistic_forget_above_test"].unlearned
    pair = logistic_scores(
        *(update_features(world["original"][of], world["unlearned"][of]) for of in ("forget", "test")), 1
    )
    low, high = auc_interval_of(*pair)
    expected = (
        max(0.0, line.value - np.sqrt(2) * (line.value - low)),
        min(1.0, line.value + np.sqrt(2) * (high - line.value)),
    )
    assert (line.low, line.high) == pytest.approx(expected, abs=1e-12)


def test_a_capped_attacker_learns_from_a_random_part_of_its_half(monkeypatch):
    """The first positions of a set are the first clients, unlike all others."""
    seen = []

    class Spy(LogisticRegression):
        def fit(self, rows, labels):
            seen.append(rows[labels == 0, 0])
            return super().fit(rows, labels)

    monkeypatch.setattr(module, "TRAIN_CAP", 50)
    monkeypatch.setattr(module, "StandardScaler", lambda: FunctionTransformer())
    monkeypatch.setattr(module, "LogisticRegression", Spy)
    module.logistic_scores(np.zeros((60, 1)), np.arange(1000.0)[:, None], 1)
    assert [len(part) for part in seen] == [50, 50]
    for part in seen:
        assert 400 < part.mean() < 600 and part.max() > 900
