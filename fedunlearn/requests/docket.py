"""What a policy is allowed to look at, and its decision about one request after the other.

A decision is a function of ids, counts, days and the public graph. It never sees an input, a label or a model: a
refusal is public, and one that depended on what is in a sample would tell about it, which no noise on a release covers.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from fedunlearn.requests.settings import RequestPolicy, RequestSettings

Rule = Literal["ownership", "unknown", "duplicates", "emptied", "broken", "excessive", "exhausted"]
RULES: tuple[Rule, ...] = ("ownership", "unknown", "duplicates", "emptied", "broken", "excessive", "exhausted")
"""The rules in the order in which they are asked; a request is refused by the first that it breaks."""
ROUNDING = 1e-9
"""What numbers of samples, days and windows may be off: in binary 0.29 * 100 is not 29, and 0.3 - 0.1 is not 0.2."""


@dataclass(frozen=True)
class Breach:
    """A rule that a request breaks, and one sentence that names the key, its value and what is allowed."""

    rule: Rule
    reason: str


@dataclass
class Docket:
    """The requests of a run that were answered so far, in numbers.

    Attributes:
        policy: the rules.
        total: training samples at the beginning.
        deleted: how many of them the answered requests delete.
        answered: of each client, how many of its requests were answered.
        latest: of each client, the day on which the last of these arrived.
    """

    policy: RequestPolicy
    total: int
    deleted: int = 0
    answered: Counter[int] = field(default_factory=Counter)
    latest: dict[int, float] = field(default_factory=dict)

    def stranger(self, request: RequestSettings, where: str) -> Breach | None:
        """Return the breach if a client asks for what is not its own.

        This comes first: whoever asks for somebody else's samples is not told whether they exist or are deleted.
        """
        asker = request.asker
        if self.policy.ownership == "off" or asker is None or asker == request.client:
            return None
        whole = request.level == "class"
        whose = "class requests are the operator's" if whole else f"client {request.client}'s samples"
        allowed = "'operator'" if whole else f"{request.client}, 'operator'"
        sentence = (
            f"{where}.by = {asker} asks for what is not its own: {whose} (allowed by policy.ownership: {allowed})"
        )
        return Breach("ownership", sentence)

    def emptying(self, request: RequestSettings, where: str, leavers: tuple[int, ...]) -> Breach | None:
        """Return the breach if a request that is none of a client to leave takes a client's last samples."""
        if self.policy.emptied == "answer" or request.level == "client" or not leavers:
            return None
        return Breach(
            "emptied", f"{where} takes the last samples of client {leavers[0]} without asking for it to leave (allowed "
            "with policy.emptied = 'answer', or as a request of level 'client')",
        )  # fmt: skip

    def excess(self, request: RequestSettings, where: str, samples: int) -> Breach | None:
        """Return the breach of a limit: on the requests of one client, or on all that may be deleted.

        The operator's requests count towards ``max_share`` alone.
        """
        policy, asker = self.policy, request.asker
        if asker is not None:
            if policy.max_requests is not None and self.answered[asker] >= policy.max_requests:
                return Breach(
                    "excessive", f"{where} is one more of client {asker} than policy.max_requests = "
                    f"{policy.max_requests} allows",
                )  # fmt: skip
            since = request.at - self.latest.get(asker, -float("inf"))
            if since < policy.min_interval - ROUNDING:
                return Breach(
                    "excessive", f"{where}.at = {request.at:g} is {since:g} days after the last request of client "
                    f"{asker} (allowed: at least policy.min_interval = {policy.min_interval:g})",
                )  # fmt: skip
        share = policy.max_share
        if share is not None and self.deleted + samples > math.floor(share * self.total + ROUNDING):
            return Breach(
                "exhausted", f"{where} would bring what is deleted to {self.deleted + samples} of {self.total} "
                f"samples, more than policy.max_share = {share:g} of them (retrain, and begin anew)",
            )  # fmt: skip
        return None

    def enter(self, request: RequestSettings, samples: int) -> None:
        """Note that a request is answered, and how many samples it deletes."""
        self.deleted += samples
        if request.asker is not None:
            self.answered[request.asker] += 1
            self.latest[request.asker] = request.at

    def action(self, rule: Rule) -> str:
        """Return what the policy does about a rule that is broken."""
        return str(getattr(self.policy, rule))
