"""Provable Newton: the theorem on random networks, the certificate, what is left on the hosts, and the ways out."""

from __future__ import annotations

import dataclasses

import networkx as nx
import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.privacy import NoCertificate, PrivacySettings, RunFacts, certify, gaussian_noise
from fedunlearn.unlearning.base import PublicKnowledge
from fedunlearn.unlearning.certified import newton, tolerance_release
from fedunlearn.unlearning.objective import NetworkObjective
from fedunlearn.unlearning.optimise import Solution
from tests.unlearning.central import Central, shards
from tests.worlds import (
    Story,
    TrainingSettings,
    all_rows,
    image_data,
    model_for,
    open_session,
    request_for,
    table_data,
)

LAM = 0.01
RECIPE = TrainingSettings(rounds=2, batch=6, lr=0.5, momentum=0.5, l2=LAM)
CLIENT = {"level": "client", "client": 2}
LEVELS = ("sample", "class", "client")


def random_graph(n: int, rng: np.random.Generator) -> nx.Graph:
    """Return a connected graph: a random tree and some more edges."""
    order = rng.permutation(n)
    graph = nx.empty_graph(n)
    graph.add_edges_from((int(order[i]), int(order[rng.integers(i)])) for i in range(1, n))
    graph.add_edges_from((int(a), int(b)) for a, b in rng.integers(0, n, (rng.integers(0, n), 2)) if a != b)
    return graph


def random_request(dataset, level: str, rng: np.random.Generator):
    client = int(rng.integers(dataset.num_clients))
    mine = dataset.train_rows(client)
    if level == "sample":
        return request_for(dataset, level=level, client=client, count=int(rng.integers(1, len(mine))))
    if level == "class":
        return request_for(dataset, level=level, label=int(dataset.labels[rng.choice(mine)]))
    return request_for(dataset, level=level, client=client)


def problem(seed: int, level: str, weighting: str, *, patch=None, **settings):
    """Train a random network, delete, answer, retrain; returns both endings and the exact optimum on what is left."""
    rng = np.random.default_rng([seed, LEVELS.index(level), weighting == "equal"])
    dataset = table_data(clients=int(rng.integers(3, 9)), seed=seed, sizes=(3, 15))
    model, mapping = model_for(dataset)
    lam = float(10 ** rng.uniform(-4, -1))
    recipe = RECIPE.model_copy(update={"l2": lam, "weighting": weighting})
    request = random_request(dataset, level, rng)
    with open_session(dataset, model, mapping, hosts=int(rng.integers(1, 3))) as session:
        story = Story(session, "newton", recipe, graph=random_graph(dataset.num_clients, rng), **settings)
        story.learn()
        if patch is not None:
            patch(story)
        outcome = story.answer(request)
        if patch is not None:
            patch(None)
        _, ending = story.twin()
    kept = shards(dataset, mapping, request.sample_ids)
    return outcome, ending, Central(kept, 3, weighting, lam), dataset, request


def check_theorem(seeds, level, weighting):
    for seed in seeds:
        outcome, ending, central, *_ = problem(seed, level, weighting)
        certificate = outcome.certificate
        assert certificate.valid and not outcome.fell_back_to_retraining
        tau, radius = certificate.constants["tau"], certificate.constants["tau"] / central.lam
        assert certificate.sensitivity == pytest.approx(2 * radius, rel=1e-12)
        # the tolerance as another implementation sees it
        assert np.linalg.norm(central.gradient(outcome.noise_free)) <= tau
        assert np.linalg.norm(central.gradient(ending.noise_free)) <= tau
        assert np.linalg.norm(outcome.noise_free - central.minimiser()) <= radius
        assert np.linalg.norm(outcome.noise_free - ending.noise_free) <= 2 * radius


# --- the theorem ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["equal", "samples"])
@pytest.mark.parametrize("level", LEVELS)
def test_unlearned_and_retrained_are_within_the_sensitivity(level, weighting):
    check_theorem(range(11), level, weighting)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["equal", "samples"])
@pytest.mark.parametrize("level", LEVELS)
def test_unlearned_and_retrained_are_within_the_sensitivity_many_times(level, weighting):
    check_theorem(range(100, 250), level, weighting)


