"""Fairness: who pays for an unlearning, over nodes' own models and over clients' test samples.

The nodes of a run are all there are and are tested on the same samples, so their numbers have no interval. Accuracies
of single clients rest on few samples: their worst and their spread are large by chance alone, and only the difference
from the retrained model, beside the control's, means anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fedunlearn.evaluation.measure import Estimate, Found, Measure, Refusal
from fedunlearn.evaluation.outputs import Answers, Outputs, Vector
from fedunlearn.evaluation.rates import line

FEWEST = 5
"""Clients with fewer test samples are left out: their accuracy is chance."""


def gini(values: Vector) -> float:
    """Return Gini's coefficient of non-negative values (n,), n >= 1: the mean difference of two of them by twice the
    mean, 0 if all are equal or all are zero, at most 1 - 1/n."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n, total = len(ordered), float(ordered.sum())
    if total == 0 or ordered[0] == ordered[-1]:  # equal values would leave rounding
        return 0.0
    return max(0.0, float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum()) / (n * total))


_NUMBERS: dict[str, tuple[str, Callable[[Vector], float]]] = {
    "worst": ("smallest accuracy", lambda v: float(v.min())),
    "tenth_percentile": ("accuracy that nine in ten reach", lambda v: float(np.quantile(v, 0.1))),
    "spread": ("largest less smallest accuracy", lambda v: float(v.max() - v.min())),
    "gini": ("Gini coefficient of the accuracies, 0 if all are equal", gini),
}


def node_measures(accuracies: Mapping[str, Vector]) -> Found:
    """Return how unequal nodes' own models are, from their accuracies (N,) by model, NaN where a node is absent.

    Only nodes that are present in all models count: without that, a client's leaving would itself change the numbers.
    """
    present = np.all([~np.isnan(values) for values in accuracies.values()], axis=0)
    if present.sum() < 2:
        reason = f"inequality needs at least two nodes that are there throughout, and there are {int(present.sum())}"
        return Found(refusals=(Refusal("node_accuracy_worst", "side effects", reason),))
    kept = {model: np.asarray(values, dtype=np.float64)[present] for model, values in accuracies.items()}
    return Found(tuple(_lines("node", "of the nodes' own models", kept, {"nodes": int(present.sum())})))


def client_measures(answers: Answers) -> Found:
    """Return how unequal one vector serves the clients, from its accuracy on each client's test samples."""
    by_model = {model: accuracy_by_client(sets["test"]) for model, sets in answers.items() if "test" in sets}
    clients = len(by_model["retrained"]) if "retrained" in by_model else 0
    if clients < 2:
        reason = f"inequality needs at least two clients with {FEWEST} test samples each, and there are {clients}"
        return Found(refusals=(Refusal("client_accuracy_worst", "side effects", reason),))
    return Found(tuple(_lines("client", "on the clients' test samples", by_model, {"clients": clients})))


def accuracy_by_client(test: Outputs, fewest: int = FEWEST) -> Vector:
    """Return the accuracy of every client with enough samples, (clients,), clients increasing."""
    _, of = np.unique(test.clients, return_inverse=True)
    sizes, right = np.bincount(of), np.bincount(of, weights=test.correct)
    return np.asarray(right[sizes >= fewest] / sizes[sizes >= fewest])


def _lines(who: str, where: str, values: Mapping[str, Vector], count: dict[str, int]) -> list[Measure]:
    return [
        line(
            f"{who}_accuracy_{name}", "side effects",
            f"{says} {where}; as far from the retrained model's as the control is, where nobody was harmed",
            {model: Estimate(number(accuracies)) for model, accuracies in values.items()}, dict(count),
        )
        for name, (says, number) in _NUMBERS.items()
    ]  # fmt: skip
