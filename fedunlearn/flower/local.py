"""The default way to run: conductor and hosts in this process, over Flower messages, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedunlearn.flower.grid import LocalGrid
from fedunlearn.flower.transport import GridTransport

if TYPE_CHECKING:
    from fedunlearn.config import Experiment
    from fedunlearn.simulation import RunResult


def run_local(experiment: Experiment, out: Path | None = None, progress: Callable[..., Any] | None = None) -> RunResult:
    """Run an experiment on ``runtime.hosts`` hosts of this process and return its result; raises UserError."""
    from fedunlearn.flower.client_app import app
    from fedunlearn.simulation import simulate

    with LocalGrid(app, experiment.runtime.hosts) as grid:
        return simulate(experiment, GridTransport(grid, grid.get_node_ids()), out=out, progress=progress)
