"""The restart walk: what it computes, what it certifies, where it is not defined, and what an auditor is given."""

from __future__ import annotations

import math
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from fedunlearn.audit import audit_game
from fedunlearn.errors import UserError
from fedunlearn.privacy import PrivacySettings, delta_of, junk_start_limit, mu_of
from fedunlearn.unlearning.certified import token_walk
from fedunlearn.unlearning.certified.routes import restart_route
from tests.unlearning.central import shards
from tests.worlds import (
    Story,
    TrainingSettings,
    all_rows,
    empty_request,
    model_for,
    open_session,
    request_for,
    table_data,
)

LAM, CLASSES = 0.05, 3
TRAINING = TrainingSettings(rounds=4, batch=8, lr=0.5, l2=LAM)
LEVELS = {
    "sample": {"level": "sample", "client": 1, "count": 6},
    "class": {"level": "class", "label": 1},
    "client": {"level": "client", "client": 2},
}


@pytest.fixture(scope="module")
def dataset():
    """Seven unlike clients; client 4 has nothing but class 1, so a class request takes it out."""
    data = table_data(clients=7, classes=CLASSES, inputs=4, seed=6, sizes=(10, 20))
    data.labels[data.train_rows(4)] = 1
    return data


def tell(session, request, training=TRAINING, **kwargs):
    """Train, answer one request, and return the story and the outcome."""
    story = Story(session, "rr-du", training, requests=[request], **kwargs)
    story.learn()
    return story, story.answer(request)


# --- the walk --------------------------------------------------------------------------------------------------------


def clipped_gradient(part, token, clip, *, per_sample):
    """Mean gradient of one client, clipped record by record or as a whole, from the formula of softmax regression."""
    out = []
    for a, y in zip(*part):
        z = token.reshape(CLASSES, -1) @ a
        p = np.exp(z - z.max())
        p /= p.sum()
        p[y] -= 1
        out.append(np.outer(p, a).reshape(-1))
    each = np.array(out)
    if per_sample:
        each *= np.minimum(1, clip / np.linalg.norm(each, axis=1))[:, None]
    mean = each.mean(0)
    return mean * min(1, clip / np.linalg.norm(mean))


@pytest.mark.parametrize("steps", [1, 2])
def test_without_noise_the_walk_is_the_one_a_second_program_makes(dataset, steps):
    """Start, projection, route, clips, L2 and local steps once more, in plain numpy."""
    request = request_for(dataset, **LEVELS["sample"])
    graph = nx.cycle_graph(7)
    with open_session(dataset, *model_for(dataset), hosts=2) as session:
        story, outcome = tell(
            session, request, graph=graph, noise=1e-12, hops=25, lr=0.4, clip=0.3, start_radius=0.2, batch=99,
            local_steps=steps, restart=0.3,
        )  # fmt: skip
        mapping = session.features
    kept = shards(dataset, mapping, request.sample_ids)
    token = story.outcomes[0].noise_free
    token = token * min(1, 0.2 / np.linalg.norm(token))
    route = restart_route(graph, 1, range(7), 25, 0.3, seed=0, number=0)
    for v in route.stops:
        for _ in range(1 if v == 1 else steps):
            gradient = clipped_gradient(kept[v], token, 0.3, per_sample=v == 1)
            token = (1 - 0.4 * LAM) * token - 0.4 * gradient
    assert np.allclose(outcome.release, token, rtol=0, atol=1e-6)
    assert outcome.details["visits"] == len(route.visits) and outcome.details["moves"] >= len(route.moves) - 1