@pytest.mark.parametrize("weighting", ["equal", "samples"])
def test_the_bound_is_attained_by_a_pair_that_both_meet_the_rule(weighting):
    """A softmax head does not see the direction 1 x v; its curvature there is lambda alone."""
    dataset = table_data(seed=5)
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping) as session:
        story = Story(session, "newton", RECIPE.model_copy(update={"weighting": weighting}))
        story.learn()
        story.forget(request_for(dataset, **CLIENT))
        deleted = story.network.deleted
        optimum = Central(shards(dataset, mapping, deleted), 3, weighting, LAM).minimiser()
        stop = tolerance_release.stopping_rule(story.network, LAM, tau := 1e-4)
        objective = NetworkObjective(story.network, weighting, LAM)
        v = np.random.default_rng(0).normal(size=model.dim // 3)
        q = np.tile(v, 3) / np.linalg.norm(np.tile(v, 3))
        pair = [optimum + sign * (1 - 1e-7) * tau / LAM * q for sign in (-1, 1)]
        for x in pair:
            gradient = objective.gradient(x)
            assert stop.met(x, gradient)
            assert not stop.met(optimum + 1.001 * (x - optimum), objective.gradient(optimum + 1.001 * (x - optimum)))
            # the release code certifies this worst case as any other
            solution = Solution(x, gradient, stop.bound(x, gradient), True, 0)
            public = tolerance_release.calibration(story.privacy, LAM, 0.05, tau)
            _, certificate, reason = tolerance_release.release(
                story.network, story.situation(), solution, public, request_for(dataset, **CLIENT),
                method="newton", start="released",
            )  # fmt: skip
            assert certificate.valid and reason == ""
        assert np.linalg.norm(pair[1] - pair[0]) / certificate.sensitivity == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("weighting", ["equal", "samples"])
@pytest.mark.parametrize("level", LEVELS)
def test_weights_of_the_counts_before_the_deletion_break_the_theorem(level, weighting):
    for seed in range(4):
        _, ending, central, dataset, request = problem(seed, level, weighting, tolerance=1e-7)
        owners = [np.setdiff1d(dataset.train_rows(c), request.sample_ids) for c in range(dataset.num_clients)]
        before = [len(dataset.train_rows(c)) for c in range(dataset.num_clients)]
        stay = [b for b, o in zip(before, owners) if len(o)]
        gone = [b for b, o in zip(before, owners) if not len(o)]
        features = model_for(dataset)[1]
        kept = shards(dataset, features, request.sample_ids)
        wrong = Central(kept, 3, weighting, central.lam, counts=stay + gone).minimiser()
        assert np.linalg.norm(central.minimiser() - ending.noise_free) <= 1e-7 / central.lam
        assert np.linalg.norm(wrong - ending.noise_free) > 10 * 2e-7 / central.lam


@pytest.mark.parametrize("weighting", ["equal", "samples"])
def test_the_theorem_test_notices_an_answer_with_those_weights(weighting, monkeypatch):
    """The same fault planted in the code: the retained objective keeps the number of clients and samples of before."""
    right = NetworkObjective._weights

    def patch(story):
        if story is None:
            monkeypatch.setattr(NetworkObjective, "_weights", right)
            return
        stale = right(NetworkObjective(story.network, weighting, LAM))
        monkeypatch.setattr(NetworkObjective, "_weights", lambda self: stale)

    far = 0
    for seed in range(4):
        outcome, ending, central, *_ = problem(seed, "client", weighting, patch=patch)
        far += np.linalg.norm(outcome.noise_free - ending.noise_free) > outcome.certificate.sensitivity
        assert np.linalg.norm(central.gradient(outcome.noise_free)) > outcome.certificate.constants["tau"]
    assert far >= 3


def test_a_class_that_was_all_a_client_had_takes_the_client_out():
    dataset = table_data(clients=6, seed=2)
    dataset.labels[dataset.train_rows(4)] = 1
    request = request_for(dataset, level="class", label=1)
    assert request.leaves == (4,) and len(request.sample_ids) > len(dataset.train_rows(4))
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping, hosts=2) as session:
        story = Story(session, "newton", RECIPE)
        story.learn()
        outcome = story.answer(request)
        network = story.network
        assert not network.alive[4] and network.num_alive == 5 and network.counts[4] == 0
        assert network.graph.degree(4) == 0 and nx.is_connected(network.graph.subgraph([0, 1, 2, 3, 5]))
        dense = network.weights.toarray()
        assert not dense[4].any() and not dense[:, 4].any()
        assert np.allclose(np.delete(dense, 4, 0).sum(1), 1, atol=1e-12)
        assert np.isnan(network.read(4)).all()
        _, ending = story.twin()
    central = Central(shards(dataset, mapping, request.sample_ids), 3, "equal", LAM)
    assert np.linalg.norm(central.gradient(outcome.noise_free)) <= outcome.certificate.constants["tau"]
    assert np.linalg.norm(outcome.noise_free - ending.noise_free) <= outcome.certificate.sensitivity
    assert outcome.certificate.granularity == "class"


