"""What a run will need, told before it starts: memory, messages, time, and the epsilon that can be reached."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from fedunlearn.config import Experiment
from fedunlearn.errors import UserError
from fedunlearn.faults import buffered_copies, survey
from fedunlearn.network.local_training import best_form
from fedunlearn.network.memory import BASE_BYTES, WORKER_BYTES, available_bytes
from fedunlearn.network.stacked_training import group_size
from fedunlearn.network.store import free_bytes, scratch_folder
from fedunlearn.network.workers import default_workers
from fedunlearn.simulation.twins import twins_at_once
from fedunlearn.simulation.world import World, prepare
from fedunlearn.topology import random_matching
from fedunlearn.topology.partition import blocks, border_rows, border_share, cut_edges, vertex_order

_SURVEYED = 100_000
"""Nodes times rounds of a trace of faults that a forecast looks at."""
_SECONDS_PER_MAC = 1 / 3.5e10
"""Training one multiply-accumulate on one core, backward pass included: measured on convolutions of 28 x 28 images."""
_SECONDS_PER_STEP, _SECONDS_PER_GROUP_STEP = 1e-3, 3e-4
"""What a local step of one vertex, and of a group of vertices stepped together, takes however small the model is."""


def memory_bytes(world: World, workers: int) -> int:
    """Return an upper estimate of the memory of a run: rows of all populations alive at once, samples, processes."""
    return resident_bytes(world, workers) + stored_bytes(world, workers)


def resident_bytes(world: World, workers: int) -> int:
    """Return what must be in memory: the processes, the data set, and what the public curvature takes."""
    model = world.model
    square = 8 * model.dim**2 * 3 if model.convex and world.public is not None and model.dim <= 6000 else 0
    return BASE_BYTES + workers * WORKER_BYTES + world.dataset.inputs.nbytes + square


def stored_bytes(world: World, workers: int) -> int:
    """Return an upper estimate of what the hosts' stores hold, in shared memory or else on disk.

    At the worst moment there are the network, its retrained twins, two copies that figures and distances need, and
    whatever the method keeps. Every piece of work leaves its partial sums, at most two subtrees of each size.
    """
    nodes = world.graph.number_of_nodes()
    pieces = 6 * workers if workers > 1 else 1
    sums = 8 * len(world.start) * 2 * (nodes.bit_length() + 1) * pieces
    rows = len(world.start) * 4 * nodes
    training = world.experiment.training
    twins = twins_at_once(world)
    momenta = 1 + twins if training.momentum else 0
    copies = 2 if world.requests else 0
    late = buffered_copies(world.experiment.faults) * (1 + twins)
    populations = 1 + late + copies + twins + momenta + world.unlearner.copies_kept(training.rounds)
    width = 1 if world.features.kind == "raw" and world.dataset.inputs.dtype.itemsize == 1 else 4
    samples = len(world.dataset.labels) * math.prod(world.features.output_shape) * width
    return populations * rows + sums + samples


def check_memory(world: World) -> str | None:
    """Return the sentence that tells of rows on disk, or None where a run fits in memory.

    Raises UserError, with how much it needs, if a run fits neither in memory nor, with its rows, on disk.
    """
    runtime = world.experiment.runtime
    workers = default_workers() if runtime.workers is None else runtime.workers
    resident, stored = resident_bytes(world, workers), stored_bytes(world, workers)
    budget = int(runtime.memory_gb * 2**30) if runtime.memory_gb is not None else available_bytes()
    if resident + stored <= budget:
        return None
    source = "runtime.memory_gb allows" if runtime.memory_gb is not None else "this machine has free"
    needs = (
        f"this run needs about {(resident + stored) / 2**30:.1f} GB of memory ({world.graph.number_of_nodes()} nodes x "
        f"{len(world.start)} parameters), but {source} {budget / 2**30:.1f} GB"
    )
    if resident > budget:
        raise UserError(f"{needs}, and {resident / 2**30:.1f} GB of it cannot go to disk; use a smaller data set")
    scratch = scratch_folder(runtime.scratch)
    free, away = free_bytes(scratch), resident + stored - budget
    if away > free:
        raise UserError(
            f"{needs}, and runtime.scratch = '{scratch}' has {free / 2**30:.1f} GB left; use fewer nodes, a smaller "
            "model or a folder on a larger disk"
        )
    return f"{needs}: about {away / 2**30:.1f} GB of rows may go to files in {scratch}, and the run takes longer"


def estimate(experiment: Experiment) -> dict[str, Any]:
    """Return what a run would need and could certify, without training the network (``fedunlearn run --dry-run``).

    Seconds are a rough forecast from the model's size; messages and bytes of training are exact.
    """
    world, training = prepare(experiment, lambda phase, done, total: None), experiment.training
    workers = default_workers() if experiment.runtime.workers is None else experiment.runtime.workers
    counts = np.diff(world.dataset.all_train_rows()[1])
    clients, samples, largest = len(counts), int(counts.sum()), int(counts.max())
    if training.local_steps is None:
        steps = training.rounds * training.local_epochs * -(-largest // training.batch)
        seen = training.rounds * training.local_epochs * samples
    else:
        steps = training.rounds * training.local_steps
        seen = steps * clients * training.batch
    loop = best_form(training.form, "cpu", world.model.takes_images) == "loop"
    together = 1 if loop else group_size(clients, world.model.dim)
    overhead = steps * -(-clients // together) * (_SECONDS_PER_STEP if loop else _SECONDS_PER_GROUP_STEP)
    passes = 1 + len(world.requests)
    macs = multiply_accumulates(world)
    messages = training_messages(world)
    hosts = {"hosts": between_hosts(world)} if experiment.runtime.hosts > 1 else {}
    return {
        "memory_gb": memory_bytes(world, workers) / 2**30,
        "memory_note": check_memory(world),
        "nodes": clients,
        "parameters": len(world.start),
        "training_samples": samples,
        "seconds": passes * (seen * macs * 3 * _SECONDS_PER_MAC + overhead) / max(1, workers),
        "training_messages": messages,
        "training_bytes": messages * 4 * len(world.start),
        "requests": [r.describe() for r in world.requests],
        "certificate": reachable(world),
        "method": experiment.unlearning.method,
        **hosts,
    }


def between_hosts(world: World) -> dict[str, Any]:
    """Return how ``runtime.hosts`` share the graph at the start: the largest block, what lies between blocks, and how
    many rows go from host to host in a round of gossip."""
    count, experiment = world.experiment.runtime.hosts, world.experiment
    host_of = blocks(vertex_order(world.graph), count)
    gossip = experiment.training.algorithm == "dsgd" and experiment.topology.mixing != "exact-average"
    return {
        "count": count,
        "largest_block": int(np.bincount(host_of).max()),
        "cut_edges": cut_edges(world.graph, host_of),
        "border_share": border_share(world.graph, host_of),
        "rows_a_round": len(border_rows(world.graph, host_of)) if gossip else 0,
    }


def training_messages(world: World) -> int:
    """Return how many models are sent while the network is trained, as the ledger will count them.

    Under faults a trace of a smaller number of rounds is taken as what all of them are like.
    """
    if world.trace is not None:
        return _messages_under_faults(world)
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


def _messages_under_faults(world: World) -> int:
    experiment, nodes = world.experiment, world.graph.number_of_nodes()
    rounds = min(experiment.training.rounds, max(1, _SURVEYED // nodes))
    server = experiment.training.algorithm == "fedavg"
    mixing = experiment.topology.mixing
    found = survey(experiment.faults, world.graph, mixing, experiment.seed, rounds, server=server)
    adoptions, columns = sum(found.columns.get("adoptions", ())), found.columns
    if server or mixing == "exact-average":
        share = experiment.training.client_fraction if server else 1.0
        sent = sum(2 * max(1, math.ceil(share * round(active * nodes))) for active in columns.get("active", ()))
    else:
        sent = sum(columns.get("sent", ()))
    return round((sent + adoptions) * experiment.training.rounds / max(1, rounds))


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
