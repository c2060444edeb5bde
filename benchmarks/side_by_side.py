"""Shadow models side by side: K networks of one vertex each, which have only one piece of work for all cores.

K central small CNNs (28 x 28, 62 classes, synthetic samples, each without a tenth of them and with a seed of its own)
are trained one after the other, then side by side; both ways take turns, and the median seconds are printed. The
models must be the same bits.

    python -m benchmarks.side_by_side --json
"""

from __future__ import annotations

import argparse
import statistics
import time

import networkx as nx
import numpy as np

from benchmarks import workload


def run(models: int = 4, samples: int = 1600, rounds: int = 2, repeats: int = 3) -> dict[str, object]:
    """Train the models both ways, ``repeats`` times in turn, and return the figures."""
    from fedunlearn.data import FederatedDataset, Role
    from fedunlearn.models import FeatureMap, ModelSettings, build_model
    from fedunlearn.network import Network, Session, TrainingSettings, train, train_together
    from fedunlearn.network.inline import InlineTransport

    rng = np.random.default_rng(0)
    dataset = FederatedDataset(
        name="one client", inputs=rng.integers(0, 256, (samples, 28, 28), dtype=np.uint8),
        labels=rng.integers(0, 62, samples), offsets=np.array([0, samples]), is_test=np.zeros(samples, dtype=bool),
        roles=np.array([Role.TRAIN], dtype=np.uint8), client_names=("client",),
        class_names=tuple(str(i) for i in range(62)), provenance="generated", synthetic=True,
    )  # fmt: skip
    features = FeatureMap("raw", dataset.input_shape)
    model = build_model(ModelSettings(name="small-cnn"), 62, features.output_shape)
    training = TrainingSettings(rounds=rounds, batch=32, lr=0.05)
    seconds: dict[str, list[float]] = {"one after the other": [], "side by side": []}
    rows: dict[str, list[bytes]] = {}
    with Session(InlineTransport(1), dataset, model, features, seed=0) as session:

        def shadows() -> list[Network]:
            return [
                Network(
                    session, f"shadow-{k}", nx.empty_graph(1), "metropolis", model.initial(k), seed=k,
                    deleted=np.arange(k, samples, 10),
                )
                for k in range(models)
            ]  # fmt: skip

        for _ in range(repeats + 1):  # the first warms the workers up and is not counted
            for way, taken in seconds.items():
                networks = shadows()
                began = time.perf_counter()
                if way == "side by side":
                    train_together(networks, training, every=rounds)
                else:
                    for network in networks:
                        train(network, training, every=rounds)
                taken.append(time.perf_counter() - began)
                rows[way] = [network.read(0).tobytes() for network in networks]
                for network in networks:
                    network.drop()
    medians = {way: statistics.median(taken[1:]) for way, taken in seconds.items()}
    alone, together = medians.values()
    return {
        "models": models,
        "updates": models * rounds,
        "seconds": {way: round(value, 3) for way, value in medians.items()},
        "speed_up": round(alone / together, 2),
        "same_bits": len({tuple(found) for found in rows.values()}) == 1,
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, as one JSON line or as text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--samples", type=int, default=1600)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    figures = run(options.models, options.samples, options.rounds, options.repeats)
    workload.show(figures, options.json)


if __name__ == "__main__":
    main()
