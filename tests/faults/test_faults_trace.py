"""Draws of a trace: their frequencies, that a deletion shifts none of them, and events told exactly."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import pytest

from fedunlearn.faults import FaultSettings, Trace
from fedunlearn.faults.trace import AWAY, HERE, NOT_YET, SENT_AWAY
from fedunlearn.topology.graphs import edge_array

RING = nx.cycle_graph(6)


def trace_of(graph: nx.Graph, run_seed: int = 0, **keys) -> Trace:
    return Trace.of(FaultSettings.model_validate(keys), graph, run_seed)


def standings(trace: Trace, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    now, all_now, all_crashed = None, [], []
    for round_ in range(rounds):
        now, crashed = trace.standing(now, round_)
        all_now.append(now)
        all_crashed.append(crashed)
    return np.array(all_now), np.array(all_crashed)


def test_churn_has_the_stationary_share_and_the_transitions_of_its_chain():
    trace = trace_of(nx.empty_graph(400), leave_probability=0.1, return_probability=0.3, crash_share=0.25)
    now, crashed = standings(trace, 300)
    here = now == HERE
    assert here[0].all()
    assert here[50:].mean() == pytest.approx(0.75, abs=0.01)  # 0.3 / (0.1 + 0.3)
    left = here[:-1] & ~here[1:]
    assert left.sum() / here[:-1].sum() == pytest.approx(0.1, abs=0.005)
    assert (~here[:-1] & here[1:]).sum() / (~here[:-1]).sum() == pytest.approx(0.3, abs=0.01)
    assert crashed[1:][left].mean() == pytest.approx(0.25, abs=0.02)
    assert not crashed[1:][~left].any()


def test_late_nodes_join_once_within_the_time_given():
    trace = trace_of(nx.empty_graph(2000), late_share=0.3, late_until=10)
    now, _ = standings(trace, 12)
    late = now[0] == NOT_YET
    assert late.mean() == pytest.approx(0.3, abs=0.04)
    assert (now[10] == HERE).all() and (now[9][late] == NOT_YET).any()
    assert set(trace.joins[late].tolist()) == set(range(1, 11))
    for node in np.flatnonzero(late)[:50]:
        assert (now[:, node] == HERE).tolist() == [r >= trace.joins[node] for r in range(12)]


def test_events_are_told_exactly_and_chance_does_not_undo_them():
    trace = trace_of(
        RING, leave_probability=0.3, return_probability=1.0,
        events=[{"round": 2, "kind": "crash", "nodes": [1, 4]}, {"round": 7, "kind": "return", "nodes": [1]},
                {"round": 3, "kind": "leave", "nodes": [0]}, {"round": 4, "kind": "join", "nodes": [5]}],
    )  # fmt: skip
    now, crashed = standings(trace, 30)
    assert (now[2:7, 1] == SENT_AWAY).all() and now[7, 1] == HERE
    assert (now[2:, 4] == SENT_AWAY).all() and (now[3:, 0] == SENT_AWAY).all()
    assert crashed[2, [1, 4]].all() and not crashed[:, 0].any()
    assert (now[:4, 5] == NOT_YET).all() and now[4, 5] == HERE
    assert (now[:, 2] == AWAY).any()  # chance goes on for those without events


def test_links_fail_as_often_as_they_should_and_independently():
    edges = edge_array(nx.complete_graph(60))
    trace = trace_of(nx.complete_graph(60), link_failure=0.2)
    up = np.array([trace.links_up(edges, r) for r in range(40)])
    assert up.mean() == pytest.approx(0.8, abs=0.005)
    assert (up[:-1] & up[1:]).mean() == pytest.approx(0.64, abs=0.01)


def test_cuts_last_until_they_are_healed_and_the_last_event_decides():
    edges = edge_array(RING)  # 0-1 0-5 1-2 2-3 3-4 4-5
    trace = trace_of(
        RING, events=[
            {"round": 5, "kind": "heal"}, {"round": 3, "kind": "heal", "links": [[1, 2]]},
            {"round": 1, "kind": "cut", "links": [[2, 1], [4, 5]]}, {"round": 2, "kind": "cut", "nodes": [0, 5]},
        ],
    )  # fmt: skip
    down = [edges[~trace.links_up(edges, r)].tolist() for r in range(6)]
    assert down == [[], [[1, 2], [4, 5]], [[0, 1], [1, 2], [4, 5]], [[0, 1], [4, 5]], [[0, 1], [4, 5]], []]


def test_a_partition_cuts_exactly_between_its_parts_and_heals():
    edges = edge_array(RING)
    trace = trace_of(RING, partitions=[{"begin": 2, "end": 4, "groups": [[0, 1], [3]]}])
    down = [edges[~trace.links_up(edges, r)].tolist() for r in range(5)]
    assert down == [[], [], [[0, 5], [1, 2], [2, 3], [3, 4]], [[0, 5], [1, 2], [2, 3], [3, 4]], []]
    halves = trace_of(RING, partitions=[{"begin": 0, "end": 1, "parts": 2}])
    assert (~halves.links_up(edges, 0)).sum() == 2


def test_messages_are_lost_and_late_in_their_own_direction():
    size = 300
    a, b = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    a, b = a[a != b], b[a != b]
    trace = trace_of(nx.empty_graph(size), message_loss=0.15, max_delay=3, delay_probability=0.4, slow_share=0.2)
    lost, delay = trace.lost(a, b, 5), trace.delays(a, b, 5)
    assert lost.mean() == pytest.approx(0.15, abs=0.005)
    assert trace.slow.mean() == pytest.approx(0.2, abs=0.07)
    assert (delay[trace.slow[a]] > 0).all()
    assert (delay[~trace.slow[a]] > 0).mean() == pytest.approx(0.4, abs=0.01)
    for d in (1, 2, 3):
        assert (delay[delay > 0] == d).mean() == pytest.approx(1 / 3, abs=0.01)
    there, back = lost[a < b], trace.lost(b[a < b], a[a < b], 5)
    assert (there & back).mean() == pytest.approx(0.15**2, abs=0.005)
    assert np.corrcoef(lost, delay > 0)[0, 1] == pytest.approx(0, abs=0.02)


def test_every_sender_pushes_to_one_neighbour_evenly():
    edges = edge_array(nx.star_graph(5))
    sender, receiver = np.concatenate([edges, edges[:, ::-1]]).T
    trace = trace_of(nx.star_graph(5), gossip="push")
    counts = np.zeros((6, 6))
    for round_ in range(600):
        chosen = trace.pushed(sender, receiver, round_)
        assert np.bincount(sender[chosen], minlength=6).tolist() == [1] * 6
        np.add.at(counts, (sender[chosen], receiver[chosen]), 1)
    assert (counts[1:, 0] == 600).all()
    assert counts[0, 1:] == pytest.approx([120] * 5, abs=35)


def test_a_deletion_shifts_nobody_elses_draws():
    """Draws of some edges are those edges' draws among all edges, in whatever order they are asked for."""
    graph = nx.random_regular_graph(4, 40, seed=2)
    edges = edge_array(graph)
    trace = trace_of(
        graph, link_failure=0.3, message_loss=0.3, max_delay=4, delay_probability=0.5,
        partitions=[{"begin": 0, "end": 9, "parts": 3}],
    )  # fmt: skip
    left = edges[(edges != 7).all(axis=1)]
    kept = (edges != 7).all(axis=1)
    for round_ in range(5):
        assert np.array_equal(trace.links_up(edges, round_)[kept], trace.links_up(left, round_))
        for draw in (trace.lost, trace.delays):
            assert np.array_equal(draw(*edges.T, round_)[kept][::-1], draw(*left[::-1].T, round_))
    pushed = trace.pushed(*edges.T, 3)
    without = trace.pushed(*left.T, 3)
    unmoved = [e for e, p in zip(edges.tolist(), pushed) if p and 7 not in e]
    assert all(p for e, p in zip(left.tolist(), without) if e in unmoved)


