"""Large networks on one machine, through this package's public interface: seconds a round, and memory.

    python -m benchmarks.scale --case nodes-3200 --json     # seconds a node and round, against those of 32 nodes
    python -m benchmarks.scale --case femnist-3500          # FEMNIST's shape, a writer a node, the small CNN
    python -m benchmarks.scale --case nodes-100000          # softmax 784 x 10 with bias, ten images a node
    python -m benchmarks.scale --case spectrum              # spectral gaps of 100,000 nodes

All on random 4-regular graphs, without momentum. A training round is one local epoch at batch 32 and one gossip. Memory
is the peak of the whole process tree (:class:`benchmarks.memory.TreeMemory`). ``--nodes`` makes a case smaller.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from benchmarks import workload

if TYPE_CHECKING:
    from fedunlearn.data import FederatedDataset
    from fedunlearn.network import Network

SEED, BATCH, LR, DEGREE = 7, 32, 0.05, 4
NODES = {"nodes-3200": 3200, "femnist-3500": 3500, "nodes-100000": 100_000, "spectrum": 100_000}
FEW = 32
"""Nodes of the small network that the case nodes-3200 is compared with."""
_AT_ONCE = 1 << 14
"""Images that are drawn together: the whole set in floating point would need ten times its memory."""


def images(clients: int, samples: int, classes: int) -> FederatedDataset:
    """Return byte images, prototypes plus noise, the same number for every client."""
    import numpy as np

    from fedunlearn.data import FederatedDataset, Role

    rng = np.random.default_rng(SEED)
    prototypes = rng.integers(64, 192, size=(classes, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, classes, clients * samples)
    pixels = np.empty((len(labels), 28, 28), dtype=np.uint8)
    for first in range(0, len(labels), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        chosen = prototypes[labels[part]]
        pixels[part] = chosen + rng.integers(0, 64, size=chosen.shape, dtype=np.uint8)
    return FederatedDataset(
        name="scale",
        inputs=pixels,
        labels=labels,
        offsets=np.arange(clients + 1, dtype=np.int64) * samples,
        is_test=np.zeros(len(labels), dtype=bool),
        roles=np.full(clients, Role.TRAIN, dtype=np.uint8),
        client_names=tuple(f"client {i}" for i in range(clients)),
        class_names=tuple(str(i) for i in range(classes)),
        provenance="generated: prototypes plus noise",
        synthetic=True,
    )


def writers(count: int) -> FederatedDataset:
    """Return ``count`` writers in FEMNIST's shape: real ones as far as its file has them, generated ones beyond."""
    from fedunlearn.data import DataSettings, load_dataset
    from fedunlearn.data.sources import DEFAULT_FILES
    from fedunlearn.data.sources.base import default_path

    path = default_path(DEFAULT_FILES["femnist"])
    if path is None or not path.exists():
        generated = DataSettings(
            source="writers", writers=count, samples_per_writer="femnist", train_clients="rest", seed=SEED
        )
        return load_dataset(generated)
    real = len(load_dataset(DataSettings(source="femnist", train_clients="rest")).client_names)
    if count <= real:
        return load_dataset(DataSettings(source="femnist", train_clients=f"0-{count - 1}"))
    return load_dataset(DataSettings(source="femnist", fill_writers=count, train_clients="rest", seed=SEED))


@contextmanager
def opened(dataset: FederatedDataset, model_name: str, workers: int | None) -> Iterator[Network]:
    """Open a network on a random 4-regular graph, a client a node, from the public start."""
    from fedunlearn.data import Role
    from fedunlearn.flower.client_app import app
    from fedunlearn.flower.grid import LocalGrid
    from fedunlearn.flower.transport import GridTransport
    from fedunlearn.models import FeatureMap, ModelSettings, build_model
    from fedunlearn.network import Network, RuntimeSettings, Session
    from fedunlearn.topology import TopologySettings, build_graph

    nodes = len(dataset.clients(Role.TRAIN))
    graph = build_graph(TopologySettings(generator="random-regular", degree=DEGREE), nodes, SEED)
    features = FeatureMap("raw", dataset.input_shape)
    model = build_model(ModelSettings(name=model_name), dataset.num_classes, features.output_shape)
    with ExitStack() as stack:
        grid = stack.enter_context(LocalGrid(app))
        transport = GridTransport(grid, grid.get_node_ids())
        runtime = RuntimeSettings(workers=workers)
        session = stack.enter_context(Session(transport, dataset, model, features, seed=SEED, runtime=runtime))
        yield Network(session, "main", graph, "metropolis", model.initial(SEED))


def training_seconds(network: Network, rounds: int, done: int = 0) -> list[float]:
    """Return the seconds of each of the next ``rounds`` training rounds, after ``done`` that are over."""
    from fedunlearn.network import TrainingSettings, train

    marks = [time.perf_counter()]
    training = TrainingSettings(rounds=done + rounds, lr=LR, batch=BATCH)
    train(network, training, first=done, every=1, watch=lambda r, n: marks.append(time.perf_counter()))
    return [b - a for a, b in pairwise(marks)]


