"""The Flower ServerApp: the conductor of one simulation, started by ``flwr run``.

Run configuration (``flwr run . --run-config 'simulation="..." overrides="..."'``):

``simulation``  path of the experiment file, from the current folder or from the project's
``overrides``   changes to it as ``key=value``, separated by ``;``
``out``         new folder of the results; default: the experiment's own or ``runs/<name>-<seed>``, ``-2``, ... if taken
``resume``      folder of an unfinished run, or the name it would have had: go on with it (``out`` is then its own)
``store``       folder (absolute) for the hosts' stores, unless a SuperNode names its own; default: shared memory
``patience``    seconds that a SuperNode may be away before the run ends

The current folder is the one in which the SuperLink was started. Every SuperNode that is connected becomes a host, and
computes in its own process unless ``runtime.workers`` or the SuperNode's configuration says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, count
from pathlib import Path

from flwr.app import Context, UserConfig
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

# Not used here. Flower's simulation runtime loads the ClientApp in one thread while the ServerApp runs in another; with
# all that both need imported here, under Flower's lock, no two threads import our modules at once.
import fedunlearn.flower.client_app  # noqa: F401
from fedunlearn.errors import UserError, out_of_memory
from fedunlearn.flower.transport import PATIENCE, GridTransport, wait_for_nodes
from fedunlearn.paths import confined

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Load the experiment, run it on the SuperNodes that are connected, and say where the results are."""
    from fedunlearn.config import load_experiment
    from fedunlearn.results.table import summary_table
    from fedunlearn.simulation import simulate

    try:
        path, overrides, out = _read(context.run_config)
        experiment = load_experiment(path, overrides)
        resume = str(context.run_config.get("resume", ""))
        wanted = Path(experiment.out or f"runs/{experiment.name}-{experiment.seed}")
        target = confined(out, "run config: out") if out else _not_taken(wanted)
        if experiment.runtime.workers is None:
            alone = experiment.runtime.model_copy(update={"workers": 0})
            experiment = experiment.model_copy(update={"runtime": alone})
        nodes = wait_for_nodes(grid, experiment.runtime.hosts)
        transport = GridTransport(grid, nodes, patience=_patience(context.run_config))
        print(f"fedunlearn: {path} on {transport.num_hosts} host(s)", flush=True)
        going_on = confined(resume, "run config: resume") if resume else None
        result = simulate(experiment, transport, out=target, progress=_log_lines(), resume=going_on)
    except Exception as error:
        told = error if isinstance(error, UserError) else out_of_memory(error)
        if told is not None:
            print(f"fedunlearn: {told}", flush=True)
        raise  # Flower marks the run as failed only by an exception
    Console(width=120).print(summary_table(result.summary))
    print(f"fedunlearn: results in {(result.folder or target).resolve()}", flush=True)


def _not_taken(wanted: Path) -> Path:
    """Return the folder, or the first of ``<folder>-2``, ``<folder>-3``, ... that does not exist."""
    numbered = (wanted.with_name(f"{wanted.name}-{n}") for n in count(2))
    return next(path for path in chain([wanted], numbered) if not path.exists())


def _log_lines() -> Callable[[str, int, int], None]:
    """Return a progress function that prints at most ten lines a phase: what Flower streams is a log, not a screen."""
    printed: dict[str, int] = {}

    def log(phase: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > printed.get(phase, 0):
            print(f"fedunlearn: {phase} {done}/{total}", flush=True)
        printed[phase] = tenth

    return log


def _patience(config: UserConfig) -> float:
    value = config.get("patience", PATIENCE)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise UserError(f"run config: patience = {value!r} is not a number of seconds (allowed: 0 or more)")
    return float(value)


def _read(config: UserConfig) -> tuple[Path, list[str], str]:
    """Return the experiment's path, the overrides and the results folder ("" if none is named)."""
    if not config.get("simulation"):
        raise UserError("run config: simulation is missing, give the path of an experiment file")
    path = confined(str(config["simulation"]), "run config: simulation")
    beside = Path(__file__).resolve().parents[2] / path  # Flower unpacks the project elsewhere than the current folder
    overrides = [part.strip() for part in str(config.get("overrides", "")).split(";") if part.strip()]
    return (beside if not path.exists() and beside.exists() else path), overrides, str(config.get("out", ""))