# --- the certificate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_every_premise_is_enforced_for_rows_of_bounded_norm(level):
    dataset = table_data()
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "newton", RECIPE)
        first = story.learn()
        assert first.certificate is None and first.certificate_reason == "nothing was deleted yet"
        request = random_request(dataset, level, np.random.default_rng(0))
        certificate = story.answer(request).certificate
    assert certificate.valid and {p.status for p in certificate.premises} == {"enforced"}
    assert (certificate.method, certificate.granularity) == ("newton", level)
    assert (certificate.epsilon, certificate.delta) == (1.0, 1e-5)
    assert certificate.sigma == pytest.approx(0.05) and certificate.mu == pytest.approx(0.26805, abs=1e-5)
    assert "T1" in certificate.theorem and "T5.3" in certificate.theorem
    assert certificate.facts["retraining_always_stops"]
    assert [line.partition(":")[0] for line in certificate.scope[:2]] == ["released", "state"]
    assert certificate.view == "T-V2"


def test_raw_inputs_give_no_valid_certificate():
    """Nothing bounds the rounding of a gradient whose rows are not bounded."""
    dataset = table_data()
    with open_session(dataset, *model_for(dataset, features="raw")) as session:
        story = Story(session, "newton", RECIPE)
        story.learn()
        outcome = story.answer(request_for(dataset, **CLIENT))
    status = {p.name: p.status for p in outcome.certificate.premises}
    assert not outcome.certificate.valid and status.pop("rounding bound") == "assumed"
    assert set(status.values()) == {"enforced"}
    assert outcome.certificate_reason == "a premise of the theorem was not enforced: rounding bound"
    assert not outcome.certificate.facts["retraining_always_stops"]
    assert "certifier form" in outcome.certificate.claim


def test_a_recipe_that_may_diverge_is_not_said_to_stop_always():
    dataset = table_data()
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "newton", RECIPE.model_copy(update={"lr": 1.5, "l2": 0.9}))
        story.learn()
        certificate = story.answer(request_for(dataset, **CLIENT)).certificate
    assert not certificate.facts["retraining_always_stops"] and "certifier form" in certificate.claim


def test_settings_without_a_certificate_are_refused_before_training():
    dataset = image_data(clients=3, side=5)
    with open_session(dataset, *model_for(dataset)) as session:
        flat = RECIPE.model_copy(update={"l2": 0.0})
        with pytest.raises(
            UserError, match=r"^training.l2 = 0.0 does not make .* strongly convex \(allowed .*l2 > 0\)$"
        ):
            Story(session, "newton", flat)
        assert Story(session, "newton", flat, population="one-step", mode="one-step").learn()
    with (
        open_session(dataset, *model_for(dataset, "mlp", "raw")) as session,
        pytest.raises(UserError, match=r"^model.name = 'mlp' is not convex \(allowed for provable 'newton': .*\)$"),
    ):
        Story(session, "newton", RECIPE)


