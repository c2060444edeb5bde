"""Plain Flower on its simulation runtime (Ray) with the yardstick's work: one client a SuperNode, gossip at the driver.

What a user of Flower would write: the ServerApp sends every node its own model, nodes train one local epoch, the
ServerApp averages over the graph's neighbours. Models in the usual order (convolution, ReLU, pooling), data made once a
Ray worker, one thread each, no telemetry. Needs the extra [ray]:  pip install 'fedunlearn[ray]'

    python -m benchmarks.peer_flower_ray --json [--model small-cnn|mlp|softmax]

With ``--remake-data`` every message makes the whole data set anew. So does, without meaning to, an app that is defined
in the script that is run: it travels to Ray by value, and what it keeps is lost with each message.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import time
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)  # Flower and Ray read them when they are imported

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402

from benchmarks import workload  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
MISSING = "Ray is not installed, and Flower's simulation runtime needs it: pip install 'fedunlearn[ray]'"

client_app = ClientApp()


def module_of(model: str) -> nn.Module:
    """Return the yardstick's model as it is usually written."""
    import torch
    from torch import nn

    torch.manual_seed(workload.SEED)
    if model == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, workload.CLASSES))
    if model == "softmax":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, workload.CLASSES))
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(7 * 7 * 32, 128), nn.ReLU(), nn.Linear(128, workload.CLASSES),
    )  # fmt: skip


@cache
def data_of(clients: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return images (clients, samples, 1, 28, 28) float32 in [0, 1] and labels (clients, samples), once a process."""
    import torch

    data = workload.dataset(clients, samples)
    images = torch.from_numpy(data.inputs).reshape(clients, samples, 1, *data.input_shape).to(torch.float32) / 255.0
    return images, torch.from_numpy(data.labels).reshape(clients, samples)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model that came along for one epoch on this node's samples, and send it back."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)
    task: Any = message.content.config_records["task"]
    node, samples = int(context.node_config["partition-id"]), int(task["samples"])
    if task["remake"]:
        data_of.cache_clear()
    images, labels = data_of(int(task["clients"]), samples)
    module = module_of(str(task["model"]))
    module.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    optimiser = torch.optim.SGD(module.parameters(), lr=workload.LR)
    began = time.perf_counter()
    for chosen in torch.randperm(samples).split(workload.BATCH):
        optimiser.zero_grad()
        F.cross_entropy(module(images[node, chosen]), labels[node, chosen]).backward()
        optimiser.step()
    spent = MetricRecord({"seconds": time.perf_counter() - began})
    return Message(RecordDict({"arrays": ArrayRecord(module.state_dict()), "spent": spent}), reply_to=message)


def averaging_weights(clients: int) -> Tensor:
    """Return the Metropolis-Hastings matrix of the yardstick's graph, (clients, clients) float32."""
    import torch

    graph = workload.graph(clients)
    weights = torch.zeros(clients, clients)
    for i, j in graph.edges:
        weights[i, j] = weights[j, i] = 1.0 / (1 + max(graph.degree[i], graph.degree[j]))
    return weights + torch.diag(1.0 - weights.sum(1))


def average(weights: Tensor, states: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Return every node's average of its neighbours' states, one matrix product a tensor."""
    import torch

    mixed = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    mixed = {name: (weights @ rows.flatten(1)).view_as(rows) for name, rows in mixed.items()}
    return [{name: rows[i].contiguous() for name, rows in mixed.items()} for i in range(len(states))]


def server_app(rounds: int, clients: int, task: dict[str, Any], figures: dict[str, Any]) -> ServerApp:
    """Return the ServerApp of the run, which writes what it measured into ``figures``."""
    from benchmarks.memory import TreeMemory

    app = ServerApp()
    model = str(task["model"])

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        from flwr.app import ConfigRecord

        while len(nodes := sorted(grid.get_node_ids())) < clients:
            time.sleep(0.05)
        figures["ready"] = time.perf_counter()
        memory = TreeMemory()  # never watches by itself: it looks between rounds
        weights, place = averaging_weights(clients), {node: k for k, node in enumerate(nodes)}
        states = [module_of(model).state_dict() for _ in nodes]
        seconds, spent = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            messages = [
                Message(
                    RecordDict({"arrays": ArrayRecord(states[place[node]]), "task": ConfigRecord({**task})}),
                    dst_node_id=node, message_type="train",
                )
                for node in nodes
            ]  # fmt: skip
            replies = list(grid.send_and_receive(messages))
            for reply in replies:
                states[place[reply.metadata.src_node_id]] = reply.content.array_records["arrays"].to_torch_state_dict()
            states = average(weights, states)
            seconds.append(time.perf_counter() - began)
            reports: list[Any] = [reply.content.metric_records["spent"]["seconds"] for reply in replies]
            spent.append(sum(reports))
            memory.look()
        figures.update(seconds=seconds, spent=spent, peak_memory_mb=memory.peak_mb, processes=memory.processes)

    return app


def run(
    rounds: int = 6, model: str = "small-cnn", clients: int = workload.CLIENTS, samples: int = workload.SAMPLES,
    remake_data: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run Flower's simulation and return its figures; RuntimeError where Ray is missing or the run broke off."""
    if importlib.util.find_spec("ray") is None:
        raise RuntimeError(MISSING)
    from flwr.simulation import run_simulation

    # Ray's workers import this module by name, so that what they keep (the data) lasts from message to message.
    from benchmarks.peer_flower_ray import client_app as importable

    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    figures: dict[str, Any] = {}
    task = {"model": model, "clients": clients, "samples": samples, "remake": remake_data}
    began = time.perf_counter()
    run_simulation(
        server_app(rounds, clients, task, figures), importable, num_supernodes=clients,
        backend_config={
            "init_args": {"num_cpus": os.cpu_count() or 1, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )  # fmt: skip
    if "seconds" not in figures:
        raise RuntimeError("Flower's simulation ended before its first measured round; its log tells why")
    seconds = figures["seconds"]
    steady = statistics.median(seconds[1:] or seconds)
    return {
        "name": f"Flower on Ray {model}",
        "client_updates_per_s": round(clients / steady, 2),
        "round_s": round(steady, 4),
        "first_round_s": round(seconds[0], 4),
        "start_up_s": round(figures["ready"] - began, 2),
        "peak_memory_mb": round(figures["peak_memory_mb"]),
        "processes": figures["processes"],
        "training_s": [round(s, 3) for s in figures["spent"]],
        "all_rounds": [round(s, 4) for s in seconds],
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; exit code 1 with one sentence where Ray is missing."""
    from benchmarks.yardstick import options_of

    parser = options_of(__doc__)
    parser.add_argument("--remake-data", action="store_true", help="make the data anew at every message")
    parser.set_defaults(rounds=6)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    try:
        figures = run(options.rounds, options.model, remake_data=options.remake_data)
    except RuntimeError as error:
        print(f"peer_flower_ray: {error}", file=sys.stderr)
        return 1
    workload.show(figures, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
