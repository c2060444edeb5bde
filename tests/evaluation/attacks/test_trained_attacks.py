"""Trained attackers against scikit-learn run by hand on the same arrays."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from fedunlearn.errors import UserError
from fedunlearn.evaluation.attacks import trained_attacks as module
from fedunlearn.evaluation.attacks.trained_attacks import drawn, trained_attacks
from fedunlearn.evaluation.outputs import Outputs
from tests.evaluation.made_answers import answers

SIZES = {"forget": 50, "retain": 80, "test": 80}
BOOSTS = {
    "original": {"forget": 12.0, "retain": 12.0, "test": 1.0},
    "unlearned": {"forget": 4.0, "retain": 12.0, "test": 1.0},
    "retrained": {"forget": 1.0, "retain": 12.0, "test": 1.0},
}


@pytest.fixture(scope="module")
def world():
    return answers(BOOSTS, SIZES)


@pytest.fixture(scope="module")
def lines(world):
    return {measure.name: measure for measure in trained_attacks(world, seed=1).measures}


def by_hand(outputs):
    """Return the five features from the logits alone."""
    weights = np.exp(outputs.logits)
    p = weights / weights.sum(1, keepdims=True)
    right = np.eye(p.shape[1], dtype=bool)[outputs.labels]
    modified = -(1 - p[right]) * np.log(p[right]) - np.where(right, 0, p * np.log1p(-np.where(right, 0, p))).sum(1)
    one = {
        "correctness": p.argmax(1) == outputs.labels, "confidence": p[right], "entropy": -(p * np.log(p)).sum(1),
        "modified_entropy": modified,
    }  # fmt: skip
    return {**{name: np.asarray(x, float)[:, None] for name, x in one.items()}, "softmax": p}


def predicted(make, world, model, feature):
    forget, inside, outside = (by_hand(world[model][name])[feature] for name in ("forget", "retain", "test"))
    attacker = make().fit(np.concatenate([inside, outside]), np.repeat([1, 0], [len(inside), len(outside)]))
    return attacker.predict(forget)


@pytest.mark.parametrize("model", list(BOOSTS))
def test_shares_are_those_of_scikit_learn_run_by_hand(world, lines, model):
    """As many retain as test samples, both below the cap: all of them train, whatever the draw."""
    for feature in ("correctness", "confidence", "entropy", "modified_entropy", "softmax"):
        called = predicted(lambda: SVC(C=3, kernel="rbf", gamma="auto"), world, model, feature)
        found = getattr(lines[f"svc_{feature}_forget_called_nonmember"], model)
        assert found.value == np.mean(called == 0)
        exact = binomtest(int((called == 0).sum()), 50).proportion_ci(0.95, method="exact")
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    called = predicted(lambda: LogisticRegression(class_weight="balanced"), world, model, "entropy")
    assert getattr(lines["logistic_entropy_forget_called_member"], model).value == np.mean(called == 1)


def test_the_two_families_have_opposite_senses(lines):
    svc, logistic = lines["svc_entropy_forget_called_nonmember"], lines["logistic_entropy_forget_called_member"]
    assert svc.original.value < 0.1 < 0.6 < svc.retrained.value
    assert logistic.original.value > 0.9 > 0.4 > logistic.retrained.value
    assert svc.original.high < svc.retrained.low


def test_an_attacker_that_learns_something_is_better_than_a_coin_and_one_without_signal_is_not(world, lines):
    line = lines["svc_confidence_attacker_accuracy_retain_from_test"]
    assert line.original.low > 0.9
    flat = answers({"original": {"forget": 1.0, "retain": 1.0, "test": 1.0}}, SIZES | {"retain": 81}, seed=3)
    for measure in trained_attacks(flat, seed=1).measures:
        if "accuracy" in measure.name:
            assert measure.original.low < 0.5 < measure.original.high


def test_held_out_accuracy_never_judges_its_own_samples():
    """Members and non-members at random places, all different: an attacker that remembers is a coin on new ones."""

    class Memory:
        def fit(self, x, y):
            self.known = dict(zip(x[:, 0].tolist(), y.tolist()))
            return self

        def predict(self, x):
            return np.array([self.known.get(value, 1) for value in x[:, 0].tolist()])

    members, others = np.arange(20.0)[:, None], np.arange(100.0, 120.0)[:, None]
    assert module.held_out_accuracy(Memory, members, others).value == 0.5
    assert module.held_out_accuracy(lambda: SVC(), members, others).value == 1.0


def test_subsets_are_capped_and_told(world, monkeypatch):
    monkeypatch.setattr(module, "TRAIN_CAP", 30)
    monkeypatch.setattr(module, "JUDGED_CAP", 20)
    first, second = (trained_attacks(world, seed=seed).measures for seed in (1, 2))
    assert first[0].samples == {"forget": 20, "members": 30, "non-members": 30}
    assert "20 samples judged, 30 retain" in first[0].reads
    assert first == trained_attacks(world, seed=1).measures
    assert first != second


def test_draws_follow_the_ids_of_samples_not_their_places(world):
    outputs = world["original"]["retain"]
    picked = drawn(outputs, 30, seed=4)
    assert len(set(picked.tolist())) == 30
    back = outputs.take(np.arange(80)[::-1])
    assert back.rows[drawn(back, 30, seed=4)].tolist() == outputs.rows[picked].tolist()


def test_members_and_nonmembers_are_balanced(world):
    few = {m: {**sets, "test": sets["test"].take(np.arange(25))} for m, sets in world.items()}
    for measure in trained_attacks(few, seed=1).measures:
        assert (measure.samples["members"], measure.samples["non-members"]) == (25, 25)


def test_few_samples_are_refused_line_by_line(world):
    few = {m: {**sets, "test": sets["test"].take(np.arange(9))} for m, sets in world.items()}
    found = trained_attacks(few, seed=1)
    assert not found.measures
    assert [refusal.name for refusal in found.refusals] == [
        *(f"svc_{f}_forget_called_nonmember" for f in module.FEATURES), "logistic_entropy_forget_called_member"
    ]  # fmt: skip
    assert found.refusals[0].reason.endswith("and there are 50, 80 and 9")


def test_outputs_that_are_not_numbers_are_told(world):
    forget = world["original"]["forget"]
    broken = Outputs(np.full_like(forget.logits, np.nan), forget.labels, forget.rows, forget.clients)
    with pytest.raises(UserError, match="outputs of the original model that are not numbers"):
        trained_attacks({**world, "original": {**world["original"], "forget": broken}}, seed=1)
