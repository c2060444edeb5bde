"""From a real message record to what each observer may learn."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.network.ledger import Ledger
from fedunlearn.privacy import epsilon_of
from fedunlearn.privacy.accounting import (
    GaussianRelease,
    NoiseFree,
    PoissonSampledGaussian,
    PostProcessing,
    Rule,
    all_views,
    view_of,
)

NOISY = GaussianRelease(1.0, 2.0, what="model")
RELEASE = Rule(NOISY, "operation")


@pytest.fixture
def ledger() -> Ledger:
    """A ring of five: node 4 has left, a token went 0-1-2-1, a vector was flooded from 0, gradients were summed."""
    made = Ledger(5)
    graph = nx.Graph([(0, 1), (1, 2), (2, 3)])
    graph.add_nodes_from(range(5))
    made.use_graph(graph, np.array([True, True, True, True, False]))
    made.record("unlearn", "token", "walk", 8, route=(0, 1, 2, 1))
    made.record("unlearn", "release", "flood", 8, root=0)
    made.record("unlearn", "gradient", "tree", 8, root=0, repeats=3)
    return made


def heard(ledger: Ledger) -> dict[int, list[dict]]:
    return {node: ledger.received_by(node) for node in range(5)}


RULES = {"token": Rule(NOISY), "release": RELEASE, "gradient": PostProcessing("sums over retained data")}


def test_each_observer_counts_what_reached_it(ledger: Ledger) -> None:
    views = all_views(heard(ledger), RULES, 1e-5)
    # node 1 heard the token twice and the flood once, node 2 once each, node 0 nothing noisy, node 3 the flood only
    assert [view.mu for view in views] == pytest.approx([0, 3**0.5 / 2, 2**0.5 / 2, 0.5, 0])
    for view in views:
        assert view.epsilon == pytest.approx(epsilon_of(view.mu or 0, 1e-5), rel=1e-9)
    assert views[0].messages == 3  # sums from its child
    assert views[0].reason == "no message received depends on the deleted data"
    assert (views[4].messages, views[4].reason) == (0, "nothing was received")


def test_colluding_observers_share_a_flood_but_not_a_token(ledger: Ledger) -> None:
    received = heard(ledger)
    together = view_of({node: received[node] for node in (1, 2)}, RULES, 1e-5)
    assert together.observers == (1, 2)
    # three passes of the token, one flood that both heard
    assert together.mu == pytest.approx((3 + 1) ** 0.5 / 2)
    everybody = view_of(received, RULES, 1e-5)
    assert everybody.mu == together.mu
    own_draws = view_of(received, {**RULES, "release": NOISY}, 1e-5)
    assert own_draws.mu == pytest.approx((3 + 3) ** 0.5 / 2)
    one_vector = view_of(received, {**RULES, "token": Rule(NOISY, "once")}, 1e-5)
    assert one_vector.mu == pytest.approx((1 + 1) ** 0.5 / 2)


def test_a_kind_without_an_event_is_never_zero(ledger: Ledger) -> None:
    rules = {"token": Rule(NOISY), "release": RELEASE}
    views = all_views(heard(ledger), rules, 1e-5)
    for view in views[:4]:
        assert view.opinion is None
        assert view.epsilon is None
        assert view.mu is None
        assert "'gradient'" in view.reason
    assert views[4].epsilon == 0  # it heard nothing at all


def test_a_message_without_noise_is_worth_nothing(ledger: Ledger) -> None:
    views = all_views(heard(ledger), {**RULES, "gradient": NoiseFree("gradients of the deleted")}, 1e-5)
    assert [view.epsilon for view in views] == [np.inf] * 4 + [0]


def test_phases_are_told_apart(ledger: Ledger) -> None:
    ledger.record("train", "model", "edges", 8)
    received = heard(ledger)
    assert view_of({1: received[1]}, RULES, 1e-5).opinion is None
    assert view_of({1: received[1]}, RULES, 1e-5, phases=["unlearn"]).mu == pytest.approx(3**0.5 / 2)


def test_repeated_operations_draw_again() -> None:
    records = [{"step": 4, "phase": "p", "kind": "k", "senders": [1, 2], "message_bytes": 8, "repeats": 5}]
    assert view_of({0: records}, {"k": NOISY}, 1e-5).mu == pytest.approx(10**0.5 / 2)
    assert view_of({0: records}, {"k": RELEASE}, 1e-5).mu == pytest.approx(5**0.5 / 2)
    sampled = view_of({0: records}, {"k": Rule(PoissonSampledGaussian(2.0, 0.1, 3), "operation")}, 1e-5)
    assert sampled.events == (PoissonSampledGaussian(2.0, 0.1, 15),)
    assert sampled.mu is None
    assert sampled.epsilon is not None


def test_refusals() -> None:
    with pytest.raises(UserError, match="at least one node"):
        view_of({}, RULES, 1e-5)
    with pytest.raises(UserError, match="no entry 'senders'"):
        view_of({0: [{"step": 0, "phase": "p", "kind": "k", "repeats": 1}]}, RULES, 1e-5)
