"""Reach by graph distance: distances and areas at every node against numpy and scikit-learn."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from worlds import image_data, model_for, open_session, ring_network

from fedunlearn.errors import UserError
from fedunlearn.evaluation.evaluator import Evaluator, Snapshot
from fedunlearn.evaluation.nodes.reach import (
    LARGE,
    PER_HOP,
    by_hop,
    half_hop,
    hops_from,
    learned_from_both,
    membership_at_nodes,
    node_distances,
    nodes_looked_at,
    share_below,
)
from fedunlearn.evaluation.settings import EvaluationSettings
from fedunlearn.network import TrainingSettings, train

DATA = image_data()


def test_hops_on_a_grid_are_the_sum_of_both_coordinates():
    grid = nx.convert_node_labels_to_integers(nx.grid_2d_graph(4, 5), ordering="sorted")
    grid.add_node(20)
    np.testing.assert_array_equal(hops_from(grid, 0), [*(i + j for i in range(4) for j in range(5)), -1])
    with pytest.raises(UserError, match="client 21 does not exist"):
        hops_from(grid, 21)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 4), st.one_of(st.just(np.nan), st.floats(-5, 5))), min_size=1, max_size=30))
def test_means_by_hop(pairs):
    hops, values = np.array([h for h, _ in pairs]), np.array([v for _, v in pairs])
    found = by_hop(values, hops)
    assert len(found) == max(h for h, _ in pairs) + 1
    for hop, mean in enumerate(found):
        here = [v for h, v in pairs if h == hop and v == v]
        assert (mean is None) == (not here)
        if mean is not None:
            assert mean == pytest.approx(sum(here) / len(here))


def test_the_hop_at_which_influence_has_halved():
    assert half_hop([9.0, 4.0, 3.0, 2.0, 1.0]) == 3
    assert half_hop([None, 4.0, None, 1.9]) == 3
    assert half_hop([None, 4.0, 2.1]) is None
    assert half_hop([None, 0.0, 0.0]) is None  # nothing is not half of nothing
    assert half_hop([1.0]) is None


def test_of_a_large_network_every_hop_is_looked_at():
    assert nodes_looked_at(hops_from(nx.cycle_graph(LARGE), 3), seed=1) is None
    for graph in (nx.cycle_graph(LARGE + 500), nx.random_regular_graph(4, LARGE + 500, seed=1)):
        hops = hops_from(graph, 3)
        chosen = nodes_looked_at(hops, seed=1)
        assert chosen == nodes_looked_at(hops, seed=1) and chosen == sorted(set(chosen))
        assert len(chosen) <= LARGE and set(hops[chosen]) == set(hops)
        counts = np.bincount(hops[chosen])
        assert counts.max() <= PER_HOP
        assert chosen != nodes_looked_at(hops, seed=2)


@pytest.mark.parametrize("hosts", [1, 2])
def test_distances_are_those_of_the_rows_or_of_the_vectors_behind_them(hosts):
    model, features = model_for(DATA)
    rng = np.random.default_rng(0)
    with open_session(DATA, model, features, hosts=hosts) as session:
        mine = ring_network(session)
        ideal = ring_network(session, "ideal", alive=np.array([True, True, False, True, True, True]))
        for net, lr in ((mine, 0.5), (ideal, 0.2)):
            train(net, TrainingSettings(rounds=2, lr=lr))
        there = np.flatnonzero(ideal.alive)
        a, b = (net.read_rows(there).astype(np.float64) for net in (mine, ideal))
        v, w = rng.normal(size=(2, mine.dim))
        cases = {(None, None): a - b, (v.tobytes(), None): v - b, (None, w.tobytes()): a - w}
        for (left, right), difference in cases.items():
            first, second = (None if x is None else np.frombuffer(x) for x in (left, right))
            found = node_distances(Snapshot(first, None, mine), Snapshot(second, None, ideal))
            np.testing.assert_allclose(found[there], np.linalg.norm(difference, axis=1), rtol=1e-9)
            assert np.isnan(found[2])
            some = node_distances(Snapshot(first, None, mine), Snapshot(second, None, ideal), only=[0, 2])
            assert some[0] == found[0] and np.isnan(some[1:]).all()
        both = node_distances(Snapshot(v, None, mine), Snapshot(w, None, ideal))
        np.testing.assert_allclose(both[there], np.linalg.norm(v - w))
        np.testing.assert_array_equal(node_distances(Snapshot(None, None, mine), Snapshot(None, None, mine)), 0)
        copy = Evaluator(DATA, features, model, EvaluationSettings(), 0).keep(mine)
        np.testing.assert_array_equal(node_distances(Snapshot(None, copy, ideal), Snapshot(None, None, mine)), 0)


def test_areas_at_nodes_are_those_of_scikit_learn():
    rng = np.random.default_rng(3)
    losses, reference = rng.exponential(size=(4, 30)).round(1), rng.exponential(1.5, size=(4, 30)).round(1)
    losses[2] = np.nan
    found = membership_at_nodes(losses, reference)
    assert np.isnan(found[2])
    member = np.r_[np.ones(30), np.zeros(30)]
    for node in (0, 1, 3):
        score = -np.r_[losses[node], reference[node]]  # a member has a small loss
        assert found[node] == pytest.approx(roc_auc_score(member, score))
    np.testing.assert_array_equal(membership_at_nodes(reference, reference), 0.5)
    assert membership_at_nodes(np.zeros((1, 3)), np.ones((1, 3))) == 1.0


def test_the_share_of_samples_below_compares_sample_with_sample():
    reference = np.array([[1.0, 10.0, 100.0, 5.0]] * 3)
    losses = np.array([[0.9, 9.0, 99.0, 5.0], [2.0, 3.0, 4.0, 6.0], [np.nan] * 4])
    found = share_below(losses, reference)
    assert found[0] == 3.5 / 4 and found[1] == 2 / 4 and np.isnan(found[2])
    assert membership_at_nodes(losses[:1], reference[:1])[0] < 0.66  # all pairs hide a shift that every sample shows
    np.testing.assert_array_equal(share_below(reference, reference), 0.5)


def test_losses_that_rise_on_what_was_deleted_give_an_area_above_half():
    rng = np.random.default_rng(4)
    before, test_before = rng.exponential(size=(2, 20)), rng.exponential(size=(2, 35))
    after, test_after = before + rng.exponential(size=(2, 20)), test_before + 0.3 * rng.normal(size=(2, 35))
    found = learned_from_both(before, after, test_before, test_after)
    deleted = np.r_[np.ones(20), np.zeros(35)]
    for node in (0, 1):
        rise = np.r_[after[node] - before[node], test_after[node] - test_before[node]]
        assert found[node] == pytest.approx(roc_auc_score(deleted, rise))
        assert found[node] > 0.7
    np.testing.assert_array_equal(learned_from_both(before, before, test_before, test_before), 0.5)
