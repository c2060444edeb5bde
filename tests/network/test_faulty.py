"""Rounds under faults on hosts: the same as on arrays, the same bits on any hosts, and nothing deleted comes back."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from worlds import image_data, model_for

from fedunlearn.data import FederatedDataset
from fedunlearn.errors import UserError
from fedunlearn.faults import Carried, Course, FaultSettings, Trace
from fedunlearn.network import Network, Request, RuntimeSettings, Session, TrainingSettings, faulty, train
from fedunlearn.network.inline import InlineTransport
from fedunlearn.simulation.answering import end_answer
from fedunlearn.topology import remove_vertex

CHURN = {"leave_probability": 0.25, "return_probability": 0.5, "crash_share": 0.2, "late_share": 0.2, "late_until": 3}
ALL = {
    **CHURN, "link_failure": 0.1, "message_loss": 0.1, "on_loss": "gone", "max_delay": 3, "delay_probability": 0.5,
}  # fmt: skip
FAULTS = {
    "churn": CHURN,
    "pairs": {"gossip": "pairwise", "link_failure": 0.2},
    "push": {**CHURN, "gossip": "push", "message_loss": 0.2},
    "late": {"max_delay": 2, "delay_probability": 0.6},
    "all": ALL,
}
TRAINING = TrainingSettings(rounds=8, lr=0.5, momentum=0.5, batch=8)


def graph_of(size: int = 9) -> nx.Graph:
    graph = nx.cycle_graph(size)
    graph.add_edges_from([(0, 4), (2, 7), (1, 5)])
    return graph


def opened(dataset: FederatedDataset, hosts: int = 1, immediate: bool = True) -> Session:
    model, features = model_for(dataset)
    transport = InlineTransport(hosts, immediate=immediate)
    runtime = RuntimeSettings(hosts=hosts, workers=0)
    return Session(transport, dataset, model, features, seed=0, runtime=runtime, graph=graph_of())


def network_of(session: Session, faults: dict, name: str = "main", *, server: bool = False, **keys) -> Network:
    graph = keys.pop("graph", graph_of())
    trace = Trace.of(FaultSettings.model_validate(faults), graph_of(), 5)
    course = Course(trace, graph, "metropolis", 5, alive=keys.get("alive"), server=server)
    start = session.model.initial(0)
    return Network(session, name, graph, "metropolis", start, momentum=True, seed=5, course=course, **keys)


def present_rows(network: Network) -> np.ndarray:
    return network.read_rows(np.flatnonzero(network.present))


@pytest.mark.parametrize("hosts", [1, 3])
@pytest.mark.parametrize("faults", FAULTS)
def test_rounds_are_those_on_arrays(faults, hosts):
    with opened(image_data(9), hosts) as session:
        network = network_of(session, FAULTS[faults])
        dim = session.model.dim
        rows = np.random.default_rng(0).normal(size=(9, dim)).astype(np.float32)
        network.restore({"theta": rows, "momentum": np.zeros((9, dim), np.float32)})
        carried = Carried(rows)
        sent = 0
        for _ in range(16):
            round_ = faulty.begin_round(network)
            faulty.begin_gossip(network, round_)()
            carried.adopt(round_, network.start)
            carried.mix(round_)
            active = np.flatnonzero(round_.who.active)
            np.testing.assert_array_equal(network.present, round_.who.active)
            np.testing.assert_allclose(network.read_rows(active), carried.rows[active], atol=2e-5)
            sent += round_.mixed.sent
        told = network.ledger.totals()["messages"]
        adopted = sum(t.messages for t in network.ledger.traffic if t.kind == "adopted model")
        assert told - adopted == sent > 0


@pytest.mark.parametrize("faults", FAULTS)
def test_training_gives_the_same_bits_on_any_hosts_and_queued(faults):
    found = []
    for hosts, immediate in ((1, True), (2, True), (3, False)):
        with opened(image_data(9), hosts, immediate) as session:
            network = network_of(session, FAULTS[faults])
            train(network, TRAINING)
            told = (network.clock.counts(), network.work, network.ledger.totals(), network.course.save())
            found.append((network.save(), told))
    for rows, told in found[1:]:
        for kind in rows:
            np.testing.assert_array_equal(rows[kind], found[0][0][kind])
        assert told[:3] == found[0][1][:3]
        for name, values in told[3].items():
            np.testing.assert_array_equal(values, found[0][1][3][name])


def test_a_course_without_events_trains_as_a_network_without_one():
    """A crash in a round that is never reached: all code of faults runs, and nothing happens."""
    dataset = image_data(9)
    quiet = {"events": [{"round": 999, "kind": "crash", "nodes": [1]}]}
    with opened(dataset, 2) as session:
        plain = Network(
            session, "plain", graph_of(), "metropolis", session.model.initial(0), momentum=True, seed=5
        )  # fmt: skip
        under = network_of(session, quiet)
        for network in (plain, under):
            train(network, TRAINING)
        for kind, rows in plain.save().items():
            np.testing.assert_array_equal(rows, under.save()[kind])
        assert plain.ledger.totals() == under.ledger.totals()
        assert plain.clock.counts() == under.clock.counts()


def changed(dataset: FederatedDataset, client: int) -> FederatedDataset:
    """The same data, but for the content of one client's samples."""
    inputs = dataset.inputs.copy()
    rows = dataset.train_rows(client)
    inputs[rows] = 255 - inputs[rows]
    return replace(dataset, inputs=inputs)


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("faults", ["churn", "push", "late", "all"])
def test_after_an_answer_nothing_of_the_deleted_client_is_in_any_row_that_takes_part(faults, hosts):
    gone, told = 4, []
    for dataset in (image_data(9), changed(image_data(9), gone)):
        with opened(dataset, hosts) as session:
            network = network_of(session, FAULTS[faults])
            train(network, TRAINING)
            faulty.gather_at_the_end(network)
            network.leave(gone, remove_vertex(network.graph, gone, "path", network.alive))
            network.erase(dataset.train_rows(gone))
            faulty.gather(network, [])
            participants = network.present
            network.broadcast(np.ones(network.dim, np.float32))
            network.wipe()
            away = network.alive & ~participants
            stale = network.read_rows(np.flatnonzero(away))
            after = []
            for round_ in range(8, 22):
                train(network, TRAINING.model_copy(update={"rounds": 22}), first=round_, last=round_ + 1)
                mean = network.mean() if network.present.any() else np.zeros(network.dim)
                after.append((network.present, present_rows(network), mean))
            told.append((participants, stale, after))
    (first, held, mine), (second, others, theirs) = told
    np.testing.assert_array_equal(first, second)
    if faults in ("churn", "all"):  # what those who are away hold tells the two worlds apart
        assert (np.nan_to_num(held) != np.nan_to_num(others)).any()
    returned = np.zeros(9, dtype=bool)
    for (who, rows, mean), (_, rows_too, mean_too) in zip(mine, theirs):
        assert np.isfinite(rows).all()
        np.testing.assert_array_equal(rows, rows_too)
        np.testing.assert_array_equal(mean, mean_too)
        returned |= who & ~first
    assert returned.any() == (faults != "late")


