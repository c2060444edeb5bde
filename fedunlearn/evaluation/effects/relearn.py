"""Relearn time: how fast a model learns the deleted samples again, beside a model that never saw them.

What a model still holds of samples makes learning them again quick, whatever its outputs say now. All models take the
same minibatches of plain stochastic gradient descent on the forget set, and their mean loss on the whole of it is
followed. Convex models are computed in float64, others in float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedunlearn.evaluation.forward import Forward
from fedunlearn.evaluation.measure import Estimate, Found, Measure, Refusal
from fedunlearn.evaluation.rates import line
from fedunlearn.models import Model
from fedunlearn.models.objective import gradient_sum
from fedunlearn.models.tape import tape_of
from fedunlearn.randomness import keys

ALPHA = 0.1
"""The target is met at a loss of ``(1 + ALPHA)`` times the original model's."""
TOLERANCE = 0.01
"""Nats added to the target: an original that has fitted its samples perfectly has a loss of 0, which nobody meets."""
_FINE = 8
"""The loss is measured after every step up to here, then at steps that grow with their number."""
TIME = "relearn_steps_to_original_forget_loss"
INDEX = "relearn_anamnesis_index"
MEAN = "relearn_mean_forget_loss"


def relearn(
    model: Model, vectors: Mapping[str, NDArray[Any]], inputs: NDArray[Any], labels: NDArray[np.int64], *, lr: float,
    batch: int, steps: int, seed: int,
) -> Found:  # fmt: skip
    """Return relearn times, the Anamnesis index and the loss curves of several models on the forget set.

    The relearn time r_t of a model is the first number of steps after which its mean loss on the forget set is at most
    ``(1 + ALPHA) * loss of the original + TOLERANCE``. Between two measured points the loss is taken as straight, so
    a time need not be whole. The Anamnesis index is ``r_t(unlearned) / r_t(retrained)`` (Chundawat et al., 2201.05629);
    its control is ``r_t(control) / r_t(retrained)``. A time that was not reached is no number: the line
    lacks it, and a refusal says on which side the index lies, where that is known.

    Args:
        model: the architecture.
        vectors: parameters (d,) by model, with ``original``, ``unlearned``, ``retrained`` and perhaps ``control``.
        inputs, labels: the forget set as the model takes it, (n, ...) and (n,), n >= 1.
        lr, batch: learning rate, and samples a minibatch; the last one of a pass may be smaller.
        steps: most steps, at least one.
        seed: seed of the minibatches, the same for all models.

    Raises:
        ValueError: if there is no sample, no step, or a model is missing.
    """
    if not len(labels) or len(inputs) != len(labels) or min(steps, batch) < 1:
        raise ValueError("relearning needs samples with their labels, a step, and a minibatch of at least one")
    if missing := {"original", "unlearned", "retrained"} - set(vectors):
        raise ValueError(f"relearning lacks the model '{sorted(missing)[0]}'")
    x, y = model.prepare(inputs), torch.from_numpy(np.array(labels, dtype=np.int64))
    marks, plan = measured_steps(steps), minibatches(len(labels), batch, steps, seed)
    losses = {name: _learn(model, vector, inputs, x, y, plan, lr, marks) for name, vector in vectors.items()}
    return relearning_of(marks, losses, len(labels))


def relearning_of(marks: Sequence[int], losses: Mapping[str, Sequence[float]], samples: int) -> Found:
    """Return what follows from mean forget losses by model, measured after ``marks`` steps, increasing from 0.

    A loss that is not a finite number says that relearning diverged there; the curve ends before it.
    """
    if not math.isfinite(losses["original"][0]):
        reason = "the original model's loss on the forget set is not a finite number, so there is no target to reach"
        return Found(refusals=(Refusal(TIME, "relearning", reason),))
    target = (1.0 + ALPHA) * losses["original"][0] + TOLERANCE
    times = {name: crossing(marks, values, target) for name, values in losses.items()}
    steps, count = marks[-1], {"forget": samples}
    reads = (
        f"steps of SGD on the forget set until its mean loss is at most {target:.4g} nats, 1.1 times the original's "
        "plus 0.01; as many as the retrained model needs says that nothing is left"
    )
    found: list[Measure] = []
    refusals = [
        Refusal(TIME, "relearning", f"the {name} model did not reach the target of {target:.4g} nats in {steps} steps")
        for name, time in times.items()
        if time is None
    ]
    if any(time is not None for name, time in times.items() if name != "original"):
        reached = {name: None if time is None else Estimate(time) for name, time in times.items()}
        found.append(line(TIME, "relearning", reads, reached, count))
    index, refused = _anamnesis(times, losses["retrained"][0], target, steps)
    if index:
        reads = (
            "relearn time divided by that of the retrained model: near 1 (see control) nothing is left, far below 1 "
            "the samples are remembered, far above 1 they were made harder to learn than never-seen ones"
        )
        found.append(line(INDEX, "relearning", reads, index, count))
    means = {name: _mean_over_steps(marks, values) for name, values in losses.items()}
    reads = (
        f"mean forget loss in nats over {steps} steps of relearning, which exists where the target is not reached; "
        "equal to the retrained model's where nothing is left, below it where the samples are remembered"
    )
    known = {name: Estimate(mean) for name, mean in means.items() if mean is not None}
    if {"unlearned", "retrained"} <= set(known):
        found.append(line(MEAN, "relearning", reads, known, count))
    refusals += refused
    refusals += [
        Refusal(MEAN, "relearning", f"relearning from the {name} model diverged; lower the learning rate")
        for name in means
        if name not in known
    ]
    curve = {
        "steps": list(marks),
        "target_loss": target,
        "loss": {name: [v if math.isfinite(v) else None for v in values] for name, values in losses.items()},
    }
    return Found(tuple(found), tuple(refusals), {"relearning": curve})


