"""Per-sample features against naive loops, exact decimals and torch, also where a model is all too sure."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext, localcontext

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch.nn.functional import cross_entropy, log_softmax

from fedunlearn.evaluation.outputs import Outputs, outputs_of
from fedunlearn.randomness import generator

ROWS, CLASSES = 40, 6


def outputs(logits, labels):
    n = len(labels)
    return Outputs(np.asarray(logits, np.float64), np.asarray(labels), np.arange(n) + 100, np.arange(n) % 3)


@pytest.fixture
def plain():
    draw = generator(1, "test-outputs")
    return outputs(draw.normal(0, 3, (ROWS, CLASSES)), draw.integers(0, CLASSES, ROWS))


def by_hand(logits, label):
    """Return confidence, loss, entropy, modified entropy and margin of one sample, number by number."""
    weights = [math.exp(x) for x in logits]
    p = [w / sum(weights) for w in weights]
    entropy = -sum(x * math.log(x) for x in p)
    others = [x for i, x in enumerate(p) if i != label]
    modified = -(1 - p[label]) * math.log(p[label]) - sum(x * math.log(1 - x) for x in others)
    return p[label], -math.log(p[label]), entropy, modified, math.log(p[label] / (1 - p[label]))


def features(found):
    return np.stack([found.confidence, found.loss, found.entropy, found.modified_entropy, found.margin], axis=1)


def test_features_against_a_loop(plain):
    expected = [by_hand(row, label) for row, label in zip(plain.logits.tolist(), plain.labels.tolist())]
    np.testing.assert_allclose(features(plain), expected, rtol=1e-10)


def test_features_against_torch(plain):
    logits, labels = torch.tensor(plain.logits), torch.tensor(plain.labels)
    np.testing.assert_allclose(plain.log_probabilities, log_softmax(logits, 1).numpy(), rtol=1e-12)
    np.testing.assert_allclose(plain.loss, cross_entropy(logits, labels, reduction="none").numpy(), rtol=1e-12)
    np.testing.assert_allclose(plain.entropy, torch.distributions.Categorical(logits=logits).entropy(), rtol=1e-12)
    np.testing.assert_array_equal(plain.correct, (logits.argmax(1) == labels).numpy())


def test_the_label_is_gathered_sample_by_sample():
    """``p[:, labels]`` is (n, n), and its first column holds the probability of the *first* sample's class."""
    found = outputs(np.log([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.25, 0.25, 0.5]]), [1, 1, 2])
    assert found.confidence == pytest.approx([0.2, 0.6, 0.5])
    assert found.loss == pytest.approx(-np.log([0.2, 0.6, 0.5]))
    assert found.margin == pytest.approx(np.log([0.2 / 0.8, 0.6 / 0.4, 1.0]))
    assert found.correct.tolist() == [False, True, True]


def test_the_margin_is_the_log_odds_of_the_confidence(plain):
    np.testing.assert_allclose(expit(plain.margin), plain.confidence, rtol=1e-12)
    np.testing.assert_allclose(np.logaddexp(0, -plain.margin), plain.loss, rtol=1e-10)


def exactly(logits, label):
    """Return the features in decimals of 60 digits and any exponent."""
    with localcontext() as context:
        context.prec = 60
        weights = [Decimal(x).exp() for x in logits]
        p = [w / sum(weights) for w in weights]
        rest = [sum(x for j, x in enumerate(p) if j != i) for i in range(len(p))]  # 1 - p without cancellation
        entropy = -sum(x * x.ln() for x in p)
        modified = -rest[label] * p[label].ln() - sum(x * rest[i].ln() for i, x in enumerate(p) if i != label)
        margin = p[label].ln() - rest[label].ln()
        return [float(x) for x in (p[label], -p[label].ln(), entropy, modified, margin)]


SURE = [
    ([800.0, -800.0, 0.0], 0),
    ([800.0, -800.0, 0.0], 1),
    ([800.0, -800.0, 0.0], 2),
    ([800.0, 800.0, -800.0], 0),
    ([800.0, 800.0, -800.0], 2),
    ([-800.0, -800.0, -800.0], 1),
    ([40.0, 0.0, -1.0], 0),
    ([40.0, 0.0, -1.0], 1),
    ([60.0, 22.0, 21.0], 2),
    ([0.0, 5.0, 20.0], 1),
    *(([margin, 0.0, -1.0], label) for margin in (15.0, 20.0, 30.0, 34.0, 36.5, 37.5, 100.0) for label in (0, 1)),
]


@pytest.mark.parametrize(("logits", "label"), SURE)
def test_features_of_a_sure_model_against_exact_decimals(logits, label):
    before = getcontext().prec
    found = outputs([logits], [label])
    np.testing.assert_allclose(features(found)[0], exactly(logits, label), rtol=1e-11)
    assert np.isfinite(features(found)).all()
    assert getcontext().prec == before


def test_modified_entropy_tells_right_from_wrong_where_entropy_does_not():
    found = outputs([[9.0, 0.0, 0.0], [9.0, 0.0, 0.0]], [0, 1])
    assert found.entropy[0] == found.entropy[1]
    assert found.modified_entropy[0] < 0.01 < 5 < found.modified_entropy[1]


def test_equal_logits_are_right_for_the_first_class_only():
    assert outputs([[0.0, 0.0], [0.0, 0.0]], [0, 1]).correct.tolist() == [True, False]


def test_taking_some_samples_keeps_their_ids_and_numbers(plain):
    some = plain.take(np.array([5, 2]))
    assert len(some) == 2
    assert (some.rows.tolist(), some.clients.tolist()) == ([105, 102], [2, 2])
    assert some.loss.tolist() == plain.loss[[5, 2]].tolist()
    assert len(plain.take(plain.correct)) == plain.correct.sum()


def test_features_do_not_change_the_logits(plain):
    kept = plain.logits.copy()
    features(plain)
    np.testing.assert_array_equal(plain.logits, kept)


class Linear:
    """Softmax regression on rows of p numbers."""

    classes = 3

    def prepare(self, inputs):
        return torch.from_numpy(np.asarray(inputs, dtype=np.float32))

    def logits(self, theta, x):
        return x @ theta.view(self.classes, -1).T


def test_outputs_of_asks_the_model():
    draw = generator(2, "test-outputs")
    theta, x, labels = draw.integers(-3, 4, 12), draw.integers(-5, 6, (7, 4)), draw.integers(0, 3, 7)
    rows, clients = np.arange(7) * 2, np.arange(7) % 2
    found = outputs_of(Linear(), theta, x, labels, rows, clients)
    assert found.logits.dtype == np.float64
    np.testing.assert_array_equal(found.logits, x @ theta.reshape(3, 4).T)  # small integers: no rounding
    assert (found.labels is labels, found.rows is rows, found.clients is clients) == (True, True, True)
