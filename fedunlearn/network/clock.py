"""Simulated network time: how long a step would have taken on the links of the settings."""

from __future__ import annotations

from dataclasses import dataclass

from fedunlearn.network.settings import LinkSettings


@dataclass
class Clock:
    """Adds up simulated seconds. Nothing that is learned depends on it."""

    links: LinkSettings
    seconds: float = 0.0

    def _transfer(self, message_bytes: int, messages: int = 1) -> float:
        return self.links.latency_ms / 1e3 + 8.0 * message_bytes * messages / (self.links.bandwidth_mbps * 1e6)

    def compute(self, samples: float) -> None:
        """Every node works at once; the slowest makes ``samples`` gradient evaluations."""
        self.seconds += samples / self.links.samples_per_second

    def gossip(self, max_degree: int, message_bytes: int) -> None:
        """All nodes exchange with all neighbours; a node's link carries one message after the other."""
        self.seconds += self._transfer(message_bytes, max_degree)

    def tree(self, depth: int, message_bytes: int, *, there_and_back: bool) -> None:
        """A vector climbs a spanning tree and comes back down (or only comes down)."""
        self.seconds += (2 if there_and_back else 1) * depth * self._transfer(message_bytes)

    def server(self, clients: int, message_bytes: int) -> None:
        """The server sends to all sampled clients over its own link and hears from each."""
        self.seconds += 2 * self._transfer(message_bytes, clients)
