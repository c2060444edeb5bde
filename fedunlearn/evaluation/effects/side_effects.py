"""What unlearning did to whom it should not have touched, all together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.effects.calibration import calibration_measures
from fedunlearn.evaluation.effects.fairness import client_measures, node_measures
from fedunlearn.evaluation.effects.similar import class_measures, similar_measures
from fedunlearn.evaluation.effects.streisand import streisand_measures
from fedunlearn.evaluation.measure import Found, Refusal, together
from fedunlearn.evaluation.outputs import Answers


def side_effects(
    answers: Answers, *, node_accuracies: Mapping[str, NDArray[np.float64]] | None, seed: int = 1
) -> Found:
    """Return accuracy of similar clients and classes, fairness, calibration and the Streisand effect.

    Args:
        answers: what the models say about the sets of samples, with ``unlearned`` and ``retrained``.
        node_accuracies: test accuracy of every node's own model (N,) by model of the network, NaN where a node is
            absent; None where nodes have no models of their own, or only released models are at hand.
        seed: seed of the resamples.

    Raises:
        ValueError: if a model that everything is compared with is missing.
    """
    if missing := {"unlearned", "retrained"} - set(answers):
        raise ValueError(f"side effects lack the model '{sorted(missing)[0]}'")
    if node_accuracies is None:
        reason = "only models that stand for the whole network are at hand, not the nodes' own"
        nodes = Found(refusals=(Refusal("node_accuracy_worst", "side effects", reason),))
    else:
        nodes = node_measures(node_accuracies)
    parts = [similar_measures(answers), class_measures(answers), nodes, client_measures(answers)]
    return together([*parts, calibration_measures(answers, seed), streisand_measures(answers, seed)])