def test_seeds_and_rounds_differ_and_the_run_s_seed_is_the_default():
    edges = edge_array(nx.complete_graph(30))
    graph = nx.complete_graph(30)
    ups = [trace_of(graph, seed, link_failure=0.5).links_up(edges, r) for seed in (1, 2) for r in (0, 1)]
    assert all(not np.array_equal(a, b) for i, a in enumerate(ups) for b in ups[:i])
    own = trace_of(graph, 9, link_failure=0.5, seed=1)
    assert np.array_equal(own.links_up(edges, 0), ups[0])


OTHER = {
    "leave_probability": 0.1, "return_probability": 0.4, "crash_share": 0.1, "late_share": 0.1, "late_until": 4,
    "link_failure": 0.1, "message_loss": 0.1, "on_loss": "gone", "slow_share": 0.7, "slow_factor": 2.0,
    "delay_probability": 0.1, "max_delay": 3, "gossip": "push", "partitions": [{"begin": 1, "end": 2, "parts": 2}],
    "events": [{"round": 1, "kind": "leave", "nodes": [0]}], "offline_requests": "answer", "wait_limit": 3, "seed": 4,
}  # fmt: skip
"""Another value of every key."""


def test_the_content_of_a_trace_is_all_that_its_draws_depend_on():
    assert set(OTHER) == set(FaultSettings.model_fields)
    base = {"late_until": 3, "max_delay": 2, "slow_share": 0.5}
    contents = {key: trace_of(RING, 0, **{**base, key: value}).content() for key, value in OTHER.items()}
    plain = trace_of(RING, 0, **base).content()
    silent = {key for key, content in contents.items() if content == plain}
    assert silent == {"slow_factor", "offline_requests", "wait_limit"}
    assert trace_of(RING, 4, **base).content() == contents["seed"]
    json.dumps(contents)
    halves = {"partitions": OTHER["partitions"]}
    assert trace_of(RING, **halves).content() != trace_of(nx.path_graph(6), **halves).content()
