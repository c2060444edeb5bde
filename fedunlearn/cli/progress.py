"""A progress bar with the remaining time, fed by ``progress(phase, done, total)``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from fedunlearn.cli.options import console, duration

Report = Callable[[str, int, int], None]


class Countdown:
    """The remaining time of a whole that is reported in seconds, past and expected; between reports it runs down."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._left = self._at = 0.0

    def report(self, done: int, total: int) -> None:
        """Take over a new expectation."""
        self._left, self._at = float(max(total - done, 0)), self._clock()

    def left(self) -> float:
        """Return the seconds that are still expected, at least 0."""
        return max(self._left - (self._clock() - self._at), 0.0)


@contextmanager
def progress_bar(whole: str | None = None) -> Iterator[Report]:
    """Show the phases of a run on standard error; yields the callable that a run reports to.

    A terminal gets one moving line a phase; a file or a pipe gets one line for each phase that is done.

    Args:
        whole: name of a phase whose numbers are seconds, past and expected, of everything: it gets the line on top, and
            in a file the other lines tell what is left of it.
    """
    screen = console(stderr=True)
    yield from _moving_lines(whole) if screen.is_terminal else [_plain_lines(whole)]


def _moving_lines(whole: str | None) -> Iterator[Report]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    countdown = Countdown()

    class Count(MofNCompleteColumn):
        """How many of how many; of the whole, how much of the time."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.percentage:.0f} %") if task.description == whole else super().render(task)

    class Left(ProgressColumn):
        """The time that is left: by the pace so far, of the whole as it is reported."""

        def __init__(self) -> None:
            super().__init__()
            self._by_pace = TimeRemainingColumn()

        def render(self, task: Task) -> Text:
            if task.description != whole or task.finished:
                return self._by_pace.render(task)
            minutes, seconds = divmod(round(countdown.left()), 60)
            return Text(f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}", style="progress.remaining")

    bar = Progress(
        SpinnerColumn(finished_text="[green]✓[/green]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        Count(),
        TimeElapsedColumn(),
        TextColumn("left"),
        Left(),
        console=console(stderr=True),
    )
    lines: dict[str, TaskID] = {}

    def report(phase: str, done: int, total: int) -> None:
        if phase == whole:
            countdown.report(done, total)
        if phase not in lines:
            lines[phase] = bar.add_task(phase, total=total)
        bar.update(lines[phase], completed=done, total=total)

    with bar:
        yield report


def _plain_lines(whole: str | None = None) -> Report:
    started: dict[str, float] = {}
    countdown = Countdown()

    def report(phase: str, done: int, total: int) -> None:
        began = started.setdefault(phase, time.perf_counter())
        if phase == whole:
            countdown.report(done, total)
        if done >= total and began >= 0:
            count = "" if phase == whole else f" {done}/{total}"
            left = countdown.left() if phase != whole else 0.0
            rest = f", about {duration(round(left))} left" if left >= 1 else ""
            typer.echo(f"{phase}:{count} in {duration(time.perf_counter() - began)}{rest}", err=True)
            started[phase] = -1.0

    return report
