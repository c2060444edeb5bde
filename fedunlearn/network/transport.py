"""What the conductor says to the hosts, without saying how it travels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Request:
    """One operation for one host: JSON-able parameters and plain arrays (float32, float64, int64, uint8 or bool)."""

    op: str
    params: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """A host's answer."""

    params: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


class Transport(Protocol):
    """Carries one request to every host and brings back the replies in host order."""

    @property
    def num_hosts(self) -> int:
        """Number of hosts; host h owns the h-th contiguous block of vertices."""
        ...

    def exchange(self, requests: Sequence[Request]) -> list[Reply]:
        """Deliver ``requests[h]`` to host ``h`` and return its reply; raises UserError with the host's sentence."""
        ...
