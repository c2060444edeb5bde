"""The yardstick through `flwr run` with one SuperNode a core, and plain Flower with one SuperNode a client, in turn.

All run on Flower's simulation runtime (Ray). Ours is the shipped experiment simulations/scale/yardstick.toml, started
as a user would: a SuperLink of its own, then `flwr run .`. The peer (benchmarks.peer_flower_ray) runs as the script is
usually written, whose app makes its data anew at every message, and with care: the app is imported by name and keeps
its data. Its seconds a round are the median of its rounds without the first, in which Ray starts its workers; ours are
what a long training takes more than one of two rounds. Needs the extra [ray].

    python -m benchmarks.flower_runtime                # three turns: about seven minutes on two cores
    python -m benchmarks.flower_runtime --turns 1 --json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import workload
from benchmarks.peer_flower_ray import MISSING
from benchmarks.superlink import flwr_run, superlink
from benchmarks.versus import figures_of

EXPERIMENT = "simulations/scale/yardstick.toml"
WANTED = 3.0
"""Times plain Flower, as it is usually written, that the yardstick must show."""
SHORT = 2
"""Rounds in which processes start and memory is touched first."""


@dataclass(frozen=True)
class Turn:
    """Client updates a second of one turn, and the seconds that `flwr run` took in all."""

    ours: float
    peer: float
    careful_peer: float
    whole_run_s: float


@dataclass(frozen=True)
class Found:
    """Medians over the turns; the ratio is taken within each turn first."""

    supernodes: int
    rounds: int
    turns: int
    updates_per_s: float
    peer_updates_per_s: float
    careful_peer_updates_per_s: float
    times_peer: float
    times_careful_peer: float
    whole_run_s: float
    met: bool


def summed_up(turns: Sequence[Turn], supernodes: int, rounds: int) -> Found:
    """Return the medians over turns."""
    times = statistics.median(t.ours / t.peer for t in turns)
    return Found(
        supernodes, rounds, len(turns), statistics.median(t.ours for t in turns),
        statistics.median(t.peer for t in turns), statistics.median(t.careful_peer for t in turns), times,
        statistics.median(t.ours / t.careful_peer for t in turns), statistics.median(t.whole_run_s for t in turns),
        times >= WANTED,
    )  # fmt: skip


def ours(environment: dict[str, str], supernodes: int, rounds: int, folder: Path) -> tuple[float, float]:
    """Return client updates a second after the first two rounds, and the seconds of the longer ``flwr run``."""
    short, _ = training(environment, supernodes, SHORT, folder)
    long, whole = training(environment, supernodes, SHORT + rounds, folder)
    return workload.CLIENTS * rounds / (long - short), whole


def training(environment: dict[str, str], supernodes: int, rounds: int, folder: Path) -> tuple[float, float]:
    """Return the seconds of the training in one ``flwr run``, and those of the whole command."""
    out = Path(tempfile.mkdtemp(dir=folder)) / "run"
    spent = flwr_run(environment, EXPERIMENT, [f"training.rounds={rounds}"], out, supernodes)
    return float(json.loads((out / "summary.json").read_text())["seconds"]["train"]), spent


def main(arguments: list[str] | None = None) -> int:
    """Measure in turn and print what was found; exit code 1 where Ray is missing or a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=12, help="rounds of ours that are measured in a turn")
    parser.add_argument("--supernodes", type=int, default=len(os.sched_getaffinity(0)), help="default: one a core")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("ray") is None:
        print(MISSING, file=sys.stderr)
        return 1
    turns = []
    try:
        with tempfile.TemporaryDirectory() as name, superlink(Path(name)) as environment:
            for _ in range(options.turns):
                updates, whole = ours(environment, options.supernodes, options.rounds, Path(name))
                peers = [
                    figures_of("peer_flower_ray", "--model", "small-cnn", *more)["client_updates_per_s"]
                    for more in (["--remake-data"], [])
                ]
                turns.append(Turn(updates, *peers, whole))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    found = summed_up(turns, options.supernodes, options.rounds)
    if options.json:
        print(json.dumps(asdict(found)))
    else:
        for name, value in asdict(found).items():
            print(f"{name.replace('_', ' '):20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
