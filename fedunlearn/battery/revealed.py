"""What each node's view of the last answer still reveals: as far as certificates say it, and as an attacker finds it.

The certified part is that of ``fedunlearn certify views``: epsilon of all messages that a node received while the
request was answered, given all that it knew before. The empirical part is an attacker who kept the node's old model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedunlearn.battery.retold import Retold
from fedunlearn.evaluation.measure import Estimate, Found, Measure, Refusal
from fedunlearn.privacy.observed import Answered, seen_by

Array = NDArray[np.float64]
_EPSILON = (
    "certified epsilon of the messages that a node received during the answer, given all it knew before: 0 says that "
    "they add nothing; the certificates are taken at their word"
)
_RISE = (
    "area of 'the loss rises more on forget samples than on test samples' for a node that kept its old model: the "
    "retrained column is what exact retraining would show it, and above that the answer marks the deleted samples"
)


@dataclass(frozen=True)
class View:
    """One node's view of the last answer: ``epsilon`` of what it heard, or None, and one sentence on why.

    ``by`` is in a word or two what decided, as in :class:`fedunlearn.privacy.observed.Seen`.
    """

    node: int
    epsilon: float | None
    by: str
    reason: str


def views_of(retold: Retold, nodes: Sequence[int]) -> list[View]:
    """Return the views of these nodes, the same as ``fedunlearn certify views`` gives for the run's last request."""
    ledger, number, outcome = retold.network.ledger, retold.request.number, retold.outcome
    issued = [*([outcome.certificate] if outcome.certificate else []), *outcome.further_certificates]
    during = copy.copy(ledger)
    during.traffic = [t for t in ledger.traffic if t.request == number]
    walks = [t.route for t in during.traffic if t.pattern == "walk" and t.route]
    experiment = retold.world.experiment
    answered = Answered(
        asker=retold.request.node,
        certificates=dict(enumerate(issued)),
        reason=outcome.certificate_reason,
        noise_makers=frozenset(route[0] for route in walks),  # a walk sets out from the node that adds its noise
        retrained=experiment.unlearning.method == "retrain" and experiment.model.checkpoint is None,
    )
    found = []
    for node in nodes:
        knew = [node] if ledger.held_release(node, number) else []
        seen = seen_by({node: during.received_by(node)}, answered, knew_the_release=knew)
        found.append(View(node, seen.epsilon, seen.by, seen.reason))
    return found


def epsilon_measures(views: Sequence[View], neighbours: Sequence[int] | None) -> Found:
    """Return the largest and the mean epsilon over the client's neighbours and over all nodes but the client itself.

    Where a view has no number, neither is given: an average of the others would hide it. The refusal says why.
    ``neighbours`` is None where no single client asked.
    """
    measures, refusals = [], []
    bare = [view for view in views if view.epsilon is None]
    if views:
        share = Estimate(len(bare) / len(views))
        reads = (
            "share of the nodes whose view of the answer has no certified epsilon; 0 is best, 1 says nothing is known"
        )
        measures.append(
            Measure("view_without_certificate_share", "network", reads, unlearned=share, samples={"nodes": len(views)})
        )
    groups = [("node", list(views))]
    if neighbours is not None:
        groups.insert(0, ("hop_1", [view for view in views if view.node in set(neighbours)]))
    for group, members in groups:
        values = [view.epsilon for view in members if view.epsilon is not None]
        if len(values) < len(members) or not members:
            refusals.append(Refusal(f"view_epsilon_{group}", "network", _why(members)))
            continue
        for how, value in (("largest", max(values)), ("mean", sum(values) / len(values))):
            name, size = f"view_epsilon_{group}_{how}", {"nodes": len(members)}
            measures.append(Measure(name, "network", _EPSILON, unlearned=Estimate(value), samples=size))
    return Found(tuple(measures), tuple(refusals))


def _why(members: Sequence[View]) -> str:
    if not members:
        return "there is no such node whose view could be looked at"
    bare = [view for view in members if view.epsilon is None]
    such = f", such as node {bare[0].node}" if len(bare) < len(members) else ""
    return f"{len(bare)} of {len(members)} views have no certified epsilon{such}: {bare[0].reason}"


def rise_measures(
    unlearned: Array, retrained: Array, control: Array, neighbours: Sequence[int] | None, samples: dict[str, int]
) -> Found:
    """Return the mean and the largest area of :func:`fedunlearn.evaluation.nodes.reach.learned_from_both` over the
    client's neighbours and over all nodes; the arguments are its values (N,), NaN where a node is absent."""
    columns = {"unlearned": unlearned, "retrained": retrained, "control": control}
    measures, refusals = [], []
    groups: list[tuple[str, list[int]]] = [("node", np.flatnonzero(~np.isnan(unlearned)).tolist())]
    if neighbours is not None:
        groups.insert(0, ("hop_1", [i for i in neighbours if not np.isnan(unlearned[i])]))
    for group, members in groups:
        for how, of in (("mean", np.mean), ("largest", np.max)):
            name = f"learned_from_both_auc_{group}_{how}_forget_rises_above_test"
            if not members:
                refusals.append(Refusal(name, "network", "there is no such node that has a model before and after"))
                continue
            values = {column: Estimate(float(of(areas[members]))) for column, areas in columns.items()}
            size = {**samples, "nodes": len(members)}
            measures.append(Measure(name, "network", _RISE, samples=size, **values))
    return Found(tuple(measures), tuple(refusals))
