"""The yardstick: the same work for every simulator, through this package's public interface.

32 clients x 200 samples (28x28, 62 classes, synthetic), random 4-regular graph, rounds of one local epoch at batch 32,
SGD 0.05, one Metropolis-Hastings gossip a round; the CNN conv16-conv32-fc128-fc62 (213,630 parameters), a perceptron of
one hidden layer of 128, or softmax regression. Prints client updates per second: the median round without the first.

    python -m benchmarks.yardstick --json
    python -m benchmarks.yardstick --model mlp --rounds 20

Memory is that of the process tree, each shared page counted once. It is watched now and then during start-up, and
closely in extra rounds after the measured ones: watching takes time, and no timed round is watched.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from benchmarks import workload
from benchmarks.memory import TreeMemory

if TYPE_CHECKING:
    from fedunlearn.network import Network, TrainingSettings

WATCHED_SECONDS = 0.6
"""Seconds of extra rounds in which memory is watched."""


def recipe(rounds: int) -> TrainingSettings:
    """Return the training settings of the yardstick."""
    from fedunlearn.network import TrainingSettings

    return TrainingSettings(rounds=rounds, lr=workload.LR, batch=workload.BATCH)


@contextmanager
def network_of(
    model_name: str, workers: int | None = None, clients: int = workload.CLIENTS, samples: int = workload.SAMPLES
) -> Iterator[Network]:
    """Open hosts and workers with the yardstick's data, and give the network that is to be trained."""
    from fedunlearn.network.workers import started_early

    with started_early(workers):
        from fedunlearn.flower.client_app import app
        from fedunlearn.flower.grid import LocalGrid
        from fedunlearn.flower.transport import GridTransport
        from fedunlearn.models import FeatureMap, ModelSettings, build_model
        from fedunlearn.network import Network, RuntimeSettings, Session

        dataset = workload.dataset(clients, samples)
        features = FeatureMap("raw", dataset.input_shape)
        model = build_model(ModelSettings(name=model_name), workload.CLASSES, features.output_shape)
        graph = workload.graph(clients)
        runtime, seed = RuntimeSettings(workers=workers), workload.SEED
        with LocalGrid(app) as grid:
            transport = GridTransport(grid, grid.get_node_ids())
            with Session(transport, dataset, model, features, seed=seed, runtime=runtime) as session:
                yield Network(session, "main", graph, "metropolis", model.initial(seed))


def timed_rounds(network: Network, training: TrainingSettings, first: int, last: int) -> list[float]:
    """Train the rounds ``first <= r < last`` and return the seconds of each."""
    from fedunlearn.network import train

    marks = [time.perf_counter()]
    train(network, training, first=first, last=last, watch=lambda r, n: marks.append(time.perf_counter()))
    return [b - a for a, b in pairwise(marks)]


def timed_local_steps(network: Network, training: TrainingSettings, round_: int) -> float:
    """Let all vertices take the local steps of a round, without mixing or checks, and return the seconds."""
    from fedunlearn.network.training import local_steps

    began = time.perf_counter()
    local_steps(network, training, round_)
    return time.perf_counter() - began


def run(
    rounds: int = 8, workers: int | None = None, model_name: str = "small-cnn", clients: int = workload.CLIENTS,
    samples: int = workload.SAMPLES,
) -> dict[str, Any]:  # fmt: skip
    """Train the yardstick for some rounds and return its figures."""
    began = time.perf_counter()
    with TreeMemory() as memory, network_of(model_name, workers, clients, samples) as network:
        ready = time.perf_counter()
        training = recipe(rounds)
        with memory.paused():
            seconds = timed_rounds(network, training, 0, rounds)
        steady = statistics.median(seconds[1:] or seconds)
        memory.look()
        memory.every = 0.1
        timed_rounds(network, training, rounds, rounds + math.ceil(WATCHED_SECONDS / steady))
    return {
        "name": f"fedunlearn {model_name}",
        "client_updates_per_s": round(clients / steady, 1),
        "round_s": round(steady, 4),
        "first_round_s": round(seconds[0], 4),
        "start_up_s": round(ready - began, 2),
        "peak_memory_mb": round(memory.peak_mb),
        "processes": memory.processes,
        "all_rounds": [round(s, 4) for s in seconds],
    }


def options_of(description: str | None) -> argparse.ArgumentParser:
    """Return the command-line options that all scripts with the yardstick's work share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--model", default="small-cnn", choices=workload.MODELS)
    parser.add_argument("--rounds", type=int, default=8)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Print the figures."""
    parser = options_of(__doc__)
    parser.add_argument("--workers", type=int, default=None, help="worker processes (default: cores)")
    options = parser.parse_args(arguments)
    workload.show(run(options.rounds, options.workers, options.model), options.json)


if __name__ == "__main__":
    main()
