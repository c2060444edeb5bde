"""The ledger against a message-by-message enumeration."""

from __future__ import annotations

import networkx as nx
import numpy as np

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
        {"step": 0, "phase": "train", "kind": "model", "senders": sorted(graph[3]), "message_bytes": 100, "repeats": 4}
    ]


def test_tree_traffic_adds_up_over_receivers():
    graph = nx.star_graph(5)
    book = ledger_on(graph)
    book.record("unlearn", "gradient", "tree", 8, root=0)
    received = sum(len(h["senders"]) for n in graph for h in book.received_by(n))
    assert received == book.totals()["messages"] == 2 * 5
    assert book.tree_depth(0) == 1 and book.tree_depth(1) == 2


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
