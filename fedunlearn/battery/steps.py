"""The steps of a battery and how long they still take: estimates from the run's own seconds, corrected on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fedunlearn.simulation.world import Progress

WHOLE = "battery"
"""Phase under which the whole battery is reported: ``done`` and ``total`` are seconds, past and expected."""


_BELIEF = 0.1
"""The estimate weighs as much as this share of it, measured; so a first short step does not decide about the whole."""


class Steps:
    """Tells a progress callable how far the battery is, step by step and as a whole.

    Args:
        expected: seconds that each step is expected to take, in order; only their proportions matter much, for what
            the steps really take corrects the rest.
        progress: ``progress(phase, done, total)``.
    """

    def __init__(self, expected: Mapping[str, float], progress: Progress) -> None:
        if not expected or min(expected.values()) <= 0:
            raise ValueError("every step is expected to take some time")
        self._expected, self._progress = dict(expected), progress
        self._began = self._step_began = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[Progress]:
        """Run one step; yields the callable that the step reports to, under phases of its own.

        The share ``done / total`` of the phase that has the step's name counts for the whole battery too.
        """
        self._step_began, share = time.perf_counter(), 0.0
        self._tell(name, share)

        def report(phase: str, done: int, total: int) -> None:
            nonlocal share
            self._progress(phase, done, total)
            if phase == name and total:
                share = done / total
            self._tell(name, share)

        yield report
        self.seconds[name] = time.perf_counter() - self._step_began
        self._tell(name, 1.0)

    def finish(self) -> None:
        """Say that the battery is done, however long it was expected to take."""
        seconds = max(1, round(time.perf_counter() - self._began))
        self._progress(WHOLE, seconds, seconds)

    def remaining(self, running: str, share: float) -> float:
        """Return the seconds still expected when ``share`` of the running step is done; 0 says that it tells no share.

        What steps took, divided by what was expected of them, corrects what is expected of those to come. The running
        step goes on as it went, the more so the more of it is done.
        """
        expected = self._expected[running]
        ahead = list(self._expected)[list(self._expected).index(running) + 1 :]
        done = [name for name in self.seconds if name in self._expected and name != running]
        took, planned = sum(self.seconds[name] for name in done), sum(self._expected[name] for name in done)
        elapsed = 0.0 if running in self.seconds else time.perf_counter() - self._step_began
        if running in self.seconds:
            took, planned = took + self.seconds[running], planned + expected
        elif share:
            took, planned = took + elapsed, planned + share * expected
        belief = _BELIEF * sum(self._expected.values())
        pace = (took + belief) / (planned + belief)
        own = expected * pace
        left = max(0.0, own - elapsed) if not share else (1 - share) * (elapsed + (1 - share) * own)
        return left + pace * sum(self._expected[name] for name in ahead)

    def _tell(self, running: str, share: float) -> None:
        passed = time.perf_counter() - self._began
        self._progress(WHOLE, int(passed), int(passed + self.remaining(running, share)) + 1)
