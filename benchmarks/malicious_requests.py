"""What malicious deletion requests do: false deletions, deletions chosen to hurt, a bridge that leaves, flooding.

Every answer is compared with the network before it and with the retrained network, so that what the deletion itself
does can be told from what the answer adds. Tables are Markdown, means over seeds with the standard deviation.

    python -m benchmarks.malicious_requests --seeds 3 --json numbers.json --figure harm.png
    python -m benchmarks.malicious_requests --part flooding --seeds 1
    python -m benchmarks.malicious_requests --from numbers.json          # the tables again
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from benchmarks.attackers import STRATEGIES, as_requests, cast, chosen
from benchmarks.certified_rows import markdown

SIMULATIONS = Path(__file__).resolve().parent.parent / "simulations"
BASE = SIMULATIONS / "requests" / "base.toml"
PARTS = ("false", "harm", "bridge", "flooding")
SIZES = (1, 3, 6)
"""Coalitions of the second part, out of 20 clients."""
FLOOD = 6
"""Requests of the one who floods, of one sample each."""
METHODS = ("retrain", "newton", "rr-du", "dp-sgd")
"""Methods that are flooded: files of simulations/certified."""

Vector = NDArray[Any]


@dataclass(frozen=True)
class Told:
    """One run: the models that stand for the network, and what its answers took.

    Attributes:
        models: ``after`` and ``retrained`` as released, or the mean of the nodes where nothing is; and where a method
            adds noise ``before``, and all three also ``noise-free``; (d,) each.
        nodes: models of the nodes that are there after the answer: ``after``, ``retrained``, (nodes, d) each.
        certificate: of the last answer, or None.
    """

    models: dict[str, Vector]
    nodes: dict[str, Vector]
    certificate: Any


def world_of(changes: Sequence[str], requests: Sequence[Mapping[str, object]], file: Path = BASE) -> Any:
    """Return the world of an experiment, by default the base, with these changes and these requests."""
    from fedunlearn.config import load_experiment
    from fedunlearn.overrides import Override
    from fedunlearn.simulation.world import prepare

    asked = Override.of("requests", [dict(request) for request in requests])
    experiment = load_experiment(file, [*changes, "runtime.cache=false", "runtime.workers=0", asked])
    return prepare(experiment, lambda phase, done, total: None)


@contextmanager
def session_of(world: Any) -> Iterator[Any]:
    """Open the hosts of a world in this process."""
    from fedunlearn.network import Session
    from fedunlearn.network.inline import InlineTransport

    experiment = world.experiment
    with Session(
        InlineTransport(1), world.dataset, world.model, world.features, seed=experiment.seed, data=experiment.data,
        links=experiment.links, runtime=experiment.runtime,
    ) as session:  # fmt: skip
        yield session


def tell(world: Any) -> Told:
    """Train, answer all requests, and retrain without what was deleted."""
    from fedunlearn.simulation.answered import answer_all
    from fedunlearn.simulation.learning import vector_of

    with session_of(world) as session:
        answered = answer_all(world, session)
        network, twin, outcome, ideal = answered.network, answered.twin, answered.outcome, answered.retrained
        models = {"after": vector_of(network, outcome), "retrained": vector_of(twin, ideal)}
        if answered.before.release is not None:
            models["before"] = answered.before.release
        for name, ended in (("before", answered.before), ("after", outcome), ("retrained", ideal)):
            if ended.noise_free is not None:
                models[f"{name} noise-free"] = ended.noise_free
        there = np.flatnonzero(network.alive)
        nodes = {"after": network.read_rows(there), "retrained": twin.read_rows(there)}
    return Told(models, nodes, outcome.certificate)


def measured(world: Any, theta: Vector, rows: NDArray[np.int64]) -> tuple[float, float]:
    """Return accuracy and mean cross-entropy, in nats, of a model on these samples of the data set."""
    from fedunlearn.evaluation.utility import accuracy_and_loss

    inputs = world.features.apply(world.dataset.inputs[rows])
    found = accuracy_and_loss(world.model, np.asarray(theta, np.float32), inputs, world.dataset.labels[rows])
    return float(found[0]), float(found[1])


def accuracy(world: Any, theta: Vector, rows: NDArray[np.int64]) -> float:
    """Return the accuracy of a model on these samples of the data set."""
    return measured(world, theta, rows)[0]


def tests_of(world: Any, vertices: Sequence[int]) -> NDArray[np.int64]:
    """Return the test samples of these vertices."""
    from fedunlearn.data import Role

    clients = world.dataset.clients(Role.TRAIN)
    return np.concatenate([world.dataset.test_rows(int(clients[v])) for v in vertices])


# --- false deletions -------------------------------------------------------------------------------------------------


def false_deletions(seed: int, claimed: int = 5) -> list[dict[str, Any]]:
    """Return what one client gets by asking that others leave: without a rule on ownership, and with it.

    The honest request of the base is answered in any case; the claims come after it.
    """
    honest: dict[str, object] = {"level": "client", "client": 7}
    victims = [v for v in range(20) if v not in (0, 7)][:: 18 // claimed][:claimed]
    claims = [{"level": "client", "client": v, "by": 0} for v in victims]
    found = []
    for name, requests, ownership in (
        ("honest request alone", [honest], "refuse"),
        ("with false deletions, no rule", [honest, *claims], "off"),
        ("with false deletions, refused", [honest, *claims], "refuse"),
    ):
        world = world_of([f"seed={seed}", f"data.seed={seed}", f"policy.ownership={ownership}"], requests)
        told = tell(world)
        found.append(
            {
                "part": "false", "seed": seed, "case": name, "answered": len(world.decisions.answered),
                "refused": len(world.decisions.refused),
                "samples": sum(len(r.sample_ids) for r in world.decisions.answered),
                "victims": accuracy(world, told.models["after"], tests_of(world, victims)),
                "everybody": accuracy(world, told.models["after"], tests_of(world, range(20))),
                "release": hash_of(told.models["after"]),
            }
        )  # fmt: skip
    return found


def hash_of(theta: Vector) -> str:
    """Return the beginning of the SHA-256 of a vector's bytes."""
    return hashlib.sha256(np.ascontiguousarray(theta).tobytes()).hexdigest()[:12]


