"""A course: the same rounds for the same history, kept and taken up again, restricted to a twin, waited on."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from fault_worlds import course, courses, mask
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.faults import Course, FaultSettings, Round, Trace
from fedunlearn.topology import remove_vertex


def same(a: Round, b: Round) -> bool:
    """Whether two rounds say the same, to the last bit."""
    alike = a.number == b.number and np.array_equal(a.edges, b.edges)
    alike &= all(np.array_equal(x, y) for x, y in zip(vars(a.who).values(), vars(b.who).values()))
    if a.mixed is None or b.mixed is None:
        return alike and a.mixed is b.mixed
    alike &= all(np.array_equal(m.toarray(), n.toarray()) for m, n in zip(a.mixed.matrices, b.mixed.matrices))
    return alike and np.array_equal(a.mixed.weights, b.mixed.weights) and a.mixed.lost_mass == b.mixed.lost_mass


@given(st.one_of(courses(), courses(links=False)), st.integers(0, 6), st.integers(-1, 5))
@settings(max_examples=40, deadline=None)
def test_a_course_goes_on_from_its_arrays_with_the_same_bits(it, rounds, released_after):
    for number in range(rounds):
        round_ = it.step()
        if number == released_after:
            it.release(round_.participants())
    arrays = {name: np.array(array) for name, array in it.save().items()}
    assert all(array.dtype.kind in "bif" for array in arrays.values())
    other = Course(it.trace, _graph(it), it.rule, it.seed, server=it.server)
    other.restore(arrays)
    assert all(same(it.step(), other.step()) for _ in range(5))


def _graph(it: Course) -> nx.Graph:
    graph = nx.empty_graph(it.trace.num_nodes)
    graph.add_edges_from(it._edges.tolist())
    return graph


@given(courses())
@settings(max_examples=15, deadline=None)
def test_retraining_follows_the_rounds_of_the_training(it):
    first = [it.step() for _ in range(6)]
    it.release(first[-1].participants())
    it.step()
    it.restart()
    assert all(same(a, it.step()) for a in first)


def test_a_twin_runs_on_the_same_trace_restricted_to_its_vertices():
    graph = nx.random_regular_graph(3, 16, seed=1)
    keys = {
        "leave_probability": 0.1, "return_probability": 0.4, "crash_share": 0.3, "link_failure": 0.2, "late_share": 0.2,
        "late_until": 4, "partitions": [{"begin": 3, "end": 6, "parts": 2}],
    }  # fmt: skip
    trace = Trace.of(FaultSettings.model_validate(keys), graph, 3)
    without, alive = remove_vertex(graph, 5, "path"), np.arange(16) != 5
    main, twin = Course(trace, graph, "metropolis", 3), Course(trace, without, "metropolis", 3, alive=alive)
    later = Course(trace, graph, "metropolis", 3)
    far = [v for v in graph if nx.shortest_path_length(graph, v, 5) > 2]
    equal = 0
    for t in range(20):
        a, b = main.step(), twin.step()
        assert np.array_equal(a.who.here & alive, b.who.here)
        assert np.array_equal(np.intersect1d(a.who.crashed, np.flatnonzero(alive)), b.who.crashed)
        if np.array_equal(a.who.active & alive, b.who.active):
            equal += 1
            old = [e for e in a.edges.tolist() if 5 not in e]
            assert [e for e in b.edges.tolist() if graph.has_edge(*e)] == old
            wa, wb = a.mixed.matrices[0].toarray(), b.mixed.matrices[0].toarray()
            assert np.array_equal(wa[far], wb[far])
        if t == 9:
            later.remove(5, without)
        if t > 9:
            assert same(later.step(), b) or not np.array_equal(a.who.active & alive, b.who.active)
        else:
            later.step()
    assert equal >= 10


def test_a_vertex_that_leaves_takes_its_weight_and_its_messages_along():
    it = course(nx.complete_graph(5), max_delay=3, delay_probability=0.8)
    for _ in range(3):
        it.step()
    flight = it.state.flight
    assert (flight.sender == 2).any() and (flight.receiver == 2).any()
    it.remove(2, remove_vertex(nx.complete_graph(5), 2, "refuse"))
    assert not ((it.state.flight.sender == 2) | (it.state.flight.receiver == 2)).any()
    assert it.state.weights[2] == 0
    round_ = it.step()
    assert not round_.who.here[2] and not (round_.edges == 2).any()
    assert not any(m.toarray()[2].any() or m.toarray()[:, 2].any() for m in round_.mixed.matrices)


def test_waiting_passes_rounds_without_gossip_until_who_is_asked_for_is_back():
    events = [{"round": 2, "kind": "leave", "nodes": [3]}, {"round": 7, "kind": "return", "nodes": [3]}]
    it = course(nx.path_graph(5), events=events)
    for _ in range(4):
        it.step()
    rounds = it.wait(lambda r: bool(r.who.active[3]), limit=10)
    assert [r.number for r in rounds] == [4, 5, 6, 7]
    assert all(r.mixed is None for r in rounds) and rounds[-1].who.adopters.tolist() == [3]
    assert it.step().number == 8
    it = course(nx.path_graph(5), events=events)
    for _ in range(4):
        it.step()
    assert [r.number for r in it.wait(lambda r: bool(r.who.active[3]), limit=2)] == [4, 5, 6]
    assert [r.number for r in it.wait(lambda r: True, limit=0)] == [7]


def test_a_server_s_round_has_no_matrix_and_needs_no_links():
    it = course(nx.empty_graph(4), rule="exact-average", leave_probability=0.5)
    assert it.server and all(it.step().mixed is None for _ in range(3))
    assert it.step().participants().dtype == bool
    by_algorithm = Course(it.trace, nx.cycle_graph(4), "metropolis", 0, server=True)
    assert by_algorithm.step().mixed is None
    with pytest.raises(ValueError, match="not defined where a server averages"):
        course(nx.cycle_graph(4), rule="exact-average", gossip="push")


def test_releases_and_departures_before_the_first_round_are_told_too():
    it = course(nx.path_graph(3), events=[{"round": 2, "kind": "join", "nodes": [2]}])
    it.release(mask(3, 0, 1))
    assert not it.stale().any()  # who has not joined holds nothing
    assert [np.flatnonzero(it.step().who.active).tolist() for _ in range(3)] == [[0, 1], [0, 1], [0, 1, 2]]
