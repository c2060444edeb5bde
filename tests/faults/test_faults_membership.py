"""Who takes part and who adopts from whom: exact stories, and what holds on every trace."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from fault_worlds import course, courses, mask
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.faults import Course


def story(it: Course, rounds: int) -> list[dict]:
    """Active nodes, adoptions, restarts and cleared momenta of each round."""
    told = []
    for _ in range(rounds):
        who = it.step().who
        told.append(
            {"active": np.flatnonzero(who.active).tolist(), "here": np.flatnonzero(who.here).tolist(),
             "adopt": list(zip(who.adopters.tolist(), who.sources.tolist())), "restart": who.restarts.tolist(),
             "forget": who.forget.tolist()}
        )  # fmt: skip
    return told


def events(*entries: tuple[int, str, list[int]]) -> list[dict]:
    return [{"round": r, "kind": kind, "nodes": nodes} for r, kind, nodes in entries]


def test_who_returns_adopts_from_the_neighbour_of_smallest_id_one_hop_a_round():
    # Path 0-1-2-3-4: nodes 1, 2, 3 leave together; on their return 1 adopts from 0, 3 from 4, and 2 a round later.
    it = course(nx.path_graph(5), events=events((1, "leave", [1, 2]), (1, "crash", [3]), (3, "return", [1, 2, 3])))
    told = story(it, 6)
    assert [t["active"] for t in told[:3]] == [[0, 1, 2, 3, 4], [0, 4], [0, 4]]
    assert [t["active"] for t in told[3:]] == [[0, 1, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert [t["adopt"] for t in told] == [[], [], [], [(1, 0), (3, 4)], [(2, 1)], []]
    assert [t["forget"] for t in told] == [[], [], [], [3], [], []]  # a crash loses the momentum, a leave does not
    assert told[3]["here"] == [0, 1, 2, 3, 4]


def test_a_late_node_adopts_too_and_has_no_momentum_to_keep():
    told = story(course(nx.path_graph(3), events=events((2, "join", [2]))), 4)
    assert [t["active"] for t in told] == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2]]
    assert told[2]["adopt"] == [(2, 1)] and told[2]["forget"] == [2]


def test_a_node_is_not_adopted_from_over_a_link_that_is_down():
    it = course(
        nx.cycle_graph(4), events=[*events((1, "leave", [2]), (2, "return", [2])),
                                   {"round": 2, "kind": "cut", "nodes": [2]}, {"round": 4, "kind": "heal"}],
    )  # fmt: skip
    told = story(it, 5)
    assert [t["active"] for t in told[2:]] == [[0, 1, 3], [0, 1, 3], [0, 1, 2, 3]]
    assert told[3]["here"] == [0, 1, 2, 3] and told[4]["adopt"] == [(2, 1)]


def test_when_nobody_is_there_the_newest_model_goes_on():
    # 0 stays longest; when 1, 2 and 3 come back first, they wait for 0 or, if it is among them, adopt from it.
    both = events((1, "leave", [2, 3]), (2, "leave", [1]), (3, "leave", [0]))
    told = story(course(nx.complete_graph(4), events=[*both, *events((4, "return", [1, 2]))]), 6)
    assert [t["active"] for t in told] == [[0, 1, 2, 3], [0, 1], [0], [], [1], [1, 2]]
    assert told[4]["adopt"] == [] and told[5]["adopt"] == [(2, 1)]
    told = story(course(nx.complete_graph(4), events=[*both, *events((5, "return", [0, 1, 3]))]), 7)
    assert [t["active"] for t in told[3:]] == [[], [], [0], [0, 1, 3]]


def test_when_every_model_is_lost_the_public_start_is_all_there_is():
    told = story(course(nx.complete_graph(3), events=events((1, "crash", [0, 1, 2]), (3, "return", [1, 2]))), 4)
    assert [t["active"] for t in told] == [[0, 1, 2], [], [], [1, 2]]
    assert told[3]["restart"] == [1, 2] == told[3]["forget"]
    it = course(nx.path_graph(3), late_share=1.0, late_until=1)
    told = story(it, 2)
    assert (told[0]["active"], told[1]["restart"]) == ([], [0, 1, 2])


def test_after_a_release_only_its_participants_hold_a_current_model():
    # Path 0-1-2-3; 3 is away during the release. When it is back, 2 is current and 3 adopts, without its momentum.
    it = course(nx.path_graph(4), events=events((1, "leave", [3]), (4, "return", [3])))
    story(it, 2)
    it.release(mask(4, 0, 1, 2))
    assert it.stale().tolist() == [False, False, False, True]
    told = story(it, 3)
    assert told[2]["adopt"] == [(3, 2)] and told[2]["forget"] == [3]
    assert not it.stale().any()


def test_present_nodes_that_a_release_did_not_reach_are_stale_until_they_adopt():
    it = course(nx.path_graph(4), partitions=[{"begin": 1, "end": 4, "groups": [[3]]}])
    story(it, 1)
    round_ = it.step()
    assert round_.who.active.all()
    assert round_.participants().tolist() == [True, True, True, False]
    it.release(round_.participants())
    assert it.stale().tolist() == [False, False, False, True]
    told = story(it, 3)
    assert [t["active"] for t in told] == [[0, 1, 2], [0, 1, 2], [0, 1, 2, 3]]
    assert told[0]["here"] == [0, 1, 2, 3] and told[2]["adopt"] == [(3, 2)]


def test_who_holds_the_release_is_waited_for_by_those_who_do_not():
    # All participants leave; 3, which missed the release, must not go on with its old model, however long it is alone.
    it = course(
        nx.complete_graph(4), events=events((1, "leave", [3]), (3, "leave", [0, 1, 2]), (4, "return", [3]),
                                            (8, "return", [1])),
    )  # fmt: skip
    story(it, 3)
    it.release(mask(4, 0, 1, 2))
    told = story(it, 7)
    assert [t["active"] for t in told] == [[], [], [], [], [], [1], [1, 3]]
    assert told[1]["here"] == [3] and told[6]["adopt"] == [(3, 1)]


def test_with_a_server_everybody_who_is_there_takes_part():
    it = course(
        nx.path_graph(4), rule="exact-average",
        events=events((1, "leave", [0, 1]), (2, "crash", [2, 3]), (4, "return", [0, 3]), (5, "return", [1])),
    )  # fmt: skip
    told = story(it, 6)
    assert [t["active"] for t in told] == [[0, 1, 2, 3], [2, 3], [], [], [0, 3], [0, 1, 3]]
    # 2 took part last, so its row is the model that the server kept, though 2 itself is away and lost its own.
    assert told[4]["adopt"] == [(0, 2), (3, 2)] and told[5]["adopt"] == [(1, 0)]
    assert told[4]["forget"] == [3]


@given(st.one_of(courses(), courses(links=False)), st.lists(st.integers(0, 11), max_size=3))
@settings(max_examples=40, deadline=None)
def test_what_holds_in_every_round(it, releases):
    gone = np.zeros(it.trace.num_nodes, dtype=bool)
    before, links = None, set(map(tuple, it._edges.tolist()))
    for number in range(12):
        round_ = it.step()
        who, up = round_.who, set(map(tuple, round_.edges.tolist()))
        assert round_.number == number and up <= links
        assert not (who.active & ~who.here).any() and not (who.here & ~it.alive).any()
        assert not it.stale()[who.active].any()
        assert who.active[who.adopters].all() and who.active[who.restarts].all()
        assert set(who.forget.tolist()) <= {*who.adopters.tolist(), *who.restarts.tolist()}
        if not it.server:
            assert not set(who.sources.tolist()) & set(who.adopters.tolist())
            assert all((min(a, b), max(a, b)) in up for a, b in zip(who.adopters.tolist(), who.sources.tolist()))
            assert before is None or before[who.sources].all()
            steady = who.active if before is None else who.active & before
            newly = np.flatnonzero(who.active & ~steady)
            taken = {*who.adopters.tolist(), *who.restarts.tolist()}
            assert set(newly.tolist()) - taken == set() or (not steady.any() and len(set(newly.tolist()) - taken) == 1)
        else:
            assert np.array_equal(who.active, who.here)
        before = who.active & ~gone
        if number in releases and who.active.any():
            it.release(round_.participants())
            before &= round_.participants()


@given(courses(), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_participants_are_the_largest_connected_part(it, rounds):
    for _ in range(rounds):
        it.step()
    round_ = it.step()
    graph = nx.Graph(round_.edges.tolist())
    graph.add_nodes_from(np.flatnonzero(round_.who.active).tolist())
    parts = sorted(nx.connected_components(graph), key=lambda part: (-len(part), min(part)))
    expected = parts[0] if parts else set()
    assert set(np.flatnonzero(round_.participants()).tolist()) == expected


def test_the_first_round_and_a_network_without_faults_have_nothing_to_do():
    for round_ in (course(nx.cycle_graph(5)).step(), course(nx.cycle_graph(5), link_failure=0.5).step()):
        assert round_.who.active.all() and not round_.changes_rows and not round_.apart.any()
    with pytest.raises(ValueError, match="trace of 5 vertices"):
        Course(course(nx.cycle_graph(5)).trace, nx.cycle_graph(6), "metropolis", 0)
