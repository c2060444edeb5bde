"""Training a network by a recipe: decentralized SGD or federated averaging, the same for a network and its twin."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedunlearn.errors import UserError
from fedunlearn.network.local_steps import steps_in_float64
from fedunlearn.network.local_training import best_form
from fedunlearn.network.network import Network
from fedunlearn.network.schedule import sampled_clients
from fedunlearn.network.settings import TrainingSettings
from fedunlearn.network.stacked_training import group_size

Watcher = Callable[[int, Network], None]
"""Called with the number of finished rounds and the network."""

_TRAIN = "fedunlearn.network.local_training:train"


def train(
    network: Network, training: TrainingSettings, *, first: int = 0, last: int | None = None, every: int = 1,
    watch: Watcher | None = None,
) -> None:  # fmt: skip
    """Run the rounds ``first <= r < last`` (default: to the recipe's end), calling ``watch`` after every ``every``.

    Raises UserError when a parameter of any row has become NaN or infinite.
    """
    end = training.rounds if last is None else last
    params, grain = _recipe(network, training)
    round_ = first
    while round_ < end:
        stop = min(end, (round_ // every + 1) * every)
        if _rounds_stay_on_host(network, training):
            work = {"program": _TRAIN, "params": params, "population": network.name, "only": None, "grain": grain}
            network._ask("rounds", {"rounds": [round_, stop], "work": work, "mix": network.num_alive > 1})
            if network.num_alive > 1:
                network.charge_gossip(stop - round_)
        else:
            for r in range(round_, stop):
                _one_round(network, training, r)
        slowest = int(network.counts[network.alive].max()) if training.local_steps is None else None
        per_round = (
            training.local_epochs * slowest if slowest is not None else (training.local_steps or 0) * training.batch
        )
        network.clock.compute(per_round * (stop - round_))
        network.work["gradients"] += (stop - round_) * training.local_epochs
        check_finite(network, stop, training.lr)
        round_ = stop
        if watch is not None:
            watch(round_, network)


def _rounds_stay_on_host(network: Network, training: TrainingSettings) -> bool:
    fixed = network.mixing not in ("exact-average", "random-matching") or network.num_alive == 1
    return training.algorithm == "dsgd" and len(network.session.blocks) == 1 and fixed


def _recipe(network: Network, training: TrainingSettings) -> tuple[dict[str, object], int]:
    """Return the parameters of the training program, and the group of ids that one worker must take whole."""
    device = network.session.device
    model = network.session.model
    form = "vmap" if steps_in_float64(training, model) else best_form(training.form, device, model.takes_images)
    grain = 1 if form == "loop" else group_size(device, network.num_nodes)
    return {"training": training.model_dump(), "form": form}, grain


def local_steps(network: Network, training: TrainingSettings, round_: int, nodes: list[int] | None = None) -> None:
    """Let all alive nodes (or ``nodes``) take the local steps of one round, without mixing."""
    params, grain = _recipe(network, training)
    network.rows(_TRAIN, {**params, "round_": round_}, only=nodes, grain=grain)


def _one_round(network: Network, training: TrainingSettings, round_: int) -> None:
    if training.algorithm == "dsgd":
        local_steps(network, training, round_)
        network.mix(1, round_)
        return
    chosen = sampled_clients(network.session.seed, network.alive, training.client_fraction, round_)
    local_steps(network, training, round_, chosen.tolist())
    weights = np.zeros(network.num_nodes)
    weights[chosen] = network.counts[chosen] if training.weighting == "samples" else 1.0
    network.write(network.mean(weights).astype(np.float32), reset_momentum=False)
    network.charge_server(len(chosen), round_)


def check_finite(network: Network, round_: int, lr: float) -> None:
    """Raise UserError if a row holds NaN or infinity, naming the round and the first such node."""
    healthy = network.measure("fedunlearn.network.programs:finite", {})[:, 0]
    sick = np.flatnonzero(healthy == 0.0)
    if len(sick):
        raise UserError(
            f"training.lr = {lr:g} makes training diverge: the model of node {sick[0]} holds NaN or infinity after "
            f"round {round_} (allowed: a smaller rate, or set training.clip)"
        )
