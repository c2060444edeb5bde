"""Influence of deleted data: none reaches a row that takes part after a release, whatever comes and goes."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from fault_worlds import course, courses, mask
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.faults import Carried, Course, Round, influenced
from fedunlearn.topology import remove_vertex


def graph_of_course(it: Course) -> nx.Graph:
    graph = nx.empty_graph(it.trace.num_nodes)
    graph.add_edges_from(it._edges.tolist())
    return graph


def old(it: Course) -> np.ndarray:
    return it.stale() | ~it.state.members.memory


def told(
    it: Course, source: int, before: int, after: int, *, leaves: bool
) -> tuple[list[Round], int, dict[int, np.ndarray], list[np.ndarray]]:
    """Train, delete (the source leaves, or loses samples and stays), answer, train on.

    Returned with the rounds: the last that trains on the deleted data, the participants of the answer by its round, and
    after each round who may hold something old: the stale, and those who crashed and hold nothing.
    """
    rounds, stale = [], []
    for _ in range(before):
        rounds.append(it.step())
        stale.append(old(it))
    if leaves:
        it.remove(source, remove_vertex(graph_of_course(it), source, "path", it.alive))
    waited = it.wait(lambda r: bool(r.who.active.any()), limit=30)
    rounds += waited
    stale += [old(it)] * len(waited)
    releases = {}
    if waited[-1].who.active.any():
        releases[waited[-1].number] = waited[-1].participants()
        it.release(waited[-1].participants())
        stale[-1] = old(it)
    for _ in range(after):
        rounds.append(it.step())
        stale.append(old(it))
    return rounds, before - 1, releases, stale


@given(st.one_of(courses(least=3), courses(links=False, least=3)), st.integers(0, 11), st.integers(0, 8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_influence_reaches_a_row_that_takes_part_after_a_release(it, source, before, leaves):
    source %= it.trace.num_nodes
    rounds, last, releases, stale = told(it, source, before, 12, leaves=leaves)
    found = influenced(rounds, [source], last, releases)
    if not releases:
        return  # nobody came back within the time: there is no answer, and nothing is claimed
    (answered,) = releases
    for round_, reached, behind in zip(rounds, found, stale):
        if round_.number > answered:
            assert not (reached & round_.who.active).any()
            assert not (round_.who.active & behind).any()
        if round_.number >= answered and not it.server:
            assert not (reached & it.alive & ~behind).any()  # whose row may depend on the data is known to be behind


@given(courses(least=3), st.integers(0, 11), st.integers(1, 8), st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_two_worlds_that_differ_in_deleted_data_are_equal_to_the_bit_after_a_release(it, source, before, seed):
    """Numbers instead of symbols: local steps that depend on data and model, and a source with other data."""
    source %= it.trace.num_nodes
    rounds, _, releases, _ = told(it, source, before, 8, leaves=True)
    if not releases:
        return
    (answered,) = releases
    size = it.trace.num_nodes
    targets = np.random.default_rng(seed).normal(size=(size, 3))
    others = targets.copy()
    others[source] += 10.0
    worlds = [Carried(np.zeros((size, 3))), Carried(np.zeros((size, 3)))]
    for round_ in rounds:
        for world, data in zip(worlds, (targets, others)):
            world.adopt(round_)
            active = round_.who.active
            if round_.mixed is not None or round_.server:
                world.rows[active] += 0.3 * np.tanh(data[active] - world.rows[active])
            world.mix(round_)
            if round_.number == answered:
                world.rows[releases[answered]] = 0.25
        if round_.number > answered:
            assert np.array_equal(worlds[0].rows[round_.who.active], worlds[1].rows[round_.who.active])


def without_adoption(round_: Round) -> Round:
    none = np.zeros(0, dtype=np.int64)
    return replace(round_, who=replace(round_.who, adopters=none, sources=none))


def test_without_adoption_a_stale_row_would_bring_the_influence_back():
    """The control: the same rounds, except that returning nodes mix what they hold."""
    away = [{"round": 4, "kind": "leave", "nodes": [2]}, {"round": 8, "kind": "return", "nodes": [2]}]
    it = course(nx.cycle_graph(6), events=away)
    rounds, last, releases, _ = told(it, 0, 5, 8, leaves=False)
    good = influenced(rounds, [0], last, releases)
    bad = influenced([without_adoption(r) for r in rounds], [0], last, releases)
    assert good[4].all() and good[5:8].sum(axis=1).tolist() == [1, 1, 1] and good[5, 2]
    assert not good[8:].any()
    assert bad[8:].sum(axis=1).tolist() == [3, 5, 6, 6, 6, 6]


def test_without_clearing_its_momentum_a_node_would_bring_the_influence_back():
    away = [{"round": 4, "kind": "leave", "nodes": [2]}, {"round": 8, "kind": "return", "nodes": [2]}]
    rounds, last, releases, _ = told(course(nx.cycle_graph(6), events=away), 0, 5, 8, leaves=False)
    kept = [replace(r, who=replace(r.who, forget=np.zeros(0, dtype=np.int64))) for r in rounds]
    assert not influenced(rounds, [0], last, releases)[8:].any()
    assert influenced(kept, [0], last, releases)[8:].sum(axis=1).tolist() == [3, 5, 6, 6, 6, 6]


def test_without_dropping_late_messages_the_influence_would_come_back():
    """The control for messages under way: a release that did not drop them would be undone by the first to arrive."""
    it = course(nx.cycle_graph(5), max_delay=3, delay_probability=1.0)
    rounds = [it.step() for _ in range(4)]
    flight = it.state.flight
    assert len(flight.mass) > 0
    everybody = {3: np.ones(5, dtype=bool)}
    it.release(everybody[3])
    clean = influenced(rounds + [it.step() for _ in range(3)], [0], 3, everybody)
    assert clean[:4].any() and not clean[3:].any()
    it = course(nx.cycle_graph(5), max_delay=3, delay_probability=1.0)
    rounds = [it.step() for _ in range(4)]
    it.release(everybody[3])
    it.state = replace(it.state, flight=flight)
    assert influenced(rounds + [it.step() for _ in range(3)], [0], 3, everybody)[4:].any()


def test_influence_spreads_one_hop_a_round_and_starts_with_who_is_named():
    it = course(nx.path_graph(5), leave_probability=1e-9)
    rounds = [it.step() for _ in range(5)]
    assert influenced(rounds, [0], 0).sum(axis=1).tolist() == [2, 3, 4, 5, 5]
    assert influenced(rounds, [0], -1).sum() == 0
    assert influenced(rounds, [], 9, before=mask(5, 2)).sum(axis=1).tolist() == [3, 5, 5, 5, 5]
    assert influenced([], [0], 3).shape == (0, 0)


def test_a_carried_round_is_matrix_arithmetic_and_a_server_averages():
    it = course(nx.cycle_graph(4), max_delay=2, delay_probability=0.7)
    rows = np.random.default_rng(0).normal(size=(4, 2))
    carried, past = Carried(rows), []
    for _ in range(6):
        round_ = it.step()
        past.append(carried.rows.copy())
        carried.mix(round_)
        mats = [m.toarray() for m in round_.mixed.matrices]
        expected = sum(m @ past[-1 - d] for d, m in enumerate(mats) if d < len(past))
        assert carried.rows == pytest.approx(expected)
        assert len(carried.past) <= 2
    server = course(nx.empty_graph(4), rule="exact-average", events=[{"round": 1, "kind": "leave", "nodes": [3]}])
    carried = Carried(np.arange(4.0)[:, None])
    carried.rows[3] = 9.0
    server.step()
    carried.mix(server.step())
    assert carried.rows[:, 0].tolist() == [1.0, 1.0, 1.0, 9.0]
