"""Side effects on whoever is like the deleted: accuracy of similar clients, and of the classes of the forget set.

What is told apart is drawn without any model that saw the forget set, and without the test samples that are then
counted, so that the choice favours no model.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.measure import Estimate, Found, Measure, Refusal
from fedunlearn.evaluation.outputs import Answers, Outputs, Vector
from fedunlearn.evaluation.rates import difference, line, paired_difference, share_of

CLIENTS = "accuracy_loss_similar_clients"
CLASSES = "accuracy_loss_forget_classes"
FEWEST = 10
"""Fewest test samples on either side."""
_PART = 5
"""The nearest and the farthest fifth of the clients are compared."""


def client_distances(forget: Outputs, retain: Outputs) -> tuple[NDArray[np.int64], Vector]:
    """Return the clients that deleted nothing, increasing, and how unlike the deleted samples theirs are, in [0, 1].

    The distance is the total variation between mean outputs of one model on the forget set and on a client's retained
    training samples: it sees which classes a client has, and which its samples look like. Both sets of outputs must be
    of the retrained model.
    """
    reference = forget.probabilities.mean(0)
    clients = np.setdiff1d(retain.clients, forget.clients)
    means = [retain.probabilities[retain.clients == client].mean(0) for client in clients]
    return clients, np.array([float(np.abs(mean - reference).sum() / 2) for mean in means])


def frequent_classes(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fewest classes that make up half of these labels, increasing; of equal ones the smaller number."""
    classes, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    enough = int(np.searchsorted(np.cumsum(counts[order]), len(labels) / 2)) + 1
    return np.sort(classes[order[:enough]])


def similar_measures(answers: Answers) -> Found:
    """Return what unlearning costs the clients nearest to the deleted ones, against those farthest from them."""
    retrained = answers["retrained"]
    lacking = [name for name in ("forget", "retain", "test") if not len(retrained.get(name, ()))]
    if lacking:
        return _refuse(CLIENTS, f"there are no {lacking[0]} samples")
    owner = retrained["test"].clients
    clients, distances = client_distances(retrained["forget"], retrained["retain"])
    order = clients[np.argsort(distances, kind="stable")]
    order = order[np.isin(order, owner)]  # whoever has no test sample cannot be judged
    if len(order) < _PART:
        return _refuse(
            CLIENTS,
            f"a fifth of the clients needs at least {_PART} clients that deleted nothing, and there are {len(order)}",
        )
    size = len(order) // _PART
    near, far = np.isin(owner, order[:size]), np.isin(owner, order[-size:])
    return _compare(
        answers, near, far, CLIENTS, "similar_clients", "dissimilar_clients",
        *(f"the {'client' if size == 1 else f'{size} clients'} {how} like the deleted" for how in ("most", "least")),
    )  # fmt: skip


def class_measures(answers: Answers) -> Found:
    """Return what unlearning costs the classes that the forget set was mostly made of, against all others."""
    retrained = answers["retrained"]
    lacking = [name for name in ("forget", "test") if not len(retrained.get(name, ()))]
    if lacking:
        return _refuse(CLASSES, f"there are no {lacking[0]} samples")
    frequent = frequent_classes(retrained["forget"].labels)
    mine = np.isin(retrained["test"].labels, frequent)
    return _compare(
        answers, mine, ~mine, CLASSES, "forget_classes", "other_classes",
        f"the {len(frequent)} classes that half of the forget set belongs to", "the other classes",
    )  # fmt: skip


def _compare(
    answers: Answers, near: NDArray[np.bool_], far: NDArray[np.bool_], name: str, near_name: str, far_name: str,
    near_says: str, far_says: str,
) -> Found:  # fmt: skip
    """Return accuracy on two parts of the test set, the loss against the retrained model, and how the losses differ."""
    few = min(int(near.sum()), int(far.sum()))
    if few < FEWEST:
        return _refuse(
            name, f"{near_says} and {far_says} need at least {FEWEST} test samples each, and there are only {few}"
        )
    correct = {model: sets["test"].correct for model, sets in answers.items() if "test" in sets}
    ideal = correct["retrained"]
    found: list[Measure] = []
    losses: dict[str, Mapping[str, Estimate]] = {}
    for part, which, says in ((near, near_name, near_says), (far, far_name, far_says)):
        count = {"test": int(part.sum())}
        found.append(
            line(
                f"accuracy_{which}", "side effects", f"accuracy on test samples of {says}",
                {model: share_of(right[part]) for model, right in correct.items()}, count,
            )
        )  # fmt: skip
        losses[which] = {m: paired_difference(ideal[part], r[part]) for m, r in correct.items() if m != "retrained"}
    found.append(
        line(
            name, "side effects",
            f"accuracy of the retrained model less that of the model, on test samples of {near_says}; above 0, and "
            "beyond the control, where they pay for the deletion",
            losses[near_name], {"test": int(near.sum())},
        )
    )  # fmt: skip
    found.append(
        line(
            f"{name}_above_{far_name}", "side effects",
            f"the same loss less that of {far_says}; above 0, and beyond the control, where it is not everybody's",
            {model: difference(losses[near_name][model], losses[far_name][model]) for model in losses[near_name]},
            {near_name: int(near.sum()), far_name: int(far.sum())},
        )
    )  # fmt: skip
    return Found(tuple(found))


def _refuse(name: str, reason: str) -> Found:
    return Found(refusals=(Refusal(name, "side effects", reason),))
