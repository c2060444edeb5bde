"""What a run will need, told before it starts: memory, messages, time, and the epsilon that can be reached."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fedunlearn.config import Experiment
from fedunlearn.data import Role
from fedunlearn.errors import UserError
from fedunlearn.network.local_training import best_form
from fedunlearn.network.stacked_training import GROUP
from fedunlearn.network.workers import default_workers
from fedunlearn.simulation.world import World, prepare
from fedunlearn.topology import random_matching

_BASE_BYTES = 600 << 20
"""This process and its libraries."""
_WORKER_BYTES = 250 << 20
"""One worker process and its libraries."""
_SECONDS_PER_MAC = 1 / 3.5e10
"""Training one multiply-accumulate on one core, backward pass included: measured on convolutions of 28 x 28 images."""
_SECONDS_PER_STEP = 1e-3
"""What a local step of one vertex, or of a group of vertices stepped together, takes however small the model is."""


def memory_bytes(world: World, workers: int) -> int:
    """Return an upper estimate of the memory of a run: rows of all populations alive at once, samples, processes.

    At the worst moment there are four populations: the network, the retrained twin, and the copies that figures and
    distances need; and whatever the method keeps. Every piece of work leaves its partial sums, at most two subtrees of
    each size.
    """
    nodes = world.graph.number_of_nodes()
    pieces = 6 * workers if workers > 1 else 1
    sums = 8 * len(world.start) * 2 * (nodes.bit_length() + 1) * pieces
    rows = len(world.start) * 4 * nodes
    training = world.experiment.training
    populations = 4 + (1 if training.momentum else 0) * 2 + world.unlearner.copies_kept(training.rounds)
    sample = 1
    for side in world.features.output_shape:
        sample *= side
    width = 1 if world.features.kind == "raw" and world.dataset.inputs.dtype.itemsize == 1 else 4
    samples = len(world.dataset.labels) * sample * width + world.dataset.inputs.nbytes
    model = world.model
    square = 8 * model.dim**2 * 3 if model.convex and world.public is not None and model.dim <= 6000 else 0
    return _BASE_BYTES + workers * _WORKER_BYTES + populations * rows + sums + samples + square


def available_bytes() -> int:
    """Return the memory that is free now, by the kernel's own estimate where there is one."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62


def check_memory(world: World) -> None:
    """Raise UserError, with how much it needs, if a run would not fit in memory."""
    runtime = world.experiment.runtime
    needed = memory_bytes(world, default_workers() if runtime.workers is None else runtime.workers)
    budget = int(runtime.memory_gb * 2**30) if runtime.memory_gb is not None else available_bytes()
    if needed > budget:
        source = "runtime.memory_gb allows" if runtime.memory_gb is not None else "this machine has free"
        raise UserError(
            f"this run needs about {needed / 2**30:.1f} GB of memory ({world.graph.number_of_nodes()} nodes x "
            f"{len(world.start)} parameters), but {source} {budget / 2**30:.1f} GB; use fewer nodes or a smaller model"
        )


def estimate(experiment: Experiment) -> dict[str, Any]:
    """Return what a run would need and could certify, without training the network (``fedunlearn run --dry-run``).

    Seconds are a rough forecast from the model's size; messages and bytes of training are exact.
    """
    world, training = prepare(experiment, lambda phase, done, total: None), experiment.training
    workers = default_workers() if experiment.runtime.workers is None else experiment.runtime.workers
    clients = world.dataset.clients(Role.TRAIN)
    samples = sum(len(world.dataset.train_rows(int(c))) for c in clients)
    largest = max(len(world.dataset.train_rows(int(c))) for c in clients)
    if training.local_steps is None:
        steps = training.rounds * training.local_epochs * -(-largest // training.batch)
        seen = training.rounds * training.local_epochs * samples
    else:
        steps = training.rounds * training.local_steps
        seen = steps * len(clients) * training.batch
    together = 1 if best_form(training.form, "cpu", world.model.takes_images) == "loop" else GROUP
    overhead = steps * -(-len(clients) // together) * _SECONDS_PER_STEP
    passes = 1 + len(world.requests)
    macs = multiply_accumulates(world)
    messages = training_messages(world)
    return {
        "memory_gb": memory_bytes(world, workers) / 2**30,
        "nodes": len(clients),
        "parameters": len(world.start),
        "training_samples": samples,
        "seconds": passes * (seen * macs * 3 * _SECONDS_PER_MAC + overhead) / max(1, workers),
        "training_messages": messages,
        "training_bytes": messages * 4 * len(world.start),
        "requests": [r.describe() for r in world.requests],
        "certificate": reachable(world),
        "method": experiment.unlearning.method,
    }


def training_messages(world: World) -> int:
    """Return how many models are sent while the network is trained, as the ledger will count them."""
    nodes, training, mixing = world.graph.number_of_nodes(), world.experiment.training, world.experiment.topology.mixing
    if training.algorithm == "fedavg":
        a_round = 2 * max(1, math.ceil(training.client_fraction * nodes))  # down to the sampled clients and up again
    elif mixing == "exact-average":
        a_round = 2 * (nodes - 1)  # up a spanning tree and down again
    elif mixing == "random-matching":
        weights = (random_matching(world.graph, world.experiment.seed, r) for r in range(training.rounds))
        return sum(int(w.nnz - np.count_nonzero(w.diagonal())) for w in weights)
    else:
        a_round = 2 * world.graph.number_of_edges()
    return training.rounds * a_round


def multiply_accumulates(world: World) -> int:
    """Return the multiply-accumulates of one forward pass of one sample, counted layer by layer."""
    import torch
    from torch import nn

    total = 0

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()

    module = world.model.module().eval()
    for layer in module.modules():
        layer.register_forward_hook(count)
    with torch.no_grad():
        module(world.model.prepare(np.zeros((1, *world.model.input_shape), dtype=np.float32)))
    return total


def reachable(world: World) -> dict[str, Any] | None:
    """Return the certificate constants a run would claim (tau, sensitivity, sigma, epsilon, delta), or None."""
    certifies = getattr(world.unlearner, "public_constants", None)
    constants = None if certifies is None else certifies(world.experiment.training, world.experiment.privacy)
    return None if constants is None else asdict(constants)
