"""Random heterogeneous networks, random claims: no true distance to retraining may exceed its certified bound.

A way to be tried is a line in ``WAYS``: how a trial's settings are drawn, and which distances are compared with which
bounds. The default run is a sample; ``make test-slow`` runs a thousand trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np
import pytest

from fedunlearn.network import Network, TrainingSettings
from fedunlearn.privacy.accounting.walks import walk_mu
from fedunlearn.privacy.claims.walk_facts import WalkFacts
from fedunlearn.unlearning.base import Outcome
from tests.worlds import Story, all_rows, model_for, open_session, request_for, table_data

Rng = np.random.Generator
Pairs = Iterator[tuple[str, float, float]]
"""What was compared, the true distance, and the certified bound."""


def log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(10 ** rng.uniform(np.log10(low), np.log10(high)))


def released(story: Story, outcome: Outcome, twin: Network, ending: Outcome) -> Pairs:
    """The one noise-free vector of each world."""
    yield "release", np.linalg.norm(outcome.noise_free - ending.noise_free), outcome.certificate.sensitivity


def every_node(story: Story, outcome: Outcome, twin: Network, ending: Outcome) -> Pairs:
    """Every node's own model before the noise, and all of them stacked (docs/certificates.md T2)."""
    noise = outcome.release - outcome.noise_free
    apart = np.linalg.norm(all_rows(story.network) - noise - all_rows(twin), axis=1)
    yield "node", apart.max(), outcome.certificate.sensitivity
    facts, nodes = outcome.certificate.facts, len(apart)
    means = (facts["residual_bound"] + facts["tau"]) / facts["lam"]
    yield "joint", np.linalg.norm(apart), np.sqrt(nodes) * np.hypot(means, 2 * facts["consensus_bound"])
    yield from released(story, outcome, twin, ending)


@dataclass(frozen=True)
class Way:
    """How one certified method is tried.

    ``usable``: the smallest share of trials that must end in a certificate; ``notices``: the smallest share of those in
    which doing nothing at all would break the bound, so that keeping it means something.
    """

    method: str
    settings: Callable[[Rng], dict[str, Any]]
    training: dict[str, Any] = field(default_factory=dict)
    repair: str = "path"
    levels: tuple[str, ...] = ("sample", "class", "client")
    compare: Callable[[Story, Outcome, Network, Outcome], Pairs] = released
    usable: float = 0.9
    notices: float = 0.0


def newton_settings(rng: Rng) -> dict[str, Any]:
    return {"tolerance": log_uniform(rng, 1e-7, 1e-2)}


def paper_settings(rng: Rng) -> dict[str, Any]:
    return {
        "mode": "paper", "recovery": "none", "tolerance": log_uniform(rng, 1e-5, 1e-2),
        "residual": log_uniform(rng, 1e-5, 1e-1), "consensus": log_uniform(rng, 1e-5, 1e-2),
        "corrections": int(rng.integers(1, 4)), "gradient": str(rng.choice(["retained", "forget-set"])),
    }  # fmt: skip


def worst_case_settings(rng: Rng) -> dict[str, Any]:
    return {
        "mode": "paper", "recovery": "none", "bound": "worst-case", "tolerance": log_uniform(rng, 1e-5, 1e-1),
        "consensus": log_uniform(rng, 1e-5, 1e-2), "gradient": str(rng.choice(["retained", "forget-set"])),
        "curvature": str(rng.choice(["auto", "fisher", "fisher-diagonal", "empirical-fisher"])),
        "damping": float(rng.choice([0.0, 0.1])),
    }  # fmt: skip


def rewind_settings(rng: Rng) -> dict[str, Any]:
    return {"rewind": float(rng.uniform(0.0, 0.9)), "sigma": log_uniform(rng, 1e-3, 1.0)}


def walk_settings(rng: Rng) -> dict[str, Any]:
    return {
        "hops": int(rng.integers(1, 25)), "lr": log_uniform(rng, 1e-3, 0.5), "clip": log_uniform(rng, 0.05, 2.0),
        "start_radius": log_uniform(rng, 0.05, 5.0), "minibatches": int(rng.integers(1, 4)), "batch": 4,
        "local_steps": int(rng.integers(1, 3)),
    }  # fmt: skip


def same_walk(story: Story, outcome: Outcome, twin: Network, ending: Outcome) -> Pairs:
    """Two tokens on the answer's own route, without noise: from the trained and from the retrained model."""
    method, facts = story.unlearner, WalkFacts.from_dict(outcome.certificate.facts)
    walk = method._last
    starts = [method._prepared(n.mean(), walk.centre) for n in (story.trained, twin)]
    tokens = story.network.walk(
        "fedunlearn.unlearning.certified.token_walk:restart_hop", {**walk.params, "noise": 0.0, "noise_seed": 0},
        np.stack(starts), walk.route.moves, {"centre": walk.centre},
    )  # fmt: skip
    gaps = walk_mu(
        facts.visits, facts.hops, facts.clip, facts.lr, facts.noise, facts.start_radius, local_steps=facts.local_steps,
        contraction=facts.contraction,
    ).gaps  # fmt: skip
    yield "start", np.linalg.norm(starts[0] - starts[1]), gaps[0]
    yield "token", np.linalg.norm(tokens[0] - tokens[1]), gaps[-1]


