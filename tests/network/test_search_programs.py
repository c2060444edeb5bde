"""Programs of a search: right, the same bits on any number of hosts and workers, and nothing kept after a deletion."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.network.reduction import tree_sum
from fedunlearn.topology import remove_vertex
from fedunlearn.unlearning.objective import NetworkObjective
from tests.worlds import image_data, model_for, open_session, ring_network, table_data

LAM = 1e-3


def points(dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, v, elsewhere = np.random.default_rng(1).normal(size=(3, dim))
    return x, v, elsewhere


@pytest.mark.parametrize("weighting", ["equal", "samples"])
def test_they_compute_what_the_plain_programs_compute(weighting):
    dataset = table_data(clients=7)
    with open_session(dataset, *model_for(dataset), hosts=2) as session:
        network = ring_network(session)
        network.erase(dataset.train_rows(3)[:4])
        plain = NetworkObjective(network, weighting, LAM)
        search = NetworkObjective(network, weighting, LAM, steering=True)
        x, v, elsewhere = points(network.dim)
        gradient, diagonal = search.gradient_and_diagonal(x)
        assert search.all_reduces == 1 and np.array_equal(gradient, plain.gradient(x))
        assert np.array_equal(search.gradient(x), plain.gradient(x))
        assert np.allclose(diagonal, plain.fisher_diagonal(x, "true"), rtol=1e-12, atol=0)
        exact = plain.hvp(x, v)
        assert np.abs(search.hvp(x, v) - exact).max() < 1e-6 * np.abs(exact).max()
        # products at a point where no gradient was taken, and back at the first one
        exact = plain.hvp(elsewhere, v)
        assert np.abs(search.hvp(elsewhere, v) - exact).max() < 1e-6 * np.abs(exact).max()
        exact = plain.hvp(x, v)
        assert np.abs(search.hvp(x, v) - exact).max() < 1e-6 * np.abs(exact).max()


def test_any_number_of_hosts_and_workers_gives_the_same_bits():
    dataset = image_data(clients=9)
    found = []
    for hosts, workers in ((1, 0), (2, 0), (4, 0), (1, 2)):
        with open_session(dataset, *model_for(dataset), hosts=hosts, workers=workers) as session:
            search = NetworkObjective(ring_network(session), "equal", LAM, steering=True)
            x, v, elsewhere = points(search.network.dim)
            parts = (*search.gradient_and_diagonal(x), search.hvp(x, v), search.hvp(elsewhere, v), search.gradient(v))
            found.append(np.concatenate(parts))
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_products_read_the_probabilities_that_the_gradient_left():
    dataset = table_data(clients=4)
    with open_session(dataset, *model_for(dataset)) as session:
        search = NetworkObjective(ring_network(session), "equal", LAM, steering=True)
        x, v, _ = points(search.network.dim)
        search.gradient(x)
        kept = session.transport._hosts[0].store["probabilities.main"]
        assert np.allclose(kept.sum(1), 1, atol=1e-6)
        kept[...] = 0.0  # with nothing kept there is no curvature, so what is left is lambda alone
        assert np.array_equal(search.hvp(x, v), LAM * v)


@pytest.mark.parametrize("event", ["erase", "leave", "wipe", "erase in another population"])
def test_what_a_search_kept_of_samples_is_gone(event):
    dataset = table_data(clients=5)
    with open_session(dataset, *model_for(dataset), hosts=2) as session:
        network, twin = ring_network(session), ring_network(session, "twin")
        search = NetworkObjective(network, "equal", LAM, steering=True)
        x, v, _ = points(network.dim)
        search.gradient(x)
        rooms = [(h.store["probabilities.main"], h.store["points.main"]) for h in session.transport._hosts]
        assert all(np.isfinite(p).all() and marks.all() for p, marks in rooms)
        if event == "leave":
            network.leave(2, remove_vertex(network.graph, 2, "path", network.alive))
        elif event == "wipe":
            network.wipe()
        else:
            (twin if "another" in event else network).erase(dataset.train_rows(2))
        assert all(np.isnan(p).all() and not marks.any() for p, marks in rooms)
        if event != "erase in another population":  # there the samples are gone, and this population was not told
            network.erase(dataset.train_rows(2))
            fresh = NetworkObjective(network, "equal", LAM)
            exact = fresh.hvp(x, v)
            assert np.abs(search.hvp(x, v) - exact).max() < 1e-6 * np.abs(exact).max()
            for host, (kept, _) in zip(session.transport._hosts, rooms):
                assert np.array_equal(np.isnan(kept).any(1), ~np.array(host.store["keep.main"]))


def test_the_sum_is_the_canonical_one():
    dataset = table_data(clients=6)
    with open_session(dataset, *model_for(dataset)) as session:
        network = ring_network(session)
        search = NetworkObjective(network, "equal", LAM, steering=True)
        x, _, _ = points(network.dim)
        total = search.gradient(x)
        program = "fedunlearn.network.search_programs:gradient"
        params = {"at": "at", "room": "probabilities.main", "weighting": "equal", "clients": 6, "total": 0}
        each = np.stack([network.sum(program, params, {"at": x}, only=[i]) for i in range(6)])
        assert np.array_equal(total, tree_sum(each) + LAM * x)


@pytest.mark.parametrize(("name", "features", "l2"), [("softmax", "unit", 1e-9), ("mlp", "raw", LAM)])
def test_where_they_do_not_apply_the_plain_programs_answer(name, features, l2):
    dataset = image_data(clients=3, side=5)
    with open_session(dataset, *model_for(dataset, name, features)) as session:
        network = ring_network(session)
        plain, search = NetworkObjective(network, "equal", l2), NetworkObjective(network, "equal", l2, steering=True)
        x, v, _ = 0.1 * np.stack(points(network.dim))
        assert np.array_equal(search.hvp(x, v), plain.hvp(x, v))
        assert "probabilities.main" not in session.transport._hosts[0].store