def test_without_adoption_the_influence_would_come_back(monkeypatch):
    """The control: the worlds of the test before differ again when returning nodes keep what they hold."""
    monkeypatch.setattr(faulty, "_adopt", lambda network, round_: None)
    with pytest.raises(AssertionError):
        test_after_an_answer_nothing_of_the_deleted_client_is_in_any_row_that_takes_part("churn", 1)


@pytest.mark.parametrize("faults", FAULTS)
def test_a_population_that_is_kept_goes_on_with_the_same_bits(faults):
    dataset = image_data(9)
    with opened(dataset, 2) as session:
        network = network_of(session, FAULTS[faults])
        train(network, TRAINING, last=5)
        state = network.state()
        train(network, TRAINING, first=5)
        whole = network.state()
    with opened(dataset, 3, immediate=False) as session:
        again = Network.from_state(session, state, trace=network.course.trace)
        train(again, TRAINING, first=5)
        for kind, rows in whole["rows"].items():
            np.testing.assert_array_equal(rows, again.save(copies=True)[kind])
        assert again.ledger.summary() == network.ledger.summary()
        assert again.clock.counts() == network.clock.counts()


def test_a_twin_that_lacks_the_client_runs_on_the_same_trace():
    dataset, gone = image_data(9), 4
    with opened(dataset) as session:
        network = network_of(session, CHURN)
        alive = np.arange(9) != gone
        graph = remove_vertex(graph_of(), gone, "path", np.ones(9, dtype=bool))
        twin = network_of(session, CHURN, "twin", graph=graph, alive=alive, deleted=dataset.train_rows(gone))
        for _ in range(12):
            mine, theirs = (faulty.begin_round(net) for net in (network, twin))
            np.testing.assert_array_equal(mine.who.here[alive], theirs.who.here[alive])


