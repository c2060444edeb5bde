"""Whether faults are defined for a network, told in one sentence before anything is trained."""

from __future__ import annotations

import networkx as nx

from fedunlearn.errors import UserError
from fedunlearn.faults.settings import EventSettings, FaultSettings
from fedunlearn.topology.settings import Mixing

_WITH_SERVER = (
    "leave_probability, return_probability, crash_share, late_share, late_until, slow_share with slow_factor, and "
    "events of kind crash, leave, join, return"
)


def check_faults(settings: FaultSettings, graph: nx.Graph, rule: Mixing, *, server: bool = False) -> None:
    """Raise UserError unless the faults are defined on this graph, with this mixing rule.

    ``server``: federated averaging, whatever the rule. With a server (or ``exact-average``) clients come and go, and
    those that are away are not sampled; links and messages between neighbours do not exist there.
    """
    if not settings.enabled:
        return
    size = len(graph)
    if size == 1:
        raise UserError("[faults] needs a network of at least two nodes, but this one has a single node")
    if server or rule == "exact-average":
        _with_server(settings)
    if settings.gossip == "push" and rule == "random-matching":
        raise UserError(
            "faults.gossip = 'push' lets each node choose whom it sends to, which topology.mixing = 'random-matching' "
            "does not allow (allowed with it: synchronous, pairwise)"
        )
    for number, partition in enumerate(settings.partitions):
        where = f"faults.partitions.{number}"
        if partition.parts is not None and partition.parts > size:
            raise UserError(f"{where}.parts = {partition.parts} is more than the {size} nodes of the network")
        named = [node for group in partition.groups or () for node in group]
        _exist(named, size, f"{where}.groups")
        if len(partition.groups or ()) == 1 and len(named) == size:
            raise UserError(f"{where}.groups puts all nodes in one group, which cuts nothing")
    for number, event in enumerate(settings.events):
        where = f"faults.events.{number}"
        _exist(event.nodes, size, f"{where}.nodes")
        for a, b in event.links:
            if not (a != b and graph.has_edge(a, b)):
                raise UserError(f"{where}.links names {a}-{b}, which is not a link of the network")
    _in_order(settings)


def _with_server(settings: FaultSettings) -> None:
    """Raise UserError for what needs links between nodes."""
    off = FaultSettings()
    for key in ("link_failure", "message_loss", "delay_probability", "max_delay", "gossip", "partitions"):
        value = getattr(settings, key)
        if value != getattr(off, key):
            stated = "[[faults.partitions]]" if key == "partitions" else f"faults.{key} = {value!r}"
            raise UserError(
                f"{stated} is about links between nodes, but here a server averages the models "
                f"(allowed: {_WITH_SERVER})"
            )
    for number, event in enumerate(settings.events):
        if event.kind in ("cut", "heal"):
            stated = f"faults.events.{number}.kind = '{event.kind}'"
            raise UserError(
                f"{stated} is about links between nodes, but here a server averages the models "
                f"(allowed: {_WITH_SERVER})"
            )


def _exist(nodes: tuple[int, ...] | list[int], size: int, where: str) -> None:
    for node in nodes:
        if not 0 <= node < size:
            raise UserError(f"{where} names node {node}, which does not exist (allowed: 0 to {size - 1})")


def _in_order(settings: FaultSettings) -> None:
    """Raise UserError where an event says of a node what the events before it rule out."""
    numbered = sorted(enumerate(settings.events), key=lambda entry: entry[1].round)
    joins = {node: event.round for event in settings.events if event.kind == "join" for node in event.nodes}
    away: set[int] = set()
    joined: set[int] = set()
    last: dict[int, int] = {}
    for number, event in numbered:
        if event.kind in ("cut", "heal"):
            continue
        for node in event.nodes:
            where = f"faults.events.{number}: node {node}"
            if last.get(node) == event.round:
                raise UserError(f"{where} has two events in round {event.round}; give one of them another round")
            last[node] = event.round
            if event.kind == "join":
                if node in joined:
                    raise UserError(f"{where} joins a second time; use kind 'return'")
                joined.add(node)
                continue
            if event.round < joins.get(node, 0):
                raise UserError(f"{where} cannot {event.kind} in round {event.round}, it joins in {joins[node]} only")
            _check_standing(event, node, where, away, by_chance=settings.leave_probability > 0)


def _check_standing(event: EventSettings, node: int, where: str, away: set[int], *, by_chance: bool) -> None:
    if event.kind == "return":
        if node not in away and not by_chance:
            raise UserError(f"{where} returns in round {event.round}, but is not away")
        away.discard(node)
        return
    if node in away:
        raise UserError(f"{where} cannot {event.kind} in round {event.round}: it is away since an event before")
    away.add(node)