def measured_steps(steps: int) -> list[int]:
    """Return the numbers of steps after which the loss is measured: every one at first, then about every eighth part
    of the steps done, from 0 to ``steps``."""
    marks = list(range(min(steps, _FINE) + 1))
    while marks[-1] < steps:
        marks.append(min(steps, marks[-1] + marks[-1] // _FINE))
    return marks


def minibatches(samples: int, batch: int, steps: int, seed: int) -> list[NDArray[np.int64]]:
    """Return the positions of the samples of every step: pass after pass over all, each in an order of its own."""
    plan: list[NDArray[np.int64]] = []
    while len(plan) < steps:
        ids = np.arange(samples)
        order = np.argsort(keys(seed, "relearn", ids, len(plan)), kind="stable").astype(np.int64)
        plan += [order[low : low + batch] for low in range(0, samples, batch)]
    return plan[:steps]


def crossing(marks: Sequence[int], losses: Sequence[float], target: float) -> float | None:
    """Return the first number of steps at which the loss, straight between ``marks``, is at most the target.

    None if it never is before the loss stops being finite.
    """
    for i, loss in enumerate(losses):
        if not math.isfinite(loss):
            return None
        if loss <= target:
            if i == 0:
                return float(marks[0])
            before = losses[i - 1]
            return marks[i - 1] + (marks[i] - marks[i - 1]) * (before - target) / (before - loss)
    return None


def _anamnesis(
    times: Mapping[str, float | None], start: float, target: float, steps: int
) -> tuple[dict[str, Estimate], list[Refusal]]:
    """Return the index by model, as far as it is a number, and why it is none."""
    slow = times["retrained"]
    if slow == 0:
        reason = (
            f"the retrained model, with a forget loss of {start:.4g} nats, is at the target of {target:.4g} before any "
            "step: the samples need no remembering, so relearning them shows nothing"
        )
        return {}, [Refusal(INDEX, "relearning", reason)]
    index, refusals = {}, []
    for name in ("original", "unlearned", "control"):
        if name not in times:
            continue
        fast = times[name]
        if fast is not None and slow is not None:
            index[name] = Estimate(fast / slow)
        elif fast is None and slow is None:
            reason = f"neither the {name} nor the retrained model reached the target in {steps} steps: allow more steps"
            refusals.append(Refusal(INDEX, "relearning", reason))
        elif fast is None:
            assert slow is not None
            side = f"above {steps / slow:.3g}: the {name} model did not reach the target in {steps} steps"
            refusals.append(Refusal(INDEX, "relearning", f"the index is {side}, the retrained one in {slow:.3g}"))
        elif name != "original":
            side = f"below {fast / steps:.3g}: the retrained model did not reach the target in {steps} steps"
            refusals.append(Refusal(INDEX, "relearning", f"the index is {side}, the {name} one in {fast:.3g}"))
    return index if "unlearned" in index else {}, refusals


def _learn(
    model: Model, vector: NDArray[Any], inputs: NDArray[Any], x: Tensor, y: Tensor, plan: Sequence[NDArray[np.int64]],
    lr: float, marks: Sequence[int],
) -> list[float]:  # fmt: skip
    """Return the mean loss on all samples after each of ``marks`` steps from ``vector``."""
    dtype = torch.float64 if model.convex else torch.float32
    theta = torch.from_numpy(np.array(vector)).to(dtype)
    gradient = torch.zeros_like(theta)
    tape = None if model.convex else tape_of(model, theta, gradient)
    forward = None if model.convex else Forward(model)
    samples = [] if forward is None else forward.prepare(inputs)

    def loss() -> float:
        logits = model.logits(theta, x) if forward is None else forward.logits(theta, samples)
        return float(F.cross_entropy(logits.double(), y))

    wanted = set(marks)
    losses = [loss()]
    for step, positions in enumerate(plan, start=1):
        chosen = torch.from_numpy(positions)
        if tape is None:
            gradient = gradient_sum(model, theta, x[chosen], y[chosen]) / len(positions)
        else:
            tape.differentiate(x[chosen], y[chosen])
        theta.sub_(gradient, alpha=lr)
        if step in wanted:
            losses.append(loss())
    return losses


def _mean_over_steps(marks: Sequence[int], losses: Sequence[float]) -> float | None:
    """Return the mean of a curve that is straight between its points, or None where it is not finite."""
    values = np.asarray(losses, dtype=np.float64)
    if not np.isfinite(values).all():
        return None
    return float(np.trapezoid(values, np.asarray(marks, dtype=np.float64)) / marks[-1])
