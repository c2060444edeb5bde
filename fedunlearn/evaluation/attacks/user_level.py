"""Membership of whole writers: does a model know a deleted writer's samples better than those of writers it never met?

One statistic a writer: the mean over the writer's samples of the margin under the target less what models trained
without the writer say on average. A single sample shows little, but the mean of a hundred shows a small common shift.
Controls are never-members, writers whose data no model was trained on. If a deleted writer has left no trace, the
statistic is one more draw of theirs, so its rank gives a p-value that holds for any distribution:
``(1 + #{controls >= writer}) / (1 + M)`` with M controls, never below ``1 / (M + 1)`` (Davison and Hinkley 1997, 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedunlearn.evaluation.attacks.areas import placement_interval
from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.measure import Estimate, Found, Measure, Refusal
from fedunlearn.evaluation.outputs import Answers, Outputs, SetName
from fedunlearn.randomness import uniforms

Array = NDArray[np.float64]
TARGETS = ("original", "unlearned", "retrained", "control")
ADVANTAGE = "user_auc_deleted_above_never_members"
SHIFT = "user_shift_deleted_above_never_members"
P_VALUE = "user_p_value_deleted_above_never_members"


@dataclass(frozen=True, eq=False)
class Writers:
    """One statistic a writer, in nats: (D,) of deleted writers and (D, M) of their controls.

    A control is averaged over at most as many samples as the deleted writer has, so the controls of two deleted writers
    are the same writers, but not always the same numbers.
    """

    deleted: Array
    controls: Array

    def p_values(self) -> Array:
        """(D,) rank p-values of the deleted writers."""
        return np.array([rank_p_value(value, row) for value, row in zip(self.deleted, self.controls)])


def rank_p_value(value: float, controls: ArrayLike) -> float:
    """Return ``(1 + #{controls >= value}) / (1 + M)``: small where the value lies above the M controls."""
    others = np.asarray(controls)
    return (1.0 + int((others >= value).sum())) / (1.0 + len(others))


def user_level(answers: Answers, shadow: ShadowMargins | None, deleted_clients: Sequence[int]) -> Found:
    """Return how deleted writers stand among never-members, under every model of a run.

    Margins are calibrated by the mean of the shadow models trained without the writers; without shadow models by one
    other retrained model (``control``, and for the control itself ``retrained``); without any by nothing.

    Args:
        answers: what the run's models say, with the sets ``forget`` and ``never_member``.
        shadow: margins of shadow models on the same samples, if there are any.
        deleted_clients: numbers of the clients that were deleted whole, as ``Outputs.clients`` numbers them.

    Raises:
        ValueError: if a deleted client has no sample in the forget set.
    """
    models = [model for model in TARGETS if model in answers]
    first = answers[models[0]]
    if not len(deleted_clients):
        return _refused("no request of this run deletes a whole client, so there is no writer to look for")
    if not len(first.get("never_member", ())):
        return _refused("the data set has no never-members, who are the controls of an attack on whole writers")
    forget, others = first["forget"], first["never_member"]
    writers = np.unique(others.clients)
    columns: dict[str, dict[str, Any]] = {ADVANTAGE: {}, SHIFT: {}, P_VALUE: {}}
    for model in models:
        found = statistics(
            forget, _calibrated(answers, shadow, model, "forget"),
            others, _calibrated(answers, shadow, model, "never_member"), deleted_clients,
        )  # fmt: skip
        columns[ADVANTAGE][model] = _advantage(found)
        columns[SHIFT][model] = Estimate(float((found.deleted - found.controls.mean(axis=1)).mean()))
        columns[P_VALUE][model] = Estimate(min(1.0, len(found.deleted) * float(found.p_values().min())))
    how = _how(answers, shadow)
    floor = min(1.0, len(deleted_clients) / (len(writers) + 1))
    samples = {"deleted writers": len(deleted_clients), "never-members": len(writers)}
    reads = {
        ADVANTAGE: f"chance that a deleted writer is known better than a never-member ({how}); near 0.5, and at the "
        "retrained model's value, nothing is left",
        SHIFT: f"mean margin of deleted writers less that of never-members, in nats ({how}); the retrained model's "
        "value says that nothing is left",
        P_VALUE: f"rank p-value of the best known deleted writer among never-members, times the number of deleted "
        f"writers ({how}); it cannot fall below {floor:.3g}; small says that a writer is still known",
    }
    return Found(tuple(Measure(name, "membership", reads[name], samples=samples, **columns[name]) for name in columns))


def statistics(
    forget: Outputs, margins: Array, others: Outputs, other_margins: Array, deleted_clients: Sequence[int]
) -> Writers:
    """Return the statistics of deleted writers and of their controls from (calibrated) margins.

    Writers differ in how many samples they have, and a mean of more samples is steadier. So every control is averaged
    over at most as many samples as the deleted writer has, chosen by the samples' ids; a control with fewer is left as
    it is, and being less steady it makes the test careful rather than bold.

    Args:
        forget, others: whose clients and rows count.
        margins, other_margins: one number for each of their samples.

    Raises:
        ValueError: if a deleted client has no sample in the forget set.
    """
    groups = _by_writer(others)
    deleted, controls = [], []
    for client in deleted_clients:
        own = np.flatnonzero(forget.clients == client)
        if not len(own):
            raise ValueError(f"client {client} has no sample in the forget set")
        deleted.append(margins[own].mean())
        controls.append([other_margins[group[: len(own)]].mean() for group in groups])
    return Writers(np.array(deleted), np.array(controls))


def _by_writer(others: Outputs) -> list[NDArray[np.int64]]:
    """Return each control's samples in an order that depends on their ids alone, the same for every model."""
    order = np.argsort(uniforms(0, "samples of never-members", others.rows), kind="stable")
    return [order[others.clients[order] == client] for client in np.unique(others.clients)]


def _calibrated(answers: Answers, shadow: ShadowMargins | None, model: str, name: SetName) -> Array:
    margins = answers[model][name].margin
    if shadow is not None and name in shadow.retrained:
        return np.asarray(margins - shadow.retrained[name].mean(axis=0))
    reference = _reference(answers, model)
    return margins if reference is None else margins - answers[reference][name].margin


def _reference(answers: Answers, model: str) -> str | None:
    """Return the retrained model that calibrates another; only where both exist has each model an independent one."""
    if not {"retrained", "control"} <= set(answers):
        return None
    return "retrained" if model == "control" else "control"


def _how(answers: Answers, shadow: ShadowMargins | None) -> str:
    if shadow is not None and "never_member" in shadow.retrained:
        return f"margins less their mean over {shadow.count} models trained without either"
    if _reference(answers, "original"):
        return "margins less those of one other model trained without either"
    return "bare margins, no model to compare with"


def _advantage(found: Writers) -> Estimate:
    """Return the mean over deleted writers of the share of their controls below them, with an interval for several.

    The interval is that of an area from the placements of each deleted writer among its own controls.
    """
    below = (found.controls < found.deleted[:, None]) + 0.5 * (found.controls == found.deleted[:, None])
    value = float(below.mean())
    if min(below.shape) < 2:
        return Estimate(value)
    return Estimate(value, *placement_interval(below.mean(axis=1), below.mean(axis=0)))


def _refused(why: str) -> Found:
    return Found(refusals=(Refusal("user_level", "membership", why),))
