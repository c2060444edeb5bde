"""Running an experiment from Python: the same path as ``fedunlearn run``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedunlearn.config import Experiment, load_experiment

if TYPE_CHECKING:
    from fedunlearn.simulation import RunResult


def run(
    experiment: Experiment | str | Path,
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    resume: str | Path | None = None,
) -> RunResult:
    """Run an experiment, or the file of one with ``overrides``, and return its summary.

    Results are written to the new folder ``out``; with None nothing is written. With ``resume``, the folder of an
    unfinished run of the same experiment or the name it would have had, that run goes on. ``progress(phase, done,
    total)`` is called on the way. Every mistake in what is asked raises :class:`~fedunlearn.errors.UserError`.
    """
    from fedunlearn.flower.local import run_local

    if not isinstance(experiment, Experiment):
        experiment = load_experiment(experiment, overrides)
    elif overrides:
        raise TypeError("overrides change an experiment that is read from a file; use model_copy for one in memory")
    folder, unfinished = (None if path is None else Path(path) for path in (out, resume))
    return run_local(experiment, out=folder, progress=progress, resume=unfinished)
