from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.evaluation.effects.fairness import accuracy_by_client, client_measures, gini, node_measures
from fedunlearn.evaluation.measure import Found, Measure
from fedunlearn.evaluation.outputs import Outputs


def _line(found: Found, name: str) -> Measure:
    return next(measure for measure in found.measures if measure.name == name)


@given(st.lists(st.integers(0, 500).map(lambda hits: hits / 500), min_size=1, max_size=30))
def test_ginis_coefficient_is_the_mean_difference_of_two(values: list[float]) -> None:
    array = np.array(values)
    mean = array.mean()
    truth = np.abs(array[:, None] - array).mean() / (2 * mean) if mean > 0 else 0.0
    assert gini(array) == pytest.approx(truth, abs=1e-9)
    assert 0 <= gini(array) <= 1 - 1 / len(array) + 1e-9


def test_nodes_that_are_not_there_throughout_do_not_count() -> None:
    nan = float("nan")
    accuracies = {
        "original": np.array([0.1, 0.5, 0.7, 0.9]),
        "unlearned": np.array([nan, 0.2, 0.6, 0.8]),
        "retrained": np.array([nan, 0.4, 0.6, 0.8]),
    }
    found = node_measures(accuracies)
    worst, spread, tenth = (_line(found, f"node_accuracy_{n}") for n in ("worst", "spread", "tenth_percentile"))
    assert worst.original is not None and worst.original.value == 0.5  # not 0.1: that node leaves
    assert worst.unlearned is not None and worst.unlearned.value == 0.2 and worst.control is None
    assert spread.retrained is not None and spread.retrained.value == pytest.approx(0.4)
    assert tenth.unlearned is not None and tenth.unlearned.value == pytest.approx(0.2 + 0.2 * 0.4)
    assert worst.samples == {"nodes": 3} and len(found.measures) == 4
    alone = node_measures({"unlearned": np.array([nan, 0.2]), "retrained": np.array([0.3, 0.2])})
    assert "at least two nodes" in alone.refusals[0].reason and not alone.measures


def _test(correct: list[bool], clients: list[int]) -> Outputs:
    logits = np.array([[1.0, 0.0] if right else [0.0, 1.0] for right in correct])
    count = len(correct)
    return Outputs(logits, np.zeros(count, np.int64), np.arange(count), np.array(clients))


def test_clients_with_few_samples_are_left_out() -> None:
    test = _test([True] * 5 + [False] + [True, True, False, False, False], [7] * 5 + [2] + [4] * 5)
    assert accuracy_by_client(test).tolist() == [0.4, 1.0]
    found = client_measures({"unlearned": {"test": test}, "retrained": {"test": test}})
    worst = _line(found, "client_accuracy_worst")
    assert worst.unlearned is not None and worst.unlearned.value == 0.4 and worst.samples == {"clients": 2}
    few = client_measures(
        {"unlearned": {"test": test.take(np.arange(6))}, "retrained": {"test": test.take(np.arange(6))}}
    )
    assert few.refusals[0].reason == "inequality needs at least two clients with 5 test samples each, and there are 1"


def test_equal_accuracies_are_equal_to_the_last_bit():
    assert gini(np.full(5, 0.66)) == 0.0 == gini(np.full(7, 0.1))
