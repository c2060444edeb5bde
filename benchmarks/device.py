"""The device path (``runtime.device = "cuda"``): rows that stay on a GPU, the same work as the yardstick, more clients.

Prints the parts of a ``rounds`` command apart: sending rows and samples, the first round (libraries set themselves up),
rounds after that, and writing the rows back. On a machine without a GPU, ``--device cpu`` runs the same code.

    python -m benchmarks.device --json --model small-cnn --clients 3500 --samples 50
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from benchmarks import workload


def run(model_name: str, clients: int, samples: int, rounds: int, device_name: str) -> dict[str, Any]:
    """Train on a device for some rounds and return what each part took."""
    import torch

    from fedunlearn.models import FeatureMap, ModelSettings, build_model
    from fedunlearn.network import Network, RuntimeSettings, Session, TrainingSettings
    from fedunlearn.network.inline import InlineTransport
    from fedunlearn.network.resident import Resident

    device = torch.device(device_name)
    dataset = workload.dataset(clients, samples)
    features = FeatureMap("raw", dataset.input_shape)
    model = build_model(ModelSettings(name=model_name), workload.CLASSES, features.output_shape)
    training = TrainingSettings(rounds=rounds + 1, lr=workload.LR, batch=workload.BATCH)
    began = time.perf_counter()

    def lap() -> float:
        nonlocal began
        if device.type == "cuda":
            torch.cuda.synchronize()
        before, began = began, time.perf_counter()
        return round(began - before, 4)

    runtime = RuntimeSettings(workers=0)
    transport = InlineTransport(1)
    with Session(transport, dataset, model, features, seed=workload.SEED, runtime=runtime) as session:
        Network(session, "main", workload.graph(clients), "metropolis", model.initial(workload.SEED))
        block = transport._hosts[0].block
        lap()
        there = Resident(block, "main", list(range(clients)), training, mix=True, device=device)
        figures: dict[str, Any] = {"model": model_name, "clients": clients, "device": device_name, "send_s": lap()}
        there.round(0)
        figures["first_round_s"] = lap()
        for round_ in range(1, rounds + 1):
            there.round(round_)
        figures["round_s"] = round(lap() / rounds, 4)
        there.save()
        figures["write_back_s"] = lap()
    figures["client_updates_per_s"] = round(clients / figures["round_s"], 1)
    if device.type == "cuda":
        figures["name"] = torch.cuda.get_device_name(device)
        figures["peak_device_mb"] = torch.cuda.max_memory_allocated(device) >> 20
    return figures


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, as one JSON line or as text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--model", default="small-cnn", choices=workload.MODELS)
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--samples", type=int, default=workload.SAMPLES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    options = parser.parse_args(arguments)
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here (allowed: --device cpu, the same code on the processor)")
    figures = run(options.model, options.clients, options.samples, options.rounds, options.device)
    workload.show(figures, options.json)


if __name__ == "__main__":
    main()