def test_lightweight_steps_climb_the_loss_of_the_deleted_samples(dataset):
    request = request_for(dataset, **LEVELS["sample"])
    with open_session(dataset, *model_for(dataset)) as session:
        story, outcome = tell(
            session, request, graph=nx.complete_graph(7), alignment="lightweight", noise=1e-12, hops=6, lr=0.4,
            clip=0.3, restart=1.0, start_radius=9.0,
        )  # fmt: skip
        everything = shards(dataset, session.features)[1]
    going = np.isin(dataset.train_rows(1), request.sample_ids)
    token = story.outcomes[0].noise_free
    forget = (everything[0][going], everything[1][going])
    for _ in range(6):
        climbed = clipped_gradient(forget, token, 0.3, per_sample=True) * going.sum() / len(going)
        token = (1 - 0.4 * LAM) * token + 0.4 * climbed
    assert np.allclose(outcome.release, token, rtol=0, atol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_a_long_walk_with_little_noise_comes_nearer_to_retraining(dataset, level):
    """On a regular graph, where the walk stays everywhere equally long."""
    converged = TrainingSettings(rounds=120, batch=64, lr=1.0, final_rounds=90, l2=0.1)
    with open_session(dataset, *model_for(dataset)) as session:
        story, outcome = tell(
            session, request_for(dataset, **LEVELS[level]), converged, graph=nx.complete_graph(7), noise=1e-3,
            hops=1500, lr=0.02, clip=2.0, start_radius=20.0, minibatches=1, batch=64,
        )  # fmt: skip
        before, after = story.outcomes[0].noise_free, outcome.release
        retrained = story.twin()[1].noise_free
    assert np.linalg.norm(after - retrained) < 0.6 * np.linalg.norm(before - retrained)


def test_every_visit_leaves_its_noise_in_the_release(dataset):
    """With gradients clipped to nothing, release minus start is the sum of the visits' draws."""
    request = request_for(dataset, **LEVELS["sample"])
    nothing = empty_request(dataset)  # what is erased is erased for all populations
    still = TRAINING.model_copy(update={"l2": 0.0})
    moves = []
    with open_session(dataset, *model_for(dataset)) as session:
        for seed in range(25):
            story = Story(
                session, "rr-du", still, population=f"p{seed}", noise=3.0, clip=1e-9, hops=30, start_radius=9.0
            )
            story.learn()
            base = story.situation
            story.situation = lambda world="main", base=base, seed=seed: base(f"world {seed}")
            outcome = story.answer(nothing)
            moves.append(outcome.release - story.outcomes[0].noise_free)
            visits = outcome.details["visits"]
            story.network.drop()
    assert np.std(moves) == pytest.approx(0.5 * 3.0 * math.sqrt(visits), rel=0.12)
    assert request.node == 1 and outcome.details["noise_per_parameter"] == 1.5


@pytest.mark.parametrize(
    ("level", "repair", "node"),
    [("sample", "path", 1), ("class", "path", 0), ("client", "path", 1), ("client", "relay", 1)],
)
def test_who_adds_the_noise_follows_from_public_ids(dataset, level, repair, node):
    """The client that asks; its former neighbour of smallest id; for a class, the smallest id that keeps samples."""
    with open_session(dataset, *model_for(dataset)) as session:
        story, outcome = tell(session, request_for(dataset, **LEVELS[level]), repair=repair, hops=15)
        assert outcome.details["node"] == node
        acted = [t for t in story.network.ledger.traffic if t.pattern == "walk"]
        if repair == "relay":
            assert story.network.alive[2] and story.network.counts[2] == 0
        assert len(acted) == 1 and acted[0].messages == sum(a != b for a, b in pairwise(acted[0].route))


def test_a_client_that_deletes_its_last_samples_is_a_client_that_leaves(dataset):
    everything = request_for(dataset, level="sample", client=3, count=len(dataset.train_rows(3)))
    with open_session(dataset, *model_for(dataset)) as session:
        _, outcome = tell(session, everything, hops=15)
    assert everything.leaves == (3,) and outcome.details["node"] == 0  # the chord of the ring joins 0 and 3


def test_route_and_noise_do_not_depend_on_data(dataset):
    other = table_data(clients=7, classes=CLASSES, inputs=4, seed=6, sizes=(10, 20))
    other.inputs[:] = other.inputs[::-1].copy()
    found = []
    for data in (dataset, other):
        with open_session(data, *model_for(data)) as session:
            story, outcome = tell(session, request_for(dataset, **LEVELS["sample"]), hops=30)
            found.append((outcome.details, [t.route for t in story.network.ledger.traffic if t.route]))
    assert found[0] == found[1]


# --- what is certified -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("l2", [0.0, LAM])
def test_the_noise_is_the_least_that_the_claim_needs_on_the_drawn_route(dataset, level, l2):
    """B and V once more by hand: B <- rho B + 2 lr C, V <- rho^2 V + visit, mu the least of B/sqrt(V)."""
    training = TRAINING.model_copy(update={"l2": l2})
    with open_session(dataset, *model_for(dataset)) as session:
        _, outcome = tell(session, request_for(dataset, **LEVELS[level]), training, hops=40, clip=0.7, start_radius=0.6)
    certificate = outcome.certificate
    assert certificate.valid and certificate.kind == "certifier" and outcome.certificate_reason == ""
    visits = certificate.facts["visits"]

    def mu(noise):
        gap, variance, found = 1.2, 0.0, []
        for hop in range(1, 41):
            gap = (1 - 0.5 * l2) * gap + 2 * 0.5 * 0.7
            variance = (1 - 0.5 * l2) ** 2 * variance + (hop in visits) * (0.5 * noise) ** 2
            found.append((gap / math.sqrt(variance) if variance else math.inf, gap))
        return min(found)

    noise = outcome.details["noise"]
    assert certificate.mu == pytest.approx(mu(noise)[0], rel=1e-9) == pytest.approx(mu_of(1.0, 1e-5), rel=1e-6)
    assert certificate.sensitivity == pytest.approx(mu(noise)[1])
    assert certificate.sigma == pytest.approx(certificate.sensitivity / certificate.mu)
    assert delta_of(mu(0.99 * noise)[0], 1.0) > 1e-5 >= delta_of(certificate.mu, 1.0) * (1 - 1e-9)


def test_a_walk_that_ends_with_too_little_noise_is_not_certified(dataset):
    with open_session(dataset, *model_for(dataset)) as session:
        _, outcome = tell(session, request_for(dataset, **LEVELS["sample"]), noise=0.5)
    assert outcome.certificate is None and "mu" in outcome.certificate_reason
    assert outcome.release is not None


def test_transcript_certificates_say_that_they_are_no_more(dataset):
    request = request_for(dataset, **LEVELS["sample"])
    found = {}
    for accounting in ("conservative", "paper"):
        with open_session(dataset, *model_for(dataset)) as session:
            found[accounting] = tell(session, request, accounting=accounting, hops=100, trust_radius=0.5)[1]
    conservative, paper = found["conservative"].certificate, found["paper"].certificate
    assert conservative.kind == paper.kind == "transcript"
    assert conservative.valid and not paper.valid and found["paper"].certificate_reason
    visits = len(conservative.facts["visits"])
    assert conservative.mu == pytest.approx(math.sqrt(visits) / found["conservative"].details["noise"])
    published = 2 * math.sqrt(2) * math.sqrt(1 / 7 * 100 * math.log(1e5) * math.log(7) / 7)
    assert found["paper"].details["noise"] == pytest.approx(published)
    assert junk_start_limit(conservative) is None and any("retrain" in line.lower() for line in paper.limits)


def test_the_next_walk_starts_from_the_release_and_says_so(dataset):
    requests = [request_for(dataset, 0, **LEVELS["sample"]), request_for(dataset, 1, level="sample", client=0, count=2)]
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "rr-du", TRAINING, requests=requests, hops=20, start_radius=1e9, clip=1e-9, noise=1e-9)
        story.learn()
        first, second = (story.answer(r) for r in requests)
        keep = (1 - 0.5 * LAM) ** 20
        assert np.allclose(second.release, keep * first.release.astype(np.float64), atol=1e-5)
        assert first.details["node"] == 1 and second.details["node"] == 0
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "rr-du", TRAINING, requests=requests, hops=20)
        story.learn()
        first, second = (story.answer(r) for r in requests)
    assert (first.certificate.facts["start"], second.certificate.facts["start"]) == ("secret", "released")
    assert (first.certificate.view, second.certificate.view) == ("none", "T-V2")


