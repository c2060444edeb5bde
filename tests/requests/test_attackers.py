"""The attackers of the study choose what they say, and their predictions are those of a second computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.attackers import STRATEGIES, Cast, as_requests, cast, chosen, class_counts, newton_direction
from benchmarks.malicious_requests import SIZES, bridge_graph, cell, tables
from fedunlearn.models.softmax import hessian, per_sample_gradients
from fedunlearn.plots.harm import harm_figure
from fedunlearn.requests import RequestSettings, resolve_requests
from fedunlearn.topology import TopologySettings, build_graph
from tests.worlds import model_for, table_data

TABLE = table_data(clients=6, classes=3, inputs=4)
MODEL, FEATURES = model_for(TABLE, features="raw")


def test_a_coalition_is_the_one_that_holds_most_of_some_class():
    counts = class_counts(TABLE)
    best = max(
        (sum(counts[list(pair), label]) / counts[:, label].sum(), label)
        for label in range(3)
        for pair in [(a, b) for a in range(6) for b in range(a)]
    )
    found = cast(TABLE, 2)
    assert (found.share, found.label) == pytest.approx(best)
    assert found.budget == counts[list(found.members), found.label].sum() and found.victim not in found.members


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_asks_for_as_many_of_its_own_samples(strategy):
    players = cast(TABLE, 2)
    theta = np.random.default_rng(0).normal(size=MODEL.dim)
    ids = chosen(strategy, players, TABLE, MODEL, FEATURES, theta, 1e-2, seed=1)
    own = {int(i) for v in players.members for i in TABLE.train_rows(v)}
    assert len(ids) == players.budget and set(ids.tolist()) <= own and (np.diff(ids) > 0).all()
    if strategy == "class":
        assert (TABLE.labels[ids] == players.label).all()
    requests = tuple(RequestSettings(**request) for request in as_requests(ids, players, TABLE))
    resolved = resolve_requests(requests, TABLE, 0)
    assert sorted(i for request in resolved for i in request.sample_ids.tolist()) == ids.tolist()


def test_predicted_harm_is_the_influence_function_with_a_dense_hessian():
    players, l2 = Cast((0, 1), 0, 3, 0.5, 4), 0.1
    theta = np.random.default_rng(2).normal(size=MODEL.dim)
    at, rows = torch.from_numpy(theta), TABLE.all_train_rows()[0]

    def data(ids):
        return torch.from_numpy(TABLE.inputs[ids]).double(), torch.from_numpy(TABLE.labels[ids])

    matrix = hessian(at, data(rows)[0], 3).numpy() / len(rows) + l2 * np.eye(MODEL.dim)
    hurt = per_sample_gradients(at, *data(TABLE.train_rows(4)), 3).mean(0).numpy()
    own = np.concatenate([TABLE.train_rows(0), TABLE.train_rows(1)])
    harm = per_sample_gradients(at, *data(own), 3).numpy() @ np.linalg.solve(matrix, hurt)
    found = chosen("harm", players, TABLE, MODEL, FEATURES, theta, l2, seed=0)
    assert found.tolist() == sorted(own[np.argsort(-harm, kind="stable")[:3]].tolist())


def test_conjugate_gradients_solve_a_dense_system():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(7, 7))
    matrix = torch.from_numpy(root @ root.T + np.eye(7))
    right = torch.from_numpy(rng.normal(size=7))
    assert np.allclose(newton_direction(lambda v: matrix @ v, right), np.linalg.solve(matrix.numpy(), right.numpy()))


def test_only_the_bridge_holds_the_halves_together(tmp_path):
    import networkx as nx

    graph = build_graph(TopologySettings(generator="file", path=str(bridge_graph(tmp_path))), 20, 0)
    assert nx.is_connected(graph) and list(nx.articulation_points(graph)) == [0]


def test_cells_are_means_with_their_spread():
    assert cell([0.5, 0.5]) == "0.500" and cell([1.0, 2.0, 3.0], 1) == "2.0 ± 1.0" and cell([1.0, None]) == "–"


def test_tables_and_figure_are_made_of_the_numbers():
    def row(size, strategy, seed):
        level = {
            "before noise-free": 0.9,
            "retrained noise-free": 0.9 - size / 20,
            "after noise-free": 0.85,
            "after": 0.8,
        }
        return {
            "part": "harm", "seed": seed, "size": size, "strategy": strategy, "share": 0.1, "share of class": 0.5,
            "measured": {
                m: dict.fromkeys(("class", "victim", "everybody"), (a, 1 - a)) for m, a in level.items()
            },
        }  # fmt: skip

    rows = [row(size, strategy, seed) for size in SIZES for strategy in STRATEGIES for seed in (1, 2)]
    lines = tables(rows).splitlines()
    assert len(lines) == 2 + 2 + len(SIZES) * len(STRATEGIES)
    assert "| 3 clients, class | 10.0 | 50 | -0.150 | -0.050 | -0.100 |" in "\n".join(lines)
    assert len(harm_figure(rows).axes) == 2
