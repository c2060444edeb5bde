"""Outputs of made-up models: logits that favour the true class as much as a test asks, set by set."""

from __future__ import annotations

import numpy as np

from fedunlearn.evaluation.outputs import Outputs
from fedunlearn.randomness import generator


def outputs(n: int, boost: float, seed: int, classes: int = 5, noise: float = 1.0) -> Outputs:
    """Return outputs of n samples; samples and labels depend on n and classes alone, the model on the rest."""
    labels = generator(0, "made-labels", n, classes).integers(0, classes, n)
    logits = generator(seed, "made-logits", n, classes).normal(0, noise, (n, classes))
    logits[np.arange(n), labels] += boost
    return Outputs(logits, labels, np.arange(n), np.zeros(n, np.int64))


def answers(
    boosts: dict[str, dict[str, float]], sizes: dict[str, int], classes: int = 5, seed: int = 0
) -> dict[str, dict[str, Outputs]]:
    """Return answers of models whose logits of the true class are raised by ``boosts[model][set]``."""
    return {
        model: {
            name: outputs(sizes[name], boost, seed * 100 + 10 * i + j, classes)
            for j, (name, boost) in enumerate(sets.items())
        }
        for i, (model, sets) in enumerate(boosts.items())
    }
