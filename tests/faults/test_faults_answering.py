"""When a request is answered: at once, when its node is back, or without it."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from fault_worlds import course

from fedunlearn.errors import UserError
from fedunlearn.faults import Course, rounds_until_answer
from fedunlearn.topology import remove_vertex

AWAY = [{"round": 2, "kind": "leave", "nodes": [3]}, {"round": 6, "kind": "return", "nodes": [3]}]


def after_training(rounds: int = 3, **keys) -> Course:
    it = course(nx.path_graph(5), **keys)
    for _ in range(rounds):
        it.step()
    return it


def numbers(it: Course, *askers: int, leaves: tuple[int, ...] = ()) -> list[int]:
    return [r.number for r in rounds_until_answer(it, "requests.0", askers, leaves)]


def test_a_request_of_a_node_that_is_there_is_answered_in_the_next_round():
    assert numbers(after_training(events=AWAY), 1, leaves=(1,)) == [3]
    assert numbers(after_training(events=AWAY)) == [3]  # of the operator


def test_a_request_of_a_node_that_is_away_waits_for_it_or_not():
    # 3 is back in round 6 and adopts from 2; 4 was cut off by its absence, but never away.
    assert numbers(after_training(events=AWAY), 3, leaves=(3,)) == [3, 4, 5, 6]
    assert numbers(after_training(events=AWAY, offline_requests="answer"), 3, leaves=(3,)) == [3]
    assert numbers(after_training(events=AWAY, wait_limit=2), 3, leaves=(3,)) == [3, 4, 5]  # then it goes without 3


def test_requests_of_one_window_wait_until_each_has_reached_the_network():
    late = [*AWAY, {"round": 2, "kind": "leave", "nodes": [0]}, {"round": 9, "kind": "return", "nodes": [0]}]
    assert numbers(after_training(events=late), 1, 3) == [3, 4, 5, 6]
    assert numbers(after_training(events=late), 3, 0)[-1] == 9
    again = [*late, {"round": 7, "kind": "leave", "nodes": [3]}]
    assert numbers(after_training(events=again), 3, 0)[-1] == 9  # 3 was heard in round 6


def test_nobody_waits_for_a_node_that_has_left_for_good():
    it = after_training()
    it.remove(4, remove_vertex(nx.path_graph(5), 4, "path"))
    assert numbers(it, 4) == [3]


def test_a_wait_in_vain_ends_in_the_last_round_in_which_somebody_could_answer():
    gone = [{"round": 2, "kind": "leave", "nodes": [0]}, {"round": 5, "kind": "leave", "nodes": [1, 2, 3, 4]}]
    for limit in (2, 8):
        it = after_training(events=gone, wait_limit=limit)
        assert numbers(it, 0) == [3, 4]
        assert it.state.round == 5 and np.flatnonzero(it.participants()).tolist() == [1, 2, 3, 4]


def test_a_request_from_the_smaller_part_of_a_partition_waits_for_its_end():
    cut = [{"begin": 2, "end": 6, "groups": [[4]]}]
    assert numbers(after_training(partitions=cut), 4) == [3, 4, 5, 6]
    assert numbers(after_training(partitions=cut), 0) == [3]


def test_somebody_else_must_be_there_to_answer():
    gone = [{"round": 1, "kind": "leave", "nodes": [0, 1, 2, 3]}]
    with pytest.raises(UserError) as caught:
        rounds_until_answer(after_training(events=gone, wait_limit=4), "requests.2", [4], (4,))
    assert str(caught.value).startswith("requests.2: in rounds 3 to 7 there is no node that could answer")
    back = [*gone, {"round": 5, "kind": "return", "nodes": [0, 1, 2, 3]}]
    assert numbers(after_training(events=back), 4, leaves=(4,)) == [3, 4, 5]


def test_participants_are_those_of_the_repaired_graph_after_the_departure():
    it = after_training(events=[{"round": 1, "kind": "leave", "nodes": [0]}])
    rounds_until_answer(it, "requests.0", [2], (2,))
    assert np.flatnonzero(it.participants()).tolist() == [1, 2, 3, 4]
    it.remove(2, remove_vertex(nx.path_graph(5), 2, "path"))
    assert np.flatnonzero(it.participants()).tolist() == [1, 3, 4]
    assert it.links().tolist() == [[1, 3], [3, 4]]
    it = after_training(rule="exact-average")
    it.remove(2, remove_vertex(nx.path_graph(5), 2, "path"))
    assert np.flatnonzero(it.participants()).tolist() == [0, 1, 3, 4]
