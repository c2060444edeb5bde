"""A release: drawn once, stored first, adopted by every row, certified by what the run did."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

from fedunlearn.models import ModelSettings, build_model, write_checkpoint
from fedunlearn.network import TrainingSettings
from fedunlearn.privacy import PrivacySettings
from fedunlearn.unlearning.certified import tolerance_release
from fedunlearn.unlearning.objective import NetworkObjective
from fedunlearn.unlearning.optimise import Stop, newton_cg
from tests.worlds import Story, all_rows, image_data, model_for, open_session, request_for

TRAINING = TrainingSettings(rounds=2, lr=1.0, l2=0.05, batch=8, momentum=0.5)


@pytest.fixture(scope="module")
def data():
    return image_data(clients=5, side=12)


@pytest.fixture
def story(data):
    model, mapping = model_for(data)
    with open_session(data, model, mapping, hosts=2) as session:
        story = Story(session, "newton", TRAINING)
        story.learn()
        yield story


def release(story, number: int = 7, world: str = "main", request=None, privacy: PrivacySettings | None = None):
    """Release the minimiser of the network's objective and return it with what came of it."""
    network = story.network
    objective = NetworkObjective(network, TRAINING.weighting, TRAINING.l2)
    public = tolerance_release.calibration(privacy or story.privacy, TRAINING.l2, 0.05, None)
    stop = tolerance_release.stopping_rule(network, TRAINING.l2, public.tau)
    solution = newton_cg(objective, np.zeros(network.dim), stop)
    situation = dataclasses.replace(story.situation(world), release=number, privacy=privacy or story.privacy)
    told = tolerance_release.release(network, situation, solution, public, request, method="newton", start="released")
    return solution.x, public, *told


def test_every_row_is_the_one_stored_vector_and_the_noise_has_the_law_of_the_claim(story):
    x, public, released, _, _ = release(story)
    assert all(np.array_equal(row, released) for row in all_rows(story.network))
    assert np.array_equal(story.persisted[-1], released)
    noise = (released - x) / public.sigma
    assert stats.kstest(noise, "norm").pvalue > 1e-3


def test_the_release_is_stored_before_anybody_receives_it(story):
    seen = []
    situation = dataclasses.replace(
        story.situation(),
        release=9,
        persist=lambda vector: seen.append((vector.copy(), all_rows(story.network).copy())),
    )
    x = np.zeros(story.network.dim)
    objective = NetworkObjective(story.network, TRAINING.weighting, TRAINING.l2)
    public = tolerance_release.calibration(story.privacy, TRAINING.l2, 0.05, None)
    solution = newton_cg(objective, x, Stop(public.tau))
    released, *_ = tolerance_release.release(
        story.network, situation, solution, public, None, method="newton", start="public"
    )
    ((stored, rows),) = seen
    assert np.array_equal(stored, released) and not (rows == released).all(1).any()


def test_draws_are_fresh_for_every_release_and_every_world(story):
    draws = [release(story, number, world) for number, world in ((7, "main"), (8, "main"), (7, "retrained"))]
    noises = [(released - x) for x, _, released, *_ in draws]
    for i in range(3):
        for j in range(i):
            assert abs(np.corrcoef(noises[i], noises[j])[0, 1]) < 0.2
    again = release(story, 7, "main")
    assert np.array_equal(again[2], draws[0][2])  # simulated noise repeats: the same settings, the same bits


def test_secret_noise_never_repeats(story):
    secret = PrivacySettings(noise="secret")
    assert not np.array_equal(release(story, privacy=secret)[2], release(story, privacy=secret)[2])


def test_a_certificate_answers_a_request_and_says_what_was_enforced(story, data):
    assert release(story)[3] is None
    request = request_for(data, level="client", client=1)
    certificate = release(story, request=request)[3]
    assert certificate.valid and certificate.view == "T-V2" and certificate.granularity == "client"
    assert certificate.sensitivity == pytest.approx(2 * certificate.constants["tau"] / TRAINING.l2)


def test_nothing_is_claimed_about_messages_after_a_checkpoint_from_elsewhere(data, tmp_path):
    _, mapping = model_for(data)
    plain = build_model(ModelSettings(features="unit"), data.num_classes, mapping.output_shape)
    write_checkpoint(tmp_path / "start.safetensors", plain.parameters_of(torch.full((plain.dim,), 0.1)))
    settings = ModelSettings(features="unit", checkpoint=str(tmp_path / "start.safetensors"))
    model = build_model(settings, data.num_classes, mapping.output_shape)
    with open_session(data, model, mapping) as session:
        story = Story(session, "newton", TRAINING)
        story.learn()
        certificate = story.answer(request_for(data, level="client", client=2)).certificate
    assert certificate.valid and certificate.view == "none" and "may have been" in certificate.view_reason


def test_raw_features_have_no_rounding_bound(data):
    model, mapping = model_for(data, features="raw")
    with open_session(data, model, mapping) as session:
        story = Story(session, "newton", TRAINING)
        assert not tolerance_release.bounded(story.network)
        x = np.ones(story.network.dim)
        gradient = np.full(story.network.dim, 1e-9)
        rule = tolerance_release.stopping_rule(story.network, TRAINING.l2, 1.0)
        assert rule.bound(x, gradient) == pytest.approx(float(np.linalg.norm(gradient)))