def test_secret_noise_never_repeats_itself(dataset):
    request = request_for(dataset, **LEVELS["sample"])
    found = []
    for _ in range(2):
        with open_session(dataset, *model_for(dataset)) as session:
            found.append(tell(session, request, hops=10, privacy=PrivacySettings(noise="secret"))[1])
    assert not np.array_equal(found[0].release, found[1].release)
    assert {o.certificate.noise for o in found} == {"secret"}


def test_a_network_that_is_not_convex_is_certified_alike(dataset):
    with open_session(dataset, *model_for(dataset, "mlp")) as session:
        story, outcome = tell(session, request_for(dataset, **LEVELS["client"]), hops=10)
        assert outcome.certificate.valid and (all_rows(story.network) == outcome.release).all()


# --- where it is not defined -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "settings", "says"),
    [
        ("class", {"accounting": "paper"}, "requests.0.level = 'class' is not defined for 'rr-du'"),
        ("class", {"accounting": "conservative"}, "allowed: sample, client"),
        ("class", {"alignment": "lightweight"}, "'class' is not defined"),
        ("client", {"alignment": "lightweight"}, "'client' is not defined"),
        ("client", {"alignment": "lightweight", "accounting": "paper"}, "allowed: sample"),
        ("sample", {"trust_radius": 0.5}, "unlearning.trust_radius = 0.5 is not defined"),
        ("sample", {"optimiser": "adam"}, "unlearning.optimiser = 'adam' is not defined"),
        ("sample", {"lr": 30.0}, "unlearning.lr = 30"),
    ],
)
def test_what_no_theorem_covers_is_refused_before_training(dataset, level, settings, says):
    with open_session(dataset, *model_for(dataset)) as session, pytest.raises(UserError) as error:
        Story(session, "rr-du", TRAINING, requests=[request_for(dataset, **LEVELS[level])], **settings)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_lightweight_steps_are_refused_where_a_client_is_emptied(dataset):
    everything = request_for(dataset, level="sample", client=3, count=len(dataset.train_rows(3)))
    with open_session(dataset, *model_for(dataset)) as session, pytest.raises(UserError, match="client 3"):
        Story(session, "rr-du", TRAINING, requests=[everything], alignment="lightweight")


