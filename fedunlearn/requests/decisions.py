"""What is answered and what is refused: requests after the decision about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import listed
from fedunlearn.requests.docket import Rule


@dataclass(frozen=True)
class DeletionRequest:
    """What is answered as one: its number, level, the vertex that asks (if one does) and the sample ids that go.

    ``leaves`` lists the vertices that are taken out, in the order in which they go: the asking client at client level,
    and every client that sample or class deletion leaves without a sample (docs/certificates.md: a client emptied is a
    client deleted). ``asked`` are the numbers of the experiment's requests that are answered here: one, or all that
    arrived in the same window. Those of one client have its number (``node``), and client level if it asked to leave;
    those of several have level ``class`` and neither node nor label. ``askers`` are those who asked, None the operator.
    """

    number: int
    level: str
    node: int | None
    label: int | None
    sample_ids: NDArray[np.int64]
    leaves: tuple[int, ...]
    asked: tuple[int, ...] = ()
    askers: tuple[int | None, ...] = ()

    @property
    def where(self) -> str:
        """The key of the experiment that an error about this answer names: the first request that is answered here."""
        return f"requests.{self.asked[0] if self.asked else self.number}"

    def describe(self) -> str:
        """Return the request in a few words."""
        if len(self.asked) > 1:
            return f"{len(self.asked)} requests together: {len(self.sample_ids)} samples{self._whose()}"
        if self.level == "client":
            return f"client {self.node} leaves with {len(self.sample_ids)} samples"
        if self.level == "class":
            return f"class {self.label} goes everywhere: {len(self.sample_ids)} samples"
        return f"client {self.node} deletes {len(self.sample_ids)} of its samples"

    def _whose(self) -> str:
        gone = f"; {listed(self.leaves)} leave{'s' if len(self.leaves) == 1 else ''}" if self.leaves else ""
        return ("" if self.node is None else f" of client {self.node}") + gone


@dataclass(frozen=True)
class Refusal:
    """A request that is not answered: its number in the experiment, what was asked, by whom, and why not.

    ``by`` is None for the operator. ``reason`` is one sentence, and names what is allowed.
    """

    number: int
    level: str
    client: int | None
    label: str | int | None
    by: int | None
    at: float
    rule: Rule
    reason: str


@dataclass(frozen=True)
class Decisions:
    """What becomes of the requests of an experiment: ``answered`` in this order, and ``refused``.

    ``notes`` are sentences for those who run the network. No decision depends on them.
    """

    answered: tuple[DeletionRequest, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[str, ...] = ()
