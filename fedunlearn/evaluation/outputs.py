"""What a model says about samples, and the per-sample features that every attack and distance is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from fedunlearn.evaluation.utility import Classifier, logits_of

Vector = NDArray[np.float64]
SetName = Literal["forget", "retain", "test", "never_member"]
Answers = Mapping[str, Mapping[SetName, "Outputs"]]
"""Outputs by model (``original``, ``unlearned``, ``retrained``, where there is one ``control``) and by set of samples.
``never_member`` is missing where the data have no never-members; all models answer the same samples in one order."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one model says about n samples.

    Attributes:
        logits: (n, classes) float64.
        labels: (n,) true classes.
        rows: (n,) stable ids of the samples.
        clients: (n,) the client that each sample belongs to, as the data set numbers clients.
    """

    logits: Vector
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    clients: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def log_probabilities(self) -> Vector:
        """(n, classes) natural logarithms of the softmax outputs, ``-log(1 + odds against)``.

        Relative errors stay small also where an output is all but 1. ``x - logsumexp(x)`` is exactly 0 for margins
        above 37 and rounding noise a good way below: false ties and noise among samples that a model has memorised.
        """
        top = self.logits.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):  # outputs that are not numbers stay so, and whoever reads them says so
            return self.logits - top - np.logaddexp(0.0, self._odds_against_top)[:, None]

    @cached_property
    def _odds_against_top(self) -> Vector:
        """(n,) ``log((1 - p) / p)`` of the class with the largest output."""
        others, top = np.array(self.logits, copy=True), self.logits.argmax(1)[:, None]
        np.put_along_axis(others, top, -np.inf, axis=1)
        return np.asarray(logsumexp(others, axis=1) - self.logits.max(axis=1))

    @cached_property
    def probabilities(self) -> Vector:
        """(n, classes) softmax outputs."""
        return np.exp(self.log_probabilities)

    @cached_property
    def loss(self) -> Vector:
        """(n,) cross-entropy ``-log p_y`` in nats."""
        return -self._of_label(self.log_probabilities)

    @cached_property
    def confidence(self) -> Vector:
        """(n,) probability ``p_y`` of the true class."""
        return self._of_label(self.probabilities)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(n,) whether the largest logit is the label's; of equal ones the first counts."""
        return np.asarray(self.logits.argmax(1) == self.labels)

    @cached_property
    def entropy(self) -> Vector:
        """(n,) Shannon entropy of the outputs in nats."""
        return -(self.probabilities * np.where(self.probabilities > 0, self.log_probabilities, 0.0)).sum(1)

    @cached_property
    def modified_entropy(self) -> Vector:
        """(n,) Song and Mittal (2003.10595), eq. 3: ``-(1-p_y) log p_y - sum_{i != y} p_i log(1-p_i)``; small where
        the model is right and sure."""
        p, top = self.probabilities, self.logits.argmax(1)[:, None]
        small = np.array(p, copy=True)
        np.put_along_axis(small, top, 0.0, axis=1)
        log_rest = np.log1p(-small)  # log(1 - p), where p <= 1/2; of the largest output, from its odds:
        np.put_along_axis(log_rest, top, -np.logaddexp(0.0, -self._odds_against_top)[:, None], axis=1)
        terms = -p * log_rest
        np.put_along_axis(terms, self.labels[:, None], 0.0, axis=1)
        return np.exp(self._of_label(log_rest)) * self.loss + terms.sum(1)

    @cached_property
    def margin(self) -> Vector:
        """(n,) ``logit_y - logsumexp_{j != y} logit_j``, which is ``log(p_y / (1 - p_y))``: the phi of LiRA
        (2112.03570) and the margin of KLoM (2410.23232), finite however sure the model is."""
        others = np.array(self.logits, copy=True)
        np.put_along_axis(others, self.labels[:, None], -np.inf, axis=1)
        return self._of_label(self.logits) - logsumexp(others, axis=1)

    def _of_label(self, values: Vector) -> Vector:
        return np.take_along_axis(values, self.labels[:, None], axis=1)[:, 0]

    def take(self, which: NDArray[Any]) -> Outputs:
        """Return the outputs of some of the samples, by position or mask."""
        return Outputs(self.logits[which], self.labels[which], self.rows[which], self.clients[which])


def outputs_of(
    model: Classifier, theta: NDArray[Any], inputs: NDArray[Any], labels: NDArray[np.int64],
    rows: NDArray[np.int64], clients: NDArray[np.int64],
) -> Outputs:  # fmt: skip
    """Return what a model says at parameters ``theta`` (d,) about samples (n, ...) as stored, n >= 1."""
    return Outputs(logits_of(model, theta, inputs), labels, rows, clients)
