"""The seconds of a run, by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up wall-clock seconds by phase, as if everything were done in this run and nothing were measured on the way.

    A phase that takes a trained network from the cache is charged what the training took when it was done, and a phase
    that is interrupted for a measurement is not charged for it: costs stay comparable, whatever was cached or drawn.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()
        self._credit = 0.0

    def now(self) -> float:
        """Return a moment; the difference of two is the charge for what lies between them."""
        return time.perf_counter() + self._credit

    def elapsed(self) -> float:
        """Return the true seconds since the watch was made."""
        return time.perf_counter() - self._began

    def go_on(self, seconds: dict[str, float], elapsed: float) -> None:
        """Count on from what the watch of an interrupted run showed; what this one shows is added to it."""
        for name, spent in seconds.items():
            self._add(name, spent)
        self._began -= elapsed

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the block to a phase."""
        began = self.now()
        try:
            yield
        finally:
            self._add(name, self.now() - began)

    @contextmanager
    def aside(self, name: str | None = None) -> Iterator[None]:
        """Do not charge the block to the phase that it interrupts, but to ``name``, or to none."""
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            self._credit -= spent
            if name is not None:
                self._add(name, spent)

    def charge(self, seconds: float) -> None:
        """Charge the running phase for work that was done earlier."""
        self._credit += seconds

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
