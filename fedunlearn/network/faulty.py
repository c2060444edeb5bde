"""Rounds of a population under faults: who is there, who adopts from whom, how rows mix, and what it all costs.

A population's course (:class:`fedunlearn.faults.Course`) says what happens; here it is carried out on the hosts. A
round is :func:`begin_round`, local steps, and the mixing that :func:`begin_gossip` begins. Before an answer, and at the
end of training, a network gathers (:func:`gather`): from then on only its participants are present, until a round
begins. The meaning of a round on arrays is :class:`fedunlearn.faults.Carried`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedunlearn.errors import UserError
from fedunlearn.faults.course import Course, Round
from fedunlearn.network.network import Network
from fedunlearn.network.population import FLOAT32
from fedunlearn.network.transport import Request

SERVER = -1
"""The server, where a record says who heard whom."""


def course_of(network: Network) -> Course:
    """Return the course of a population that has one."""
    assert network.course is not None, "this population knows no faults"
    return network.course


def begin_round(network: Network) -> Round:
    """Let nodes come, go and adopt; from now on the active ones are present."""
    round_ = course_of(network).step()
    _adopt(network, round_)
    network.away = network.alive & ~round_.who.active
    return round_


def begin_gossip(network: Network, round_: Round) -> Callable[[], None]:
    """Begin the mixing of a round; what is returned ends it, and writes down who heard whom."""
    size, mixed = FLOAT32 * network.dim, round_.mixed
    if round_.server:
        return _begin_average(network, round_)
    if mixed is None or not (mixed.sent or any(matrix.nnz for matrix in mixed.matrices[1:])):
        return lambda: None  # nobody sends and nothing arrives
    delay = len(mixed.matrices) - 1
    ages = [age for age in range(1, delay + 1) if mixed.matrices[age].nnz]
    weights = sparse.csr_array(sparse.hstack([mixed.matrices[age] for age in (0, *ages)], format="csr"))
    past = [(round_.number - age) % delay for age in ages]
    mix = network.begin_mix_by(weights, past, round_.number % delay if delay else None)

    def end() -> None:
        mix()
        heard = mixed.heard()[:, :2]
        network.ledger.record_heard(network.phase, "model", size, round_.number, mixed.sent, heard)
        network.clock.gossip(int(np.bincount(heard[:, 0]).max(initial=0)), size)

    return end


def _begin_average(network: Network, round_: Round) -> Callable[[], None]:
    """Give the mean of all present rows to all of them, as ``exact-average`` does."""
    nodes = np.flatnonzero(network.present)
    if len(nodes) < 2:
        return lambda: None
    mean = network.mean_later()

    def end() -> None:
        network.write(mean.get().astype(np.float32), reset_momentum=False)
        charge_server(network, nodes, round_)

    return end


def charge_server(network: Network, nodes: NDArray[np.int64], round_: Round) -> None:
    """Write one round in which these nodes send to a server, and hear from it, into the ledger and the clock."""
    size = FLOAT32 * network.dim
    pairs = np.stack([nodes, np.full(len(nodes), SERVER)], axis=1)
    network.ledger.record_heard(network.phase, "model", size, round_.number, 2 * len(nodes), pairs)
    network.clock.server(len(nodes), size)


def compute_samples(network: Network, round_: Round, samples: int) -> float:
    """Return how long, in gradient evaluations, the slowest node of a round takes: everybody waits for it, unless late
    messages are allowed."""
    settings, trace = course_of(network).trace.settings, course_of(network).trace
    waits = settings.max_delay == 0 and bool((trace.slow & round_.who.active).any())
    if not waits:
        return float(samples)
    return samples * settings.slow_factor


# --- answers -------------------------------------------------------------------------------------------------------


def gather_at_the_end(network: Network, participants: NDArray[np.bool_] | None = None) -> None:
    """Gather when a training is over: one round later, or more, until there is somebody.

    ``participants`` (N,) are those of the network that a twin is compared with.

    Raises:
        UserError: if nobody is there within ``faults.wait_limit`` rounds.
    """
    course, limit = course_of(network), course_of(network).trace.settings.wait_limit
    rounds = course.wait(lambda round_: bool(round_.participants().any()), limit)
    if participants is None and not rounds[-1].participants().any():
        raise UserError(
            f"[faults]: in rounds {rounds[0].number} to {rounds[-1].number}, when training is over, there is no node "
            "that could hold its end; set faults.wait_limit higher, or let nodes return"
        )
    gather(network, rounds, participants)


def gather(network: Network, rounds: Sequence[Round], participants: NDArray[np.bool_] | None = None) -> None:
    """Carry out rounds without training or gossip; afterwards only the participants are present.

    ``participants`` (N,) are by default those of the course. Of others that are named, whoever holds no current model
    takes that of the participant of smallest id that does: so it is in a retrained twin, where other nodes adopt.
    Messages that were under way are dropped, and what hosts kept for them is overwritten.
    """
    course = course_of(network)
    for number, round_ in enumerate(rounds):
        _adopt(network, round_)
        if number < len(rounds) - 1:
            network.clock.gossip(network._max_degree, FLOAT32 * network.dim)
    chosen = course.participants() if participants is None else participants & network.alive
    missing = np.flatnonzero(chosen & ~course.state.members.active)
    if len(missing):
        current = np.flatnonzero(chosen & course.state.members.active)
        none = np.zeros(0, dtype=np.int64)
        if len(current):
            _take_over(network, missing, np.full(len(missing), current[0]), none, missing, none)
        else:
            _take_over(network, none, none, missing, missing, none)
        course.admit(chosen)
    network.away = network.alive & ~chosen
    links = course.links()
    graph = nx.empty_graph(network.num_nodes)
    if course.server:
        graph.add_edges_from(network.graph.subgraph(np.flatnonzero(chosen).tolist()).edges)
    else:
        graph.add_edges_from(links[chosen[links].all(axis=1)].tolist())
    _forget(network)
    network.use_links(graph, chosen)


def restart(network: Network) -> None:
    """Put everybody, also who is away, at the public start, and the course at the beginning of its trace."""
    course = course_of(network)
    network.away = np.zeros(network.num_nodes, dtype=bool)
    network.write(network.start)
    _forget(network)
    course.restart()
    network.set_graph(network.graph)


def retrain_for_answer(network: Network, training: Callable[[], None]) -> None:
    """Run a training from the public start, along the trace from its beginning, for an answer that is being given.

    Round, standing and participants are afterwards what they were: that an answer needs a retraining depends on data,
    and neither who gives it nor anything that follows may.
    """
    course, participants = course_of(network), network.present
    state = course.state
    restart(network)
    training()
    gather_at_the_end(network, participants)
    course.come_back(state, participants)
    gather(network, [], participants)


def forget_lost(network: Network) -> None:
    """Overwrite rows and momenta of nodes that lost theirs before the last release, where a server kept a copy."""
    none = np.zeros(0, dtype=np.int64)
    _take_over(network, none, none, none, none, np.flatnonzero(course_of(network).lost()))


# --- on the hosts --------------------------------------------------------------------------------------------------


def _forget(network: Network) -> None:
    """Overwrite the rows of past rounds: no message that is under way will be heard any more."""
    if course_of(network).trace.settings.max_delay:
        network.session.later("forget", {"population": network.name})


def _adopt(network: Network, round_: Round) -> None:
    who, server = round_.who, round_.server
    crashed = who.crashed[:0] if server else who.crashed  # a row of a client that is away is the server's copy
    _take_over(network, who.adopters, who.sources, who.restarts, who.forget, crashed)
    if len(who.adopters):
        size = FLOAT32 * network.dim
        sources = np.full(len(who.adopters), SERVER) if server else who.sources
        pairs = np.stack([who.adopters, sources], axis=1)
        network.ledger.record_heard(network.phase, "adopted model", size, round_.number, len(pairs), pairs)
        network.clock.gossip(1, size)


def _take_over(
    network: Network, adopters: NDArray[np.int64], sources: NDArray[np.int64], restarts: NDArray[np.int64],
    forget: NDArray[np.int64], crashed: NDArray[np.int64],
) -> None:  # fmt: skip
    """Let vertices take over rows of others, or the public start, all at once."""
    if not (len(adopters) or len(restarts) or len(crashed) or len(forget)):
        return
    order = np.argsort(adopters)
    adopters, sources = adopters[order], sources[order]
    session = network.session
    needed = [np.setdiff1d(sources[session.host_of[adopters] == h], own) for h, own in enumerate(session.members)]
    away = np.unique(np.concatenate(needed))
    rows = network.read_rows(away) if len(away) else np.zeros((0, network.dim), np.float32)
    network.rows_changed()
    common: dict[str, Any] = {
        "restarts": np.unique(restarts), "forget": np.unique(forget), "crashed": np.unique(crashed),
        "start": network.start,
    }  # fmt: skip
    requests = []
    for host in range(len(session.members)):
        mine = session.host_of[adopters] == host
        halo = {"halo": rows[np.searchsorted(away, needed[host])]} if len(needed[host]) else {}
        arrays = {**common, "nodes": adopters[mine], "sources": sources[mine], **halo}
        requests.append(Request("adopt", {"population": network.name}, arrays))
    session.later_each(requests)
