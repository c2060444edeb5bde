"""How a certified release is made, and what is said when there is no certificate or not all of it was enforced."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.privacy import NoCertificate, gaussian_noise, publish
from fedunlearn.randomness import torch_seed
from fedunlearn.unlearning.certified.release import KeepsItsRelease, issue, release, release_noise
from tests.example_run import certificate
from tests.worlds import Story, TrainingSettings, all_rows, model_for, open_session, table_data

RECIPE = TrainingSettings(rounds=1, batch=8, lr=0.1, l2=0.05)


@pytest.fixture
def story():
    dataset = table_data(clients=4)
    with open_session(dataset, *model_for(dataset), hosts=2) as session:
        yield Story(session, "newton", RECIPE)


def test_one_draw_is_added_stored_and_given_to_every_row(story):
    network, situation = story.network, story.situation()
    vector = np.linspace(-1, 1, network.dim)
    released = release(network, situation, vector, 0.3)
    seed = torch_seed(0, "releases of main")
    assert np.array_equal(released, publish(vector, gaussian_noise(0.3, network.dim, "simulated", seed, 0)))
    assert (all_rows(network) == released).all() and np.array_equal(story.persisted[-1], released)


def test_worlds_and_releases_have_noise_of_their_own(story):
    network = story.network
    drawn = [release_noise(network, story.situation(world), 1.0) for world in ("main", "retrained", "junk start")]
    story.learn()
    drawn.append(release_noise(network, story.situation(), 1.0))
    correlations = np.corrcoef(drawn)[np.triu_indices(4, 1)]
    assert len({d.tobytes() for d in drawn}) == 4 and (np.abs(correlations) < 0.95).all()


def test_a_reason_names_the_premises_that_were_not_enforced():
    def refuse():
        raise NoCertificate("because")

    assert issue(refuse) == (None, "none: because")
    valid = certificate()
    assert issue(lambda: valid) == (valid, "")
    weak = certificate(fresh_draw=False, state_erased=False)
    assert issue(lambda: weak)[1] == "a premise of the theorem was not enforced: single draw, state erased"


def test_a_private_model_is_released_again_as_it_is(story):
    method = KeepsItsRelease()
    first = method.conclude(story.network, story.situation())
    assert np.array_equal(first.release, story.network.read(story.network.root)) and first.certificate is None
    with pytest.raises(ValueError, match="before training was concluded"):
        method.release_again(story.network, story.situation())
    story.outcomes.append(first)
    before = story.network.ledger.totals()
    assert np.array_equal(method.release_again(story.network, story.situation()), first.release)
    assert story.network.ledger.totals() == before and np.array_equal(story.persisted[-1], first.release)