def only_released_and_nodes(story: Story, outcome: Outcome, twin: Network, ending: Outcome) -> Pairs:
    """As every node, without the stacked bound, whose residual a worst case does not state."""
    yield from (pair for pair in every_node(story, outcome, twin, ending) if pair[0] != "joint")


WAYS = {
    "newton": Way("newton", newton_settings, notices=0.8),
    "newton paper": Way("newton", paper_settings, compare=every_node, notices=0.3),
    "newton paper, worst case": Way("newton", worst_case_settings, compare=only_released_and_nodes),
    "rewind": Way(
        "rewind",
        rewind_settings,
        repair="relay",
        training={"rounds": 10, "local_steps": 2, "schedule": "holes", "momentum": 0.0, "algorithm": "dsgd"},
    ),
    "rr-du": Way("rr-du", walk_settings, compare=same_walk, training={"algorithm": "dsgd"}),
}


def random_graph(n: int, rng: Rng) -> nx.Graph:
    """Return a ring, a complete graph, or a random tree with some more edges."""
    kind = rng.integers(3)
    if kind == 0:
        return nx.cycle_graph(n) if n > 2 else nx.path_graph(n)
    if kind == 1:
        return nx.complete_graph(n)
    order, graph = rng.permutation(n), nx.empty_graph(n)
    graph.add_edges_from((int(order[i]), int(order[rng.integers(i)])) for i in range(1, n))
    graph.add_edges_from((int(a), int(b)) for a, b in rng.integers(0, n, (rng.integers(0, n), 2)) if a != b)
    return graph


def trial(name: str, seed: int) -> tuple[list[tuple[str, float, float]], bool] | None:
    """Train, delete, answer, retrain; returns what there is to compare, and whether the trained model would have broken
    the bound; None where nothing was certified."""
    way = WAYS[name]
    rng = np.random.default_rng([seed, list(WAYS).index(name)])
    clients, classes = int(rng.integers(3, 9)), int(rng.choice([2, 3, 5]))
    dataset = table_data(clients=clients, classes=classes, inputs=int(rng.integers(2, 6)), seed=seed, sizes=(3, 15))
    level, client = str(rng.choice(way.levels)), int(rng.integers(clients))
    asked: dict[str, Any] = {"level": level, "client": client}
    mine = dataset.train_rows(client)
    if level == "sample":
        asked["count"] = int(rng.integers(1, len(mine)))
    elif level == "class":
        asked = {"level": level, "label": int(dataset.labels[rng.choice(mine)])}
    recipe = {
        "rounds": int(rng.integers(1, 4)), "batch": int(rng.integers(2, 9)), "lr": log_uniform(rng, 0.05, 0.8),
        "momentum": float(rng.choice([0.0, 0.5])), "l2": log_uniform(rng, 1e-3, 0.5),
        "weighting": str(rng.choice(["equal", "samples"])), "algorithm": str(rng.choice(["dsgd", "dsgd", "fedavg"])),
    }  # fmt: skip
    training = TrainingSettings(**{**recipe, **way.training})
    request = request_for(dataset, **asked)
    with open_session(dataset, *model_for(dataset), seed=seed) as session:
        story = Story(
            session, way.method, training, graph=random_graph(clients, rng), repair=way.repair, requests=[request],
            **way.settings(rng),
        )  # fmt: skip
        story.learn()
        trained_rows = Network(session, "trained", story.network.graph, "metropolis", session.model.initial(0))
        session.ask("copy", {"source": "main", "target": "trained"})
        story.trained = trained_rows
        outcome = story.answer(request)
        if outcome.certificate is None or not outcome.certificate.valid:
            return None
        twin, ending = story.twin()
        trained = story.outcomes[0].noise_free
        idle = trained is not None and np.linalg.norm(trained - ending.noise_free) > outcome.certificate.sensitivity
        return list(way.compare(story, outcome, twin, ending)), bool(idle)


def run_trials(name: str, seeds: range) -> None:
    certified, noticed, largest = 0, 0, 0.0
    for seed in seeds:
        found = trial(name, seed)
        if found is None:
            continue
        certified, noticed = certified + 1, noticed + found[1]
        for what, distance, bound in found[0]:
            assert distance <= bound * (1 + 1e-6), f"{name}, seed {seed}, {what}: {distance} > {bound}"
            largest = max(largest, distance / bound if bound else 0.0)
    assert certified >= WAYS[name].usable * len(seeds)
    assert noticed >= WAYS[name].notices * certified
    assert largest > 1e-6  # the two worlds did differ
    print(f"{name}: {certified} of {len(seeds)} certified, {noticed} noticed, largest distance/bound {largest:.3f}")


@pytest.mark.parametrize("name", WAYS)
def test_no_true_distance_exceeds_its_bound(name):
    run_trials(name, range(12))


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_no_true_distance_exceeds_its_bound_in_a_thousand_trials(name):
    run_trials(name, range(100, 100 + -(-1000 // len(WAYS))))
