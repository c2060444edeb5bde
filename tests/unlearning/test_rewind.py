"""Rewinding on a network: exact replay, distances within the claim, refusals, and the worst case."""

from __future__ import annotations

import math
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.network import train
from fedunlearn.privacy import PrivacySettings, epsilon_of
from fedunlearn.privacy.accounting.replay import average_distance
from fedunlearn.privacy.claims import rebuild
from fedunlearn.privacy.claims.rewind_facts import RewindFacts
from tests.worlds import (
    Story,
    TrainingSettings,
    all_rows,
    empty_request,
    image_data,
    model_for,
    open_session,
    request_for,
    ring_network,
    table_data,
)

RECIPE = TrainingSettings(rounds=40, batch=64, lr=1.0, l2=0.1, schedule="holes")
MINIBATCH = RECIPE.model_copy(update={"batch": 5, "local_steps": 2})
REQUESTS = {
    "sample": {"level": "sample", "client": 1, "count": 4},
    "class": {"level": "class", "label": 1},
    "client": {"level": "client", "client": 2},
}
every_kind = pytest.mark.parametrize(
    ("level", "training"), [("sample", RECIPE), ("class", MINIBATCH), ("client", MINIBATCH)]
)


@pytest.fixture(scope="module")
def dataset():
    return table_data(clients=5, classes=3, inputs=4, seed=6, sizes=(10, 20))


def told(dataset, training, requests, repair="relay", hosts=1, **settings):
    """Train, answer the requests, retrain: the last outcome, that of the retrained twin, the story, the worst case."""
    with open_session(dataset, *model_for(dataset), hosts=hosts) as session:
        story = Story(session, "rewind", training, repair=repair, requests=requests, **settings)
        story.learn()
        for request in requests:
            outcome = story.answer(request)
        _, retrained = story.twin()
        game = story.unlearner.tight_game(story.network, outcome, story.situation())
        return outcome, retrained, story, game


@every_kind
def test_rewinding_all_of_it_is_retraining_bit_for_bit(dataset, level, training):
    outcome, retrained, _, game = told(dataset, training, [request_for(dataset, **REQUESTS[level])], rewind=1.0)
    assert np.array_equal(outcome.noise_free, retrained.noise_free)
    assert outcome.certificate.kind == "exact" and outcome.certificate.mu == 0 and not outcome.fell_back_to_retraining
    assert game is None


@pytest.mark.parametrize(
    ("mixing", "l2", "lr"),
    [
        *((mixing, *rate) for mixing in ("metropolis", "exact-average") for rate in ((0.1, 2.0), (0.01, 3.5))),
        ("random-matching", 0.1, 2.0),
        pytest.param("random-matching", 0.01, 3.5, marks=pytest.mark.slow),
    ],
)
def test_rows_in_float32_do_not_come_nearer_than_they_are_rounded(dataset, l2, lr, mixing):
    """Exact arithmetic would bring the two runs together far below the spacing of float32 numbers; the claim knows."""
    training = RECIPE.model_copy(update={"rounds": 400, "l2": l2, "lr": lr})
    outcome, retrained, _, _ = told(
        dataset, training, [request_for(dataset, **REQUESTS["sample"])], rewind=0.8, sigma=1e-7, mixing=mixing
    )
    claim = outcome.certificate
    exact = replace(RewindFacts.from_dict(claim.facts), roundings=0).descent()
    distance = np.linalg.norm(outcome.noise_free - retrained.noise_free)
    assert claim.valid and distance <= claim.sensitivity
    if (l2, mixing) == (0.1, "metropolis"):
        assert average_distance(exact, claim.facts["rewound"]) < 1e-10 < distance


@every_kind
def test_the_distance_is_within_the_claim(dataset, level, training):
    outcome, retrained, _, game = told(dataset, training, [request_for(dataset, **REQUESTS[level])], rewind=0.4)
    claim = outcome.certificate
    distance = np.linalg.norm(outcome.noise_free - retrained.noise_free)
    assert 0 < distance <= claim.sensitivity and claim.valid
    assert claim.epsilon > 0 and claim.mu == pytest.approx(claim.sensitivity / 0.05)
    assert 0.9 <= game.ratio <= 1 + 1e-9


def test_checkpoints_replay_training_exactly(dataset):
    """With nothing deleted, whichever checkpoint is taken: the same noise-free vector, with fresh noise."""
    for settings in ({"rewind": 0.3}, {"rewind": 0.0}, {}):
        with open_session(dataset, *model_for(dataset)) as session:
            story = Story(session, "rewind", MINIBATCH, **settings)
            first = story.learn()
            outcome = story.answer(empty_request(dataset))
        assert np.array_equal(outcome.noise_free, first.noise_free)
        assert outcome.certificate.kind == "exact"
        assert np.abs(outcome.release - first.release).max() > 0.01


