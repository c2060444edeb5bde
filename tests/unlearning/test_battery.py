"""What every registered method must do. A new method adds a line to ``CASES`` and, if it can, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

import networkx as nx
import numpy as np
import pytest

from fedunlearn.network import train
from fedunlearn.privacy import Certificate, PrivacySettings, delta_of
from fedunlearn.privacy.claims import rebuild
from fedunlearn.unlearning.registry import method, methods
from tests.unlearning.central import Central, shards
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

LAM = 0.05


@dataclass(frozen=True)
class Case:
    """One way to use a method.

    ``training`` are changes to the recipe, ``repair`` what happens to a leaver's place, ``levels`` those that this way
    is defined for (by default the method's), ``privacy`` changes to the claim. ``improves``: whether an answer brings
    the network nearer to retraining at all; differentially private training has nothing left to do.
    """

    method: str
    settings: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    repair: str = "path"
    levels: tuple[str, ...] | None = None
    privacy: dict = field(default_factory=dict)
    improves: bool = True
    graph: str = "ring"


CASES = {
    "retrain": Case("retrain"),
    "finetune": Case("finetune", {"rounds": 12}),
    "newton": Case("newton"),
    "dp-sgd": Case("dp-sgd", {"rate": 0.3, "capacity": 6}, improves=False),
    "rewind": Case("rewind", {"rewind": 0.5}, {"schedule": "holes", "momentum": 0.0, "local_steps": 2}, "relay"),
    "rewind, as little as the claim allows": Case(
        "rewind", {"sigma": 0.1}, {"schedule": "holes", "momentum": 0.0, "local_steps": 2}, "relay"
    ),
    # What noise of the size that a claim needs leaves is nearer to nothing.
    "rr-du": Case("rr-du", {"hops": 20}, improves=False),
    # Six samples are nothing beside what a walk of this length leaves open: tests/unlearning/test_rr_du.py walks on.
    "rr-du, hardly any noise": Case(
        "rr-du",
        {"hops": 300, "lr": 0.05, "noise": 1e-3, "clip": 2.0, "start_radius": 20.0, "batch": 64},
        levels=("class", "client"),
        graph="complete",
    ),
    "rr-du paper": Case(
        "rr-du", {"accounting": "paper", "hops": 20, "trust_radius": 0.5}, levels=("sample", "client"), improves=False
    ),
    "rr-du lightweight": Case("rr-du", {"alignment": "lightweight", "hops": 20}, levels=("sample",), improves=False),
    "ddp": Case("ddp", {"hops": 30, "calibration": "composed"}, graph="complete", improves=False),
    "newton one-step": Case("newton", {"mode": "one-step"}),
    "newton one-step, forget set": Case("newton", {"mode": "one-step", "gradient": "forget-set"}),
    "newton paper": Case("newton", {"mode": "paper", "corrections": 3}),
    "newton paper, one vector": Case("newton", {"mode": "paper", "consensus": 0.0, "recovery": "none"}),
    "newton paper, asking client": Case(
        "newton",
        {
            "mode": "paper",
            "bound": "worst-case",
            "gradient": "forget-set",
            "curvature_data": "asking-client",
            "message_radius": "bound",
            "recovery": "local",
        },
        levels=("sample", "client"),
        improves=False,
    ),
}
REQUESTS = {
    "sample": {"level": "sample", "client": 1, "count": 6},
    "class": {"level": "class", "label": 1},
    "client": {"level": "client", "client": 2},
}
CONVERGED = TrainingSettings(rounds=120, batch=64, lr=1.0, final_rounds=90, l2=0.1)
SHORT = TrainingSettings(rounds=2, batch=6, lr=0.5, momentum=0.5, l2=LAM)

DEFINED = [
    (name, level) for name, case in CASES.items() for level in case.levels or method(case.method).levels
]  # fmt: skip
every_case_and_level = pytest.mark.parametrize(("case", "level"), DEFINED)
every_improving_case_and_level = pytest.mark.parametrize(
    ("case", "level"), [(name, level) for name, level in DEFINED if CASES[name].improves]
)


@pytest.fixture(scope="module")
def dataset():
    """Seven unlike clients; client 4 has nothing but class 1, so a class request takes it out."""
    data = table_data(clients=7, classes=3, inputs=4, seed=6, sizes=(10, 20))
    data.labels[data.train_rows(4)] = 1
    return data


def story_of(session, case, training, requests=()):
    way = CASES[case]
    return Story(
        session, way.method, training.model_copy(update=way.training), repair=way.repair, requests=requests,
        privacy=PrivacySettings(**way.privacy),
        graph=nx.complete_graph(session.num_nodes) if way.graph == "complete" else None, **way.settings,
    )  # fmt: skip


def gone(case, request):
    """The vertices that an answer takes out of the network."""
    return () if CASES[case].repair == "relay" else request.leaves


def test_every_registered_method_runs_through_the_battery():
    assert {case.method for case in CASES.values()} == set(methods())
    assert {(CASES[name].method, level) for name, level in DEFINED} == {
        (name, level) for name, info in methods().items() for level in info.levels
    }


@every_case_and_level
def test_an_answer_is_whole(case, level, dataset):
    """The leaver is gone, what is kept is counted, and an outcome says either what it certifies or why it does not."""
    request = request_for(dataset, **REQUESTS[level])
    with open_session(dataset, *model_for(dataset), hosts=2) as session:
        story = story_of(session, case, SHORT, [request])
        story.learn()
        outcome = story.answer(request)
        network = story.network
        rows = all_rows(network)
        assert np.isfinite(rows).all() and rows.shape == (7 - len(gone(case, request)), network.dim)
        assert tuple(np.flatnonzero(~network.alive)) == tuple(gone(case, request))
        assert not any(np.nan_to_num(network.read(i)).any() for i in gone(case, request))
        left = [np.setdiff1d(dataset.train_rows(c), request.sample_ids) for c in range(7)]
        assert network.counts.tolist() == list(map(len, left))
    assert (outcome.certificate is not None and outcome.certificate.valid) != bool(outcome.certificate_reason)
    if outcome.release is not None:
        alone = outcome.certificate is not None and outcome.certificate.kind == "single-node"
        held = rows[:1] if alone else rows  # nodes that keep models of their own: the claim is about the root's
        assert outcome.release.dtype == np.float32 and (held == outcome.release).all()
        assert np.array_equal(story.persisted[-1], outcome.release)
    else:
        assert outcome.certificate is None
    if outcome.certificate is not None:
        assert outcome.certificate.method == CASES[case].method and outcome.certificate.granularity == level
    for certificate in (outcome.certificate, *outcome.further_certificates):
        if certificate is not None:
            check_arithmetic(certificate)


def check_arithmetic(certificate):
    """What a certificate claims follows from its facts, and agrees with the exact profile and with itself."""
    again = rebuild(
        certificate.facts, certificate.epsilon, certificate.delta, noise=certificate.noise, hashes=certificate.hashes
    )
    assert again == certificate and Certificate.from_dict(certificate.to_dict()) == certificate
    if certificate.mu is not None:
        assert delta_of(certificate.mu, certificate.epsilon) <= certificate.delta * (1 + 1e-9)
    assert certificate.premises and certificate.scope and certificate.limits


@every_improving_case_and_level
def test_the_network_comes_nearer_to_retraining(case, level, dataset):
    request = request_for(dataset, **REQUESTS[level])
    with open_session(dataset, *model_for(dataset)) as session:
        story = story_of(session, case, CONVERGED, [request])
        story.learn()
        before = story.network.mean() if story.outcomes[0].noise_free is None else story.outcomes[0].noise_free
        outcome = story.answer(request)
        after = story.network.mean() if outcome.noise_free is None else outcome.noise_free
        twin, ending = story.twin()
        retrained = twin.mean() if ending.noise_free is None else ending.noise_free
    assert np.linalg.norm(after - retrained) < 0.6 * np.linalg.norm(before - retrained)


@every_case_and_level
def test_after_the_answer_nothing_reads_what_was_deleted(case, level, dataset):
    """Poison every place where deleted data, or anything made of them, could lie: all that follows stays the same."""
    requests = [request_for(dataset, 0, **REQUESTS[level]), request_for(dataset, 1, level="sample", client=0, count=2)]
    found = []
    for poison in (None, np.nan, 1e30):
        with open_session(dataset, *model_for(dataset), hosts=2) as session:
            story = story_of(session, case, SHORT, requests)
            story.learn()
            story.answer(requests[0])
            dead = np.flatnonzero(~story.network.alive)
            for host in session.transport._hosts:
                store, low = host.store, host.block.low
                gone = np.isin(store["sample_ids"], requests[0].sample_ids)
                assert np.isnan(store["inputs"][gone]).all() and (store["labels"][gone] == -1).all()
                mine = [i - low for i in dead if low <= i < host.block.high]
                kinds = [kind for kind in ("theta.main", "momentum.main") if kind in store]
                for kind in kinds:
                    assert not np.nan_to_num(store[kind][mine]).any()
                for name in scratch(store):
                    assert np.isnan(store[name]).all()
                if poison is None:
                    continue
                store["inputs"][gone] = poison
                store["labels"][gone] = 10**6
                for name in scratch(store):
                    store[name][...] = poison
                for kind in kinds:
                    store[kind][mine] = poison
            train(story.network, story.training)
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


@every_case_and_level
def test_the_same_bits_again_and_on_any_number_of_hosts(case, level, dataset):
    found = []
    for hosts in (1, 1, 2, 3):
        with open_session(dataset, *model_for(dataset), hosts=hosts) as session:
            request = request_for(dataset, **REQUESTS[level])
            story = story_of(session, case, SHORT, [request])
            story.learn()
            outcome = story.answer(request)
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
        outcome = story.answer(empty_request(dataset))
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
