"""The default way to run: conductor and hosts in this process, over Flower messages, without Ray."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedunlearn.network.workers import started_early

if TYPE_CHECKING:
    from fedunlearn.config import Experiment
    from fedunlearn.network import RuntimeSettings
    from fedunlearn.simulation import RunResult


def run_local(
    experiment: Experiment, out: Path | None = None, progress: Callable[..., Any] | None = None,
    resume: Path | None = None,
) -> RunResult:  # fmt: skip
    """Run an experiment on ``runtime.hosts`` hosts of this process and return its result; raises UserError.

    With ``resume`` go on with an unfinished run of it, as :func:`fedunlearn.simulation.simulate` does.
    """
    with started_early(_certain_workers(experiment.runtime)):
        from fedunlearn.flower.client_app import app
        from fedunlearn.flower.grid import LocalGrid
        from fedunlearn.flower.transport import GridTransport
        from fedunlearn.simulation import simulate

        with LocalGrid(app, experiment.runtime.hosts) as grid:
            transport = GridTransport(grid, grid.get_node_ids())
            return simulate(experiment, transport, out=out, progress=progress, resume=resume)


def _certain_workers(runtime: RuntimeSettings) -> int | None:
    """Return how many workers to start before anything is known of the run: none if a GPU might do their work."""
    gpu = runtime.device == "cuda" or (runtime.device == "auto" and shutil.which("nvidia-smi") is not None)
    return 0 if gpu else runtime.workers