def test_keeping_checkpoints_does_not_change_training(dataset):
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "rewind", MINIBATCH, checkpoints=7)
        seen = []
        story.unlearner.train(story.network, story.situation(), every=9, watch=lambda r, net: seen.append(r))
        plain = ring_network(session, "plain")
        train(plain, MINIBATCH)
        assert np.array_equal(all_rows(story.network), all_rows(plain))
    assert seen == [9, 18, 27, 36, 40]


def test_the_claim_chooses_the_checkpoint(dataset):
    """The latest one at which the noise is enough; with too little noise the network retrains."""
    request = request_for(dataset, **REQUESTS["sample"])
    long = RECIPE.model_copy(update={"rounds": 60})
    seen = {}
    for sigma in (100.0, 0.5, 0.1, 1e-4):
        outcome, retrained, _, _ = told(dataset, long, [request], sigma=sigma)
        assert outcome.certificate.epsilon == 1.0 and outcome.certificate.valid
        assert np.linalg.norm(outcome.noise_free - retrained.noise_free) <= outcome.certificate.sensitivity
        seen[sigma] = outcome
    rounds = [seen[sigma].details["rewound_rounds"] for sigma in (100.0, 0.5, 0.1, 1e-4)]
    assert rounds[0] == 0 < rounds[1] < rounds[2] < rounds[3] == 60
    assert [seen[s].fell_back_to_retraining for s in seen] == [False, False, False, True]
    assert seen[1e-4].certificate.kind == "exact"
    # one checkpoint later the noise would not have been enough
    facts = dict(seen[0.1].certificate.facts)
    facts["rewound"] -= 6
    with pytest.raises(Exception, match="more than epsilon"):
        rebuild(facts, 1.0, 1e-5, noise="simulated", hashes={})


def test_later_requests_go_back_to_the_same_checkpoint_and_count_everything(dataset):
    first = request_for(dataset, 0, **REQUESTS["sample"])
    second = request_for(dataset, 1, level="sample", client=3, count=3)
    outcome, retrained, story, _ = told(dataset, RECIPE, [first, second], rewind=0.4)
    shares = outcome.certificate.facts["shares"]
    counts = [len(dataset.train_rows(i)) for i in (1, 3)]
    assert shares == [[40, pytest.approx(4 / counts[0] + 3 / counts[1])]]
    assert outcome.certificate.facts["deleted"] == 7
    assert np.linalg.norm(outcome.noise_free - retrained.noise_free) <= outcome.certificate.sensitivity
    assert story.outcomes[1].certificate.sensitivity < outcome.certificate.sensitivity


def test_after_retraining_the_count_begins_anew(dataset):
    """The fallback trains new checkpoints, which hold nothing of what was deleted before."""
    first = request_for(dataset, 0, **REQUESTS["client"])
    second = request_for(dataset, 1, level="sample", client=3, count=1)
    outcome, retrained, story, _ = told(dataset, RECIPE, [first, second], sigma=0.05)
    assert story.outcomes[1].fell_back_to_retraining and not outcome.fell_back_to_retraining
    assert outcome.certificate.facts["deleted"] == 1 and outcome.certificate.valid
    distance = np.linalg.norm(outcome.noise_free - retrained.noise_free)
    assert 0 < distance <= outcome.certificate.sensitivity


def test_the_same_bits_on_two_hosts(dataset):
    request = request_for(dataset, **REQUESTS["class"])
    one, two = (told(dataset, MINIBATCH, [request], hosts=hosts, rewind=0.4)[0] for hosts in (1, 2))
    assert np.array_equal(one.noise_free, two.noise_free) and np.array_equal(one.release, two.release)
    assert one.certificate.to_dict() == two.certificate.to_dict()


def test_one_node_is_covered_too(dataset):
    alone = table_data(clients=1, classes=3, inputs=4, seed=6, sizes=(30, 31))
    request = request_for(alone, level="sample", client=0, count=4)
    with open_session(alone, *model_for(alone)) as session:
        story = Story(session, "rewind", RECIPE, requests=[request], graph=nx.empty_graph(1), rewind=0.5, sigma=0.2)
        story.learn()
        outcome = story.answer(request)
        game = story.unlearner.tight_game(story.network, outcome, story.situation())
        _, retrained = story.twin()
    assert 0 < np.linalg.norm(outcome.noise_free - retrained.noise_free) <= outcome.certificate.sensitivity
    assert outcome.certificate.facts["nodes"] == 1 and 0.9 <= game.ratio <= 1 + 1e-9


def test_the_worst_case_is_released_and_told_apart_as_the_claim_allows(dataset):
    """The pair of worlds attains the distance: the mean score differs by mu standard deviations, no more."""
    request = request_for(dataset, **REQUESTS["sample"])
    outcome, _, _, game = told(dataset, RECIPE, [request], rewind=0.2, sigma=0.3)
    trials = 3000
    scores = [game.score(game.draw(world, trials, seed=5)) / game.sigma for world in (0, 1)]
    gap = scores[0].mean() - scores[1].mean()
    assert game.kind == "tight" and game.sigma == outcome.certificate.sigma
    assert gap == pytest.approx(outcome.certificate.mu, abs=5 * math.sqrt(2 / trials))
    assert scores[0].std() == pytest.approx(1, abs=0.1)


