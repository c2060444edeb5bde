"""Network-private training by a walk: what it computes, what it certifies, and where it is not defined."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.privacy import mu_of
from fedunlearn.privacy.accounting.transcripts import contributions, network_dp_sigma
from fedunlearn.unlearning.certified.routes import uniform_route
from tests.unlearning.central import shards
from tests.unlearning.test_token_walk import gradients_by_hand
from tests.worlds import (
    Story,
    TrainingSettings,
    all_rows,
    model_for,
    open_session,
    request_for,
    ring_network,
    table_data,
)

LAM = 0.05
TRAINING = TrainingSettings(rounds=4, lr=0.4, l2=LAM)


@pytest.fixture(scope="module")
def dataset():
    return table_data(clients=6, classes=3, inputs=4, seed=3, sizes=(8, 14))


def story_of(session, training=TRAINING, requests=(), **kwargs):
    graph = nx.complete_graph(session.num_nodes)
    return Story(session, "ddp", training, graph=graph, requests=requests, **kwargs)


def test_without_noise_training_is_the_walk_that_a_second_program_makes(dataset):
    """Uniform route, per-sample clipping, L2 term, and silence where a node has used up its contributions."""
    with open_session(dataset, *model_for(dataset), hosts=2) as session:
        story = story_of(session, hops=30, clip=0.4, noise=1e-12)
        release = story.learn().release
        parts = shards(dataset, session.features)
        assert (all_rows(story.network) == release).all() and np.array_equal(story.persisted[-1], release)
    token, seen, silent = np.zeros(15), dict.fromkeys(range(6), 0), 0
    for v in uniform_route(list(range(6)), 30, 0, 0).stops:
        seen[v] += 1
        each = gradients_by_hand(parts[v], token)
        each *= np.minimum(1, 0.4 / np.linalg.norm(each, axis=1))[:, None]
        over = seen[v] > math.ceil(1.2 * 30 / 6)
        silent += over
        token = (1 - 0.4 * LAM) * token - 0.4 * each.mean(0) * (not over)
    assert silent > 0, "the case must have a node that is silenced"
    assert np.allclose(release, token, rtol=0, atol=1e-6)


def test_every_hop_adds_its_noise(dataset):
    still = TRAINING.model_copy(update={"l2": 0.0})
    with open_session(dataset, *model_for(dataset)) as session:
        ends = []
        for k in range(30):
            story = story_of(session, still, population=f"p{k}", hops=25, clip=1e-9, noise=2.0)
            base = story.situation
            story.situation = lambda world="main", base=base, k=k: base(f"world {k}")
            ends.append(story.learn().release)
    assert np.std(ends) == pytest.approx(0.4 * 2.0 * 5, rel=0.12)


def test_where_the_curve_is_drawn_changes_no_bit(dataset):
    found = []
    for every, hosts in ((1, 1), (4, 1), (3, 2)):
        seen = []
        with open_session(dataset, *model_for(dataset), hosts=hosts) as session:
            story = story_of(session, hops=30)
            story.unlearner.train(
                story.network, story.situation(), every=every, watch=lambda r, net, seen=seen: seen.append(r)
            )
            found.append(all_rows(story.network))
        assert seen == {1: [1, 2, 3, 4], 4: [4], 3: [3, 4]}[every]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_a_request_changes_no_model_and_costs_no_message(dataset):
    request = request_for(dataset, level="client", client=2)
    with open_session(dataset, *model_for(dataset)) as session:
        story = story_of(session, hops=30, requests=[request])
        before = story.learn()
        messages = story.network.ledger.totals()
        outcome = story.answer(request)
        assert np.array_equal(outcome.release, before.release) and story.network.ledger.totals() == messages
        assert (all_rows(story.network) == before.release).all()
        twin, ending = story.twin()
        assert not np.array_equal(ending.release, before.release) and twin.num_alive == 5


def test_composed_noise_covers_a_nodes_contributions_whatever_was_deleted(dataset):
    """mu = sqrt(V) 2 C / sigma with the V hops at which the node that held the records stepped."""
    requests = [
        request_for(dataset, 0, level="sample", client=1, count=5),
        request_for(dataset, 1, level="client", client=1),
    ]
    with open_session(dataset, *model_for(dataset)) as session:
        story = story_of(session, hops=30, clip=0.7, calibration="composed", requests=requests)
        story.learn()
        first, second = (story.answer(r) for r in requests)
    visits = min(uniform_route(list(range(6)), 30, 0, 0).stops.count(1), contributions(30, 6))
    noise = math.sqrt(contributions(30, 6)) * 2 * 0.7 / mu_of(1.0, 1e-5)
    for outcome in (first, second):
        certificate = outcome.certificate
        assert certificate.valid and certificate.kind == "differential-privacy"
        assert certificate.facts["noise"] == pytest.approx(noise)
        assert certificate.mu == pytest.approx(math.sqrt(visits) * 2 * 0.7 / noise)
    assert second.details["forget_count"] == len(dataset.train_rows(1))


def test_records_of_two_nodes_count_the_hops_of_both(dataset):
    requests = [request_for(dataset, i, level="sample", client=c, count=2) for i, c in enumerate((0, 3))]
    with open_session(dataset, *model_for(dataset)) as session:
        story = story_of(session, hops=24, noise=200.0, requests=requests)
        story.learn()
        found = [len(story.answer(r).certificate.facts["visits"]) for r in requests]
    stops = uniform_route(list(range(6)), 24, 0, 0).stops
    most = contributions(24, 6)
    assert found == [min(stops.count(0), most), min(stops.count(0), most) + min(stops.count(3), most)]


def test_the_published_noise_is_linear_in_the_capacity(dataset):
    request = request_for(dataset, level="sample", client=1, count=4)
    noise = {}
    for capacity in (1, 4):
        with open_session(dataset, *model_for(dataset)) as session:
            story = story_of(session, hops=24, capacity=capacity, requests=[request])
            story.learn()
            noise[capacity] = story.answer(request).certificate.facts["noise"]
    assert noise[4] == pytest.approx(4 * noise[1])
    assert noise[1] == pytest.approx(network_dp_sigma(1.0, 1e-5, 6, 24, 1.0))


def test_too_little_noise_is_not_certified(dataset):
    request = request_for(dataset, level="sample", client=1, count=4)
    with open_session(dataset, *model_for(dataset)) as session:
        story = story_of(session, hops=24, noise=1.0, requests=[request])
        story.learn()
        outcome = story.answer(request)
    assert outcome.certificate is None and outcome.certificate_reason.startswith("none: ")


def test_it_is_defined_on_complete_graphs_only(dataset):
    with open_session(dataset, *model_for(dataset)) as session:
        with pytest.raises(UserError, match="nodes 0 and 2 are not joined, and 'ddp' is not defined"):
            Story(session, "ddp", TRAINING, graph=nx.cycle_graph(6))
        story = story_of(session)
        with pytest.raises(UserError, match="not defined"):
            story.unlearner.train(ring_network(session, "ring"), story.situation())


def test_a_class_of_all_clients_is_not_defined_and_a_step_past_zero_is_refused(dataset):
    with open_session(dataset, *model_for(dataset)) as session:
        with pytest.raises(UserError, match="'class' is not defined for 'ddp'"):
            story_of(session, requests=[request_for(dataset, level="class", label=1)])
        with pytest.raises(UserError, match="lr l2 <= 1"):
            story_of(session, lr=30.0)


def test_the_tight_instance_is_worth_what_the_composition_says(dataset):
    request = request_for(dataset, level="client", client=1)
    with open_session(dataset, *model_for(dataset)) as session:
        story = story_of(session, hops=30, calibration="composed", requests=[request])
        story.learn()
        outcome = story.answer(request)
        game = story.unlearner.tight_game(story.network, outcome, story.situation())
    a, b = (game.score(game.draw(world, 20_000, 3)) for world in (0, 1))
    measured = (a.mean() - b.mean()) / math.sqrt((a.var() + b.var()) / 2)
    assert measured == pytest.approx(outcome.certificate.mu, abs=0.05) and game.ratio == 1.0
    assert game.sensitivity / game.sigma == pytest.approx(outcome.certificate.mu)


def test_a_client_that_the_token_never_met_is_hidden_without_a_game(dataset):
    """Nothing of it is in the model: mu = 0, and there are no two worlds to play with."""
    stops = uniform_route(list(range(6)), 3, 0, 0).stops
    absent = min(set(range(6)) - set(stops))
    request = request_for(dataset, level="client", client=absent)
    with open_session(dataset, *model_for(dataset)) as session:
        story = story_of(session, hops=3, calibration="composed", requests=[request])
        story.learn()
        outcome = story.answer(request)
        assert outcome.certificate.valid and outcome.certificate.mu == 0
        assert story.unlearner.tight_game(story.network, outcome, story.situation()) is None
