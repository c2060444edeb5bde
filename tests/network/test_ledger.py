"""The ledger against a message-by-message enumeration."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.network import ledger as ledgers
from fedunlearn.network.ledger import Ledger
from fedunlearn.network.schedule import sampled_clients
from fedunlearn.topology import random_matching


def ledger_on(graph: nx.Graph, dead: tuple[int, ...] = ()) -> Ledger:
    alive = np.ones(graph.number_of_nodes(), dtype=bool)
    alive[list(dead)] = False
    book = Ledger(graph.number_of_nodes())
    book.use_graph(graph, alive)
    return book


def test_gossip_counts_every_directed_edge_and_names_the_senders():
    graph = nx.random_regular_graph(3, 10, seed=1)
    book = ledger_on(graph)
    book.record("train", "model", "edges", 100, repeats=4)
    assert book.totals() == {"messages": 4 * 2 * graph.number_of_edges(), "bytes": 400 * 2 * graph.number_of_edges()}
    heard = book.received_by(3)
    assert heard == [
        {"step": 0, "phase": "train", "request": None, "kind": "model", "senders": sorted(graph[3]),
         "message_bytes": 100, "repeats": 4}
    ]  # fmt: skip


def test_tree_traffic_adds_up_over_receivers():
    graph = nx.star_graph(5)
    book = ledger_on(graph)
    book.record("unlearn", "gradient", "tree", 8, root=0)
    received = sum(len(h["senders"]) for n in graph for h in book.received_by(n))
    assert received == book.totals()["messages"] == 2 * 5
    assert book.tree_depth(0) == 1 and book.tree_depth(1) == 2


@given(st.integers(2, 30), st.floats(0.05, 0.6), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_the_spanning_tree_is_breadth_first_in_the_order_of_ids(nodes, probability, seed):
    graph = nx.gnp_random_graph(nodes, probability, seed=seed)
    book = ledger_on(graph)
    root = seed % nodes
    expected = dict(nx.bfs_predecessors(graph, root, sort_neighbors=sorted))
    assert list(book.parents(root).items()) == list(expected.items())
    assert book.tree_depth(root) == max(nx.single_source_shortest_path_length(graph, root).values())


def test_flood_reaches_everybody_alive_once():
    graph = nx.path_graph(6)
    graph.remove_edge(4, 5)
    book = ledger_on(graph, dead=(5,))
    book.record("unlearn", "release", "flood", 4, root=0)
    assert [len(book.received_by(n)) for n in range(6)] == [0, 1, 1, 1, 1, 0]
    assert book.totals("unlearn") == {"messages": 4, "bytes": 16}
    assert book.totals("train") == {"messages": 0, "bytes": 0}


def test_like_operations_are_one_record_however_many():
    book = ledger_on(nx.cycle_graph(4))
    for _ in range(1000):
        book.record("train", "model", "edges", 10)
    assert len(book.traffic) == 1 and book.traffic[0].repeats == 1000
    assert book.summary()["by_kind"] == [
        {"phase": "train", "kind": "model", "messages": 8000, "bytes": 80000, "operations": 1000}
    ]


def test_records_keep_the_graph_of_their_time():
    graph = nx.cycle_graph(4)
    book = ledger_on(graph)
    book.record("train", "model", "edges", 1)
    smaller = graph.copy()
    smaller.remove_node(3)
    smaller.add_node(3)
    smaller.add_edge(0, 2)
    book.use_graph(smaller, np.array([True, True, True, False]))
    book.record("train", "model", "edges", 1)
    assert [h["senders"] for h in book.received_by(0)] == [[1, 3], [1, 2]]
    assert len(book.received_by(3)) == 1


def test_only_matched_pairs_talk():
    graph = nx.random_regular_graph(4, 12, seed=2)
    book = ledger_on(graph)
    for round_ in range(3):
        book.record("train", "model", "matching", 10, round_=round_)
    matrices = [random_matching(graph, 0, r, np.ones(12, dtype=bool)).toarray() for r in range(3)]
    partners = [[set(np.flatnonzero(w[n])) - {n} for w in matrices] for n in range(12)]
    assert book.totals()["messages"] == sum(len(p) for rounds in partners for p in rounds)
    for n in range(12):
        assert [set(h["senders"]) for h in book.received_by(n)] == [p for p in partners[n] if p]


def test_the_server_talks_to_whom_it_sampled():
    alive = np.ones(10, dtype=bool)
    book = ledger_on(nx.star_graph(9))
    for round_ in range(4):
        chosen = sampled_clients(0, alive, 0.3, round_)
        book.record("train", "model", "server", 10, clients=len(chosen), round_=round_)
    assert book.totals()["messages"] == 4 * 2 * 3
    heard = {n: [h["step"] for h in book.received_by(n)] for n in range(10)}
    assert heard == {n: [r for r in range(4) if n in sampled_clients(0, alive, 0.3, r)] for n in range(10)}


# --- as plain tables --------------------------------------------------------------------------------------------------


def eventful() -> Ledger:
    """A ledger with every pattern, on three graphs; the first lists its edges in an order of its own."""
    edges = [(5, 2), (4, 0), (1, 5), (0, 1), (3, 4), (2, 3), (0, 5), (3, 1)]
    graph = nx.Graph(edges)
    book = Ledger(6, seed=11)
    book.use_graph(graph, np.ones(6, dtype=bool))
    book.record("train", "model", "edges", 8, repeats=3)
    book.record("train", "model", "matching", 8, round_=4)
    book.record("train", "model", "server", 8, clients=2, round_=5)
    book.record("train", "release", "flood", 4, root=0)
    book.request = 0
    book.use_graph(nx.Graph([*edges[:-1], (1, 2)]), np.ones(6, dtype=bool))
    book.record("unlearn", "gradient", "tree", 8, root=0, repeats=2)
    book.record("unlearn", "release", "flood", 4, root=0)
    book.request = 1
    smaller = nx.Graph([(5, 2), (5, 1), (2, 3), (3, 4), (1, 2)])
    smaller.add_node(0)
    book.use_graph(smaller, np.array([False, True, True, True, True, True]))
    book.record("unlearn", "token", "walk", 8, route=(1, 2, 2, 3, 4, 3))
    book.record("unlearn", "release", "flood", 4, root=3)
    return book


def test_a_ledger_is_rebuilt_from_its_json():
    book = eventful()
    plain = json.loads(json.dumps(book.summary()))
    again = Ledger.from_summary(plain)
    assert json.loads(json.dumps(again.summary())) == plain
    for node in range(6):
        assert again.received_by(node) == book.received_by(node)
    assert sum(len(h["senders"]) * h["repeats"] for n in range(6) for h in again.received_by(n)) == sum(
        t.total_messages // 2 if t.pattern == "server" else t.total_messages for t in book.traffic
    )  # half of a federated round goes to the server, which is no vertex
    again.record("train", "model", "edges", 8)
    book.request = None
    book.record("train", "model", "edges", 8)
    assert again.traffic == book.traffic


def test_a_tree_depends_on_the_edges_and_not_on_their_history():
    edges = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)]
    trees = []
    for order in (edges, edges[::-1], [(b, a) for a, b in edges]):
        trees.append(ledger_on(nx.Graph(order)).parents(0))
    assert trees[0] == trees[1] == trees[2] == {1: 0, 2: 0, 3: 1, 4: 3}


def test_a_graph_is_written_as_its_difference_from_the_one_before():
    first, second, third = eventful().summary()["graphs"]
    assert first["added"] == [0, 1, 0, 4, 0, 5, 1, 3, 1, 5, 2, 3, 2, 5, 3, 4] and first["removed"] == []
    assert second == {"added": [1, 2], "removed": [1, 3], "gone": []}
    assert third == {"added": [], "removed": [0, 1, 0, 4, 0, 5], "gone": [0]}


def test_large_graphs_are_left_out_and_refused_in_one_sentence(monkeypatch):
    book = eventful()
    monkeypatch.setattr(ledgers, "EDGE_LIMIT", 13)  # 8 edges, then 2 changes, then 3
    assert len(book.summary()["graphs"]) == 3
    monkeypatch.setattr(ledgers, "EDGE_LIMIT", 12)
    plain = book.summary()
    assert plain["graphs"] is None and "more than 12 edges" in plain["graphs_left_out"]
    assert len(plain["records"]) == len(book.traffic)
    with pytest.raises(UserError, match=r"more than 12 edges, so what each node received is not known"):
        Ledger.from_summary(plain)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda plain: plain.pop("graphs"), "no entry 'graphs'"),
        (lambda plain: plain["graphs"][0].pop("gone"), "no entry 'gone'"),
        (lambda plain: plain["graphs"][0]["added"].append(3), "malformed"),
        (lambda plain: plain["graphs"][0]["added"].extend([1, 6]), "not among 0 .. 5"),
        (lambda plain: plain["graphs"][2]["gone"].append(6), "malformed"),
        (lambda plain: plain["records"][0].update(graph=3), "record 0 names no graph"),
        (lambda plain: plain["records"][1].update(round=None), "record 1 names no"),
        (lambda plain: plain["records"][3].update(root=None), "record 3 names no"),
        (lambda plain: plain["records"][0].update(pattern="rumour"), "record 0 names no"),
        (lambda plain: plain["records"][0].update(colour="red"), "malformed"),
    ],
)
def test_a_malformed_ledger_is_refused(spoil, message):
    plain = json.loads(json.dumps(eventful().summary()))
    spoil(plain)
    with pytest.raises(UserError, match=message):
        Ledger.from_summary(plain)


def test_operations_of_two_requests_are_two_records():
    book = ledger_on(nx.cycle_graph(4))
    for request in (None, 0, 0, 1):
        book.request = request
        book.record("unlearn", "model", "edges", 10)
    assert [(t.request, t.repeats) for t in book.traffic] == [(None, 1), (0, 2), (1, 1)]
    assert [h["request"] for h in book.received_by(0)] == [None, 0, 1]
    book.replay(book.summary()["records"][1:2])
    assert book.traffic[-1].request == 1 and book.traffic[-1].repeats == 3  # it goes on with what happens now


def test_who_held_the_release_before_a_request():
    book = eventful()
    assert [book.held_release(v, 0) for v in range(6)] == [True] * 6
    assert [book.held_release(v, 1) for v in range(6)] == [True] * 6
    assert [book.held_release(v, 2) for v in range(6)] == [False, *[True] * 5]  # 0 had left when it was flooded
    assert not ledger_on(nx.cycle_graph(3)).held_release(0, 0)  # nothing was released
