"""How good a model is: accuracy, loss and predicted probabilities of one parameter vector on a set of samples.

Sets are walked through in slices of a fixed size, so memory does not grow with the set and the numbers do not depend on
who asks. The forward pass is float32 whatever the vector's type; sums over samples are float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedunlearn.evaluation.forward import Forward
from fedunlearn.models import Model

SLICE = 512
"""Samples of one forward pass: large enough to be fast, small enough for the activations of a convolutional network."""


class Classifier(Protocol):
    """What is needed of a model here. A :class:`fedunlearn.models.Model` is computed in its fastest form."""

    def prepare(self, inputs: NDArray[Any]) -> Tensor:
        """Return stored samples (n, ...) as the float32 tensor that :meth:`logits` takes."""
        ...

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return logits (n, classes) at the parameters ``theta`` (d,)."""
        ...


def accuracy_and_loss(
    model: Classifier, theta: NDArray[Any], inputs: NDArray[Any], labels: NDArray[np.integer[Any]]
) -> tuple[float, float]:
    """Return the share of samples whose largest logit is the label's, and the mean cross-entropy in nats.

    Among equal logits the smallest class number is the prediction. Parameters that are not numbers give a loss that is
    not a number.

    Args:
        model: the classifier.
        theta: parameters (d,).
        inputs: samples (n, ...) as stored, n >= 1.
        labels: class numbers (n,).

    Raises:
        ValueError: if there is no sample, or not one label a sample.
    """
    _check(inputs, labels)
    hits, loss = 0, 0.0
    for low, logits in _slices(model, theta, inputs):
        target = _labels(labels, low, len(logits))
        hits += int((logits.argmax(1) == target).sum())
        loss += float(F.cross_entropy(logits, target, reduction="none").double().sum())
    return hits / len(labels), loss / len(labels)


def losses(
    model: Classifier, theta: NDArray[Any], inputs: NDArray[Any], labels: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Return the cross-entropy of every sample, (n,) in nats; arguments and errors as in :func:`accuracy_and_loss`.

    The softmax is taken in float64: well-fitted samples keep losses that differ, where float32 would tie them at zero.
    """
    _check(inputs, labels)
    parts = [
        F.cross_entropy(logits.double(), _labels(labels, low, len(logits)), reduction="none").numpy()
        for low, logits in _slices(model, theta, inputs)
    ]
    return np.concatenate(parts)


def probabilities(model: Classifier, theta: NDArray[Any], inputs: NDArray[Any]) -> NDArray[np.float64]:
    """Return the softmax outputs (n, classes) of samples (n, ...), n >= 1, at parameters (d,)."""
    if not len(inputs):
        raise ValueError("a set without samples cannot be evaluated")
    return np.concatenate([logits.double().softmax(1).numpy() for _, logits in _slices(model, theta, inputs)])


def logits_of(model: Classifier, theta: NDArray[Any], inputs: NDArray[Any]) -> NDArray[np.float64]:
    """Return the logits (n, classes) of samples (n, ...), n >= 1, at parameters (d,), as float64."""
    if not len(inputs):
        raise ValueError("a set without samples cannot be evaluated")
    return np.concatenate([logits.double().numpy() for _, logits in _slices(model, theta, inputs)])


def _slices(model: Classifier, theta: NDArray[Any], inputs: NDArray[Any]) -> Iterator[tuple[int, Tensor]]:
    vector = torch.from_numpy(np.array(theta, dtype=np.float32))
    forward = Forward(model) if isinstance(model, Model) else None
    with torch.no_grad():
        for low in range(0, len(inputs), SLICE):
            part = inputs[low : low + SLICE]
            if forward is not None:
                yield low, forward.logits(vector, forward.prepare(part))
            else:
                yield low, model.logits(vector, model.prepare(part))


def _labels(labels: NDArray[np.integer[Any]], low: int, count: int) -> Tensor:
    return torch.from_numpy(np.array(labels[low : low + count], dtype=np.int64))


def _check(inputs: NDArray[Any], labels: NDArray[np.integer[Any]]) -> None:
    if not len(labels):
        raise ValueError("a set without samples cannot be evaluated")
    if len(inputs) != len(labels):
        raise ValueError(f"{len(inputs)} samples have {len(labels)} labels")
