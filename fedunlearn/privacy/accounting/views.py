"""From the message record to what an observer may learn: one event for each kind of message, composed per observer.

An observer's messages are the records of :meth:`fedunlearn.network.ledger.Ledger.received_by`, plain tables with step,
phase, kind, senders and repetitions. A rule says which event one message of a kind is. A kind without a rule has no
certificate, and so has every view that contains it; silence is never read as zero. What an observer sends is computed
from its own state and from what it received, and adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from fedunlearn.errors import UserError
from fedunlearn.privacy.accounting.events import (
    Event,
    GaussianRelease,
    NoiseFree,
    PoissonSampledGaussian,
    PostProcessing,
)
from fedunlearn.privacy.accounting.opinions import Opinion, epsilon_of_events

Fresh = Literal["message", "operation", "once"]
Record: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """What a message of one kind is, and how often its noise is drawn.

    Attributes:
        event: what one message is.
        fresh: ``message``: every message has noise of its own (the safe choice: a draw that two observers share is
            counted twice); ``operation``: all messages of one collective operation carry the same noisy vector, as in
            a flood; ``once``: all messages of the kind carry the same one.
    """

    event: Event
    fresh: Fresh = "message"


@dataclass(frozen=True)
class View:
    """What a set of observers saw that depends on the deleted data.

    Attributes:
        observers: node ids; more than one where they collude.
        messages: how many messages they received, all kinds.
        events: what these were; empty where nothing was received or nothing depends on the deleted data.
        opinion: what follows, None where no certificate exists.
        reason: one sentence, why there is none or what the opinion rests on.
    """

    observers: tuple[int, ...]
    messages: int
    events: tuple[Event, ...]
    opinion: Opinion | None
    reason: str

    @property
    def epsilon(self) -> float | None:
        """The epsilon of this view; None where nothing is certified."""
        return None if self.opinion is None else self.opinion.epsilon

    @property
    def mu(self) -> float | None:
        """The privacy number of this view where all of it is Gaussian and certified, otherwise None."""
        return None if self.opinion is None else self.opinion.mu


def view_of(
    received: Mapping[int, Iterable[Record]],
    rules: Mapping[str, Rule | Event],
    delta: float,
    *,
    phases: Iterable[str] | None = None,
    second: bool = True,
) -> View:
    """Return the view of the observers together, as if they pooled all they received.

    Args:
        received: the message records of each observer; several observers collude.
        rules: the rule of each kind of message; a bare event is a rule with noise of its own in every message.
        delta: at which the epsilon is wanted.
        phases: phases of the run that count; None for all.
        second: whether to ask the other accountants.

    Raises:
        UserError: if there is no observer, or a record lacks an entry.
        Contradiction: if a second opinion excludes the answer.
    """
    if not received:
        raise UserError("observers = none is not allowed: a view belongs to at least one node")
    observers = tuple(sorted(received))
    wanted = None if phases is None else set(phases)
    draws, messages = _draws(received, rules, wanted)
    if unknown := sorted(set(draws) - set(rules)):
        reason = f"messages of kind '{unknown[0]}' were received and no event is known for them: nothing is certified"
        return View(observers, messages, (), None, reason)
    events = []
    for kind, count in sorted(draws.items()):
        rule = _rule(rules[kind])
        if not isinstance(rule.event, PostProcessing):
            events += _repeated(rule.event, count)
    if not events:
        reason = "nothing was received" if not messages else "no message received depends on the deleted data"
    else:
        reason = "the noise in the messages received, composed"
    return View(observers, messages, tuple(events), epsilon_of_events(events, delta, second), reason)


def all_views(
    received: Mapping[int, Sequence[Record]],
    rules: Mapping[str, Rule | Event],
    delta: float,
    *,
    phases: Iterable[str] | None = None,
    second: bool = False,
) -> tuple[View, ...]:
    """Return the view of each observer on its own, in the order of their ids; arguments as for :func:`view_of`."""
    phases = None if phases is None else tuple(phases)
    return tuple(
        view_of({node: received[node]}, rules, delta, phases=phases, second=second) for node in sorted(received)
    )


def _draws(
    received: Mapping[int, Iterable[Record]], rules: Mapping[str, Rule | Event], phases: set[str] | None
) -> tuple[dict[str, int], int]:
    """Return how many fresh draws of each kind were seen, and how many messages were received."""
    draws: dict[str, int] = {}
    operations: set[tuple[int, str, str]] = set()
    messages = 0
    for records in received.values():
        for record in records:
            try:
                step, phase, kind = int(record["step"]), str(record["phase"]), str(record["kind"])
                repeats, senders = int(record["repeats"]), len(record["senders"])
            except KeyError as missing:
                raise UserError(f"a message record has no entry {missing}, which every record must have") from None
            if phases is not None and phase not in phases:
                continue
            messages += senders * repeats
            if senders * repeats == 0:
                continue
            fresh = _rule(rules[kind]).fresh if kind in rules else "once"
            if fresh == "message":
                draws[kind] = draws.get(kind, 0) + senders * repeats
            elif fresh == "once":
                draws[kind] = 1
            elif (step, phase, kind) not in operations:  # colluding observers saw the same operation
                operations.add((step, phase, kind))
                draws[kind] = draws.get(kind, 0) + repeats
    return draws, messages


def _rule(rule: Rule | Event) -> Rule:
    return rule if isinstance(rule, Rule) else Rule(rule)


def _repeated(event: Event, count: int) -> list[Event]:
    if isinstance(event, GaussianRelease):
        return [replace(event, count=event.count * count)]
    if isinstance(event, PoissonSampledGaussian):
        return [replace(event, steps=event.steps * count)]
    return [event] if isinstance(event, NoiseFree) else [event] * count