def gossip_seconds(network: Network, rounds: int) -> list[float]:
    """Return the seconds of each of ``rounds`` gossip rounds without training."""
    marks = [time.perf_counter()]
    for _ in range(rounds):
        network.mix(1)
        marks.append(time.perf_counter())
    return [b - a for a, b in pairwise(marks)]


def one_network(
    dataset: FederatedDataset, model: str, rounds: int, workers: int | None, began: float
) -> dict[str, Any]:
    """Return set-up, training and gossip seconds of one network; medians without the first round if it is not alone."""
    import numpy as np

    with opened(dataset, model, workers) as network:
        ready = time.perf_counter()
        training, gossip = training_seconds(network, rounds), gossip_seconds(network, max(2, rounds))
        sizes = np.diff(dataset.all_train_rows()[1])
        return {
            "nodes": network.num_nodes,
            "parameters": network.dim,
            "training_samples": int(sizes.sum()),
            "samples_per_node": round(float(sizes.mean()), 1),
            "data": dataset.provenance,
            "set_up_s": round(ready - began, 2),
            "training_round_s": round(statistics.median(training[1:] or training), 3),
            "first_round_s": round(training[0], 3),
            "gossip_round_s": round(statistics.median(gossip), 3),
            "all_training_rounds": [round(s, 3) for s in training],
            "all_gossip_rounds": [round(s, 3) for s in gossip],
        }


def per_node(nodes: int, rounds: int, workers: int | None) -> dict[str, Any]:
    """Return seconds a node and round of a large and of a small network, measured in turn, and their ratio."""
    samples, model = 200, "small-cnn"
    few = min(FEW, nodes)
    many_rounds = max(2, min(20, nodes // few))
    large, small = [], []
    with (
        opened(images(nodes, samples, 62), model, workers) as big,
        opened(images(few, samples, 62), model, workers) as little,
    ):
        training_seconds(little, 1)
        for turn in range(rounds):
            small.append(statistics.median(training_seconds(little, many_rounds, 1 + turn * many_rounds)) / few)
            large += [s / nodes for s in training_seconds(big, 1, turn)]
        gossip = statistics.median(gossip_seconds(big, 2))
    a, b = statistics.median(large), statistics.median(small)
    return {
        "nodes": nodes,
        "samples_per_node": samples,
        "training_round_s": round(a * nodes, 3),
        "gossip_round_s": round(gossip, 3),
        "ms_per_node": round(1000 * a, 3),
        f"ms_per_node_at_{few}": round(1000 * b, 3),
        "ratio": round(a / b, 3),
        "all_ratios": [round(x / y, 3) for x, y in zip(large, small)],
    }


def spectra(nodes: int) -> dict[str, Any]:
    """Return the spectral gap, and the seconds it took, on graphs that mix fast and on graphs that do not."""
    from fedunlearn.topology import TopologySettings, build_graph, spectrum_of

    found: dict[str, Any] = {"nodes": nodes}
    for name in ("random-regular", "ring", "torus", "grid", "watts-strogatz"):
        began = time.perf_counter()
        graph = build_graph(TopologySettings(generator=name), nodes, SEED)
        built = time.perf_counter()
        gap = spectrum_of(graph, "metropolis").gap
        seconds = time.perf_counter() - built
        found[name] = {"gap": gap, "spectrum_s": round(seconds, 2), "graph_s": round(built - began, 2)}
    return found


def run(case: str, nodes: int | None = None, rounds: int = 3, workers: int | None = None) -> dict[str, Any]:
    """Run a case and return its figures."""
    from benchmarks.memory import TreeMemory

    size, began = nodes or NODES[case], time.perf_counter()
    with TreeMemory(every=0.5) as memory:
        if case == "spectrum":
            figures = spectra(size)
        elif case == "nodes-3200":
            figures = per_node(size, rounds, workers)
        elif case == "femnist-3500":
            figures = one_network(writers(size), "small-cnn", rounds, workers, began)
        else:
            figures = one_network(images(size, 10, 10), "softmax", rounds, workers, began)
    return {"case": case, **figures, "peak_memory_mb": round(memory.peak_mb), "processes": memory.processes}


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, as one JSON line or as text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", required=True, choices=list(NODES))
    parser.add_argument("--nodes", type=int, default=None, help="another number of nodes")
    parser.add_argument("--rounds", type=int, default=3, help="training rounds; nodes-3200: turns of large and small")
    parser.add_argument("--workers", type=int, default=None, help="worker processes (default: cores)")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    options = parser.parse_args(arguments)
    figures = run(options.case, options.nodes, options.rounds, options.workers)
    workload.show(figures, options.json)


if __name__ == "__main__":
    main()
