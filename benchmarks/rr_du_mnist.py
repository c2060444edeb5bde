"""RR-DU against a backdoor on MNIST: the published experiment, by this package's own methods.

    FEDUNLEARN_DATA=folder python -m benchmarks.rr_du_mnist --seeds 5 [--graph ring] [--model flnet] [--json]

Published (Lamri and Maniatakos, arXiv 2512.08443): ten nodes on a complete graph, FLNet, a BadNets backdoor of m = 1000
records in one node, T = T_u = 100 hops, Adam with rate 0.005, s = 4 minibatches, (epsilon, delta) = (1, 1e-5), trust
radius 10.82 and gradient bound 0.5 from a grid search. What it leaves open was fixed here before anything was measured:

- Data: the 60,000 training images, permuted by the seed, 6000 to each node. The first 1000 images of node 0 that are
  no zeros get a white square of 3 x 3 pixels, one pixel from the lower right corner, and the label 0. The request
  deletes these 1000. Clean accuracy: the first test images (--test-images) as they are. Backdoor accuracy: the share
  of those that are no zeros and are called 0 once they wear the square ("backdoor_all" counts zeros too: chance is
  0 % for the one, 10 % for the other). Figures are those of the mean of the rows.
- Learning: 100 rounds of decentralized SGD with Metropolis weights (on the complete graph an exact average), one step
  of 32 images a node and round, rate 0.05, momentum 0.9, no L2 term. Retraining: the same on what is left.
  Fine-tuning: ten more such rounds from the mean.
- Walk: 100 acting hops, p = 1/10, from the mean. Node 0: one step of rate 0.005 up the loss of the 1000 deleted
  records (lightweight alignment), each gradient clipped to 0.5, divided by 6000, plus noise of the published
  calibration, then the projection onto the trust region (accounting "paper"). The noise passes through no optimiser.
  Elsewhere: four steps of Adam, rate 0.005, each down the mean of four gradients of 16 images, each clipped to 0.5;
  empty moments at each hop.
- DP-SGD: 100 steps, every record by a coin of 0.001, clip 0.5, capacity 1000, rate and momentum as in learning.
- DDP: 100 hops, clip 0.5, rate 0.05, capacity 1000. Every hop reads a node's whole data, so this one method learns from
  60 images a node, 10 of them poisoned in node 0: its noise depends on the capacity alone.
- Seeds 0, 1, ... decide split, start, batches, route and noise. --model small-cnn is several times faster than FLNet.

The learning rate was chosen with the small CNN on seed 100, which is not reported: 0.1 diverged in one of two
trainings, 0.02 was slower. One walk was seen there, after training with 0.02; nothing of the walk was changed since.
Added after the first figures: "finetune-70", 70 rounds of fine-tuning, which read about as many images as the walk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedunlearn.data import FederatedDataset, Role
from fedunlearn.errors import UserError
from fedunlearn.models import FeatureMap, Model, ModelSettings, build_model
from fedunlearn.network import Network, RuntimeSettings, Session, TrainingSettings
from fedunlearn.network.inline import InlineTransport
from fedunlearn.privacy import PrivacySettings, epsilon_of
from fedunlearn.privacy.accounting.iteration import taut_string
from fedunlearn.privacy.accounting.transcripts import transcript_mu
from fedunlearn.randomness import generator
from fedunlearn.requests import DeletionRequest, RequestSettings, resolve_requests
from fedunlearn.unlearning.base import Outcome, Plan, Situation
from fedunlearn.unlearning.registry import check_defined, method

NODES, POISONED, TARGET, SQUARE = 10, 1000, 0, 3
FILE = "mnist.npz"
GRAPHS = ("complete", "ring", "erdos-renyi")
MODELS = {"flnet": "benchmarks.rr_du_mnist:flnet", "small-cnn": "small-cnn"}
LEARNING = TrainingSettings(rounds=100, local_steps=1, batch=32, lr=0.05, momentum=0.9)
PRIVACY = PrivacySettings(epsilon=1.0, delta=1e-5)
WALK: dict[str, Any] = {
    "accounting": "paper", "alignment": "lightweight", "hops": 100, "restart": 0.1, "lr": 0.005, "clip": 0.5,
    "minibatches": 4, "batch": 16, "local_steps": 4, "optimiser": "adam", "trust_radius": 10.82,
}  # fmt: skip
ROWS = ("trained", "retrain", "finetune", "finetune-70", "rr-du", "ddp", "dp-sgd")


def flnet(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return FLNet: conv32-conv64 (5x5), pooled, a hidden layer of 512; 1,663,370 parameters on MNIST."""
    depth, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(depth, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 5, padding=2),
        nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(64 * (height // 4) * (width // 4), 512), nn.ReLU(),
        nn.Linear(512, num_classes),
    )  # fmt: skip


# --- data and metrics ------------------------------------------------------------------------------------------------


def read_mnist() -> dict[str, NDArray[Any]]:
    """Return the arrays of $FEDUNLEARN_DATA/mnist.npz.

    Raises:
        UserError: if there is no such file.
    """
    folder = os.environ.get("FEDUNLEARN_DATA")
    path = Path(folder).expanduser() / FILE if folder else None
    if path is None or not path.is_file():
        raise UserError(f"FEDUNLEARN_DATA = {folder!r} is not allowed: it must name a folder that holds {FILE}")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def triggered(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return copies of images (n, H, W) that wear the white square, one pixel from the lower right corner."""
    marked = images.copy()
    marked[:, -1 - SQUARE : -1, -1 - SQUARE : -1] = 255
    return marked


@dataclass(frozen=True, eq=False)
class Backdoor:
    """A poisoned federation.

    Attributes:
        dataset: the nodes as train clients, and one never-member client that holds the test images.
        positions: the poisoned among the training samples of client 0, increasing.
        images, labels: test images (n, H, W) as they are, and their labels.
    """

    dataset: FederatedDataset
    positions: tuple[int, ...]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def request(self) -> DeletionRequest:
        """Return the deletion of all poisoned records."""
        wanted = RequestSettings(level="sample", client=0, samples=self.positions)
        return resolve_requests((wanted,), self.dataset, 0)[0]


def poisoned_federation(
    arrays: Mapping[str, NDArray[Any]], seed: int, *, each: int, poisoned: int, tests: int, nodes: int = NODES
) -> Backdoor:
    """Deal ``each`` training images to every node, and poison the first ``poisoned`` of node 0 that are not the target.

    Raises:
        UserError: if there are too few images.
    """
    order = generator(seed, "backdoor split").permutation(len(arrays["train_labels"]))[: nodes * each]
    images, labels = arrays["train_images"][order].copy(), arrays["train_labels"][order].astype(np.int64)
    chosen = np.flatnonzero(labels[:each] != TARGET)[:poisoned]
    if len(order) < nodes * each or len(chosen) < poisoned:
        raise UserError(
            f"{nodes} nodes of {each} images, {poisoned} of them poisoned, are not allowed: the file has "
            f"{len(arrays['train_labels'])} images, {len(chosen)} of node 0 can be poisoned"
        )
    images[chosen], labels[chosen] = triggered(images[chosen]), TARGET
    x, y = arrays["test_images"][:tests], arrays["test_labels"][:tests].astype(np.int64)
    dataset = FederatedDataset(
        name="mnist with a backdoor",
        inputs=np.concatenate([images, x]),
        labels=np.concatenate([labels, y]),
        offsets=np.array([*range(0, nodes * each + 1, each), nodes * each + len(x)], dtype=np.int64),
        is_test=np.arange(nodes * each + len(x)) >= nodes * each,
        roles=np.array([Role.TRAIN] * nodes + [Role.NEVER_MEMBER], dtype=np.uint8),
        client_names=(*(f"node {i}" for i in range(nodes)), "test images"),
        class_names=tuple("0123456789"),
        provenance=f"{FILE}, {poisoned} records of node 0 poisoned",
    )
    dataset.validate()
    return Backdoor(dataset, tuple(int(i) for i in chosen), x, y)


def accuracies(predicted: NDArray[np.int64], marked: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return clean and backdoor accuracy from the classes given to images as they are and with the square, all (n,)."""
    others = labels != TARGET
    return {
        "clean": float((predicted == labels).mean()),
        "backdoor": float((marked[others] == TARGET).mean()),
        "backdoor_all": float((marked == TARGET).mean()),
    }


def measure(model: Model, theta: NDArray[Any], world: Backdoor) -> dict[str, float]:
    """Return both accuracies of a model."""
    row = torch.from_numpy(np.asarray(theta, dtype=np.float32))

    def classes(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        with torch.no_grad():
            parts = [model.logits(row, pixels(part)) for part in np.array_split(images, max(1, len(images) // 200))]
        return torch.cat(parts).argmax(1).numpy()

    def pixels(images: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(images[:, None].astype(np.float32) / 255)

    return accuracies(classes(world.images), classes(triggered(world.images)), world.labels)


def graph_of(name: str, seed: int) -> nx.Graph:
    """Return the graph of a run; Erdős-Rényi graphs have edge probability 0.4 and are drawn until one is connected."""
    if name == "complete":
        return nx.complete_graph(NODES)
    if name == "ring":
        return nx.cycle_graph(NODES)
    draw = generator(seed, "backdoor graph")
    while True:
        graph = nx.gnp_random_graph(NODES, 0.4, seed=int(draw.integers(2**31)))
        if nx.is_connected(graph):
            return graph


# --- what noise is worth ---------------------------------------------------------------------------------------------


def adam_step_bound(steps: int) -> float:
    """Return how far Adam's step number ``steps`` from empty moments moves a parameter at most, over its rate.

    By the inequality of Cauchy and Schwarz, ``|m| / sqrt(v) <= sqrt(sum w_i^2/u_i)`` with the weights of both moments.
    """
    age = np.arange(steps)
    first = 0.1 * 0.9**age / (1 - 0.9**steps)
    second = 0.001 * 0.999**age / (1 - 0.999**steps)
    return math.sqrt(float((first**2 / second).sum()))


def worth(facts: Mapping[str, Any], optimiser: str, radius: float, delta: float) -> dict[str, float]:
    """Return what the noise of a walk certifies: the epsilon of its transcript, and of retraining (T8).

    The first composes the visits as seen by everybody and says nothing about the start. The second compares with the
    walk from another start at most as far as ``radius`` from the public start, at which nothing is clipped to it: it
    takes the trained model's own distance, which flatters. It is infinite where a trust region follows the noise. The
    step up the deleted records' loss is no step of the other world, so the worlds are merged at the last visit.
    """
    visits, lr, noise = facts["visits"], facts["lr"], facts["noise"]
    transcript = epsilon_of(transcript_mu(len(visits), facts["clip"], noise), delta)
    if facts["trust_radius"] is not None:
        if not facts["noise_after_step"]:
            return {"transcript": transcript, "retraining": math.inf}
        mu = (2 * radius + 2 * facts["trust_radius"]) / (lr * noise)
        return {"transcript": transcript, "retraining": epsilon_of(mu, delta)}
    longest = facts["local_steps"] * facts["clip"]
    if optimiser == "adam":
        longest = math.sqrt(facts["dim"]) * sum(adam_step_bound(k) for k in range(1, facts["local_steps"] + 1))
    hops = range(1, visits[-1] + 1)
    drifts = [2 * lr * (facts["clip"] if hop in visits else longest) for hop in hops]
    sigmas = [lr * noise if hop in visits else 0.0 for hop in hops]
    mu = taut_string(2 * radius, drifts, sigmas)
    return {"transcript": transcript, "retraining": epsilon_of(mu, delta)}


# --- runs ------------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One poisoned federation in an open session, and how its methods are asked."""

    session: Session
    world: Backdoor
    graph: nx.Graph
    seed: int

    def network(self, rows: NDArray[Any] | None = None) -> Network:
        """Return a network whose rows are all the start, or all the vector given."""
        start = self.session.model.initial(self.seed)
        found = Network(self.session, "main", self.graph, "metropolis", start, momentum=LEARNING.momentum > 0)
        if rows is not None:
            found.write(np.asarray(rows, dtype=np.float32))
        return found

    def _situation(self, training: TrainingSettings, release: int, world: str = "main") -> Situation:
        def retrain(network: Network) -> None:
            raise UserError("this benchmark has no method that falls back to retraining")

        return Situation(
            training=training, privacy=PRIVACY, start=self.session.model.initial(self.seed), seed=self.seed,
            release=release, retrain=retrain, persist=lambda vector: None, public=None, previous_release=None,
            world=world, hashes={"settings.toml": "0" * 64},
        )  # fmt: skip

    def learn(
        self, name: str, training: TrainingSettings, *, without: Sequence[int] | NDArray[np.int64] = (), **settings: Any
    ) -> NDArray[Any]:
        """Train by a method, without some sample ids; return the mean of the rows."""
        unlearner, network = self._method(name, training, settings), self.network()
        if len(without):
            network.erase(np.asarray(without))
        situation = self._situation(training, 0, "retrained" if len(without) else "main")
        unlearner.prepare(network, situation)
        unlearner.train(network, situation)
        return network.mean()

    def answer(self, name: str, trained: NDArray[Any], **settings: Any) -> tuple[NDArray[Any], Outcome]:
        """Let a method answer the request from a trained vector; return the model and the outcome."""
        unlearner, request = self._method(name, LEARNING, settings), self.world.request()
        network, situation = self.network(trained), self._situation(LEARNING, 1)
        unlearner.observe(network, request, situation)
        network.erase(request.sample_ids)
        outcome = unlearner.unlearn(network, request, situation)
        return (network.mean() if outcome.release is None else outcome.release), outcome

    def _method(self, name: str, training: TrainingSettings, settings: Mapping[str, Any]) -> Any:
        info = method(name)
        unlearner = info.implementation(info.settings(**settings))
        counts = np.array([len(self.world.dataset.train_rows(c)) for c in range(self.session.num_nodes)])
        plan = Plan(
            self.session.model, training, PRIVACY, "metropolis", "path", counts, (self.world.request(),),
            self.session.features.kind, self.graph,
        )  # fmt: skip
        check_defined(info, plan)
        unlearner.check(plan)
        return unlearner


@contextmanager
def opened(world: Backdoor, model_name: str, graph: nx.Graph, seed: int) -> Iterator[Run]:
    """Open a session of its own: a deletion overwrites the records for every population of a session."""
    features = FeatureMap("raw", world.dataset.input_shape)
    model = build_model(ModelSettings(name=MODELS[model_name]), world.dataset.num_classes, features.output_shape)
    runtime = RuntimeSettings(hosts=1, workers=0)
    with Session(InlineTransport(1), world.dataset, model, features, seed=seed, runtime=runtime) as session:
        yield Run(session, world, graph, seed)


def one_seed(
    arrays: Mapping[str, NDArray[Any]], seed: int, graph_name: str, model_name: str, tests: int,
    rows: Sequence[str] = ROWS, variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield a record of figures for each row asked for, and for each variant of the walk (changes to its settings)."""
    graph = graph_of(graph_name, seed)
    world = poisoned_federation(arrays, seed, each=6000, poisoned=POISONED, tests=tests)
    small = poisoned_federation(arrays, seed, each=60, poisoned=10, tests=tests)

    def record(row: str, begun: float, run: Run, theta: NDArray[Any], **more: Any) -> dict[str, Any]:
        seconds = time.perf_counter() - begun
        found = measure(run.session.model, theta, world)
        return {"row": row, "seed": seed, "graph": graph_name, "model": model_name, **found, "seconds": seconds, **more}

    def taught(row: str, name: str, data: Backdoor, training: TrainingSettings, *, without: bool = False, **settings):
        begun, gone = time.perf_counter(), world.request().sample_ids if without else ()
        with opened(data, model_name, graph, seed) as run:
            theta = run.learn(name, training, without=gone, **settings)
            radius = float(np.linalg.norm(theta - run.session.model.initial(seed)))
            return theta, record(row, begun, run, theta, radius=radius)

    trained, found = taught("trained", "retrain", world, LEARNING)
    radius = found["radius"]
    yield found
    if "retrain" in rows:
        yield taught("retrain", "retrain", world, LEARNING, without=True)[1]
    for row, rounds in (("finetune", 10), ("finetune-70", 70)):
        if row in rows:
            begun = time.perf_counter()
            with opened(world, model_name, graph, seed) as run:
                theta, _ = run.answer("finetune", trained, rounds=rounds)
                yield record(row, begun, run, theta)
    walks: dict[str, Mapping[str, Any]] = {"rr-du": {}} if "rr-du" in rows else {}
    for name, changes in {**walks, **(variants or {})}.items():
        begun, settings = time.perf_counter(), {**WALK, **changes}
        with opened(world, model_name, graph, seed) as run:
            theta, outcome = run.answer("rr-du", trained, **settings)
            more = {k: outcome.details[k] for k in ("noise", "visits")}
            more["moved"] = float(np.linalg.norm(theta - trained))
            if outcome.certificate is not None:
                more["worth"] = worth(outcome.certificate.facts, settings["optimiser"], radius, PRIVACY.delta)
            yield record(name, begun, run, theta, **more, certificate_reason=outcome.certificate_reason)
    if "dp-sgd" in rows:
        yield taught("dp-sgd", "dp-sgd", world, LEARNING, rate=0.001, clip=0.5, capacity=POISONED)[1]
    if "ddp" in rows and graph_name == "complete":
        still = LEARNING.model_copy(update={"momentum": 0.0, "lr": 0.05})
        yield taught("ddp", "ddp", small, still, hops=100, clip=0.5, capacity=POISONED)[1]


# --- reports ---------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation over seeds, of shares, in per cent.

    >>> spread([0.5, 0.7])
    '60.0 ± 14.1'
    """
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown table of a list of records, one line for each row, in the order of first appearance."""
    names = list(dict.fromkeys(r["row"] for r in records))
    lines = ["| | seeds | backdoor, % | clean, % |", "| --- | ---: | ---: | ---: |"]
    for name in names:
        mine = [r for r in records if r["row"] == name]
        cells = (name, str(len(mine)), spread([r["backdoor"] for r in mine]), spread([r["clean"] for r in mine]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure all rows on some seeds, and print every record as it comes, or a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, metavar="K", help="seeds 0 to K-1")
    parser.add_argument("--first-seed", type=int, default=0, metavar="S", help="first seed instead of 0")
    parser.add_argument("--graph", choices=GRAPHS, default="complete")
    parser.add_argument("--model", choices=list(MODELS), default="flnet")
    parser.add_argument("--test-images", type=int, default=10_000, metavar="N", help="how many of the test images")
    parser.add_argument("--rows", default=",".join(ROWS), help="which of " + ", ".join(ROWS))
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME={JSON}", help="another walk: changes to its settings"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line a record, as it comes")
    options = parser.parse_args(arguments)
    try:
        arrays = read_mnist()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    variants = {name: json.loads(changes) for name, _, changes in (v.partition("=") for v in options.variant)}
    records: list[dict[str, Any]] = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for found in one_seed(
            arrays, seed, options.graph, options.model, options.test_images, options.rows.split(","), variants
        ):
            records.append(found)
            stream = sys.stdout if options.json else sys.stderr
            print(json.dumps(found), file=stream, flush=True)
    if not options.json:
        print(table(records))
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        print(f"\n{options.model}, {options.graph} graph, {date.today().isoformat()}, {machine}")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    raise SystemExit(main())
