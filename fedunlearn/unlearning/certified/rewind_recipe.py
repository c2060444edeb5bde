"""Which training recipes rewinding is defined for, and what follows from settings and ids alone: the loss' constants,
step sizes, and how much of every batch is deleted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data import Role
from fedunlearn.errors import UserError
from fedunlearn.models import Model
from fedunlearn.network import Network, TrainingSettings
from fedunlearn.network.local_steps import steps_in_float64
from fedunlearn.network.schedule import learning_rate, slot_batches
from fedunlearn.privacy.accounting.replay import Row
from fedunlearn.privacy.claims.rewind_wording import SOFTMAX_GRADIENT, SOFTMAX_SMOOTHNESS
from fedunlearn.unlearning.base import Plan


@dataclass(frozen=True)
class Constants:
    """What is known of a record's loss (docs/certificates.md 4f): its row, G and what enforces it, and L."""

    row: Row
    gradient: float
    gradient_by: Literal["clipping", "softmax"]
    smoothness: float | None


def constants_of(model: Model, training: TrainingSettings, feature_kind: str) -> Constants:
    """Return the constants that the settings enforce.

    A softmax head on rows of norm at most one has gradients of norm at most sqrt(2) that are 1/2-Lipschitz. Clipping
    below sqrt(2) acts on it, and what comes out need not be the gradient of a convex function.

    Raises:
        UserError: if nothing bounds the gradients.
    """
    bounded = model.convex and feature_kind != "raw"
    clip = training.clip
    if bounded and (clip is None or clip >= SOFTMAX_GRADIENT):
        return Constants(
            "strongly-convex" if training.l2 > 0 else "convex", SOFTMAX_GRADIENT, "softmax", SOFTMAX_SMOOTHNESS
        )
    if clip is None:
        raise UserError(
            "training.clip is not set, and without it nothing bounds the gradients of this model (allowed for "
            "'rewind': training.clip > 0, or model.name = 'softmax' with model.features = 'unit' or 'frozen')"
        )
    if bounded:
        return Constants("smooth", clip, "clipping", SOFTMAX_SMOOTHNESS)
    return Constants("clipped", clip, "clipping", None)


def steps_a_round(training: TrainingSettings) -> int:
    """Return how many local steps every row takes in a round, for the recipes that :func:`check_recipe` accepts."""
    return training.local_steps or training.local_epochs


def check_recipe(plan: Plan) -> None:
    """Raise UserError where the theorem of rewinding does not cover the recipe or the network."""
    training = plan.training
    if training.algorithm != "dsgd":
        raise UserError(
            f"training.algorithm = '{training.algorithm}' is not defined for 'rewind' (allowed: 'dsgd', with "
            "topology.mixing = 'exact-average' for a federated setting)"
        )
    if training.schedule != "holes":
        raise UserError(
            f"training.schedule = '{training.schedule}' is not defined for 'rewind': batches must not move when ids "
            "are deleted (allowed: 'holes')"
        )
    if training.momentum > 0:
        raise UserError(
            f"training.momentum = {training.momentum:g} is not defined for 'rewind': no bound is known with it "
            "(allowed: 0)"
        )
    if training.bfloat16:
        raise UserError("training.bfloat16 = true is not defined for 'rewind' (allowed: false)")
    if training.rounds < 1:
        raise UserError(f"training.rounds = {training.rounds} leaves nothing to rewind (allowed: at least 1)")
    if int(plan.counts.min()) < 1:
        raise UserError(
            f"client {int(plan.counts.argmin())} has no training sample, so that its row takes no steps, which is not "
            "defined for 'rewind' (allowed: clients with at least one sample)"
        )
    largest = int(plan.counts.max())
    if not takes_equal_steps(training, largest):
        raise UserError(
            f"training.batch = {training.batch} lets clients of different sizes take different numbers of steps, which "
            f"is not defined for 'rewind' (allowed: training.local_steps, or full batches, {largest} or more)"
        )
    leaving = [request for request in plan.requests if request.leaves]
    if leaving and plan.repair != "relay":
        raise UserError(
            f"topology.repair = '{plan.repair}' is not defined for 'rewind' where a client leaves, as by request "
            f"{leaving[0].number}: the mixing must stay the same (allowed: 'relay')"
        )


def roundings_of(network: Network, training: TrainingSettings) -> int:
    """Return how often an entry of a row is rounded to float32 in a step, at most; one more covers higher orders.

    Once when it is stored after steps in float64. A clipped step in float32, ``x - eta (g + lambda x)``, errs like
    eight roundings, and four more for a projection. Mixing by a matrix with k entries in a row takes k, and one for the
    matrix itself; averaging takes one.
    """
    local = 1 if steps_in_float64(training, network.session.model) else 8 if training.radius is None else 12
    if network.num_alive == 1:
        return local + 1
    if network.mixing == "exact-average":
        return local + 2
    widest = 2 if network.weights is None else int(np.diff(network.weights.indptr).max())
    return local + widest + 2


def takes_equal_steps(training: TrainingSettings, largest: int) -> bool:
    """Return whether all clients, of at most ``largest`` samples and at least one, take equally many steps."""
    return training.local_steps is not None or training.batch >= largest


def rates_of(training: TrainingSettings) -> list[float]:
    """Return the step size of every step of the training, for the recipes that :func:`check_recipe` accepts."""
    local = steps_a_round(training)
    return [learning_rate(training, r) for r in range(training.rounds) for _ in range(local)]


def steps_of(training: TrainingSettings) -> int:
    """Return T, how many steps every row takes in the whole training."""
    return training.rounds * steps_a_round(training)


def all_ids(network: Network) -> NDArray[np.int64]:
    """Return all training ids that the vertices ever had."""
    dataset = network.session.dataset
    return np.concatenate([dataset.train_rows(int(c)) for c in dataset.clients(Role.TRAIN)])


def deleted_shares(network: Network, training: TrainingSettings, gone: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return, (N, T), for every node and step the deleted ids over all ids of the batch: a function of ids alone."""
    table = np.zeros((network.num_nodes, steps_of(training)))
    dataset, local = network.session.dataset, steps_a_round(training)
    for node, client in enumerate(dataset.clients(Role.TRAIN)):
        ids = dataset.train_rows(int(client))
        kept = ~np.isin(ids, gone)
        if kept.all():
            continue
        if training.batch >= len(ids):  # full batches: every step has all ids
            table[node] = (~kept).sum() / len(ids)
            continue
        for round_ in range(training.rounds):
            batches = slot_batches(network.seed, node, ids, kept, training, round_)
            now = slice(round_ * local, (round_ + 1) * local)
            table[node, now] = [(slots - len(present)) / slots for present, slots in batches]
    return table