def test_tau_is_public():
    """It follows from the settings, whatever the data: sigma = 0.05 at (1, 1e-5) asks for 0.0067 lambda."""
    method = newton.Newton(newton.NewtonSettings())
    constants = method.public_constants(RECIPE, PrivacySettings())
    assert constants.tau == pytest.approx(0.05 * LAM * 0.26805 / 2, rel=1e-4)
    assert constants.sensitivity == 2 * constants.tau / LAM
    chosen = newton.Newton(newton.NewtonSettings(tolerance=1e-6)).public_constants(RECIPE, PrivacySettings())
    assert chosen.tau == 1e-6 and chosen.sigma < constants.sigma
    assert newton.Newton(newton.NewtonSettings(mode="one-step")).public_constants(RECIPE, PrivacySettings()) is None
    assert method.public_constants(RECIPE.model_copy(update={"l2": 0.0}), PrivacySettings()) is None


def test_one_draw_on_different_models_reveals_their_differences():
    """Why every row is overwritten: one noise vector on two nodes' own models cancels in y_i - y_j."""
    dataset = table_data()
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "newton", RECIPE)
        story.unlearner.prepare(story.network, story.situation())
        story.retrain(story.network)
        own = all_rows(story.network).astype(np.float64)
        release = own + gaussian_noise(0.05, own.shape[1], "simulated", 0, 0)
        assert np.abs(own[1] - own[4]).max() > 1e-3
        assert np.allclose(release[1] - release[4], own[1] - own[4], rtol=0, atol=1e-15)
        story.outcomes.append(story.unlearner.conclude(story.network, story.situation()))
        outcome = story.answer(request_for(dataset, **CLIENT))
        rows = all_rows(story.network)
        assert (rows == outcome.release).all()  # what the network does instead: nothing differs
    facts = RunFacts.from_dict(outcome.certificate.facts)
    with pytest.raises(NoCertificate, match="their differences carry no noise"):
        certify(dataclasses.replace(facts, release="shared-draw"), 1.0, 1e-5, noise="simulated")


# --- several requests -------------------------------------------------------------------------------------------------


def test_nothing_accumulates_over_requests_and_each_starts_from_the_last_release(monkeypatch):
    dataset = table_data(clients=8, seed=1, sizes=(15, 30))
    requests = [
        request_for(dataset, 0, level="sample", client=1, count=4),
        request_for(dataset, 1, **CLIENT),
        request_for(dataset, 2, level="sample", client=5, count=2),
    ]
    starts, at_persist = [], []
    search = newton.newton_cg

    def spy(objective, start, *args, **kwargs):
        starts.append(start.copy())
        return search(objective, start, *args, **kwargs)

    monkeypatch.setattr(newton, "newton_cg", spy)
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "newton", RECIPE)
        keep = story.persisted.append

        def persist(vector):
            at_persist.append(story.network.read(0))
            keep(vector)

        situation = story.situation
        story.situation = lambda world="main": dataclasses.replace(situation(world), persist=persist)
        outcomes = [story.learn(), *(story.answer(r) for r in requests)]
        twin_ending = story.twin()[1]
    certificates = [o.certificate for o in outcomes[1:]]
    assert len({(c.sigma, c.mu, c.sensitivity) for c in certificates}) == 1
    assert all(c.valid and c.constants["releases"] == 1 for c in certificates)
    for start, before in zip(starts[1:4], outcomes[:3], strict=True):
        assert np.array_equal(start, before.release.astype(np.float64))
    # stored before anybody received it
    assert [p.tobytes() for p in story.persisted[:4]] == [o.release.tobytes() for o in outcomes]
    assert all(not np.array_equal(row, o.release) for row, o in zip(at_persist, outcomes))
    # a fresh draw for every release, and for the twin's
    noises = [o.release - o.noise_free for o in (*outcomes, twin_ending)]
    for i, a in enumerate(noises):
        assert 0.02 < a.std() < 0.1
        assert all(np.abs(a - b).max() > 0.01 for b in noises[:i])


def test_the_public_start_is_taken_when_it_is_better(monkeypatch):
    """Both candidates are functions of the release and of what is left; the smaller gradient decides."""
    dataset = table_data()
    starts = []
    search = newton.newton_cg
    monkeypatch.setattr(newton, "newton_cg", lambda o, s, *a, **k: starts.append(s.copy()) or search(o, s, *a, **k))
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "newton", RECIPE.model_copy(update={"l2": 0.5}), target_sigma=20.0)
        story.learn()
        story.answer(request_for(dataset, **CLIENT))
    assert np.array_equal(starts[1], np.zeros_like(starts[1]))


