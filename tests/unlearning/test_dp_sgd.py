"""DP-SGD: coins, clipping, noise and divisor of training; requests that cost nothing; group privacy of the answer."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
import torch

from fedunlearn.network import Network
from fedunlearn.privacy import PrivacySettings, gaussian_noise
from fedunlearn.privacy.accounting.events import PoissonSampledGaussian
from fedunlearn.privacy.accounting.opinions import delta_of_events, epsilon_of_events
from fedunlearn.randomness import torch_seed, uniforms
from fedunlearn.unlearning.certified.dp_sgd import coin_seed
from fedunlearn.unlearning.sampled_game import COIN, sampled_game
from tests.worlds import Story, TrainingSettings, all_rows, image_data, model_for, open_session, request_for, table_data

ONE_STEP = TrainingSettings(rounds=1, lr=0.5, l2=0.1)
THREE = TrainingSettings(rounds=3, lr=0.5, l2=0.1)
PROGRAM = "fedunlearn.unlearning.certified.dp_sgd:poisson_clipped_sum"


@pytest.fixture(scope="module")
def dataset():
    return table_data(clients=5, seed=2)


def clipped_sum(dataset, model, mapping, theta, rate, clip, seed, step, without=()):
    """The sum by its definition: one autograd call a record, in float64."""
    total = np.zeros(model.dim)
    rows = np.concatenate([dataset.train_rows(c) for c in range(dataset.num_clients)])
    for row in np.setdiff1d(rows, without):
        if uniforms(seed, COIN, row, step) >= rate:
            continue
        at = torch.from_numpy(theta.copy()).requires_grad_(True)
        x = model.prepare(mapping.apply(dataset.inputs[row : row + 1])).to(torch.float64)
        loss = torch.nn.functional.cross_entropy(model.logits(at, x), torch.tensor([dataset.labels[row]]))
        gradient = torch.autograd.grad(loss, at)[0].numpy()
        total += gradient * min(1.0, clip / np.linalg.norm(gradient))
    return total


def ask(network, theta, **params):
    return network.sum(PROGRAM, {"at": "at", "clip": 1.0, "rate": 1.0, "seed": 0, "step": 0, **params}, {"at": theta})


def test_a_step_sums_the_clipped_gradients_of_those_whose_coin_came_up(dataset):
    model, mapping = model_for(dataset)
    theta = 3 * np.random.default_rng(0).normal(size=model.dim)
    with open_session(dataset, model, mapping, hosts=2) as session:
        network = Story(session, "dp-sgd", ONE_STEP, noise_multiplier=1.0).network
        for clip in (0.3, 5.0):
            for step in (0, 1):
                expected = clipped_sum(dataset, model, mapping, theta, 0.4, clip, 7, step)
                assert ask(network, theta, rate=0.4, clip=clip, seed=7, step=step) == pytest.approx(expected, abs=1e-12)
        everybody = ask(network, theta)
        gone = dataset.train_rows(1)[:1]
        network.erase(gone)
        less = clipped_sum(dataset, model, mapping, theta, 1.0, 1.0, 0, 0, without=gone)
        assert ask(network, theta) == pytest.approx(less, abs=1e-12)
        assert 0.05 < np.linalg.norm(everybody - less) <= 1.0


def test_coins_are_independent_over_records_and_steps_and_nobody_moves_anothers():
    ids, steps = np.arange(400), np.arange(300)[:, None]
    coins = (uniforms(11, COIN, ids, steps) < 0.3).astype(float)
    assert coins.mean() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / coins.size))
    # The number of heads a step is binomial, not fixed: its variance is that of independent coins.
    assert coins.sum(1).var() == pytest.approx(400 * 0.21, rel=0.35)
    for other in (coins[:, 1:] - 0.3, np.roll(coins, 1, axis=0)[:, :-1] - 0.3):  # next record, previous step
        assert abs((other * (coins[:, :-1] - 0.3)).mean()) < 5 * 0.21 / math.sqrt(coins[:, 1:].size)
    assert np.array_equal(uniforms(11, COIN, ids[5:], 3), uniforms(11, COIN, ids, 3)[5:])


def test_training_is_the_recursion_it_claims_to_be(dataset):
    """Three steps by hand, with momentum, decay, projection, the public divisor and one draw a step."""
    model, mapping = model_for(dataset)
    training = THREE.model_copy(update={"momentum": 0.5, "radius": 2.0})
    with open_session(dataset, model, mapping, hosts=2) as session:
        story = Story(session, "dp-sgd", training, rate=0.5, clip=0.7, noise_multiplier=3.0)
        story.network.erase(dataset.train_rows(0)[:2])  # the divisor does not change with who is there
        story.learn()
        rows = all_rows(story.network)
        traffic = story.network.ledger.totals()
    theta, velocity = model.initial(0).astype(np.float64), 0.0
    everybody = sum(len(dataset.train_rows(c)) for c in range(5))
    for step in range(3):
        total = clipped_sum(
            dataset, model, mapping, theta, 0.5, 0.7, torch_seed(0, "DP-SGD coins"), step, dataset.train_rows(0)[:2]
        )
        noise = gaussian_noise(3.0 * 0.7, model.dim, "simulated", torch_seed(0, "DP-SGD noise of main"), step)
        velocity = 0.5 * velocity + (total + noise) / (0.5 * everybody) + 0.1 * theta
        theta = theta - 0.5 * velocity
        theta *= min(1.0, 2.0 / np.linalg.norm(theta))
    assert (rows == rows[0]).all() and rows[0] == pytest.approx(theta.astype(np.float32), abs=1e-6)
    assert traffic["messages"] == 3 * 2 * 4  # an all-reduce a step, nothing else


def test_a_record_whose_gradient_is_not_finite_adds_nothing(dataset):
    model, mapping = model_for(dataset, features="raw")
    broken = table_data(clients=5, seed=2)
    row = broken.train_rows(3)[0]
    broken.inputs[row] = np.inf
    theta = np.zeros(model.dim)
    with open_session(broken, model, mapping) as session:
        network = Story(session, "dp-sgd", ONE_STEP, noise_multiplier=1.0).network
        assert ask(network, theta) == pytest.approx(
            clipped_sum(dataset, model, mapping, theta, 1.0, 1.0, 0, 0, without=[row]), abs=1e-12
        )


def test_a_request_sends_nothing_and_keeps_the_model(dataset):
    requests = [request_for(dataset, i, level="sample", client=c, count=3) for i, c in enumerate((1, 2))]
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "dp-sgd", THREE, requests=requests, rate=0.5, capacity=3)
        first = story.learn()
        sent, worked = story.network.ledger.totals(), dict(story.network.work)
        within, beyond = (story.answer(request) for request in requests)
        assert story.network.ledger.totals() == sent and story.network.work == worked
        assert (all_rows(story.network) == first.release).all()
    assert np.array_equal(first.release, within.release) and np.array_equal(first.release, beyond.release)
    assert within.certificate.valid and within.certificate.epsilon == 1.0 and within.details["forget_count"] == 3
    # Six records are more than the noise was planned for: the claim is what holds, and it is cumulative.
    assert beyond.certificate.valid and 1.5 < beyond.certificate.epsilon < 5
    assert beyond.certificate.facts["forget_count"] == 6


@pytest.mark.parametrize("capacity", [1, 4])
def test_derived_noise_is_the_least_that_serves(dataset, capacity):
    request = request_for(dataset, level="sample", client=1, count=capacity)
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "dp-sgd", THREE, requests=[request], rate=0.2, capacity=capacity)
        story.learn()
        z = story.answer(request).certificate.facts["noise_multiplier"]
    for factor, holds in ((1.0, True), (0.99, False)):
        event = PoissonSampledGaussian(factor * z, 0.2, 3, capacity)
        assert (epsilon_of_events([event], 1e-5, second=False).epsilon <= 1.0) is holds


@pytest.mark.parametrize("setting", ["centralized", "federated"])
def test_it_is_the_same_training_with_a_server_or_alone(setting):
    """One vector, one sum, one draw: who holds the records changes messages, not the model."""
    data = table_data(clients=1 if setting == "centralized" else 4, seed=5)
    model, mapping = model_for(data)
    training = THREE if setting == "centralized" else THREE.model_copy(update={"algorithm": "fedavg"})
    with open_session(data, model, mapping) as session:
        story = Story(session, "dp-sgd", training, noise_multiplier=2.0, rate=0.5)
        assert story.plan.network == setting
        story.learn()
        outcome = story.answer(request_for(data, level="sample", client=0, count=1))
    assert outcome.certificate.valid and np.isfinite(outcome.release).all()


def test_networks_that_are_not_convex_train_and_learn_where_noise_is_small():
    data = image_data(clients=4, side=6)
    training = TrainingSettings(rounds=40, lr=0.8)
    accuracies = []
    for z in (0.01, 100.0):
        with open_session(data, *model_for(data, "mlp", "raw")) as session:
            story = Story(session, "dp-sgd", training, noise_multiplier=z, rate=0.5)
            theta = torch.from_numpy(story.learn().release)
            rows = np.concatenate([data.train_rows(c) for c in range(4)])
            x = session.model.prepare(session.features.apply(data.inputs[rows]))
            guesses = session.model.logits(theta, x).argmax(1).numpy()
            accuracies.append((guesses == data.labels[rows]).mean())
            certificate = story.answer(request_for(data, level="client", client=1)).certificate
        if z == 0.01:
            assert certificate is None or certificate.worth.startswith("vacuous")
        else:
            assert certificate.valid and certificate.kind == "differential-privacy"
    assert accuracies[0] > 0.7 > accuracies[1]


def test_worlds_share_coins_and_have_noise_of_their_own(dataset):
    request = request_for(dataset, level="sample", client=1, count=1)
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "dp-sgd", ONE_STEP, requests=[request], rate=1.0, noise_multiplier=5.0)
        story.learn()
        story.answer(request)
        twin, ending = story.twin()
        assert isinstance(twin, Network) and ending.release is not None
        gap = np.abs(ending.release - story.outcomes[0].release)
    assert gap.min() > 0
    assert coin_seed(story.situation()) == coin_seed(story.situation("retrained"))
    story.privacy = PrivacySettings(noise="secret")
    assert coin_seed(story.situation()) != coin_seed(story.situation())


def test_secret_noise_and_coins_are_never_the_same_twice(dataset):
    request = request_for(dataset, level="sample", client=1, count=1)
    secret, releases = PrivacySettings(noise="secret"), []
    for _ in range(2):
        with open_session(dataset, *model_for(dataset)) as session:
            story = Story(session, "dp-sgd", ONE_STEP, requests=[request], privacy=secret, noise_multiplier=5.0)
            releases.append(story.learn().release)
            certificate = story.answer(request).certificate
    assert np.abs(releases[0] - releases[1]).min() > 0
    assert certificate.valid and any("key of the coins" in line for line in certificate.scope)


def test_no_steps_need_no_certificate(dataset):
    request = request_for(dataset, level="client", client=1)
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "dp-sgd", TrainingSettings(rounds=0), requests=[request], graph=nx.path_graph(5))
        story.learn()
        outcome = story.answer(request)
        assert outcome.certificate is None and "public start" in outcome.certificate_reason
        assert (all_rows(story.network) == session.model.initial(0)).all()


# --- the tight game ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "steps", "z", "group"), [(0.3, 4, 1.5, 1), (0.5, 2, 3.0, 3), (1.0, 2, 2.0, 1)])
def test_the_game_reaches_the_delta_that_the_accountant_gives(rate, steps, z, group):
    """``delta(epsilon) = E[(1 - exp(epsilon - LLR))+]`` over world 0, estimated from draws, meets the accountant's."""
    game = sampled_game(rate, steps, z, group, clip=0.7)
    trials = 8_000
    scores = game.score(game.draw(0, trials, 1))
    for epsilon in (0.1, 0.5):
        terms = np.maximum(0.0, -np.expm1(epsilon - scores))
        error = terms.std() / math.sqrt(trials)
        assert terms.mean() == pytest.approx(delta_of_events(
            [PoissonSampledGaussian(z, rate, steps, group)], epsilon, second=False
        ).delta, abs=4 * error + 1e-3)  # fmt: skip
    other = game.score(game.draw(1, trials, 2))
    assert np.exp(other).mean() == pytest.approx(1.0, abs=5 * np.exp(other).std() / math.sqrt(trials))


def test_an_answer_offers_its_tight_game(dataset):
    request = request_for(dataset, level="sample", client=1, count=2)
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "dp-sgd", THREE, requests=[request], rate=0.5, capacity=2, clip=0.4)
        story.learn()
        outcome = story.answer(request)
        game = story.unlearner.tight_game(story.network, outcome, story.situation())
        assert game.draw(0, 5, 0).shape == (5, 3) and game.ratio == 1.0 and game.distance == pytest.approx(0.8)
        assert outcome.certificate.sensitivity == pytest.approx(0.8)
        assert story.unlearner.tight_game(story.network, story.outcomes[0], story.situation()) is None
