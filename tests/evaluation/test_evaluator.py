"""The evaluator of a run against plain torch on samples picked by hand."""

from __future__ import annotations

import dataclasses
import io

import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from sklearn.metrics import roc_auc_score
from small_runs import run
from worlds import all_rows, image_data, model_for, open_session, ring_network, table_data

from fedunlearn.data import Role
from fedunlearn.errors import UserError
from fedunlearn.evaluation import EvaluationSettings
from fedunlearn.evaluation.evaluator import Evaluator, Snapshot
from fedunlearn.plots.draw import draw_all
from fedunlearn.results.table import summary_table

DATA = image_data(sizes=(15, 40))
MODEL, FEATURES = model_for(DATA)
TRAIN = DATA.clients(Role.TRAIN)


def evaluator(dataset=DATA, seed=0, **settings) -> Evaluator:
    return Evaluator(dataset, FEATURES, MODEL, EvaluationSettings(**settings), seed)


def vector(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=MODEL.dim).astype(np.float32)


def logits(theta: np.ndarray, rows: np.ndarray) -> torch.Tensor:
    """Return the logits (n, classes) of stored samples, in float64 and without the model's own code."""
    pixels = torch.from_numpy(DATA.inputs[rows].reshape(len(rows), -1).astype(np.float64))
    x = torch.cat([F.normalize(pixels, dim=1), torch.ones(len(rows), 1)], 1) / np.sqrt(2)
    return x @ torch.from_numpy(theta.astype(np.float64)).reshape(DATA.num_classes, -1).T


def accuracy(theta: np.ndarray, rows: np.ndarray) -> float:
    return float((logits(theta, rows).argmax(1).numpy() == DATA.labels[rows]).mean())