def test_the_public_start_is_not_asked_about_where_public_records_say_that_it_is_worse():
    """One gradient and its diagonal at the release are one all-reduce; every other one is a step or a product."""
    dataset = table_data()
    model, mapping = model_for(dataset)
    used = {}
    for asked in (False, True):
        with open_session(dataset, model, mapping) as session:
            story = Story(session, "newton", RECIPE, public=public_records(mapping))
            story.learn()
            expected = story.unlearner._public_start
            assert expected is not None
            if asked:
                story.unlearner._public_start = None
            outcome = story.answer(request_for(dataset, **CLIENT))
            used[asked] = outcome.details
            assert outcome.details["all_reduces"] == outcome.details["gradients"] + outcome.details["hvps"]
            assert outcome.certificate.valid
    assert used[True]["gradients"] == used[False]["gradients"] + 1


def leftovers(session, allowed=("theta", "inputs", "weights")):
    """Return the float arrays of all hosts that hold a finite number other than zero, apart from the allowed ones."""
    found = set()
    for host in session.transport._hosts:
        for path in host.store.folder.glob("*.npy"):
            name = path.name.removesuffix(".npy")
            values = np.load(path, allow_pickle=False)
            if name.split(".")[0] not in allowed and values.dtype.kind == "f" and np.nan_to_num(values).any():
                found.add(name)
    return found


def holders(session, vector):
    """Return the arrays in which ``vector`` can be found, to float32 precision."""
    found = set()
    for host in session.transport._hosts:
        for path in host.store.folder.glob("*.npy"):
            values = np.load(path, allow_pickle=False)
            if values.dtype.kind == "f" and values.size >= vector.size:
                windows = np.lib.stride_tricks.sliding_window_view(values.reshape(-1).astype(np.float64), vector.size)
                if np.nanmin(np.abs(windows - vector).max(1), initial=np.inf) < 1e-6:
                    found.add(path.name)
    return found


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.filterwarnings("ignore:All-NaN")
def test_no_noise_free_vector_is_left_on_any_host(hosts, monkeypatch):
    dataset = table_data()
    with open_session(dataset, *model_for(dataset), hosts=hosts) as session:
        story = Story(session, "newton", RECIPE)
        outcome = story.learn()
        for request in (None, request_for(dataset, 0, **CLIENT), request_for(dataset, 1, level="class", label=0)):
            if request is not None:
                outcome = story.answer(request)
            assert not holders(session, outcome.noise_free)
            assert len(holders(session, outcome.release.astype(np.float64))) == 1  # the rows
            assert leftovers(session) == set()
            assert (all_rows(story.network) == outcome.release).all()
        # without the wiping both eyes see it
        monkeypatch.setattr(type(story.network), "wipe", lambda self: None)
        outcome = story.answer(request_for(dataset, 2, level="sample", client=0, count=1))
        assert holders(session, outcome.noise_free) == {"vector.at.npy"}
        assert {"vector.at", "vector.direction", "partial.0", "probabilities.main"} <= leftovers(session)


def test_secret_noise_differs_from_run_to_run_and_hides_the_same_vector():
    dataset, outcomes = table_data(), []
    for _ in range(2):
        with open_session(dataset, *model_for(dataset)) as session:
            story = Story(session, "newton", RECIPE, privacy=PrivacySettings(noise="secret"))
            outcomes.append(story.learn())
            certificate = story.answer(request_for(dataset, **CLIENT)).certificate
            assert certificate.noise == "secret" and certificate.valid
    assert np.array_equal(outcomes[0].noise_free, outcomes[1].noise_free)
    assert np.abs(outcomes[0].release - outcomes[1].release).max() > 0.01


# --- when the tolerance is not reached --------------------------------------------------------------------------------


def test_the_safeguard_makes_the_learner_stop_and_an_unmet_search_retrains():
    dataset = table_data()
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "newton", RECIPE, max_steps=1, max_products=1)
        first = story.learn()
        assert first.release is not None and first.details["safeguard_steps"] > 10
        assert first.details["gradient_bound"] <= first.details["tau"]
        calls, retrain = [], story.retrain
        story.retrain = lambda network: calls.append(network.name) or retrain(network)
        outcome = story.answer(request_for(dataset, **CLIENT))
        assert calls == ["main"] and outcome.fell_back_to_retraining
        _, ending = story.twin()
    # the fallback is the twin's own path; its messages had depended on the last release, so the view says so
    assert np.array_equal(outcome.noise_free, ending.noise_free)
    assert outcome.certificate.valid and outcome.certificate.facts["start"] == "released"
    assert outcome.details["gradient_bound"] <= outcome.details["tau"]
    assert outcome.certificate.constants["gradient_norm_bound"] <= outcome.certificate.constants["tau"]


