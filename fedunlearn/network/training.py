"""Training a network by a recipe: decentralized SGD or federated averaging, the same for a network and its twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedunlearn.errors import UserError
from fedunlearn.faults.course import Round
from fedunlearn.network.faulty import begin_gossip, begin_round, charge_server, compute_samples
from fedunlearn.network.local_steps import steps_in_float64
from fedunlearn.network.local_training import best_form
from fedunlearn.network.network import Network
from fedunlearn.network.schedule import sampled_clients
from fedunlearn.network.settings import TrainingSettings
from fedunlearn.network.stacked_training import batch_width, group_size

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
    train_together([network], training, first=first, last=last, every=every, watch=watch)


def train_together(
    networks: Sequence[Network], training: TrainingSettings, *, first: int = 0, last: int | None = None, every: int = 1,
    watch: Watcher | None = None,
) -> None:  # fmt: skip
    """Train several populations of one session by the same recipe, side by side: each gets the bits it would alone.

    Populations differ in what they lack: deleted samples, vertices that left, graph, start, seed. Where rows need not
    cross hosts, their pieces of work stand in one queue, so that the workers have enough to do however few vertices a
    population has; elsewhere they take every round in the same messages. ``watch`` is called with one network after the
    other, after every ``every`` rounds.

    Raises UserError when a parameter of any row has become NaN or infinite, ValueError if the networks are not
    different populations of one session.
    """
    session = networks[0].session
    names = [network.name for network in networks]
    if any(network.session is not session for network in networks) or len(set(names)) < len(names):
        raise ValueError(f"only different populations of one session can be trained together, not {names}")
    end = training.rounds if last is None else last
    params, grain = _recipe(networks[0], training)
    on_host = [network for network in networks if _rounds_stay_on_host(network, training)]
    others = [network for network in networks if network not in on_host]
    common = {"program": _TRAIN, "params": params, "only": None, "grain": grain}
    work = [{**common, "population": network.name, "mix": network.num_alive > 1} for network in on_host]
    round_ = first
    while round_ < end:
        stop = min(end, (round_ // every + 1) * every)
        if on_host:
            found = [reply.params["sick"] for reply in session.ask("rounds", {"rounds": [round_, stop], "work": work})]
            for network in on_host:
                network.rows_changed()
        for network in on_host:
            _refuse_sick(min((f[network.name] for f in found if f[network.name]), default=None), training.lr)
        for r in range(round_, stop):
            ends = [_begin_round(network, training, r) for network in others]
            for finish in ends:  # what all of them need of other hosts travels together
                finish()
        for network in networks:
            _charge(network, training, stop - round_, gossip=network in on_host)
        round_ = stop
        if watch is not None:
            for network in networks:
                watch(round_, network)


def _charge(network: Network, training: TrainingSettings, rounds: int, *, gossip: bool) -> None:
    """Write into ledger, clock and counts of work what some rounds took."""
    if gossip and network.num_alive > 1:
        network.charge_gossip(rounds)
    if network.course is None:
        network.clock.compute(_slowest(network, training) * rounds)
    network.work["gradients"] += rounds * training.local_epochs


def _slowest(network: Network, training: TrainingSettings) -> int:
    """Return the gradient evaluations of the present node that has most of them in a round."""
    if training.local_steps is not None:
        return training.local_steps * training.batch
    return training.local_epochs * int(network.counts[network.present].max(initial=0))


def _rounds_stay_on_host(network: Network, training: TrainingSettings) -> bool:
    """Return whether no row crosses a border of hosts, and W stays what it is: many rounds are then one message."""
    if network.course is not None:
        return False
    fixed = network.mixing not in ("exact-average", "random-matching") or network.num_alive == 1
    return training.algorithm == "dsgd" and network.rows_stay_on_hosts and fixed


def _recipe(network: Network, training: TrainingSettings) -> tuple[dict[str, object], int]:
    """Return the parameters of the training program, and the group of ids that one worker must take whole."""
    device = network.session.device
    model = network.session.model
    form = "vmap" if steps_in_float64(training, model) else best_form(training.form, device, model.takes_images)
    grain = 1 if form == "loop" else group_size(network.num_nodes, model.dim)
    width = batch_width(network.session.dataset, training.batch)
    return {"training": training.model_dump(), "form": form, "width": width}, grain


def local_steps(network: Network, training: TrainingSettings, round_: int, nodes: list[int] | None = None) -> None:
    """Let all present nodes (or ``nodes``) take the local steps of one round, without mixing.

    Raises UserError, at the latest with the next answer that is waited for, when a row has become NaN or infinite.
    """
    params, grain = _recipe(network, training)

    def refuse(node: int) -> None:
        _refuse_sick([round_ + 1, node], training.lr)

    network.rows(_TRAIN, {**params, "round_": round_}, only=nodes, grain=grain, sick=refuse)


def _begin_round(network: Network, training: TrainingSettings, round_: int) -> Callable[[], None]:
    """Begin a round of a population that needs other hosts' rows or sums; the function that is returned ends it."""
    under = None
    if network.course is not None:
        under = begin_round(network)
        if not under.who.active.any():
            return lambda: None
        network.clock.compute(compute_samples(network, under, _slowest(network, training)))
    if training.algorithm == "dsgd":
        local_steps(network, training, round_)
        return network.begin_mix(round_) if under is None else begin_gossip(network, under)
    return _begin_average(network, training, round_, under)


def _begin_average(
    network: Network, training: TrainingSettings, round_: int, under: Round | None
) -> Callable[[], None]:
    """Let the sampled clients of a federated round train; the function that is returned averages them.

    Clients without a retained sample are sampled like others, so that a deletion changes nobody's draw. Where samples
    weigh and none of those sampled has any, all rows stay what they are, as with equal weights.
    """
    chosen = sampled_clients(network.seed, network.present, training.client_fraction, round_)
    local_steps(network, training, round_, chosen.tolist())
    weights = np.zeros(network.num_nodes)
    weights[chosen] = network.counts[chosen] if training.weighting == "samples" else 1.0
    mean = network.mean_later(weights) if weights.any() else None

    def end() -> None:
        if mean is not None:
            network.write(mean.get().astype(np.float32), reset_momentum=False)
        if under is None:
            network.charge_server(len(chosen), round_)
        else:
            charge_server(network, chosen, under)

    return end


def check_finite(network: Network, round_: int, lr: float) -> None:
    """Raise UserError if a row holds NaN or infinity, naming the round and the first such node."""
    sick = np.flatnonzero(network.measure("fedunlearn.network.programs:finite", {})[:, 0] == 0.0)
    _refuse_sick([round_, int(sick[0])] if len(sick) else None, lr)


def _refuse_sick(found: list[int] | None, lr: float) -> None:
    if found is not None:
        round_, node = found
        raise UserError(
            f"training.lr = {lr:g} makes training diverge: the model of node {node} holds NaN or infinity after "
            f"round {round_} (allowed: a smaller rate, or set training.clip)"
        )