def test_participants_of_the_network_end_a_twin_where_they_hold_nothing_too():
    """Node 8 crashes and comes back; in a twin without its only neighbour's link it found nobody to adopt from."""
    path, faults = nx.path_graph(9), {"events": [
        {"round": 1, "kind": "crash", "nodes": [8]}, {"round": 3, "kind": "return", "nodes": [8]},
        {"round": 1, "kind": "cut", "nodes": [8]},
    ]}  # fmt: skip
    with opened(image_data(9), 2) as session:
        trace = Trace.of(FaultSettings.model_validate(faults), path, 0)
        network = Network(
            session, "twin", path, "metropolis", session.model.initial(0), seed=0,
            course=Course(trace, path, "metropolis", 0),
        )  # fmt: skip
        train(network, TrainingSettings(rounds=4, lr=0.5))
        assert not network.present[8] and np.isnan(network.read(8)).all()
        faulty.gather_at_the_end(network, np.ones(9, dtype=bool))
        assert network.present.all()
        np.testing.assert_array_equal(network.read(8), network.read(0))
        network.broadcast(np.zeros(network.dim, np.float32))
        assert not network.course.stale().any()


@pytest.mark.parametrize("algorithm", ["fedavg", "exact-average"])
def test_with_a_server_whoever_is_away_is_not_sampled_and_adopts_from_the_server(algorithm):
    dataset = image_data(9)
    events = {"events": [{"round": 2, "kind": "crash", "nodes": [0, 3]}, {"round": 5, "kind": "return", "nodes": [3]}]}
    with opened(dataset, 2) as session:
        network = network_of(session, events, server=True)
        training = TRAINING
        if algorithm == "fedavg":
            training = TRAINING.model_copy(update={"algorithm": "fedavg", "client_fraction": 0.5})
        for round_ in range(8):
            train(network, training, first=round_, last=round_ + 1)
            rows = present_rows(network)
            assert (rows == rows[0]).all()  # what the server gave
            assert network.present[3] == (round_ not in (2, 3, 4)) and network.present[0] == (round_ < 2)
        senders = {record["round"]: record for record in map(vars, network.ledger.traffic) if record["kind"] == "model"}
        assert len(senders) == 8
        for round_, record in senders.items():
            clients = record["heard"][::2]
            assert len(clients) == (9 if algorithm != "fedavg" else None or len(clients)) or round_ >= 2
            assert record["messages"] == 2 * len(clients)
            if round_ in (2, 3, 4):
                assert not {0, 3} & set(clients)
        assert [r["senders"] for r in network.ledger.received_by(3) if r["kind"] == "adopted model"] == [["server"]]


@pytest.mark.parametrize("algorithm", ["fedavg", "exact-average"])
def test_after_a_release_nothing_is_left_of_what_a_server_kept_of_a_node_that_crashed(algorithm):
    events = {"events": [{"round": 2, "kind": "crash", "nodes": [0, 3]}, {"round": 6, "kind": "leave", "nodes": [5]},
                         {"round": 10, "kind": "return", "nodes": [3]}]}  # fmt: skip
    training = TRAINING.model_copy(update={"algorithm": "fedavg"}) if algorithm == "fedavg" else TRAINING
    with opened(image_data(9), 2) as session:
        network = network_of(session, events, server=True)
        train(network, training)
        faulty.gather_at_the_end(network)
        faulty.forget_lost(network)
        assert np.isfinite(network.read_rows([0, 3])).all()  # the server's copy, while there is no newer model
        network.broadcast(np.ones(network.dim, np.float32))
        assert end_answer(network) == {"participants": 6, "stale": 1}
        kept = network.save()
        for rows in kept.values():
            assert np.isnan(rows[[0, 3]]).all() and np.isfinite(rows[np.delete(np.arange(9), [0, 3])]).all()
        assert np.flatnonzero(network.course.stale()).tolist() == [5]
        train(network, training.model_copy(update={"rounds": 14}), first=8)
        assert network.present[3] and np.isfinite(present_rows(network)).all()


