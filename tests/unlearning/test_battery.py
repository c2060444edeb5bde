"""What every registered method must do. A new method adds a line to ``CASES`` and, if it can, nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.network import train
from fedunlearn.unlearning.registry import method, methods
from tests.unlearning.central import Central, shards
from tests.worlds import Story, TrainingSettings, all_rows, model_for, open_session, request_for, table_data

LAM = 0.05
CASES = {
    "retrain": ("retrain", {}),
    "finetune": ("finetune", {"rounds": 12}),
    "newton": ("newton", {}),
    "newton one-step": ("newton", {"mode": "one-step"}),
    "newton one-step, forget set": ("newton", {"mode": "one-step", "gradient": "forget-set"}),
}
REQUESTS = {
    "sample": {"level": "sample", "client": 1, "count": 6},
    "class": {"level": "class", "label": 1},
    "client": {"level": "client", "client": 2},
}
CONVERGED = TrainingSettings(rounds=120, batch=64, lr=1.0, final_rounds=90, l2=0.1)
SHORT = TrainingSettings(rounds=2, batch=6, lr=0.5, momentum=0.5, l2=LAM)

every_case = pytest.mark.parametrize("case", CASES)
every_level = pytest.mark.parametrize("level", REQUESTS)


@pytest.fixture(scope="module")
def dataset():
    """Seven unlike clients; client 4 has nothing but class 1, so a class request takes it out."""
    data = table_data(clients=7, classes=3, inputs=4, seed=6, sizes=(10, 20))
    data.labels[data.train_rows(4)] = 1
    return data


def story_of(session, case, training):
    name, settings = CASES[case]
    return Story(session, name, training, **settings)


def test_every_registered_method_runs_through_the_battery():
    assert {name for name, _ in CASES.values()} == set(methods())


@every_case
@every_level
def test_an_answer_is_whole(case, level, dataset):
    """The leaver is gone, what is kept is counted, and an outcome says either what it certifies or why it does not."""
    assert level in method(CASES[case][0]).levels
    request = request_for(dataset, **REQUESTS[level])
    with open_session(dataset, *model_for(dataset), hosts=2) as session:
        story = story_of(session, case, SHORT)
        story.learn()
        outcome = story.answer(request)
        network = story.network
        rows = all_rows(network)
        assert np.isfinite(rows).all() and rows.shape == (7 - len(request.leaves), network.dim)
        assert (np.flatnonzero(~network.alive) == request.leaves).all()
        assert not any(np.nan_to_num(network.read(i)).any() for i in request.leaves)
        left = [np.setdiff1d(dataset.train_rows(c), request.sample_ids) for c in range(7)]
        assert network.counts.tolist() == list(map(len, left))
    assert (outcome.certificate is None) == bool(outcome.certificate_reason)
    if outcome.release is not None:
        assert outcome.release.dtype == np.float32 and (rows == outcome.release).all()
        assert np.array_equal(story.persisted[-1], outcome.release)
    else:
        assert outcome.certificate is None
    if outcome.certificate is not None:
        assert outcome.certificate.method == CASES[case][0] and outcome.certificate.granularity == level


@every_case
@every_level
def test_the_network_comes_nearer_to_retraining(case, level, dataset):
    request = request_for(dataset, **REQUESTS[level])
    with open_session(dataset, *model_for(dataset)) as session:
        story = story_of(session, case, CONVERGED)
        story.learn()
        before = story.network.mean() if story.outcomes[0].noise_free is None else story.outcomes[0].noise_free
        outcome = story.answer(request)
        after = story.network.mean() if outcome.noise_free is None else outcome.noise_free
        twin, ending = story.twin()
        retrained = twin.mean() if ending.noise_free is None else ending.noise_free
    assert np.linalg.norm(after - retrained) < 0.6 * np.linalg.norm(before - retrained)


@every_case
@every_level
def test_after_the_answer_nothing_reads_what_was_deleted(case, level, dataset):
    """Poison every place where deleted data, or anything made of them, could lie: all that follows stays the same."""
    requests = [request_for(dataset, 0, **REQUESTS[level]), request_for(dataset, 1, level="sample", client=0, count=2)]
    found = []
    for poison in (None, np.nan, 1e30):
        with open_session(dataset, *model_for(dataset), hosts=2) as session:
            story = story_of(session, case, SHORT)
            story.learn()
            story.answer(requests[0])
            dead = np.flatnonzero(~story.network.alive)
            for host in session.transport._hosts:
                store, low = host.store, host.block.low
                gone = np.isin(store["sample_ids"], requests[0].sample_ids)
                assert np.isnan(store["inputs"][gone]).all() and (store["labels"][gone] == -1).all()
                mine = [i - low for i in dead if low <= i < host.block.high]
                for kind in ("theta.main", "momentum.main"):
                    assert not np.nan_to_num(store[kind][mine]).any()
                for name in scratch(store):
                    assert np.isnan(store[name]).all()
                if poison is None:
                    continue
                store["inputs"][gone] = poison
                store["labels"][gone] = 10**6
                for name in scratch(store):
                    store[name][...] = poison
                for kind in ("theta.main", "momentum.main"):
                    store[kind][mine] = poison
            train(story.network, SHORT)
            trained = all_rows(story.network)
            answered = story.answer(requests[1])
            found.append((trained, all_rows(story.network), answered.release, answered.details))
    assert np.isfinite(found[0][0]).all() and np.isfinite(found[0][1]).all()
    for other in found[1:]:
        assert np.array_equal(other[0], found[0][0]) and np.array_equal(other[1], found[0][1])
        assert np.array_equal(other[2], found[0][2]) and other[3] == found[0][3]


def scratch(store):
    """Names of the arrays that commands leave behind on a host."""
    paths = [p for kind in ("vector", "partial", "halo") for p in store.folder.glob(f"{kind}.*.npy")]
    return [p.name.removesuffix(".npy") for p in paths]


@every_case
@every_level
def test_the_same_bits_again_and_on_any_number_of_hosts(case, level, dataset):
    found = []
    for hosts in (1, 1, 2, 3):
        with open_session(dataset, *model_for(dataset), hosts=hosts) as session:
            story = story_of(session, case, SHORT)
            story.learn()
            outcome = story.answer(request_for(dataset, **REQUESTS[level]))
            totals = (story.network.ledger.totals(), story.network.clock.seconds, story.network.work)
            found.append((all_rows(story.network), outcome, totals))
    rows, outcome, totals = found[0]
    for other_rows, other, other_totals in found[1:]:
        assert np.array_equal(rows, other_rows) and totals == other_totals
        assert np.array_equal(outcome.noise_free, other.noise_free) and outcome.details == other.details
        assert outcome.certificate is None or outcome.certificate.to_dict() == other.certificate.to_dict()


# --- nothing deleted --------------------------------------------------------------------------------------------------


def answer_nothing(dataset, case, training):
    with open_session(dataset, *model_for(dataset)) as session:
        story = story_of(session, case, training)
        first = story.learn()
        before = all_rows(story.network)
        outcome = story.answer(request_for(dataset, level="sample", client=1, samples=()))
        after = all_rows(story.network)
        longer = Story(
            session, "finetune", training.model_copy(update={"rounds": training.rounds + 12}), population="b"
        )
        longer.learn()
        return first, before, outcome, after, all_rows(longer.network)


def test_nothing_deleted_retraining_gives_the_trained_network_again(dataset):
    _, before, _, after, _ = answer_nothing(dataset, "retrain", SHORT)
    assert np.array_equal(before, after)


def test_nothing_deleted_provable_newton_stays_within_its_tolerance_and_draws_fresh_noise(dataset):
    first, _, outcome, after, _ = answer_nothing(dataset, "newton", SHORT)
    assert np.linalg.norm(outcome.noise_free - first.noise_free) <= outcome.certificate.sensitivity
    assert np.abs(outcome.release - first.release).max() > 0.01 and (after == outcome.release).all()


def test_nothing_deleted_one_step_newton_finishes_the_optimisation(dataset):
    """From the retained gradient it is a Newton step on the same objective; from an empty forget set it is nothing."""
    _, before, _, after, _ = answer_nothing(dataset, "newton one-step", SHORT)
    optimum = Central(shards(dataset, model_for(dataset)[1]), 3, "equal", LAM).minimiser()
    assert np.linalg.norm(after.mean(0) - optimum) < 0.5 * np.linalg.norm(before.mean(0) - optimum)
    _, before, _, after, _ = answer_nothing(dataset, "newton one-step, forget set", SHORT)
    assert np.array_equal(before, after)


def test_nothing_deleted_fine_tuning_is_longer_training(dataset):
    plain = SHORT.model_copy(update={"momentum": 0.0})
    _, before, _, after, longer = answer_nothing(dataset, "finetune", plain)
    assert np.array_equal(after, longer) and not np.array_equal(after, before)
