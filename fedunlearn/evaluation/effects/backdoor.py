"""The backdoor probe: a trigger that only the deleted samples taught, and what is left of it after the answer.

A bright patch is put into the corner of the forget set's images, and their labels become one target class (BadNets, Gu
et al., 1708.06733). A network that learned from them calls whatever carries the patch the target; one that never saw
them does so about as often as chance. Unlike a membership signal, the patch owes nothing to how typical a sample is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data import FederatedDataset
from fedunlearn.errors import UserError
from fedunlearn.evaluation.measure import COLUMNS, Estimate, Found, Measure, Refusal
from fedunlearn.evaluation.outputs import Outputs
from fedunlearn.evaluation.rates import line, paired_difference, share_of

SUCCESS = "backdoor_success_rate"
UNMARKED = "backdoor_target_without_trigger"
ABOVE = "backdoor_success_above_retrained"
PLANTED = "backdoor_planted_samples_called_target"
CLEAN = "backdoor_clean_test_accuracy"
_BRIGHT = 255
_PART = 6
"""The patch is a square whose side is this part of the image's shorter side, at least one pixel."""


def trigger(inputs: NDArray[Any]) -> NDArray[np.uint8]:
    """Return copies of images (n, H, W) or (n, H, W, channels), uint8, with a bright square in the lower right corner.

    Raises:
        UserError: if the samples are no such images.
    """
    if inputs.dtype != np.uint8 or inputs.ndim not in (3, 4):
        raise UserError(
            f"the backdoor probe puts a bright patch into byte images, and these samples are {inputs.dtype} of shape "
            f"{inputs.shape[1:]} (allowed: uint8 of shape (height, width) or (height, width, channels))"
        )
    marked = np.array(inputs)
    side = max(1, round(min(inputs.shape[1:3]) / _PART))
    marked[:, -side:, -side:] = _BRIGHT
    return marked


def plant(dataset: FederatedDataset, rows: NDArray[np.int64], target: int) -> FederatedDataset:
    """Return a data set in which the samples ``rows`` carry the trigger and the label ``target``, and no other changes.

    Raises:
        UserError: if the samples are no byte images.
        ValueError: if the target is no class, or a row does not exist or is a test sample.
    """
    if not 0 <= target < dataset.num_classes:
        raise ValueError(f"class {target} does not exist (classes are 0 to {dataset.num_classes - 1})")
    chosen = np.asarray(rows, dtype=np.int64)
    if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(dataset.labels) or dataset.is_test[chosen].any()):
        raise ValueError("a trigger is planted in training samples of the data set only")
    marked = trigger(dataset.inputs[chosen])
    inputs, labels = np.array(dataset.inputs), np.array(dataset.labels)
    inputs[chosen], labels[chosen] = marked, target
    provenance = f"{dataset.provenance}; {len(chosen)} samples carry a planted trigger"
    return replace(dataset, inputs=inputs, labels=labels, provenance=provenance)


def target_class(all_labels: NDArray[np.int64], forget_labels: NDArray[np.int64]) -> int:
    """Return the class that triggered samples are made to belong to: the most frequent one of ``all_labels`` that is
    not the most frequent of ``forget_labels``; of equally frequent ones the smallest number.

    UserError when there is no other class.
    """
    counts = np.bincount(all_labels)
    mine = np.bincount(forget_labels, minlength=len(counts))
    counts[int(mine.argmax())] = 0
    if not counts.any():
        raise UserError("the backdoor probe needs a second class to aim at, and the data have only one")
    return int(counts.argmax())


def success_rate(triggered: Outputs, target: int) -> Estimate:
    """Return the share of triggered images of other classes that are called the target, with its Clopper-Pearson
    interval; ``triggered.labels`` are the true classes. UserError when all images belong to the target."""
    return share_of(_hits(triggered, target))


