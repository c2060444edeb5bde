"""What the conductor says to the hosts, without saying how it travels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Request:
    """One operation for one host: JSON-able parameters and plain arrays (float32, float64, int64, uint8 or bool).

    ``before`` are requests that the host carries out first, in their order: they travel in the same message.
    """

    op: str
    params: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    before: tuple[Request, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, those of the requests before it included."""
        return sum(a.nbytes for a in self.arrays.values()) + sum(request.nbytes for request in self.before)


@dataclass(frozen=True)
class Reply:
    """A host's answer; ``before`` are the answers to the requests that it carried out first."""

    params: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    before: tuple[Reply, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(a.nbytes for a in self.arrays.values()) + sum(reply.nbytes for reply in self.before)


class Transport(Protocol):
    """Carries a request to every host, or to some, and brings back the replies in host order."""

    @property
    def num_hosts(self) -> int:
        """Number of hosts; host h owns the h-th block of vertices."""
        ...

    @property
    def immediate(self) -> bool:
        """Whether a message costs next to nothing, so that no request needs to wait for another's message."""
        ...

    def exchange(self, requests: Sequence[Request | None]) -> list[Reply | None]:
        """Deliver ``requests[h]`` to host ``h`` and return its reply; None is no message and has none.

        Raises UserError with the host's sentence.
        """
        ...
