"""How far apart two models are: in their parameters, and in what they predict."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.utility import Classifier, probabilities


def parameter_distances(rows: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """Return the L2 distance of every row to one vector, computed in float64.

    Args:
        rows: parameters of k nodes (k, d).
        reference: parameters (d,).

    Returns:
        Distances (k,), in units of the parameters.
    """
    rows, reference = np.asarray(rows), np.asarray(reference, dtype=np.float64)
    if rows.ndim != 2 or reference.shape != rows.shape[1:]:
        raise ValueError(f"rows of shape {rows.shape} cannot be compared with a vector of shape {reference.shape}")
    # one row at a time: a float64 copy of all rows would triple the memory of a large population
    return np.array([np.linalg.norm(row.astype(np.float64) - reference) for row in rows], dtype=np.float64)


def total_variation(p: NDArray[Any], q: NDArray[Any]) -> NDArray[np.float64]:
    """Return the total variation distance ``sum_c |p_c - q_c| / 2`` of distributions in the last axis, in [0, 1]."""
    return np.abs(np.asarray(p, dtype=np.float64) - np.asarray(q, dtype=np.float64)).sum(-1) / 2


def prediction_distances(
    model: Classifier, rows: NDArray[Any], reference: NDArray[Any], inputs: NDArray[Any]
) -> NDArray[np.float64]:
    """Return, for every row, the mean total variation between its softmax outputs and the reference's.

    A value of 0.01 says: whatever event of predictions is looked at, its average probability differs by at most 0.01.

    Args:
        model: the classifier.
        rows: parameters of k nodes (k, d).
        reference: parameters (d,).
        inputs: samples (n, ...) as stored, n >= 1.

    Returns:
        Mean distances (k,) in [0, 1].
    """
    target = probabilities(model, reference, inputs)
    means = [float(total_variation(probabilities(model, row, inputs), target).mean()) for row in rows]
    return np.array(means, dtype=np.float64)
