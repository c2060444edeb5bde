"""What is refused before training: one sentence with key, value and what is allowed."""

from __future__ import annotations

import networkx as nx
import pytest

from fedunlearn.errors import UserError
from fedunlearn.faults import FaultSettings, check_faults

RING = nx.cycle_graph(6)


def check(rule="metropolis", graph=RING, server=False, **keys):
    check_faults(FaultSettings.model_validate(keys), graph, rule, server=server)


def node(round_, kind, *nodes):
    return {"round": round_, "kind": kind, "nodes": list(nodes)}


def test_no_faults_are_defined_everywhere():
    check(graph=nx.empty_graph(1))
    check("exact-average")


@pytest.mark.parametrize(
    "keys",
    [
        {"leave_probability": 0.1, "crash_share": 0.5, "late_share": 0.1, "late_until": 3},
        {"slow_share": 0.1, "slow_factor": 2.0},
        {"events": [node(1, "leave", 0), node(3, "return", 0), node(5, "crash", 0), node(2, "join", 4)]},
        {"leave_probability": 0.1, "events": [node(3, "return", 0)]},
    ],
)
def test_clients_come_and_go_under_a_server_too(keys):
    check("exact-average", **keys)
    check(server=True, **keys)
    check(**keys)


@pytest.mark.parametrize(
    ("keys", "stated"),
    [
        ({"link_failure": 0.2}, "faults.link_failure = 0.2"),
        ({"message_loss": 0.2}, "faults.message_loss = 0.2"),
        ({"max_delay": 2, "delay_probability": 0.2}, "faults.delay_probability = 0.2"),
        ({"max_delay": 2, "slow_share": 0.2}, "faults.max_delay = 2"),
        ({"gossip": "push"}, "faults.gossip = 'push'"),
        ({"partitions": [{"begin": 0, "end": 1, "parts": 2}]}, "[[faults.partitions]]"),
        ({"events": [{"round": 0, "kind": "cut", "links": [[0, 1]]}]}, "faults.events.0.kind = 'cut'"),
    ],
)
def test_links_do_not_exist_under_a_server(keys, stated):
    for where in ({"rule": "exact-average"}, {"server": True}):
        with pytest.raises(UserError) as caught:
            check(**where, **keys)
        assert str(caught.value).startswith(f"{stated} is about links between nodes, but here a server averages")
        assert "(allowed: leave_probability" in str(caught.value)
    check(**keys)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"rule": "random-matching", "gossip": "push"}, "topology.mixing = 'random-matching' does not allow"),
        ({"graph": nx.empty_graph(1), "leave_probability": 0.1}, "at least two nodes"),
        ({"partitions": [{"begin": 0, "end": 1, "parts": 7}]}, "faults.partitions.0.parts = 7 is more than the 6"),
        ({"partitions": [{"begin": 0, "end": 1, "groups": [[0, 6]]}]}, "partitions.0.groups names node 6, which does"),
        ({"partitions": [{"begin": 0, "end": 1, "groups": [list(range(6))]}]}, "all nodes in one group"),
        ({"events": [node(1, "leave", 6)]}, "events.0.nodes names node 6, which does not exist (allowed: 0 to 5)"),
        ({"events": [node(1, "leave", -1)]}, "names node -1"),
        ({"events": [{"round": 1, "kind": "cut", "links": [[0, 2]]}]}, "names 0-2, which is not a link"),
        ({"events": [{"round": 1, "kind": "cut", "links": [[2, 2]]}]}, "names 2-2, which is not a link"),
        ({"events": [node(3, "return", 0)]}, "node 0 returns in round 3, but is not away"),
        ({"events": [node(4, "crash", 0), node(3, "leave", 0)]}, "faults.events.0: node 0 cannot crash in round 4"),
        ({"events": [node(2, "leave", 0), node(2, "return", 0)]}, "node 0 has two events in round 2"),
        ({"events": [node(2, "join", 0), node(3, "join", 0)]}, "joins a second time"),
        ({"events": [node(5, "join", 0), node(3, "leave", 0)]}, "cannot leave in round 3, it joins in 5 only"),
    ],
)  # fmt: skip
def test_what_cannot_happen_is_refused(keys, sentence):
    with pytest.raises(UserError) as caught:
        check(**keys)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