def test_it_is_not_defined_for_one_node_nor_for_a_server():
    alone = table_data(clients=1, classes=CLASSES, inputs=4, seed=1)
    with open_session(alone, *model_for(alone)) as session, pytest.raises(UserError, match="centralized"):
        Story(session, "rr-du", TRAINING)
    several = table_data(clients=3, classes=CLASSES, inputs=4, seed=1)
    fedavg = TRAINING.model_copy(update={"algorithm": "fedavg"})
    with open_session(several, *model_for(several)) as session, pytest.raises(UserError, match="federated"):
        Story(session, "rr-du", fedavg)


def test_a_walk_that_hardly_ever_visits_is_refused(dataset):
    with open_session(dataset, *model_for(dataset)) as session, pytest.raises(UserError, match="hops = 1"):
        tell(session, request_for(dataset, **LEVELS["sample"]), hops=1, restart=1e-9)


# --- controls and games ----------------------------------------------------------------------------------------------


def test_the_junk_start_walks_the_same_walk_from_the_public_start(dataset):
    request = request_for(dataset, **LEVELS["sample"])
    with open_session(dataset, *model_for(dataset)) as session:
        story, _ = tell(session, request, hops=20, noise=1e-12, clip=1e-9)
        junk = story.unlearner.junk_start(story.network, story.situation("junk start"))()
        assert abs(junk.release).max() < 1e-6  # the public start is zero, and nothing moved it
    with open_session(dataset, *model_for(dataset)) as session:
        story, real = tell(session, request, hops=20)
        junk = story.unlearner.junk_start(story.network, story.situation("junk start"))()
        assert np.std(junk.release) > 1 and abs(np.corrcoef(junk.release, real.release)[0, 1]) < 0.95
    with open_session(dataset, *model_for(dataset)) as session:
        story, _ = tell(session, request, hops=20, accounting="conservative")
        assert story.unlearner.junk_start(story.network, story.situation()) is None


def test_on_the_tight_instance_the_worlds_are_as_far_apart_as_the_claim_allows(dataset):
    with open_session(dataset, *model_for(dataset)) as session:
        story, outcome = tell(
            session, request_for(dataset, **LEVELS["sample"]), hops=12, restart=0.5, lr=0.005,
            privacy=PrivacySettings(epsilon=8.0),
        )  # fmt: skip
        game = story.unlearner.tight_game(story.network, outcome, story.situation())
    claimed = outcome.certificate
    assert 0.9 <= game.ratio <= 1 and game.kind == "tight"
    assert game.sensitivity == pytest.approx(claimed.sensitivity) and game.sigma == pytest.approx(claimed.sigma)
    a, b = (game.score(game.draw(world, 4000, 7)) for world in (0, 1))
    measured = (a.mean() - b.mean()) / math.sqrt((a.var() + b.var()) / 2)
    assert measured == pytest.approx(game.ratio * claimed.mu, abs=0.08)
    assert not np.array_equal(a, game.score(game.draw(0, 4000, 8)))