# --- deletions that hurt ---------------------------------------------------------------------------------------------


def harmful_deletions(seed: int, size: int) -> list[dict[str, Any]]:
    """Return what a coalition of this size does to the class that it holds most of, and to one client outside.

    All strategies delete equally many samples, all of them the coalition's own. Models before noise show what the
    deletion does; ``after``, what everybody gets.
    """
    found: list[dict[str, Any]] = []
    changes = [f"seed={seed}", f"data.seed={seed}", "policy.window=1"]
    empty = world_of(changes, [])
    dataset, l2, players = empty.dataset, empty.experiment.training.l2, cast(empty.dataset, size)
    theta = np.zeros(empty.model.dim)  # the first strategy is "random" and does not look at it
    for strategy in STRATEGIES:
        ids = chosen(strategy, players, dataset, empty.model, empty.features, theta, l2, seed)
        world = world_of(changes, as_requests(ids, players, dataset))
        told = tell(world)
        theta = np.asarray(told.models["before"], dtype=np.float64)
        everybody = tests_of(world, range(20))
        at = {
            "class": everybody[dataset.labels[everybody] == players.label],
            "victim": tests_of(world, [players.victim]), "everybody": everybody,
        }  # fmt: skip
        found.append(
            {
                "part": "harm", "seed": seed, "size": size, "strategy": strategy, "samples": players.budget,
                "share of class": players.share, "share": players.budget / len(dataset.all_train_rows()[0]),
                "tested": {where: len(rows) for where, rows in at.items()}, "sigma": told.certificate.sigma,
                "measured": {
                    name: {where: measured(world, vector, rows) for where, rows in at.items()}
                    for name, vector in told.models.items()
                },
            }
        )  # fmt: skip
    return found


# --- a bridge that leaves --------------------------------------------------------------------------------------------


def bridge_graph(folder: Path, halves: int = 9) -> Path:
    """Write two rings of clients, each with chords, that only clients 0 and 19 join, and return the file.

    Client 0 is the bridge: it has two neighbours in either half. Clients 10 and 11 are in the second half.
    """
    graph = nx.Graph()
    first, second = list(range(1, 1 + halves)), list(range(1 + halves, 20))
    for ring in (first, second):
        for place, vertex in enumerate(ring):
            graph.add_edge(vertex, ring[(place + 1) % len(ring)])
            graph.add_edge(vertex, ring[(place + 3) % len(ring)])
    graph.add_edges_from([(0, first[0]), (0, first[4]), (0, second[0]), (0, second[5])])
    path = folder / "bridge.edges"
    path.write_text("".join(f"{a} {b}\n" for a, b in sorted(tuple(sorted(edge)) for edge in graph.edges())))
    return path


