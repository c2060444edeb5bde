"""A progress bar with the remaining time, fed by ``progress(phase, done, total)``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from fedunlearn.cli.options import console, duration

Report = Callable[[str, int, int], None]


@contextmanager
def progress_bar() -> Iterator[Report]:
    """Show the phases of a run on standard error; yields the callable that a run reports to.

    A terminal gets one moving line a phase; a file or a pipe gets one line for each phase that is done.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    screen = console(stderr=True)
    if not screen.is_terminal:
        yield _plain_lines()
        return
    bar = Progress(
        SpinnerColumn(finished_text="[green]✓[/green]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=screen,
    )
    lines: dict[str, TaskID] = {}

    def report(phase: str, done: int, total: int) -> None:
        if phase not in lines:
            lines[phase] = bar.add_task(phase, total=total)
        bar.update(lines[phase], completed=done, total=total)

    with bar:
        yield report


def _plain_lines() -> Report:
    started: dict[str, float] = {}

    def report(phase: str, done: int, total: int) -> None:
        began = started.setdefault(phase, time.perf_counter())
        if done >= total and began >= 0:
            typer.echo(f"{phase}: {done}/{total} in {duration(time.perf_counter() - began)}", err=True)
            started[phase] = -1.0

    return report
