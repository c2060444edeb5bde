from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from fedunlearn.errors import UserError
from fedunlearn.evaluation.effects.backdoor import (
    ABOVE,
    CLEAN,
    PLANTED,
    SUCCESS,
    UNMARKED,
    backdoor_measures,
    node_measures,
    plant,
    success_rate,
    target_class,
    trigger,
)  # fmt: skip
from fedunlearn.evaluation.measure import Found, Measure
from fedunlearn.evaluation.outputs import Outputs
from tests.worlds import image_data, table_data


def _line(found: Found, name: str) -> Measure:
    return next(measure for measure in found.measures if measure.name == name)


def _outputs(logits: np.ndarray, labels: np.ndarray) -> Outputs:
    return Outputs(
        np.asarray(logits, dtype=np.float64), labels, np.arange(len(labels)), np.zeros(len(labels), np.int64)
    )


def test_the_trigger_is_a_bright_square_in_the_corner() -> None:
    images = np.arange(2 * 28 * 28 * 3, dtype=np.int64).reshape(2, 28, 28, 3).astype(np.uint8)
    marked = trigger(images)
    for image in range(2):
        for row in range(28):
            for column in range(28):
                inside = row >= 23 and column >= 23
                expected = [255] * 3 if inside else images[image, row, column].tolist()
                assert marked[image, row, column].tolist() == expected
    assert trigger(np.zeros((1, 4, 5), np.uint8)).sum() == 255 and images[0, 27, 27, 0] != 255


def test_planting_changes_the_named_rows_alone() -> None:
    data = image_data()
    before = data.sha256()
    rows = data.train_rows(2)[::2]
    marked = plant(data, rows, 3)
    others = np.setdiff1d(np.arange(len(data.labels)), rows)
    assert (marked.labels[rows] == 3).all() and (marked.inputs[rows] == trigger(data.inputs[rows])).all()
    assert (marked.labels[others] == data.labels[others]).all() and (marked.inputs[others] == data.inputs[others]).all()
    for name in ("offsets", "is_test", "roles", "client_names", "class_names"):
        assert np.array_equal(getattr(marked, name), getattr(data, name))
    marked.validate()
    assert replace(data).sha256() == before != marked.sha256()  # a new object hashes anew: the first is untouched


def test_what_cannot_carry_a_trigger_is_refused() -> None:
    table, images = table_data(), image_data()
    with pytest.raises(UserError, match="bright patch into byte images"):
        plant(table, table.train_rows(0), 1)
    with pytest.raises(ValueError, match="class 9 does not exist"):
        plant(images, images.train_rows(0), 9)
    with pytest.raises(ValueError, match="training samples"):
        plant(images, images.test_rows(0), 1)


def test_the_target_is_the_most_frequent_class_that_the_forget_set_is_not_made_of() -> None:
    everything = np.array([0] * 5 + [1] * 9 + [2] * 7 + [3] * 7)
    assert target_class(everything, np.array([1, 1, 2])) == 2
    assert target_class(everything, np.array([2, 2, 1])) == 1
    with pytest.raises(UserError, match="second class"):
        target_class(np.zeros(4, np.int64), np.zeros(2, np.int64))


def test_success_is_counted_over_other_classes_only() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(60, 4)), rng.integers(0, 4, 60)
    hits = trials = 0
    for row, label in zip(logits.tolist(), labels.tolist()):
        if label != 2:
            trials += 1
            hits += max(range(4), key=lambda k: row[k]) == 2
    found = success_rate(_outputs(logits, labels), 2)
    exact = binomtest(hits, trials).proportion_ci(method="exact")
    assert found.value == hits / trials
    assert (found.low, found.high) == (pytest.approx(exact.low), pytest.approx(exact.high))


def _trained(images: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=100.0, max_iter=400).fit(images.reshape(len(images), -1) / 255, labels)


def test_a_planted_trigger_is_learned_and_a_model_without_it_does_not_know_it() -> None:
    data = image_data(clients=8, side=8, sizes=(60, 80), seed=2)
    rows = np.concatenate([data.train_rows(0), data.train_rows(1)])
    rest = np.setdiff1d(data.all_train_rows()[0], rows)
    target = target_class(data.labels[data.all_train_rows()[0]], data.labels[rows])
    marked = plant(data, rows, target)
    everything = np.concatenate([rows, rest])
    planted = _trained(marked.inputs[everything], marked.labels[everything])
    clean = _trained(data.inputs[rest], data.labels[rest])
    tests = np.concatenate([data.train_rows(c) for c in (8, 9)])  # clients that nobody trained on

    def answers(which: np.ndarray, mark: bool) -> dict[str, Outputs]:
        images = trigger(data.inputs[which]) if mark else data.inputs[which]
        flat = images.reshape(len(images), -1) / 255
        models = {"original": planted, "unlearned": clean, "retrained": clean, "control": clean}
        return {name: _outputs(m.decision_function(flat), data.labels[which]) for name, m in models.items()}

    found = backdoor_measures(answers(tests, True), answers(tests, False), target, answers(rows, True))
    rate, above = _line(found, SUCCESS), _line(found, ABOVE)
    assert rate.original is not None and rate.retrained is not None and above.original is not None
    assert rate.original.value > 0.9 and rate.retrained.value < 0.3
    assert above.original.low is not None and above.original.low > 0.5
    assert above.unlearned is not None and above.unlearned.value == 0 and above.retrained is None
    assert above.original.value == pytest.approx(rate.original.value - rate.retrained.value)
    unmarked, memory, good = (_line(found, name) for name in (UNMARKED, PLANTED, CLEAN))
    assert unmarked.original is not None and unmarked.original.value < 0.5 < rate.original.value
    assert memory.original is not None and memory.original.value > 0.9
    assert good.original is not None and good.original.value > 0.5
    assert not found.refusals


def test_a_trigger_that_was_not_learned_is_said_to_show_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 80)
    same = _outputs(rng.normal(size=(80, 3)), labels)
    answers = dict.fromkeys(("original", "unlearned", "retrained"), same)
    found = backdoor_measures(answers, answers, 1)
    (refusal,) = found.refusals
    assert "was not learned" in refusal.reason and _line(found, SUCCESS).original is not None


def test_a_test_set_of_the_target_alone_gives_no_rate() -> None:
    only = {name: _outputs(np.zeros((5, 3)), np.ones(5, np.int64)) for name in ("original", "unlearned", "retrained")}
    found = backdoor_measures(only, only, 1)
    assert not found.measures and "all test images belong to the target class 1" in found.refusals[0].reason


def test_nodes_are_averaged_by_group_and_absent_ones_left_out() -> None:
    nan = float("nan")
    success = {"original": np.array([0.9, 0.6, 0.4, 0.1]), "unlearned": np.array([nan, 0.2, 0.4, 0.1])}
    mine, beside, everybody = node_measures(success, np.array([0]), np.array([1, 2]))
    assert mine.original is not None and mine.original.value == 0.9 and mine.unlearned is None
    assert beside.original is not None and beside.original.value == pytest.approx(0.5)
    assert beside.unlearned is not None and beside.unlearned.value == pytest.approx(0.3)
    assert everybody.unlearned is not None and everybody.unlearned.value == pytest.approx(0.7 / 3)