def bridge_that_leaves(seed: int, folder: Path) -> list[dict[str, Any]]:
    """Return what it does to a network of two halves that its only bridge leaves, instead of an ordinary client."""
    from fedunlearn.topology import remove_vertex, spectrum_of

    path, found = bridge_graph(folder), []
    graphs = [f"seed={seed}", f"data.seed={seed}", "topology.generator=file", f"topology.path={path}"]
    sizes = np.diff(world_of(graphs, []).dataset.all_train_rows()[1])
    alike = 1 + int(np.argmin(np.abs(sizes[1:] - sizes[0])))  # leaves with about as many samples as the bridge
    for name, client in (("ordinary client", alike), ("bridge", 0)):
        for repair in ("path", "relay"):
            changes = [*graphs, f"topology.repair={repair}", "unlearning.method=finetune", "unlearning.rounds=10"]
            world = world_of(changes, [{"level": "client", "client": client}])
            told = tell(world)
            after = world.graph if repair == "relay" else remove_vertex(world.graph, client, "path")
            alive = np.ones(20, dtype=bool)
            alive[client] = repair == "relay"
            everybody = tests_of(world, [v for v in range(20) if v != client])
            entry: dict[str, Any] = {
                "part": "bridge", "seed": seed, "case": name, "repair": repair,
                "gap before": spectrum_of(world.graph, "metropolis").gap,
                "gap": spectrum_of(after, "metropolis", alive).gap,
                "samples": sum(len(r.sample_ids) for r in world.decisions.answered),
            }  # fmt: skip
            for which, rows in told.nodes.items():
                each = [accuracy(world, row, everybody) for row in rows]
                entry |= {f"{which} mean": float(np.mean(each)), f"{which} worst": min(each)}
            found.append(entry)
        bare = world_of([*graphs, "topology.repair=refuse"], [{"level": "client", "client": client}])
        found[-1]["refused without repair"] = found[-2]["refused without repair"] = len(bare.decisions.refused)
    return found


# --- flooding --------------------------------------------------------------------------------------------------------


def flooding(seed: int, method: str) -> list[dict[str, Any]]:
    """Return what many small requests of one client cost, and what is left for the honest one that comes after them.

    On 10 clients with 8×8 digits, by the files of simulations/certified. No twin is retrained in between.
    """
    honest: dict[str, object] = {"level": "sample", "client": 3, "count": 5, "at": 1.0}
    flood = [{"level": "sample", "client": 1, "count": 1, "at": i / FLOOD} for i in range(FLOOD)]
    found = []
    for name, requests, changes in (
        ("honest request alone", [honest], []), ("flood, one by one", [*flood, honest], []),
        ("flood in one window", [*flood, honest], ["policy.window=1"]),
        ("at most three of a client", [*flood, honest], ["policy.max_requests=3"]),
    ):  # fmt: skip
        file = SIMULATIONS / "certified" / f"{method}.toml"
        world = world_of([f"seed={seed}", f"data.seed={seed}", *changes], requests, file)
        costs, last, vector = _answers(world)
        claim = last.certificate
        found.append(
            {
                "part": "flooding", "seed": seed, "method": method, "case": name, "answers": len(costs),
                "refused": len(world.decisions.refused),
                **{key: sum(getattr(c, key) for c in costs) for key in ("seconds", "messages", "network_seconds")},
                "epsilon": None if claim is None else claim.epsilon,
                "valid": None if claim is None else claim.valid,
                "theorem": None if claim is None else claim.theorem,
                "accuracy": accuracy(world, vector, tests_of(world, range(len(world.graph)))),
            }
        )  # fmt: skip
    return found


def _answers(world: Any) -> tuple[list[Any], Any, Vector]:
    """Train and answer all requests; return what each answer cost, the last of them, and the model at the end."""
    from fedunlearn.simulation.learning import new_network, run_recipe, situation_of, vector_of
    from fedunlearn.simulation.recording import Record
    from fedunlearn.simulation.story import answer_request

    costs = []
    with session_of(world) as session:
        record = Record(world.experiment, None)
        network = new_network(world, session, "main", world.graph)
        situation = situation_of(world, record, release=0)
        world.unlearner.prepare(network, situation)
        run_recipe(world, network, situation, "train")
        last = world.unlearner.conclude(network, situation)
        for request in world.requests:
            situation = situation_of(world, record, release=request.number + 1, previous=last.release)
            last, cost = answer_request(world, network, request, situation)
            costs.append(cost)
        return costs, last, vector_of(network, last)


# --- running and showing ---------------------------------------------------------------------------------------------