def test_where_nothing_bounds_the_search_an_unmet_rule_gives_no_release_and_no_certificate():
    dataset = table_data()
    with open_session(dataset, *model_for(dataset, features="raw")) as session:
        story = Story(session, "newton", RECIPE, max_steps=1, max_products=1, tolerance=1e-8)
        for request in (None, request_for(dataset, **CLIENT)):
            outcome = story.learn() if request is None else story.answer(request)
            assert outcome.release is None and outcome.noise_free is None and outcome.certificate is None
            assert outcome.certificate_reason.startswith("none: the tolerance was not reached (gradient bound ")
            assert outcome.details["gradient_bound"] > outcome.details["tau"]
        assert outcome.fell_back_to_retraining
        twin, _ = story.twin()
        assert np.array_equal(all_rows(story.network), all_rows(twin))  # the network holds the retrained models
        assert not story.persisted


def test_the_release_code_certifies_no_vector_that_missed_the_rule():
    dataset = table_data()
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "newton", RECIPE)
        story.learn()
        request = request_for(dataset, **CLIENT)
        story.forget(request)
        public = tolerance_release.calibration(story.privacy, LAM, 0.05, None)
        for factor in (1.001, np.nan):
            gradient = np.full(story.network.dim, public.tau * factor / np.sqrt(story.network.dim))
            solution = Solution(np.zeros(story.network.dim), gradient, np.inf, False, 0)
            _, certificate, reason = tolerance_release.release(
                story.network, story.situation(), solution, public, request, method="newton", start="released"
            )
            assert certificate is None and reason.startswith("none: the stopping rule was not met")


def public_records(mapping):
    """Return public knowledge of the same kind of data: records, and the head fitted on them alone."""
    other = table_data(clients=1, sizes=(30, 31))
    rows = mapping.apply(other.inputs)
    head = Central([(rows.astype(np.float64), other.labels)], 3, "equal", LAM).minimiser()
    return PublicKnowledge(rows, other.labels, head)


def test_controls_reach_the_same_tolerance_without_private_starts_and_leave_the_network_alone():
    dataset = table_data()
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping) as session:
        story = Story(session, "newton", RECIPE, public=public_records(mapping))
        story.learn()
        outcome = story.answer(request_for(dataset, **CLIENT))
        rows, releases = all_rows(story.network), len(story.persisted)
        controls = story.unlearner.controls(story.network, story.situation())
        assert set(controls) == {"newton_from_initial_model", "newton_from_public_head", newton.DIAGONAL}
        for attempt in controls.values():
            found = attempt()
            assert found.release is None and found.certificate is None
            assert np.linalg.norm(found.noise_free - outcome.noise_free) <= outcome.certificate.sensitivity
        assert np.array_equal(all_rows(story.network), rows) and len(story.persisted) == releases
        one_step = Story(session, "newton", RECIPE, population="one-step", mode="one-step")
        assert one_step.unlearner.controls(one_step.network, one_step.situation()) == {}


def test_curvature_at_the_release_gives_the_same_certificate():
    dataset = table_data()
    model, mapping = model_for(dataset)
    public = public_records(mapping)
    found = []
    for settings in ({"curvature_at": "release"}, {"curvature_at": "public-head"}, {"curvature": "none"}):
        with open_session(dataset, model, mapping) as session:
            story = Story(session, "newton", RECIPE, public=public, **settings)
            story.learn()
            found.append(story.answer(request_for(dataset, **CLIENT)))
    assert len({(o.certificate.sigma, o.certificate.sensitivity, o.certificate.valid) for o in found}) == 1
    for other_way in found[1:]:
        assert np.linalg.norm(found[0].noise_free - other_way.noise_free) <= found[0].certificate.sensitivity
