"""Threshold attacks on made-up models, against scikit-learn on plain arrays."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from fedunlearn.errors import UserError
from fedunlearn.evaluation.attacks import areas
from fedunlearn.evaluation.attacks.threshold_attacks import threshold_attacks
from fedunlearn.evaluation.outputs import Outputs
from tests.evaluation.made_answers import answers

SIZES = {"forget": 60, "test": 150}
BOOSTS = {
    "original": {"forget": 20.0, "test": 1.0},
    "unlearned": {"forget": 2.0, "test": 1.0},
    "retrained": {"forget": 1.0, "test": 1.0},
    "control": {"forget": 1.0, "test": 1.0},
}


@pytest.fixture(scope="module")
def world():
    return answers(BOOSTS, SIZES)


@pytest.fixture(scope="module")
def lines(world):
    return {measure.name: measure for measure in threshold_attacks(world, rates=(), seed=1).measures}


def features(outputs):
    """Return loss, entropy and modified entropy from the logits alone, in plain numpy."""
    weights = np.exp(outputs.logits)
    p = weights / weights.sum(1, keepdims=True)
    right = np.eye(p.shape[1], dtype=bool)[outputs.labels]
    modified = -(1 - p[right]) * np.log(p[right]) - np.where(right, 0, p * np.log1p(-np.where(right, 0, p))).sum(1)
    return {"loss": -np.log(p[right]), "entropy": -(p * np.log(p)).sum(1), "modified_entropy": modified}


@pytest.mark.parametrize("attack", ["loss", "entropy", "modified_entropy"])
@pytest.mark.parametrize("model", ["unlearned", "retrained", "control"])
def test_areas_and_rates_are_those_of_scikit_learn(world, lines, attack, model):
    inside, outside = (features(world[model][name])[attack] for name in ("forget", "test"))
    truth, scores = np.repeat([1, 0], [60, 150]), -np.concatenate([inside, outside])
    found = getattr(lines[f"{attack}_auc_forget_below_test"], model)
    assert found.value == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert found.low < found.value < found.high
    fpr, tpr, _ = roc_curve(truth, scores)
    for rate in (0.1, 0.01):
        found = getattr(lines[f"{attack}_tpr_at_fpr_{rate}_forget_below_test"], model)
        assert found.value == pytest.approx(tpr[fpr <= rate].max(), abs=1e-12)
    if model != "retrained":
        ideal = features(world["retrained"]["forget"])[attack]
        found = getattr(lines[f"{attack}_auc_forget_below_retrained"], model)
        truth = np.repeat([1, 0], 60)
        assert found.value == pytest.approx(roc_auc_score(truth, -np.concatenate([inside, ideal])), abs=1e-12)
        expected = areas.paired_auc_interval(-inside, -ideal, seed=1)
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)


def test_a_model_that_memorised_the_forget_set_is_found_by_every_attack(lines):
    for attack in ("loss", "entropy", "modified_entropy"):
        for other in ("test", "retrained"):
            line = lines[f"{attack}_auc_forget_below_{other}"]
            assert line.original.value > 0.99
            assert line.original.low > line.control.high
        assert lines[f"{attack}_balanced_accuracy_forget_below_test"].original.value > 0.95
        assert lines[f"{attack}_tpr_at_fpr_0.01_forget_below_test"].original.value > 0.9
        line = lines[f"{attack}_balanced_accuracy_forget_below_test"]
        assert line.retrained.low < 0.5 < line.retrained.high


def test_the_same_model_twice_is_exactly_one_half_from_itself(world):
    same = {"original": world["original"], "unlearned": world["retrained"], "retrained": world["retrained"]}
    lines = {measure.name: measure for measure in threshold_attacks(same, rates=(), seed=1).measures}
    for attack in ("loss", "entropy", "modified_entropy"):
        paired = lines[f"{attack}_auc_forget_below_retrained"]
        assert (paired.unlearned.value, paired.unlearned.low, paired.unlearned.high) == (0.5, 0.5, 0.5)
        assert paired.retrained is paired.control is None
        line = lines[f"{attack}_auc_forget_below_test"]
        assert line.unlearned == line.retrained
        assert line.control is None


def test_confidence_has_the_curve_of_the_loss(world, lines):
    for model, sets in world.items():
        by_confidence = areas.auc(sets["forget"].confidence, sets["test"].confidence)
        # confidences of 1 - 1e-16 and above are ties, so a memorised set may differ by them
        assert by_confidence == pytest.approx(getattr(lines["loss_auc_forget_below_test"], model).value, abs=1e-9)
    assert "confidence" in lines["loss_auc_forget_below_test"].reads
    assert "confidence" not in lines["entropy_auc_forget_below_test"].reads


def test_sure_but_wrong_samples_look_like_members_to_entropy_alone(world):
    """Entropy does not look at the label: logits that favour a wrong class are as familiar to it as right ones."""
    wrong = dict(world["retrained"])
    labels = wrong["forget"].labels
    logits = np.zeros((60, 5))
    logits[np.arange(60), (labels + 1) % 5] = 9.0
    wrong["forget"] = Outputs(logits, labels, wrong["forget"].rows, wrong["forget"].clients)
    lines = {m.name: m for m in threshold_attacks({**world, "unlearned": wrong}, rates=(), seed=1).measures}
    assert lines["entropy_auc_forget_below_test"].unlearned.value > 0.99
    assert lines["loss_auc_forget_below_test"].unlearned.value < 0.05
    assert lines["modified_entropy_auc_forget_below_test"].unlearned.value < 0.05


def test_rates_curves_and_refusals(world):
    found = threshold_attacks(world, rates=(), seed=1)
    assert [refusal.name for refusal in found.refusals] == ["tpr_at_fpr_0.001_forget_below_test"]
    panels = {(curve["group"], curve["attack"]) for curve in found.curves["roc"]}
    assert panels == {
        (f"simple, {model}", attack) for model in BOOSTS for attack in ("loss", "entropy", "modified entropy")
    }
    stated = threshold_attacks(world, rates=(0.02,), seed=1)
    assert not stated.refusals
    assert sum("tpr_at_fpr_0.02" in measure.name for measure in stated.measures) == 3
    with pytest.raises(UserError, match=r"of 0\.001 needs at least 1000 non-members, and there are 150"):
        threshold_attacks(world, rates=(0.1, 0.001), seed=1)


def test_few_samples_and_a_missing_retrained_model_are_refused(world):
    one = {m: {name: outputs.take(np.arange(1)) for name, outputs in sets.items()} for m, sets in world.items()}
    found = threshold_attacks(one, rates=(), seed=1)
    assert not found.measures
    assert len(found.refusals) == 3 + 2 * 3
    alone = threshold_attacks({"original": world["original"]}, rates=(), seed=1)
    refused = [refusal for refusal in alone.refusals if refusal.name == "loss_auc_forget_below_retrained"]
    assert refused[0].reason == "it needs the retrained model, and there is none"


def test_a_diverged_model_is_told(world):
    forget = world["unlearned"]["forget"]
    logits = forget.logits.copy()
    logits[3] = np.nan
    broken = {**world["unlearned"], "forget": Outputs(logits, forget.labels, forget.rows, forget.clients)}
    with pytest.raises(UserError, match="not a number: the model diverged"):
        threshold_attacks({**world, "unlearned": broken}, rates=(), seed=1)
