"""Simulated network time: how long a step would have taken on the links of the settings."""

from __future__ import annotations

from dataclasses import dataclass

from fedunlearn.network.settings import LinkSettings


@dataclass
class Clock:
    """Counts what takes time on a network, and turns the counts into seconds. Nothing that is learned depends on it.

    ``samples``: gradient evaluations one after the other; ``waits``: latencies one after the other; ``bytes``: what
    passes one link after the other. The counts do not depend on the links, so they can be kept with a trained network.
    """

    links: LinkSettings
    samples: float = 0.0
    waits: int = 0
    bytes: int = 0

    @property
    def seconds(self) -> float:
        """Simulated seconds so far."""
        return self.since((0.0, 0, 0))

    def counts(self) -> tuple[float, int, int]:
        """Return samples, waits and bytes so far."""
        return self.samples, self.waits, self.bytes

    def since(self, before: tuple[float, int, int]) -> float:
        """Return the simulated seconds since the counts were ``before``: equal work gives equal bits at any time."""
        samples, waits, size = (now - then for now, then in zip(self.counts(), before))
        transfer = waits * self.links.latency_ms / 1e3 + 8.0 * size / (self.links.bandwidth_mbps * 1e6)
        return samples / self.links.samples_per_second + transfer

    def compute(self, samples: float) -> None:
        """Every node works at once; the slowest makes ``samples`` gradient evaluations."""
        self.samples += samples

    def gossip(self, max_degree: int, message_bytes: int) -> None:
        """All nodes exchange with all neighbours; a node's link carries one message after the other."""
        self._transfer(message_bytes * max_degree)

    def tree(self, depth: int, message_bytes: int, *, there_and_back: bool) -> None:
        """A vector climbs a spanning tree and comes back down (or only comes down)."""
        self._transfer(message_bytes, (2 if there_and_back else 1) * depth)

    def walk(self, hops: int, message_bytes: int) -> None:
        """A token makes ``hops`` moves, one after the other."""
        self._transfer(message_bytes, hops)

    def server(self, clients: int, message_bytes: int) -> None:
        """The server sends to all sampled clients over its own link and hears from each."""
        self._transfer(message_bytes * clients, 2)

    def _transfer(self, message_bytes: int, times: int = 1) -> None:
        self.waits += times
        self.bytes += times * message_bytes
