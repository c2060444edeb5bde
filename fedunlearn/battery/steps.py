"""The steps of a battery and how long they still take: estimates from the run's own seconds, corrected on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fedunlearn.simulation.world import Progress

WHOLE = "battery"
"""Phase under which the whole battery is reported: ``done`` and ``total`` are seconds, past and expected."""


class Steps:
    """Tells a progress callable how far the battery is, step by step and as a whole.

    Args:
        expected: seconds that each step is expected to take, in order; only their proportions matter much, for what
            the finished steps really took corrects the rest.
        progress: ``progress(phase, done, total)``.
    """

    def __init__(self, expected: Mapping[str, float], progress: Progress) -> None:
        if not expected or min(expected.values()) <= 0:
            raise ValueError("every step is expected to take some time")
        self._expected, self._progress = dict(expected), progress
        self._began = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[Progress]:
        """Run one step; yields the callable that the step reports to, under phases of its own.

        The share ``done / total`` of the phase that has the step's name counts for the whole battery too.
        """
        began = time.perf_counter()
        self._tell(name, 0.0)

        def report(phase: str, done: int, total: int) -> None:
            self._progress(phase, done, total)
            if phase == name and total:
                self._tell(name, done / total)

        yield report
        self.seconds[name] = time.perf_counter() - began
        self._tell(name, 1.0)

    def finish(self) -> None:
        """Say that the battery is done, however long it was expected to take."""
        seconds = max(1, round(time.perf_counter() - self._began))
        self._progress(WHOLE, seconds, seconds)

    def remaining(self, running: str, share: float) -> float:
        """Return the seconds still expected when ``share`` of the running step is done."""
        ahead = list(self._expected)[list(self._expected).index(running) :]
        left = sum(self._expected[name] for name in ahead[1:]) + (1 - share) * self._expected[running]
        behind = sum(self._expected.values()) - left
        passed = time.perf_counter() - self._began
        # At the beginning the estimate is believed; the more is behind, the more what was measured.
        pace = (passed + self._expected[running]) / (behind + self._expected[running]) if behind > 0 else 1.0
        return left * pace

    def _tell(self, running: str, share: float) -> None:
        passed = time.perf_counter() - self._began
        self._progress(WHOLE, int(passed), int(passed + self.remaining(running, share)) + 1)
