from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.evaluation.effects.similar import (
    CLASSES,
    CLIENTS,
    class_measures,
    client_distances,
    frequent_classes,
    similar_measures,
)
from fedunlearn.evaluation.measure import Found, Measure
from fedunlearn.evaluation.outputs import Answers, Outputs
from fedunlearn.evaluation.rates import paired_difference


def _line(found: Found, name: str) -> Measure:
    return next(measure for measure in found.measures if measure.name == name)


def _of(labels: np.ndarray, clients: np.ndarray, wrong: np.ndarray, classes: int = 4) -> Outputs:
    """Outputs that are sure of the label, or of the next class where they are wrong."""
    called = np.where(wrong, (labels + 1) % classes, labels)
    logits = 6.0 * (called[:, None] == np.arange(classes))
    return Outputs(logits, labels, np.arange(len(labels)), clients)


def _answers() -> Answers:
    """Ten clients besides client 10, who is deleted and has class 0 only; clients 3 and 8 have mostly class 0.

    The unlearned model is wrong about class 0 at clients 3 and 8; all models err on every seventh test sample.
    """
    clients = np.repeat(np.arange(10), 40)
    labels = np.where(np.isin(clients, [3, 8]) & (np.arange(400) % 4 < 3), 0, 1 + np.arange(400) % 3)
    base = np.arange(400) % 7 == 0
    hurt = base | ((labels == 0) & np.isin(clients, [3, 8]))
    mine, whose = np.zeros(30, np.int64), np.full(30, 10)
    right = np.zeros(30, bool)
    wrong = {"original": base, "unlearned": hurt, "retrained": base, "control": np.roll(base, 1)}
    return {
        name: {
            "forget": _of(mine, whose, right),
            "retain": _of(labels, clients, np.zeros(400, bool)),
            "test": _of(labels, clients, errors),
        }
        for name, errors in wrong.items()
    }


def test_the_clients_most_like_the_deleted_pay_and_the_others_do_not() -> None:
    answers = _answers()
    found = similar_measures(answers)
    near, far, loss, more = (
        _line(found, name)
        for name in (
            "accuracy_similar_clients",
            "accuracy_dissimilar_clients",
            CLIENTS,
            f"{CLIENTS}_above_dissimilar_clients",
        )
    )
    test = answers["unlearned"]["test"]
    truth = [
        np.mean(test.correct[np.isin(test.clients, [3, 8])]),
        np.mean(answers["retrained"]["test"].correct[120:160]),
    ]
    assert near.unlearned is not None and near.unlearned.value == pytest.approx(truth[0])
    assert near.samples == {"test": 80} and far.samples == {"test": 80}
    assert loss.unlearned is not None and loss.unlearned.low is not None and loss.unlearned.low > 0.4
    assert loss.original is not None and loss.original.value == 0 and loss.retrained is None
    assert more.unlearned is not None and more.unlearned.low is not None and more.unlearned.low > 0.4
    assert more.control is not None and more.control.low is not None and more.control.high is not None
    assert more.control.low < 0 < more.control.high
    assert far.unlearned is not None and far.retrained is not None and far.unlearned.value == far.retrained.value


def test_distances_by_a_loop() -> None:
    answers = _answers()["retrained"]
    clients, distances = client_distances(answers["forget"], answers["retain"])
    assert clients.tolist() == list(range(10))
    reference = np.mean(answers["forget"].probabilities, axis=0)
    for client, distance in zip(clients, distances):
        rows = [p for p, c in zip(answers["retain"].probabilities, answers["retain"].clients) if c == client]
        mean = sum(rows) / len(rows)
        assert distance == pytest.approx(sum(abs(a - b) for a, b in zip(mean, reference)) / 2)
    assert set(np.argsort(distances)[:2]) == {3, 8}


def test_the_choice_of_clients_owes_nothing_to_models_that_saw_the_forget_set_nor_to_test_samples() -> None:
    answers = {name: dict(sets) for name, sets in _answers().items()}
    before = _line(similar_measures(answers), "accuracy_similar_clients").retrained  # type: ignore[arg-type]
    labels, clients = (getattr(answers["original"]["retain"], name) for name in ("labels", "clients"))
    for name in ("original", "unlearned"):
        answers[name]["retain"] = _of(labels, clients, np.ones(400, bool))
    assert _line(similar_measures(answers), "accuracy_similar_clients").retrained == before  # type: ignore[arg-type]


def test_classes_of_the_forget_set_against_the_others() -> None:
    answers = _answers()
    found = class_measures(answers)
    loss = _line(found, CLASSES)
    mine = answers["retrained"]["test"].labels == 0
    direct = paired_difference(answers["retrained"]["test"].correct[mine], answers["unlearned"]["test"].correct[mine])
    assert loss.unlearned == direct and direct.value > 0.5 and loss.samples == {"test": int(mine.sum())}
    other = _line(found, "accuracy_other_classes")
    assert other.unlearned is not None and other.retrained is not None
    assert other.unlearned.value == other.retrained.value


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_frequent_classes_are_the_fewest_that_make_half(labels: list[int]) -> None:
    array = np.array(labels)
    chosen = frequent_classes(array)
    inside = np.isin(array, chosen).sum()
    assert inside >= len(array) / 2
    rarest = min(int((array == c).sum()) for c in chosen)
    assert inside - rarest < len(array) / 2
    assert all((array == c).sum() <= rarest for c in set(labels) - set(chosen.tolist()))


def test_too_few_clients_or_samples_are_refused() -> None:
    answers = _answers()
    few = {name: {part: out.take(out.clients >= 7) for part, out in sets.items()} for name, sets in answers.items()}
    found = similar_measures(few)  # type: ignore[arg-type]
    assert "at least 5 clients that deleted nothing, and there are 3" in found.refusals[0].reason
    one_class = {
        name: {part: out.take(out.labels == 0) for part, out in sets.items()} for name, sets in answers.items()
    }
    assert "there are only 0" in class_measures(one_class).refusals[0].reason  # type: ignore[arg-type]
    bare = {name: {"test": sets["test"]} for name, sets in answers.items()}
    assert "no forget samples" in similar_measures(bare).refusals[0].reason  # type: ignore[arg-type]
