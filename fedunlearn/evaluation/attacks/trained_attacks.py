"""Membership inference by trained attackers: what do they call the forget set?

The attackers that papers on unlearning use as a score, with the senses those papers give them:

- *SVC family* (public code of SalUn and l1-sparse unlearning): a support vector machine ``SVC(C=3, rbf,
  gamma="auto")`` learns retain samples (members) from test samples (non-members) by one feature of the model's outputs.
  Its value, known as MIA-efficacy, is the share of the forget set called **non-member**.
- *Logistic regression on entropy* (public code of bad teaching): trained alike, but its value is the share of the
  forget set called **member**.

Neither higher nor lower is better: a value is read beside the retrained model's. Each attacker's own accuracy on
samples that it was not trained on stands beside its value, for an attacker no better than a coin says nothing about
forgetting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from fedunlearn.errors import UserError
from fedunlearn.evaluation.attacks import roc
from fedunlearn.evaluation.attacks.attack_lines import models_of
from fedunlearn.evaluation.measure import Estimate, Found, Measure, Refusal
from fedunlearn.evaluation.outputs import Answers, Outputs
from fedunlearn.randomness import uniforms

TRAIN_CAP = 1000
"""At most so many members, and as many non-members, train an attacker: the cost of an SVC grows with their square."""
JUDGED_CAP = 2000
"""At most so many forget samples are judged."""
LEAST = 10
"""Fewer members or non-members than this train no attacker."""

Features = NDArray[np.float64]

FEATURES: dict[str, Callable[[Outputs], Features]] = {
    "correctness": lambda outputs: outputs.correct.astype(np.float64)[:, None],
    "confidence": lambda outputs: outputs.confidence[:, None],
    "entropy": lambda outputs: outputs.entropy[:, None],
    "modified_entropy": lambda outputs: outputs.modified_entropy[:, None],
    "softmax": lambda outputs: outputs.probabilities,
}
"""(n, d) features of the SVC family, as they are, without scaling, as in the public code."""


def trained_attacks(answers: Answers, *, seed: int) -> Found:
    """Return what trained attackers call the forget set of every model, and how good the attackers are.

    Members are as many retain samples as there are test samples, both at most :data:`TRAIN_CAP`, drawn by the seed and
    the samples' ids: the same for every model and attacker, as are the at most :data:`JUDGED_CAP` forget samples.

    Args:
        answers: outputs of every model on ``forget``, ``retain`` and ``test``.
        seed: seed of the draws.

    Returns:
        Per attacker a line of the share of the forget set and a line of the attacker's held-out accuracy, both with
        Clopper and Pearson's intervals, which cover the choice of the judged samples alone; a refusal for each if there
        are fewer than :data:`LEAST` members or non-members.

    Raises UserError for outputs that are not numbers.
    """
    models = models_of(answers)
    first = answers[models[0]]
    k = min(TRAIN_CAP, len(first["retain"]), len(first["test"]))
    attackers: list[tuple[str, Callable[[], Any], Callable[[Outputs], Features], bool]] = [
        (f"svc_{name}", _svc, feature, False) for name, feature in FEATURES.items()
    ]
    attackers.append(("logistic_entropy", _logistic, FEATURES["entropy"], True))
    names = [f"{attacker}_forget_called_{'' if member else 'non'}member" for attacker, _, _, member in attackers]
    if k < LEAST or not len(first["forget"]):
        reason = (
            f"it needs at least 1 forget, {LEAST} retain and {LEAST} test samples, and there are "
            f"{len(first['forget'])}, {len(first['retain'])} and {len(first['test'])}"
        )
        return Found(refusals=tuple(Refusal(name, "membership", reason) for name in names))
    draw = {
        "retain": drawn(first["retain"], k, seed), "test": drawn(first["test"], k, seed),
        "forget": drawn(first["forget"], min(JUDGED_CAP, len(first["forget"])), seed),
    }  # fmt: skip
    taken = {m: {name: answers[m][name].take(rows) for name, rows in draw.items()} for m in models}  # type: ignore[index]
    for m in models:
        if not all(np.isfinite(outputs.logits).all() for outputs in taken[m].values()):
            raise UserError(f"membership inference met outputs of the {m} model that are not numbers: it diverged")
    trained = {"members": k, "non-members": k}
    lines = []
    for (attacker, make, feature, member), name in zip(attackers, names):
        values, accuracy = {}, {}
        for m in models:
            forget, inside, outside = (feature(taken[m][of]) for of in ("forget", "retain", "test"))
            called = int((_fit(make, inside, outside).predict(forget) == int(member)).sum())
            values[m] = roc.share(called, len(forget))
            accuracy[m] = held_out_accuracy(make, inside, outside)
        lines += _lines(attacker, name, member, values, accuracy, {"forget": len(draw["forget"]), **trained}, trained)
    return Found(tuple(lines))


def held_out_accuracy(make: Callable[[], Any], members: Features, nonmembers: Features) -> Estimate:
    """Return the accuracy of an attacker trained on one half of both sets and judged on the other, and the reverse.

    The sets are equally large, so 0.5 is a coin. The interval takes all calls as independent; those of one half share
    an attacker.
    """
    right = 0
    for fold in (0, 1):
        attacker = _fit(make, members[1 - fold :: 2], nonmembers[1 - fold :: 2])
        right += int((attacker.predict(members[fold::2]) == 1).sum())
        right += int((attacker.predict(nonmembers[fold::2]) == 0).sum())
    return roc.share(right, len(members) + len(nonmembers))


def drawn(outputs: Outputs, count: int, seed: int) -> NDArray[np.int64]:
    """Return ``count`` positions drawn by the seed and the ids of the samples, in random order."""
    return np.argsort(uniforms(seed, "trained-attack", outputs.rows), kind="stable")[:count]


def _svc() -> Any:
    return SVC(C=3, kernel="rbf", gamma="auto")


def _logistic() -> Any:
    return LogisticRegression(class_weight="balanced")


def _fit(make: Callable[[], Any], members: Features, nonmembers: Features) -> Any:
    labels = np.concatenate([np.ones(len(members), np.int64), np.zeros(len(nonmembers), np.int64)])
    return make().fit(np.concatenate([members, nonmembers]), labels)


def _lines(
    attacker: str, name: str, member: bool, values: dict[str, Estimate], accuracy: dict[str, Estimate],
    judged: dict[str, int], trained: dict[str, int],
) -> list[Measure]:  # fmt: skip
    kind, _, feature = attacker.partition("_")
    kind = {"svc": "support vector machine", "logistic": "logistic regression"}[kind]
    words = feature.replace("_", " ")
    sense = "a member" if member else "no member"
    return [
        Measure(
            name, "membership",
            f"share of the forget set that a {kind} on {words} calls {sense} ({judged['forget']} samples judged, "
            f"{trained['members']} retain and as many test samples to learn from); neither higher nor lower is "
            "better: the value of the retrained model says that nothing is left; the interval covers the judged "
            "samples, not what the attacker learned by chance",
            **values, samples=judged,
        ),
        Measure(
            f"{attacker}_attacker_accuracy_retain_from_test", "membership",
            f"how often the {kind} on {words}, trained on half of its samples, is right about the other half; "
            "0.5 is a coin, and then its share of the forget set says nothing",
            **accuracy, samples=trained,
        ),
    ]  # fmt: skip