@pytest.mark.parametrize("lie", ["a third of the noise", "noise halved twice on the way out", "a ball too large", None])
def test_the_tight_instance_is_played_by_the_code_of_the_walk(dataset, lie, monkeypatch):
    with open_session(dataset, *model_for(dataset)) as session:
        story, outcome = tell(
            session, request_for(dataset, **LEVELS["sample"]), hops=12, restart=0.5, lr=0.005,
            privacy=PrivacySettings(epsilon=8.0),
        )  # fmt: skip
        if lie == "a third of the noise":
            drawn = token_walk.noise_rows
            monkeypatch.setattr(token_walk, "noise_rows", lambda sigma, *rest: drawn(sigma / 3, *rest))
        if lie == "noise halved twice on the way out":
            monkeypatch.setattr(token_walk, "noisy_visit", lambda moved, noise, **rest: moved + noise * 0.25)
        if lie == "a ball too large":
            monkeypatch.setattr(story.unlearner, "settings", story.unlearner.settings.model_copy(
                update={"start_radius": 4.0}
            ))  # fmt: skip
        game = story.unlearner.tight_game(story.network, outcome, story.situation())
        claim = outcome.certificate
        verdict = audit_game(game, 400, claim.mu, claim.epsilon, claim.delta, 0)
    assert verdict.refuted == (lie is not None) and ("trade-off" in verdict.refuted_by) == verdict.refuted


def test_there_is_no_tight_instance_where_the_bound_is_not_attained(dataset):
    """A long drift before the best prefix: maps that both worlds share do not drive mixed worlds apart."""
    with open_session(dataset, *model_for(dataset)) as session:
        story, outcome = tell(
            session, request_for(dataset, **LEVELS["sample"]), hops=60, restart=0.5, lr=0.05, start_radius=0.4
        )
        assert story.unlearner.tight_game(story.network, outcome, story.situation()) is None


def test_the_natural_game_walks_from_both_models(dataset):
    with open_session(dataset, *model_for(dataset), hosts=2) as session:
        story, outcome = tell(session, request_for(dataset, **LEVELS["class"]), hops=15, noise=1e-6, start_radius=9.0)
        _, ending = story.twin()
        before = story.outcomes[0]
        game = story.unlearner.natural_game(story.network, before, outcome, ending, story.situation())
        seen = [game.draw(world, 30, 1) for world in (0, 1)]
    assert game.score is None and game.sensitivity == 18.0
    assert game.distance == pytest.approx(np.linalg.norm(before.noise_free - ending.noise_free))
    assert seen[0].shape == (30, 2)
    assert seen[0][:, 0].min() > seen[1][:, 0].max()  # almost no noise: told apart without an error


def test_a_transcript_certificate_sold_as_retrain_equivalence_is_refuted(dataset):
    """The trust region around the trained model: whoever knows both models tells the worlds apart every time."""
    with open_session(dataset, *model_for(dataset)) as session:
        story, outcome = tell(
            session, request_for(dataset, **LEVELS["sample"]), hops=8, restart=1.0, accounting="paper",
            trust_radius=1e-3,
        )  # fmt: skip
        trained = story.outcomes[0]
        assert np.linalg.norm(outcome.release - trained.noise_free) == pytest.approx(1e-3, rel=1e-3)
        retrained = story.twin()[1]
        assert story.unlearner.natural_game(story.network, trained, outcome, retrained, story.situation()) is None
        game = story.unlearner.retrain_game(story.network, trained, retrained, story.situation())
        seen = [game.draw(world, 100, 1)[:, 1] for world in (0, 1)]
    assert outcome.certificate.epsilon == 1.0  # it would allow for e^1 to one
    assert seen[0].min() > seen[1].max()
