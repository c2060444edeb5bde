"""The bare training step: the yardstick's local work in plain PyTorch without a simulator, and the machine's ceiling.

One one-thread process a core, each with its share of the clients: the same model as the product builds, the same data,
batches of 32 gathered from bytes, cross-entropy, SGD in place. No graph, no mixing, no checks, no messages but "go" and
"done" once a round. Figures from one sitting:

- client updates a second of the bare step alone;
- what the product takes on top: product rounds and bare rounds in turn, the median of the ratios of neighbours. The
  product's own local steps can be faster than the plain ones, so what its mixing and checks add to those is told too;
- the ceiling: float32 matrix products of side 2048 on all cores together, over the arithmetic of one client update.

    python -m benchmarks.reference --json [--model small-cnn|mlp|softmax]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from benchmarks import workload

if TYPE_CHECKING:
    from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
SIDE = 2048
"""Side of the matrices whose product tells the ceiling."""
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Processes:
    """One-thread processes that answer the same word at the same time; only lines of text pass between them."""

    def __init__(
        self, model: str, count: int, clients: int = workload.CLIENTS, samples: int = workload.SAMPLES
    ) -> None:
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
        command = [sys.executable, "-m", "benchmarks.reference", "--share", model, str(clients), str(samples)]
        self._processes = [
            subprocess.Popen(
                [*command, str(k), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
            )
            for k in range(count)
        ]  # fmt: skip
        self.ask("ready")

    def ask(self, word: str) -> list[float]:
        """Say a word to all, wait for all answers, and return them."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(word + "\n")
            process.stdin.flush()
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"a process of the bare step ended with exit code {process.poll()} at '{word}'")
            answers.append(float(line))
        return answers

    def round(self) -> float:
        """Let every client train one epoch and return the seconds until the last process was done."""
        began = time.perf_counter()
        self.ask("round")
        return time.perf_counter() - began

    def gflops(self) -> float:
        """Return the 10^9 operations a second of matrix products on all processes together."""
        return sum(self.ask("gemm"))

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.wait()
            process.stdout.close()


def train_client(module: nn.Module, pixels: Tensor, labels: Tensor, order: Tensor) -> None:
    """Take one epoch of SGD in place: ``pixels`` (n, height, width) uint8, ``labels`` and their ``order`` (n,)."""
    import torch
    import torch.nn.functional as F

    from fedunlearn.models.model import channels_last

    images = any(isinstance(layer, torch.nn.Conv2d) for layer in module.modules())
    parameters = list(module.parameters())
    for chosen in order.split(workload.BATCH):
        x = pixels[chosen].to(torch.float32).div_(255.0)
        # Torch's own conversion leaves one-channel images in the slower layout: strides by hand, as the product does.
        x = channels_last(x.unsqueeze(3)) if images else x.flatten(1)
        F.cross_entropy(module(x), labels[chosen]).backward()
        with torch.no_grad():
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.add_(parameter.grad, alpha=-workload.LR)
                parameter.grad = None


def matrix_product_rate(side: int = SIDE, seconds: float = 1.5) -> float:
    """Return the best rate of float32 products of (side, side) matrices on one thread, in 10^9 operations a second."""
    import torch

    a, b = torch.randn(side, side), torch.randn(side, side)
    out = torch.empty(side, side)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best / 1e9


def serve(model: str, clients: int, samples: int, share: int, of: int, words: TextIO, answers: TextIO) -> None:
    """Answer words until they end: ``ready``, ``round`` (train clients ``share, share + of, ...``), ``gemm``."""
    import torch

    from fedunlearn.models import ModelSettings, build_model

    torch.set_num_threads(1)
    data = workload.dataset(clients, samples)
    pixels = torch.from_numpy(data.inputs).reshape(clients, samples, *data.input_shape)
    labels = torch.from_numpy(data.labels).reshape(clients, samples)
    built = build_model(ModelSettings(name=model), workload.CLASSES, data.input_shape)
    start = torch.from_numpy(built.initial(workload.SEED))
    modules = {i: built.load(built.module(), start) for i in range(share, clients, of)}
    for line in words:
        word, answer = line.strip(), 0.0
        if word == "round":
            for i, module in modules.items():
                train_client(module, pixels[i], labels[i], torch.randperm(samples))
        elif word == "gemm":
            answer = matrix_product_rate()
        answers.write(f"{answer}\n")
        answers.flush()


def run(
    rounds: int = 8, workers: int | None = None, model_name: str = "small-cnn", clients: int = workload.CLIENTS,
    samples: int = workload.SAMPLES,
) -> dict[str, Any]:  # fmt: skip
    """Measure the bare step, the product beside it, and the ceiling, with ``workers`` processes (default: cores)."""
    from benchmarks.yardstick import network_of, recipe, timed_local_steps, timed_rounds
    from fedunlearn.network.workers import default_workers

    count = default_workers() if workers is None else workers
    training = recipe(rounds)
    with Processes(model_name, max(1, count), clients, samples) as bare:
        bare.round()
        alone = [bare.round() for _ in range(rounds)]
        with network_of(model_name, count, clients, samples) as network:
            timed_rounds(network, training, 0, 1)
            pairs, own = [], []
            for r in range(1, rounds + 1):
                pairs.append((timed_rounds(network, training, r, r + 1)[0], bare.round()))
                own.append((pairs[-1][0], timed_local_steps(network, training, r)))
        gflops = bare.gflops()
    steady = statistics.median(alone)
    ceiling = workload.updates_at(gflops, model_name)
    return {
        "name": f"bare step {model_name}",
        "processes": max(1, count),
        "client_updates_per_s": round(clients / steady, 1),
        "round_s": round(steady, 4),
        "overhead_percent": round(overhead_percent(pairs), 1),
        "mixing_and_checks_percent": round(overhead_percent(own), 1),
        "paired_rounds": [[round(product, 4), round(step, 4)] for product, step in pairs],
        "gemm_gflops": round(gflops, 1),
        "ceiling_updates_per_s": round(ceiling * workload.SAMPLES / samples, 1),
        "all_rounds": [round(s, 4) for s in alone],
    }


def overhead_percent(pairs: Sequence[tuple[float, float]]) -> float:
    """Return what the first of a pair takes on top of the second in per cent: from the median of their ratios."""
    return 100.0 * (statistics.median(whole / part for whole, part in pairs) - 1.0)


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, or serve as one of the processes."""
    from benchmarks.yardstick import options_of

    parser = options_of(__doc__)
    parser.add_argument("--workers", type=int, default=None, help="processes (default: cores)")
    parser.add_argument("--share", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.share:
        model, *numbers = options.share
        clients, samples, share, of = map(int, numbers)
        serve(model, clients, samples, share, of, sys.stdin, sys.stdout)
        return
    workload.show(run(options.rounds, options.workers, options.model), options.json)


if __name__ == "__main__":
    main()