def study(parts: Sequence[str], seeds: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """Run the parts for all seeds and return every number; what is done is told on stderr."""
    found: list[dict[str, Any]] = []
    for seed in seeds:
        for part in parts:
            began = time.perf_counter()
            if part == "false":
                found += false_deletions(seed)
            elif part == "harm":
                for size in SIZES:
                    found += harmful_deletions(seed, size)
            elif part == "bridge":
                found += bridge_that_leaves(seed, folder)
            else:
                found += [row for method in METHODS for row in flooding(seed, method)]
            print(f"seed {seed}, {part}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def cell(values: Sequence[float], digits: int = 3) -> str:
    """Return mean ± standard deviation over seeds, with so many digits behind the point; "–" where there is none."""
    if not values or any(value is None for value in values):
        return "–"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    mean = f"{statistics.fmean(values):,.{digits}f}"
    return mean if spread < 0.5 * 10**-digits else f"{mean} ± {spread:,.{digits}f}"


def grouped(rows: Sequence[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Return the rows by the values of these keys, in the order of their first appearance."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return all tables as Markdown."""
    parts = {part: [row for row in rows if row["part"] == part] for part in PARTS}
    shown = {"false": _false_table, "harm": _harm_table, "bridge": _bridge_table, "flooding": _flooding_table}
    return "\n\n".join(f"{part}\n\n{shown[part](found)}" for part, found in parts.items() if found)


def _false_table(rows: Sequence[dict[str, Any]]) -> str:
    def of(group: Sequence[dict[str, Any]], key: str, digits: int = 3) -> str:
        return cell([row[key] for row in group], digits)

    return markdown(
        ("case", "answered", "refused", "samples deleted", "accuracy of the victims", "of everybody"),
        [
            (case, of(g, "answered", 0), of(g, "refused", 0), of(g, "samples", 0), of(g, "victims"), of(g, "everybody"))
            for (case,), g in grouped(rows, "case").items()
        ],
    )


def change(row: Mapping[str, Any], model: str, where: str, what: int = 0) -> float:
    """Return by how much a model is better than the one before, noise-free: accuracy (0) or cross-entropy (1)."""
    found = row["measured"]
    return float(found[model][where][what] - found["before noise-free"][where][what])


def _harm_table(rows: Sequence[dict[str, Any]]) -> str:
    columns = (
        ("class: retrained", "retrained noise-free", "class", 0), ("class: answer", "after noise-free", "class", 0),
        ("class: released", "after", "class", 0), ("everybody: retrained", "retrained noise-free", "everybody", 0),
        ("everybody: released", "after", "everybody", 0),
        ("victim's loss: retrained", "retrained noise-free", "victim", 1),
    )  # fmt: skip
    lines = [
        (
            f"{size} {'client' if size == 1 else 'clients'}, {strategy}", cell([100 * row["share"] for row in g], 1),
            cell([100 * row["share of class"] for row in g], 0),
            *(cell([change(row, *key) for row in g]) for _, *key in columns),
        )
        for (size, strategy), g in grouped(rows, "size", "strategy").items()
    ]  # fmt: skip
    return markdown(
        ("coalition, strategy", "% of all samples", "% of the class", *(head for head, *_ in columns)), lines
    )  # fmt: skip


def _bridge_table(rows: Sequence[dict[str, Any]]) -> str:
    keys = ("samples", "gap before", "gap", "after mean", "after worst", "retrained mean", "retrained worst")
    lines = [
        (f"{case}, {repair}", *(cell([row[key] for row in g], 0 if key == "samples" else 3) for key in keys),
         "yes" if all(row["refused without repair"] for row in g) else "no")
        for (case, repair), g in grouped(rows, "case", "repair").items()
    ]  # fmt: skip
    return markdown(("who leaves, repair", *keys, "refused without repair"), lines)


def _flooding_table(rows: Sequence[dict[str, Any]]) -> str:
    keys = (("answers", 0), ("seconds", 2), ("messages", 0), ("network_seconds", 1), ("epsilon", 2), ("accuracy", 3))
    lines = [
        (f"{method}: {case}", *(cell([row[key] for row in g], digits) for key, digits in keys))
        for (method, case), g in grouped(rows, "method", "case").items()
    ]
    heads = ("method, case", "answers", "seconds", "messages", "network s", "ε of the honest request", "accuracy")
    return markdown(heads, lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the study and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="one part; by default all")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 1 to N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    parser.add_argument("--from", type=Path, dest="source", metavar="FILE", help="read the numbers instead of running")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw what deletions do to a class")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds is at least 1")
    if options.source is not None:
        rows = json.loads(options.source.read_text())
    else:
        with tempfile.TemporaryDirectory() as folder:
            rows = study(options.part or PARTS, range(1, options.seeds + 1), Path(folder))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.figure is not None:
        from fedunlearn.plots.harm import harm_figure
        from fedunlearn.plots.style import save

        save(harm_figure([row for row in rows if row["part"] == "harm"]), options.figure)
    print(tables(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