def losses(theta: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return F.cross_entropy(logits(theta, rows), torch.from_numpy(DATA.labels[rows]), reduction="none").numpy()


def rows_of(role: Role, kind: str) -> np.ndarray:
    return np.concatenate([getattr(DATA, f"{kind}_rows")(int(c)) for c in DATA.clients(role)])


def with_rows(network, rows):
    for node, row in enumerate(rows):
        network.write(row, nodes=[node])
    return network


def test_a_report_is_what_torch_says_of_the_same_samples():
    theta, deleted = vector(), DATA.train_rows(2)
    found = evaluator().report(theta, deleted)
    test = rows_of(Role.TRAIN, "test")
    assert found["test_accuracy"] == pytest.approx(accuracy(theta, test))
    assert found["test_loss"] == pytest.approx(losses(theta, test).mean(), rel=1e-5)
    retained = np.setdiff1d(rows_of(Role.TRAIN, "train"), deleted)
    assert found["retain_accuracy"] == pytest.approx(accuracy(theta, retained))
    assert found["forget_accuracy"] == pytest.approx(accuracy(theta, deleted))
    never = np.concatenate([rows_of(Role.NEVER_MEMBER, "train"), rows_of(Role.NEVER_MEMBER, "test")])
    assert found["never_member_accuracy"] == pytest.approx(accuracy(theta, never))
    # the attack calls a sample a member where its loss is small
    label = np.r_[np.ones(len(deleted)), np.zeros(len(test))]
    expected = roc_auc_score(label, -np.r_[losses(theta, deleted), losses(theta, test)])
    assert found["membership_auc_forget_vs_test"] == pytest.approx(expected, abs=1e-3)
    assert found["node_test_accuracy"] is None


def test_what_there_is_nothing_of_is_none():
    nothing = np.zeros(0, np.int64)
    found = evaluator(membership=False).report(vector(), nothing)
    assert found["forget_accuracy"] is None and found["membership_auc_forget_vs_test"] is None
    assert evaluator().report(vector(), nothing)["membership_auc_forget_vs_test"] is None
    assert evaluator(membership=False).report(vector(), DATA.train_rows(0))["membership_auc_forget_vs_test"] is None
    roles = np.where(DATA.roles == Role.NEVER_MEMBER, Role.UNUSED, DATA.roles).astype(np.uint8)
    without = dataclasses.replace(DATA, roles=roles)
    assert evaluator(without).report(vector(), nothing)["never_member_accuracy"] is None
    everything = rows_of(Role.TRAIN, "train")
    assert evaluator().report(vector(), everything)["retain_accuracy"] is None


def test_train_clients_without_a_test_sample_are_refused():
    table = table_data()
    model, features = model_for(table)
    with pytest.raises(UserError, match=r"no test sample .*data.test_fraction"):
        Evaluator(table, features, model, EvaluationSettings(), 0)


def test_a_cut_set_is_always_the_same_part_of_the_whole():
    rows = rows_of(Role.TRAIN, "train")
    whole, few, fewer = (evaluator(max_samples=k).sample_set(rows) for k in (5000, 20, 7))
    for small in (few, fewer):
        np.testing.assert_array_equal(small.inputs, whole.inputs[: len(small.labels)])
        np.testing.assert_array_equal(small.labels, whole.labels[: len(small.labels)])
    assert (len(whole.labels), len(few.labels), len(fewer.labels)) == (len(rows), 20, 7)
    shuffled = evaluator(max_samples=20).sample_set(np.random.default_rng(0).permutation(rows))
    np.testing.assert_array_equal(shuffled.inputs, few.inputs)
    other = evaluator(max_samples=20, seed=1).sample_set(rows)
    assert not np.array_equal(other.inputs, few.inputs)
    some = rows[::2]  # what stays keeps its order when samples are taken away
    kept = evaluator().sample_set(some)
    whole_ids, kept_ids = (s.inputs.reshape(len(s.labels), -1).tolist() for s in (whole, kept))
    assert kept_ids == [row for row in whole_ids if row in kept_ids]


@pytest.mark.parametrize("hosts", [1, 3])
def test_the_spread_over_nodes_is_that_of_each_nodes_model(hosts):
    thetas = np.stack([vector(i) for i in range(6)])
    measuring = evaluator(node_samples=4)
    chosen = measuring.node_test
    with open_session(DATA, MODEL, FEATURES, hosts=hosts) as session:
        network = with_rows(ring_network(session), thetas)
        measuring.put_node_test(network)
        x = MODEL.prepare(chosen.inputs)
        predicted = [MODEL.logits(torch.from_numpy(theta), x).argmax(1).numpy() for theta in thetas]
        one_by_one = [float((p == chosen.labels).mean()) for p in predicted]
        np.testing.assert_allclose(measuring.nodes(network)[:, 0], one_by_one)
        spread = measuring.spread(network)
        assert spread == pytest.approx(
            {"mean": np.mean(one_by_one), "std": np.std(one_by_one), "min": min(one_by_one), "max": max(one_by_one)}
        )
        point = measuring.curve_point(network)
        assert point["nodes-mean"] == spread["mean"] and point["nodes-min"] == spread["min"]
        assert point["average"] == pytest.approx(accuracy(thetas.mean(0), rows_of(Role.TRAIN, "test")))
        network.leave(5, _without(network.graph, 5))
        assert np.isnan(measuring.nodes(network)[5]).all()
        assert measuring.spread(network)["mean"] == pytest.approx(np.mean(one_by_one[:5]))


def _without(graph, node):
    rest = graph.copy()
    rest.remove_edges_from(list(graph.edges(node)))
    return rest


@pytest.mark.parametrize("hosts", [1, 2])
def test_distances_are_the_largest_over_nodes(hosts):
    mine, ideal = (np.stack([vector(10 * k + i) for i in range(6)]) for k in (0, 1))
    measuring = evaluator()
    with open_session(DATA, MODEL, FEATURES, hosts=hosts) as session:
        network, twin = (with_rows(ring_network(session, n), r) for n, r in (("main", mine), ("twin", ideal)))
        measuring.put_node_test(network)
        before = measuring.snapshot(network, None)
        network.write((mine[0] + ideal[0]) / 2)
        after = Snapshot(None, None, network)
        found = measuring.compare(before, after, Snapshot(None, None, twin))
        norms = np.linalg.norm(mine.astype(float) - ideal, axis=1)
        assert found["distance_before"] == pytest.approx(norms.max())
        now = np.linalg.norm((mine[0] + ideal[0]).astype(float) / 2 - ideal, axis=1)
        assert found["distance_to_retrained"] == pytest.approx(now.max(), rel=1e-6)
        x = MODEL.prepare(measuring.node_test.inputs)
        p, q = ([MODEL.logits(torch.from_numpy(t), x).softmax(1) for t in rows] for rows in (all_rows(network), ideal))
        total_variation = max(float((a - b).abs().sum(1).mean() / 2) for a, b in zip(p, q))
        assert found["prediction_distance_to_retrained"] == pytest.approx(total_variation, rel=1e-4)
        before.drop()
        np.testing.assert_array_equal(all_rows(network)[3], ((mine[0] + ideal[0]) / 2).astype(np.float32))


def test_noise_free_vectors_are_compared_in_float64_and_rows_with_a_vector_row_by_row():
    a, measuring = vector().astype(np.float64), evaluator()
    b = a.copy()
    b[0] += 1e-12  # lost in float32
    rows = np.stack([vector(i) for i in range(6)])
    with open_session(DATA, MODEL, FEATURES) as session:
        network = with_rows(ring_network(session), rows)
        measuring.put_node_test(network)
        plain = Snapshot(None, None, network)
        found = measuring.compare(plain, Snapshot(a, None, network), Snapshot(b, None, network))
        assert found["distance_to_retrained"] == pytest.approx(1e-12, rel=1e-3)
        largest = np.linalg.norm(rows.astype(float) - b, axis=1).max()
        assert found["distance_before"] == pytest.approx(largest)
        turned = measuring.compare(Snapshot(a, None, network), plain, plain)
        assert turned["distance_before"] == pytest.approx(np.linalg.norm(rows.astype(float) - a, axis=1).max())
        assert turned["distance_to_retrained"] == 0.0


def test_a_leaver_does_not_count_in_distances():
    rows = np.stack([vector(i) for i in range(6)])
    with open_session(DATA, MODEL, FEATURES) as session:
        measuring = evaluator()
        network = with_rows(ring_network(session), rows)
        measuring.put_node_test(network)
        before = measuring.snapshot(network, None)
        network.leave(4, _without(network.graph, 4))
        twin = ring_network(session, "twin", alive=network.alive)
        twin.write(rows[0])
        found = measuring.compare(before, Snapshot(None, None, network), Snapshot(None, None, twin))
        stay = [0, 1, 2, 3, 5]
        expected = np.linalg.norm(rows[stay].astype(float) - rows[0], axis=1).max()
        assert found["distance_before"] == found["distance_to_retrained"] == pytest.approx(expected)


def test_there_is_no_distance_where_nobody_can_be_compared():
    rows = np.stack([vector(i) for i in range(6)])
    one = rows[0].astype(np.float64)
    with open_session(DATA, MODEL, FEATURES) as session:
        measuring = evaluator()
        network, twin = (with_rows(ring_network(session, name), rows) for name in ("main", "twin"))
        measuring.put_node_test(network)
        twin.away = np.ones(6, dtype=bool)
        mine, theirs = Snapshot(None, None, network), Snapshot(None, None, twin)
        for before, ideal in ((mine, theirs), (Snapshot(one, None, network), theirs)):
            assert set(measuring.compare(before, before, ideal).values()) == {None}
        both = measuring.compare(mine, Snapshot(one, None, network), Snapshot(one, None, twin))
        assert both["distance_before"] is None and both["distance_to_retrained"] == 0.0


def test_a_run_in_which_other_nodes_answer_than_trained_to_the_end(tmp_path):
    events = [("leave", 1, [2, 3]), ("return", 5, [2, 3]), ("leave", 6, [0, 1])]
    found = run(
        tmp_path / "out", data={"clients": 4}, topology={"generator": "complete"}, unlearning={"method": "finetune"},
        faults={"events": [{"kind": kind, "round": at, "nodes": nodes} for kind, at, nodes in events]},
        requests=[{"level": "sample", "client": 2, "count": 2}],
    )  # fmt: skip
    (entry,) = found.summary["requests"]
    assert entry["distance_before"] is None and entry["distance_to_retrained"] >= 0
    printed = Console(file=io.StringIO(), width=200)
    printed.print(summary_table(found.summary))
    assert "before unlearning" not in printed.file.getvalue() and "to retraining" in printed.file.getvalue()
    assert all(path.is_file() for path in draw_all(tmp_path / "out", nx.complete_graph(4)))


def test_a_copy_does_not_follow_the_network():
    with open_session(DATA, MODEL, FEATURES, hosts=2) as session:
        measuring = evaluator()
        network = ring_network(session)
        network.write(vector(1))
        first, second = measuring.keep(network), measuring.keep(network)
        network.write(vector(2))
        np.testing.assert_allclose(
            measuring.row_distances(network, first), np.linalg.norm(vector(2).astype(float) - vector(1)), rtol=1e-6
        )
        first.drop()
        assert measuring.row_distances(second, second).tolist() == [0.0] * 6
