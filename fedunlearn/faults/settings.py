"""Settings of the faults room: who comes and goes, what links and messages do, and how gossip is timed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedunlearn.settings import Settings

Gossip = Literal["synchronous", "pairwise", "push"]
OnLoss = Literal["kept", "gone"]

_NODE_EVENTS = ("crash", "leave", "join", "return")


class EventSettings(Settings):
    """Something that happens at the beginning of one round, and lasts until another event undoes it."""

    round: int = Field(ge=0, description="rounds count from 0; the event takes effect before this one's local steps")
    kind: Literal["crash", "leave", "join", "return", "cut", "heal"]
    nodes: tuple[int, ...] = Field(default=(), description="numbers of nodes; cut: their links to all other nodes")
    links: tuple[tuple[int, int], ...] = Field(default=(), description="cut, heal: pairs of nodes")

    @model_validator(mode="after")
    def _complete(self) -> EventSettings:
        if self.kind in _NODE_EVENTS:
            if not self.nodes:
                raise ValueError(f"an event of kind '{self.kind}' needs the key 'nodes'")
            if self.links:
                raise ValueError(f"an event of kind '{self.kind}' has no key 'links' (allowed: round, kind, nodes)")
        elif self.kind == "cut" and not self.nodes and not self.links:
            raise ValueError("an event of kind 'cut' needs one of the keys 'nodes' and 'links'")
        if self.nodes and self.links:
            raise ValueError("an event names either 'nodes' or 'links', not both")
        if self.kind in ("crash", "leave", "return") and self.round == 0:
            raise ValueError(f"nobody can {self.kind} in round 0, when the network begins (allowed: 1 or later)")
        if self.kind == "join" and self.round == 0:
            raise ValueError("every node without a 'join' is there from round 0 on (allowed: 1 or later)")
        return self


class PartitionSettings(Settings):
    """A time during which the network is cut into parts: rounds ``begin <= r < end``."""

    begin: int = Field(ge=0)
    end: int = Field(ge=1, description="the first round in which the parts are joined again")
    parts: int | None = Field(
        default=None, ge=2, description="this many connected parts of similar size, few edges cut"
    )
    groups: tuple[tuple[int, ...], ...] | None = Field(
        default=None, description="lists of nodes; those not named form one more part"
    )

    @model_validator(mode="after")
    def _complete(self) -> PartitionSettings:
        if self.end <= self.begin:
            raise ValueError(f"end = {self.end} must come after begin = {self.begin}")
        if (self.parts is None) == (self.groups is None):
            raise ValueError("a partition needs exactly one of the keys 'parts' and 'groups'")
        if self.groups is not None:
            named = [node for group in self.groups for node in group]
            twice = next((node for node in named if named.count(node) > 1), None)
            if not named:
                raise ValueError("groups names no node")
            if twice is not None:
                raise ValueError(f"groups names node {twice} twice")
        return self


class FaultSettings(Settings):
    """What goes wrong on the network, as a seeded trace that depends on no data. Everything is off by default.

    A node that was away holds an old model: it adopts a neighbour's before it trains or mixes again.
    """

    leave_probability: float = Field(default=0.0, ge=0, lt=1, description="of a node that is there, in every round")
    return_probability: float = Field(default=0.5, ge=0, le=1, description="of a node that went away, in every round")
    crash_share: float = Field(default=0.0, ge=0, le=1, description="share of departures that lose model and momentum")
    late_share: float = Field(default=0.0, ge=0, le=1, description="share of the nodes that are not there at first")
    late_until: int | None = Field(default=None, ge=1, description="the round by which all late nodes have joined")
    link_failure: float = Field(default=0.0, ge=0, lt=1, description="probability that an edge is down in a round")
    message_loss: float = Field(default=0.0, ge=0, lt=1, description="probability that a message does not arrive")
    on_loss: OnLoss = Field(
        default="kept", description="kept: the sender notices and keeps what it sent; gone: nobody notices"
    )
    slow_share: float = Field(default=0.0, ge=0, le=1, description="share of the nodes that are slow")
    slow_factor: float = Field(
        default=1.0, ge=1, description="simulated time: a slow node computes this many times longer"
    )
    delay_probability: float = Field(
        default=0.0, ge=0, le=1, description="that a message is late; those of slow nodes are, always"
    )
    max_delay: int = Field(default=0, ge=0, le=64, description="rounds by which a late message is late: 1 to this many")
    gossip: Gossip = Field(
        default="synchronous",
        description="pairwise: a random matching averages; push: each node sends half to one neighbour",
    )
    partitions: tuple[PartitionSettings, ...] = ()
    events: tuple[EventSettings, ...] = ()
    offline_requests: Literal["wait", "answer"] = Field(
        default="wait", description="a request of a node that is away: wait until it is back, or answer without it"
    )
    wait_limit: int = Field(default=100, ge=0, description="rounds that a request waits at most; then it is answered")
    seed: int | None = Field(default=None, ge=0, description="seed of the trace; by default the run's seed")

    @model_validator(mode="after")
    def _sensible(self) -> FaultSettings:
        if self.late_share > 0 and self.late_until is None:
            raise ValueError("late_share > 0 needs the key 'late_until', the round by which all have joined")
        if self.delay_probability > 0 and self.max_delay == 0:
            raise ValueError("delay_probability > 0 needs max_delay of at least 1 round")
        if self.max_delay > 0 and self.delay_probability == 0 and self.slow_share == 0:
            raise ValueError("max_delay > 0 delays nothing: set delay_probability or slow_share")
        if self.slow_share > 0 and self.slow_factor == 1 and self.max_delay == 0:
            raise ValueError("slow_share > 0 slows nothing down: set slow_factor or max_delay")
        if self.gossip == "pairwise" and self.max_delay > 0:
            raise ValueError("gossip = 'pairwise' waits for both messages of a pair, so max_delay must be 0")
        return self

    @property
    def enabled(self) -> bool:
        """Whether anything at all differs from a network without faults."""
        chances = (self.leave_probability, self.late_share, self.slow_share)
        return any(c > 0 for c in chances) or self.acts_on_links or bool(self.events)

    @property
    def acts_on_links(self) -> bool:
        """Whether a key (events aside) needs messages between neighbours: none of these is defined with a server."""
        chances = (self.link_failure, self.message_loss, self.max_delay)
        return any(c > 0 for c in chances) or self.gossip != "synchronous" or bool(self.partitions)

    @property
    def weighted(self) -> bool:
        """Whether what a node sends and keeps need not balance what it hears, so that push-sum weights are carried."""
        return self.gossip == "push" or self.message_loss > 0 or self.max_delay > 0


def buffered_copies(settings: FaultSettings) -> int:
    """Return how many copies of all rows are kept for messages that are late: D = ``max_delay`` past rounds."""
    return settings.max_delay


def buffer_bytes(settings: FaultSettings, num_nodes: int, dim: int) -> int:
    """Return the bytes of the ring buffer of past rows: D copies of N rows of d float32, rows begun at cache lines."""
    return buffered_copies(settings) * num_nodes * 4 * (-(-dim // 16) * 16)