BACK_AND_GONE = {"events": [
    {"round": 3, "kind": "crash", "nodes": [8]}, {"round": 9, "kind": "return", "nodes": [8]},
    {"round": 11, "kind": "leave", "nodes": [8]}, {"round": 15, "kind": "return", "nodes": [8]},
]}  # fmt: skip
"""Node 8 holds no model when a retraining of eight rounds ends, and an old one when the request is answered."""


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("faults", [CHURN, ALL, FAULTS["push"], FAULTS["pairs"], BACK_AND_GONE])
def test_an_answer_that_needs_a_retraining_has_the_nodes_and_rounds_of_one_that_does_not(faults, hosts):
    dataset, gone, told = image_data(9), 4, []
    for fails in (False, True):
        with opened(dataset, hosts) as session:
            network = network_of(session, faults)
            train(network, TRAINING)
            faulty.gather_at_the_end(network)
            faulty.gather(network, [network.course.step(mixes=False) for _ in range(5)])  # the request waited
            network.leave(gone, remove_vertex(network.graph, gone, "path", network.alive))
            network.erase(dataset.train_rows(gone))
            faulty.gather(network, [])
            before = network.present
            if fails:
                faulty.retrain_for_answer(network, lambda net=network: train(net, TRAINING))
                assert np.isfinite(present_rows(network)).all()
                np.testing.assert_array_equal(network.present, before)
            links = network.ledger.graph.edges
            network.broadcast(np.ones(network.dim, np.float32))
            faulty.forget_lost(network)
            for rows, kept in ((network.course.stale(), True), (network.course.lost(), False)):
                assert (np.isfinite(network.read_rows(np.flatnonzero(rows))) == kept).all()
            story = [(network.present.tolist(), network.course.state.round, sorted(links))]
            for round_ in range(8, 20):
                train(network, TRAINING.model_copy(update={"rounds": 20}), first=round_, last=round_ + 1)
                assert np.isfinite(present_rows(network)).all()
                story.append((network.present.tolist(), network.course.state.round, present_rows(network)))
            told.append(story)
    (first, *mine), (second, *theirs) = told
    assert first == second
    for (who, number, rows), (who_too, number_too, rows_too) in zip(mine, theirs):
        assert (who, number) == (who_too, number_too)
        np.testing.assert_array_equal(rows, rows_too)


def test_lost_messages_are_heard_by_nobody_and_cost_all_the_same():
    with opened(image_data(9)) as session:
        network = network_of(session, {"message_loss": 0.4, "on_loss": "gone"})
        train(network, TRAINING)
        totals = network.ledger.totals()["messages"]
        heard = sum(len(r["senders"]) for node in range(9) for r in network.ledger.received_by(node))
        assert totals == 8 * 2 * graph_of().number_of_edges() and 0.4 * totals < heard < 0.8 * totals
        again = type(network.ledger).from_summary(network.ledger.summary())
        assert again.received_by(3) == network.ledger.received_by(3)


def test_a_slow_node_makes_everybody_wait_unless_messages_may_be_late():
    found = {}
    for name, keys in {"plain": {"slow_factor": 1.0, "link_failure": 1e-9}, "slow": {"slow_factor": 4.0},
                       "late": {"slow_factor": 4.0, "max_delay": 2}}.items():  # fmt: skip
        with opened(image_data(9)) as session:
            network = network_of(session, {**keys, **({"slow_share": 1.0} if name != "plain" else {})})
            train(network, TRAINING)
            found[name] = network.clock.samples
    assert found["slow"] == 4 * found["plain"] and found["late"] == found["plain"]


def test_rows_are_mixed_by_the_course_alone():
    with opened(image_data(9)) as session:
        network = network_of(session, CHURN)
        with pytest.raises(ValueError, match="course"):
            network.mix()


def test_messages_about_past_rows_and_adoption_are_checked():
    none, start = np.zeros(0, np.int64), np.zeros(260, np.float32)
    with opened(image_data(9), 2) as session:
        network = network_of(session, FAULTS["late"])
        train(network, TRAINING)
        host = session.transport._hosts[0]
        own, other = (np.sort(session.members[h])[:2] for h in (0, 1))
        whom = {"nodes": own[:1], "sources": own[1:], "restarts": none, "forget": none, "crashed": none, "start": start}
        matrix = {"indptr": np.zeros(len(session.members[0]) + 1, np.int64), "indices": none, "data": np.zeros(0)}
        for op, params, arrays, sentence in (
            ("topology", {"past": [2]}, matrix, "keeps no past rows in slot 2"),
            ("topology", {"past": [-1]}, matrix, "keeps no past rows in slot -1"),
            ("read", {"past": 5}, {"nodes": own}, "keeps no past rows in slot 5"),
            ("mix", {"keep": 64}, {}, "out of range"),
            ("adopt", {}, {**whom, "nodes": own[::-1], "sources": own}, "not strictly increasing"),
            ("adopt", {}, {**whom, "sources": np.array([9])}, "lacks the array .halo."),
            ("adopt", {}, {**whom, "sources": other[:1]}, "lacks the array 'halo'"),
            ("adopt", {}, {**whom, "start": start[1:]}, "shape"),
            ("adopt", {}, {**whom, "start": start + np.nan}, "finite"),
        ):
            with pytest.raises(UserError, match=sentence):
                host.handle(Request(op, {"population": "main", **params}, arrays))
        kept = host.handle(Request("save", {"population": "main", "copies": True})).arrays
        assert {"past-0", "past-1"} <= set(kept) and np.isfinite(kept["past-0"]).all()
        faulty.gather_at_the_end(network)
        kept = host.handle(Request("save", {"population": "main", "copies": True})).arrays
        assert np.isnan(kept["past-0"]).all() and np.isnan(kept["past-1"]).all()
