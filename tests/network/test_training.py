"""Training several populations side by side: each gets the bits it would get alone, with a seed of its own."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.network import Network, TrainingSettings, train, train_together
from fedunlearn.network.programs import finite
from fedunlearn.network.schedule import sampled_clients
from fedunlearn.network.training import check_finite
from fedunlearn.topology import remove_vertex
from tests.small_runs import numbers, run
from tests.worlds import all_rows, image_data, model_for, open_session, ring_network

DATA = image_data(clients=6)
RECIPE = TrainingSettings(rounds=3, batch=5, lr=0.2, momentum=0.5, l2=0.01)
FEDAVG = RECIPE.model_copy(update={"algorithm": "fedavg", "client_fraction": 0.5, "weighting": "samples"})


def populations(session, mixing="metropolis"):
    """A network; its twin without a client and a few samples; one with a start, a seed and a graph of its own."""
    main = ring_network(session, "main", mixing, momentum=True)
    alive = np.arange(6) != 2
    gone = np.concatenate([DATA.train_rows(2), DATA.train_rows(4)[:3]])
    graph = remove_vertex(main.graph, 2, "path", main.alive)
    start = session.model.initial(0)
    twin = Network(session, "twin", graph, mixing, start, deleted=gone, alive=alive, momentum=True)
    shadow = Network(
        session, "shadow", nx.complete_graph(6), mixing, session.model.initial(1), momentum=True, seed=11,
        deleted=DATA.train_rows(0)[1:],
    )  # fmt: skip
    return [main, twin, shadow]


def after(network):
    """Everything that training leaves: rows, momenta, ledger, clock and counts of work."""
    state = {kind: rows[network.alive].tobytes() for kind, rows in network.save().items()}
    return state, network.ledger.summary(), network.clock.counts(), network.work


def alone(training, mixing="metropolis", **kwargs):
    model, features = model_for(DATA, kwargs.pop("name", "softmax"), kwargs.pop("features", "unit"))
    found = []
    for which in range(3):
        with open_session(DATA, model, features, **kwargs) as session:
            network = populations(session, mixing)[which]
            train(network, training)
            found.append(after(network))
    return found


def together(training, mixing="metropolis", every=1, **kwargs):
    model, features = model_for(DATA, kwargs.pop("name", "softmax"), kwargs.pop("features", "unit"))
    with open_session(DATA, model, features, **kwargs) as session:
        networks = populations(session, mixing)
        train_together(networks, training, every=every)
        return [after(network) for network in networks]


@pytest.mark.parametrize("mixing", ["metropolis", "random-matching", "exact-average"])
@pytest.mark.parametrize("hosts", [1, 2])
def test_side_by_side_gives_the_bits_of_one_after_the_other(mixing, hosts):
    expected = alone(RECIPE, mixing)
    assert together(RECIPE, mixing, hosts=hosts) == expected
    assert together(RECIPE, mixing, hosts=hosts, every=3) == expected
    assert len({state["theta"] for state, *_ in expected}) == 3


@pytest.mark.parametrize("hosts", [1, 2])
def test_federated_averaging_side_by_side(hosts):
    assert together(FEDAVG, hosts=hosts) == alone(FEDAVG)


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("weighting", ["equal", "samples"])
def test_a_round_that_samples_only_clients_without_samples_changes_no_row(weighting, hosts):
    training = FEDAVG.model_copy(update={"rounds": 12, "client_fraction": 1 / 6, "weighting": weighting})
    gone = np.concatenate([DATA.train_rows(c) for c in range(5)])
    model, features = model_for(DATA)
    with open_session(DATA, model, features, hosts=hosts) as session:
        network = ring_network(session, deleted=gone, momentum=True)
        rows = [all_rows(network)]
        train(network, training, watch=lambda _, n: rows.append(all_rows(n)))
        moved = [not np.array_equal(a, b) for a, b in pairwise(rows)]
        sampled = [sampled_clients(network.seed, network.present, 1 / 6, r).tolist() for r in range(12)]
        assert moved == [clients == [5] for clients in sampled] and 0 < sum(moved) < 12
        assert network.ledger.totals("train")["messages"] == 12 * 2


def test_clients_without_samples_are_in_the_draws_of_the_network_and_of_its_twin():
    story = {
        "data": {"clients": 4}, "topology": {"generator": "complete", "repair": "relay"},
        "training": {"algorithm": "fedavg", "client_fraction": 0.25, "weighting": "samples", "rounds": 12},
        "unlearning": {"method": "retrain"}, "requests": [{"level": "client", "client": 0}],
    }  # fmt: skip
    found = run(**story).summary
    assert 0 in {int(c) for r in range(12) for c in sampled_clients(3, np.ones(4, bool), 0.25, r)}
    assert found["requests"][0]["distance_to_retrained"] == 0.0
    assert numbers(run(hosts=2, **story).summary) == numbers(found)


@pytest.mark.parametrize(("name", "features"), [("softmax", "unit"), ("small-cnn", "raw")])
def test_workers_that_share_one_queue_give_the_same_bits(name, features):
    kind = {"name": name, "features": features}
    assert together(RECIPE, workers=2, **kind) == alone(RECIPE, **kind)


def test_models_of_one_vertex_side_by_side():
    data = image_data(clients=1, sizes=(40, 41))
    model, features = model_for(data, "small-cnn", "raw")
    training = TrainingSettings(rounds=2, batch=8)

    def shadow(session, k):
        start, gone = model.initial(k), data.train_rows(0)[k::4]
        return Network(session, f"s{k}", nx.empty_graph(1), "metropolis", start, deleted=gone, seed=k)

    with open_session(data, model, features, workers=2) as session:
        networks = [shadow(session, k) for k in range(3)]
        train_together(networks, training, every=2)
        found = [all_rows(network) for network in networks]
    with open_session(data, model, features) as session:
        for k, rows in enumerate(found):
            network = shadow(session, k)
            train(network, training)
            assert np.array_equal(all_rows(network), rows)


@pytest.mark.parametrize("training", [RECIPE, FEDAVG], ids=["dsgd", "fedavg"])
@pytest.mark.parametrize("mixing", ["metropolis", "random-matching"])
def test_a_population_with_a_seed_is_that_of_a_session_with_this_seed(training, mixing):
    model, features = model_for(DATA)
    found = []
    for seed_of_session, seed in ((0, 5), (5, None), (0, None)):
        with open_session(DATA, model, features, seed=seed_of_session, hosts=2) as session:
            network = ring_network(session, mixing=mixing, momentum=True, seed=seed)
            train(network, training)
            found.append(after(network))
    assert found[0] == found[1] and found[0][0] != found[2][0]
    assert found[0][1]["seed"] == 5


def test_every_network_is_watched_after_every_so_many_rounds():
    model, features = model_for(DATA)
    with open_session(DATA, model, features) as session:
        seen = []
        train_together(
            populations(session)[:2], RECIPE, first=1, last=6, every=2, watch=lambda r, n: seen.append((r, n.name))
        )
        assert seen == [(r, name) for r in (2, 4, 6) for name in ("main", "twin")]


def test_only_different_populations_of_one_session():
    model, features = model_for(DATA)
    with open_session(DATA, model, features) as session, open_session(DATA, model, features) as other:
        network = ring_network(session)
        for pair in ([network, network], [network, ring_network(other, "b")]):
            with pytest.raises(ValueError, match="one session"):
                train_together(pair, RECIPE)


@pytest.mark.parametrize(("hosts", "workers"), [(1, 0), (2, 0), (1, 1)])
def test_a_population_that_diverges_is_told_with_its_first_sick_node(hosts, workers):
    model, features = model_for(DATA, "mlp", "raw")
    with open_session(DATA, model, features, hosts=hosts, workers=workers) as session:
        calm, wild = (ring_network(session, name) for name in ("calm", "wild"))
        wild.write(np.full(wild.dim, 3e38, np.float32), nodes=[4])  # what it computes overflows
        with pytest.raises(UserError, match=r"training\.lr = 0\.2 .* node 4 .* after round 1"):
            train_together([calm, wild], RECIPE.model_copy(update={"momentum": 0.0}), every=2)
        assert np.isfinite(all_rows(calm)).all()


# --- the check of rows -----------------------------------------------------------------------------------------------


class Rows:
    """A block of two vertices with these rows."""

    low = 3

    def __init__(self, rows):
        self.store = {"theta.main": np.array(rows, dtype=np.float32)}

    def places(self, nodes):
        return np.array(nodes) - self.low


@given(
    st.lists(
        st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=2, max_size=2
    )
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_row_is_healthy_if_all_its_numbers_are_finite(rows):
    expected = np.isfinite(np.array(rows, dtype=np.float32)).all(1)
    assert np.array_equal(finite(Rows(rows), "main", [3, 4]), expected)


def test_a_sum_that_overflows_raises_no_false_alarm():
    huge = np.full(4, 3e38, np.float32)
    assert finite(Rows([huge, [np.nan, 0, 0, 0]]), "main", [3, 4]).tolist() == [True, False]
    model, features = model_for(DATA)
    with open_session(DATA, model, features, hosts=2) as session:
        network = ring_network(session)
        network.write(np.full(network.dim, 3e38, np.float32))
        check_finite(network, 1, 0.1)
        rows = network.save()["theta"]
        rows[[3, 5]] = np.nan
        network.restore({"theta": rows})
        with pytest.raises(UserError, match="node 3 "):
            check_finite(network, 1, 0.1)


# --- numbers of vertices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [1, 3])
def test_numbers_of_vertices_come_back_and_nothing_of_them_stays(hosts):
    model, features = model_for(DATA)
    with open_session(DATA, model, features, hosts=hosts) as session:
        network = populations(session)[1]
        finite = network.measure("fedunlearn.network.programs:finite", {})[:, 0]
        np.testing.assert_array_equal(finite, [1, 1, np.nan, 1, 1, 1])
        expected = [len(np.setdiff1d(DATA.train_rows(i), network.deleted)) for i in range(6)]
        expected[2] = 0
        np.testing.assert_array_equal(network.counts, expected)
        some = network.measure("fedunlearn.network.programs:finite", {}, only=[1, 2, 5])
        np.testing.assert_array_equal(np.flatnonzero(~np.isnan(some[:, 0])), [1, 5])
        for host in session.transport._hosts:
            assert np.isnan(host.store["numbers-1.twin"]).all()
        network.drop()
        assert not any(list(host.store.folder.glob("*twin*")) for host in session.transport._hosts)