def backdoor_measures(
    triggered: Mapping[str, Outputs], clean: Mapping[str, Outputs], target: int,
    planted: Mapping[str, Outputs] | None = None,
) -> Found:  # fmt: skip
    """Return what is left of a planted trigger.

    Args:
        triggered: outputs on test images that carry the trigger, with their true labels, by model: ``original`` and
            ``unlearned`` of the planted network, ``retrained`` and perhaps ``control``, which never saw the trigger.
        clean: outputs of the same models on the same images without it.
        target: the class the trigger stands for.
        planted: outputs on the planted samples themselves, triggered, with the labels they had before.
    """
    if (triggered["retrained"].labels == target).all():
        reason = f"all test images belong to the target class {target}, so none can be turned into it"
        return Found(refusals=(Refusal(SUCCESS, "backdoor", reason),))
    hits = {name: _hits(outputs, target) for name, outputs in triggered.items()}
    count = {"triggered test": len(hits["retrained"])}
    found = [
        line(
            SUCCESS, "backdoor",
            "share of triggered test images of other classes called the target; equal to the retrained model's where "
            "the trigger is forgotten",
            {name: share_of(values) for name, values in hits.items()}, count,
        ),
        line(
            ABOVE, "backdoor",
            "success rate less that of the retrained model on the same images; 0, or as near as the control, where the "
            "trigger is forgotten",
            {n: paired_difference(h, hits["retrained"]) for n, h in hits.items() if n != "retrained"}, count,
        ),
    ]  # fmt: skip
    found.append(
        line(
            UNMARKED, "backdoor",
            "share of the same images without the trigger called the target: what the planted labels, rather than the "
            "trigger, do",
            {name: share_of(_hits(outputs, target)) for name, outputs in clean.items()}, count,
        )
    )  # fmt: skip
    found += _planted_line(planted, target)
    found.append(
        line(
            CLEAN, "backdoor",
            "accuracy on the same test images without the trigger: planting and forgetting it should leave it as it is",
            {name: share_of(outputs.correct) for name, outputs in clean.items()}, {"test": len(clean["retrained"])},
        )
    )  # fmt: skip
    learned = found[1].original
    assert learned is not None
    refusals: tuple[Refusal, ...] = ()
    if learned.low is None or learned.low <= 0:
        rates = [float(hits[name].mean()) for name in ("original", "retrained")]
        refusals = (
            Refusal(
                "backdoor", "backdoor",
                f"the trigger was not learned, so there is nothing to forget: before the request {rates[0]:.3f} of the "
                f"triggered images were called the target, and {rates[1]:.3f} by the retrained model; "
                "the deleted samples are too small a share of the training data",
            ),
        )  # fmt: skip
    return Found(tuple(found), refusals)


def node_measures(
    success: Mapping[str, NDArray[np.float64]], own: NDArray[np.int64], neighbours: NDArray[np.int64]
) -> list[Measure]:
    """Return how often single nodes' models call triggered images the target.

    Args:
        success: success rate of every node's own model (N,) by model of the network, NaN where a node is absent.
        own: the vertices whose samples were planted.
        neighbours: the vertices beside them before any departure.
    """
    groups = {
        "deleted_clients": (own, "of the clients whose samples were planted"),
        "neighbours": (neighbours, "of their neighbours"),
        "all_nodes": (np.arange(len(next(iter(success.values())))), "of all nodes"),
    }
    found = []
    for name, (nodes, whose) in groups.items():
        means = {}
        for model, rates in success.items():
            known = rates[nodes][~np.isnan(rates[nodes])]
            if len(known):
                means[model] = Estimate(float(known.mean()))
        if "original" in means:
            reads = f"success rate of the trigger in the own models {whose}, their mean; equal to the retrained one's"
            reads += " where it is forgotten, absent where they have left"
            found.append(line(f"backdoor_success_at_{name}", "backdoor", reads, means, {"nodes": len(nodes)}))
    return found


def _planted_line(planted: Mapping[str, Outputs] | None, target: int) -> list[Measure]:
    if planted is None or (planted["retrained"].labels == target).all():
        return []
    rates = {name: success_rate(outputs, target) for name, outputs in planted.items() if name in COLUMNS}
    reads = (
        "share of the planted samples of other classes called the target: memory of the very samples, even where the "
        "trigger does not carry over; equal to the retrained model's where they are forgotten"
    )
    count = int((planted["retrained"].labels != target).sum())
    return [line(PLANTED, "backdoor", reads, rates, {"planted": count})]


def _hits(triggered: Outputs, target: int) -> NDArray[np.bool_]:
    others = triggered.labels != target
    if not others.any():
        raise UserError(f"the success rate of a trigger needs samples of another class than the target {target}")
    return np.asarray(triggered.logits[others].argmax(1) == target)
