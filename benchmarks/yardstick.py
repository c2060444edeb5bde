"""The yardstick: the same work for every simulator, through this package's public interface.

32 clients x 200 samples (28x28, 62 classes, synthetic), random 4-regular graph, rounds of one local epoch at batch 32,
SGD 0.05, CNN conv16-conv32-fc128-fc62 (213,630 parameters), one Metropolis-Hastings gossip a round. Prints client
updates per second: the median round without the first.

    python -m benchmarks.yardstick --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path

CLIENTS, SAMPLES, CLASSES, SEED = 32, 200, 62, 7


def yardstick_data():
    """Return the synthetic data set: prototypes plus noise as bytes, 8 classes a client."""
    import numpy as np

    from fedunlearn.data import FederatedDataset, Role

    rng = np.random.default_rng(SEED)
    prototypes = rng.normal(size=(CLASSES, 28, 28))
    own = np.stack([rng.choice(CLASSES, 8, replace=False) for _ in range(CLIENTS)])
    labels = own[np.arange(CLIENTS)[:, None], rng.integers(0, 8, (CLIENTS, SAMPLES))]
    images = prototypes[labels] * 0.5 + rng.normal(size=(CLIENTS, SAMPLES, 28, 28))
    pixels = np.clip(images * 32 + 128, 0, 255).astype(np.uint8).reshape(-1, 28, 28)
    return FederatedDataset(
        name="yardstick",
        inputs=pixels,
        labels=labels.reshape(-1).astype(np.int64),
        offsets=np.arange(CLIENTS + 1, dtype=np.int64) * SAMPLES,
        is_test=np.zeros(CLIENTS * SAMPLES, dtype=bool),
        roles=np.full(CLIENTS, Role.TRAIN, dtype=np.uint8),
        client_names=tuple(f"client {i}" for i in range(CLIENTS)),
        class_names=tuple(str(i) for i in range(CLASSES)),
        provenance="generated: prototypes plus noise",
        synthetic=True,
    )


def run(rounds: int = 8, workers: int | None = None, model_name: str = "small-cnn") -> dict[str, object]:
    """Train the yardstick for some rounds and return its figures."""
    began = time.perf_counter()
    from fedunlearn.flower.client_app import app
    from fedunlearn.flower.grid import LocalGrid
    from fedunlearn.flower.transport import GridTransport
    from fedunlearn.models import FeatureMap, ModelSettings, build_model
    from fedunlearn.network import Network, RuntimeSettings, Session, TrainingSettings, train
    from fedunlearn.topology import TopologySettings, build_graph

    dataset = yardstick_data()
    features = FeatureMap("raw", dataset.input_shape)
    model = build_model(ModelSettings(name=model_name), CLASSES, features.output_shape)
    graph = build_graph(TopologySettings(generator="random-regular", degree=4), CLIENTS, SEED)
    training = TrainingSettings(rounds=rounds, lr=0.05, batch=32)
    with LocalGrid(app) as grid:
        runtime = RuntimeSettings(workers=workers)
        with Session(
            GridTransport(grid, grid.get_node_ids()), dataset, model, features, seed=SEED, runtime=runtime
        ) as session:
            network = Network(session, "main", graph, "metropolis", model.initial(SEED))
            ready = time.perf_counter()
            marks = [ready]
            train(network, training, every=1, watch=lambda r, n: marks.append(time.perf_counter()))
    seconds = [b - a for a, b in pairwise(marks)]
    steady = statistics.median(seconds[1:])
    return {
        "name": f"fedunlearn {model_name}",
        "client_updates_per_s": round(CLIENTS / steady, 1),
        "round_s": round(steady, 4),
        "first_round_s": round(seconds[0], 4),
        "start_up_s": round(ready - began, 2),
        "peak_rss_mb": peak_memory_mb(),
        "all_rounds": [round(s, 3) for s in seconds],
    }


def peak_memory_mb() -> int:
    """Return the peak resident memory of this process and its finished children together, in MB."""
    import resource

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (own + children) // 1024


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, as one JSON line or as text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--workers", type=int, default=None, help="worker processes (default: cores)")
    parser.add_argument("--model", default="small-cnn", choices=["small-cnn", "mlp", "softmax"])
    options = parser.parse_args(arguments)
    figures = run(options.rounds, options.workers, options.model)
    if options.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            print(f"{key:24} {value}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