def test_clipping_that_acts_leaves_the_smooth_row_and_no_worst_case(dataset):
    clipped = RECIPE.model_copy(update={"clip": 0.2})
    request = request_for(dataset, **REQUESTS["sample"])
    outcome, retrained, _, game = told(dataset, clipped, [request], rewind=0.9)
    assert outcome.details["row"] == "smooth" and outcome.certificate.valid and game is None
    assert np.linalg.norm(outcome.noise_free - retrained.noise_free) <= outcome.certificate.sensitivity
    harmless = RECIPE.model_copy(update={"clip": 1.5})
    outcome, _, _, _ = told(dataset, harmless, [request], rewind=0.4)
    assert outcome.details["row"] == "strongly-convex" and outcome.certificate.valid


def test_a_deep_model_gets_a_valid_certificate_that_says_it_is_vacuous():
    dataset = image_data(clients=4)
    request = request_for(dataset, level="sample", client=1, count=3)
    training = TrainingSettings(rounds=6, batch=64, lr=0.1, clip=1.0, schedule="holes")
    with open_session(dataset, *model_for(dataset, "mlp", "raw")) as session:
        story = Story(session, "rewind", training, requests=[request], rewind=0.5, sigma=0.01)
        story.learn()
        outcome = story.answer(request)
        twin, retrained = story.twin()
        junk = story.unlearner.junk_start(twin, story.situation("junk start"))
        control = junk()
        assert story.unlearner.tight_game(story.network, outcome, story.situation()) is None
        assert len(story.persisted) == 4  # the store of this test keeps every world's releases
    claim = outcome.certificate
    assert claim.valid and claim.worth.startswith("vacuous") and claim.epsilon > 1000
    assert claim.sensitivity <= 2 * 0.1 * 1.0 * 6 + 1e-3  # and roundings
    assert not claim.facts["float64_steps"] and any("clipping itself" in line for line in claim.limits)
    distance = np.linalg.norm(outcome.noise_free - retrained.noise_free)
    assert 0 < distance <= claim.sensitivity
    assert np.linalg.norm(control.noise_free - retrained.noise_free) > distance


def test_no_junk_start_is_needed_for_convex_models(dataset):
    request = request_for(dataset, **REQUESTS["sample"])
    _, _, story, _ = told(dataset, RECIPE, [request], rewind=0.4)
    assert story.unlearner.junk_start(story.network, story.situation()) is None


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({"schedule": "compact"}, {}, "training.schedule = 'compact' is not defined"),
        ({"momentum": 0.5}, {}, "training.momentum = 0.5 is not defined"),
        ({"algorithm": "fedavg"}, {}, "training.algorithm = 'fedavg' is not defined"),
        ({"bfloat16": True}, {}, "training.bfloat16 = true is not defined"),
        ({"batch": 5}, {}, "different numbers of steps"),
        ({"rounds": 0}, {}, "training.rounds = 0"),
        ({"lr": 3.0}, {}, "lr = 3 is too large for the strongly-convex bound"),
        ({"l2": 0.0, "lr": 4.1}, {}, "lr = 4.1 is too large for the convex bound"),
        ({"final_rounds": 2, "final_factor": 5.0}, {}, "lr = 5 is too large"),
    ],
)
def test_recipes_outside_the_theorem_are_refused(dataset, change, settings, words):
    with open_session(dataset, *model_for(dataset)) as session, pytest.raises(UserError, match=words):
        Story(session, "rewind", RECIPE.model_copy(update=change), **settings)


def test_a_client_can_only_leave_as_a_relay(dataset):
    request = request_for(dataset, **REQUESTS["client"])
    with open_session(dataset, *model_for(dataset)) as session:
        with pytest.raises(UserError, match=r"topology\.repair = 'path' is not defined"):
            Story(session, "rewind", RECIPE, repair="path", requests=[request])
        Story(session, "rewind", RECIPE, repair="path", requests=[request_for(dataset, **REQUESTS["sample"])])


def test_without_bounded_gradients_it_is_refused(dataset):
    with (
        open_session(dataset, *model_for(dataset, "softmax", "raw")) as session,
        pytest.raises(UserError, match=r"training\.clip is not set"),
    ):
        Story(session, "rewind", RECIPE)


def test_an_asked_epsilon_that_is_out_of_reach_is_not_claimed(dataset):
    request = request_for(dataset, **REQUESTS["sample"])
    outcome, _, _, _ = told(
        dataset, RECIPE, [request], rewind=0.1, sigma=0.05, privacy=PrivacySettings(epsilon=0.5, delta=1e-6)
    )
    claim = outcome.certificate
    assert claim.epsilon == pytest.approx(epsilon_of(claim.sensitivity / 0.05, 1e-6)) and claim.epsilon > 0.5
    assert claim.delta == 1e-6 and claim.valid
