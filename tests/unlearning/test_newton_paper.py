"""Newton in paper mode: one broadcast, what its certificate covers, when it retrains, and what the message shows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.network import train
from fedunlearn.privacy import PrivacySettings
from fedunlearn.unlearning.certified.ending import disagreement
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

LAM = 0.05
RECIPE = TrainingSettings(rounds=4, batch=6, lr=0.5, momentum=0.5, l2=LAM)
REQUESTS = {
    "sample": {"level": "sample", "client": 1, "count": 3},
    "class": {"level": "class", "label": 1},
    "client": {"level": "client", "client": 2},
}
ALONE = {
    "bound": "worst-case", "gradient": "forget-set", "curvature_data": "asking-client", "message_radius": "bound",
    "recovery": "none",
}  # fmt: skip
every_level = pytest.mark.parametrize("level", REQUESTS)


@pytest.fixture(scope="module")
def dataset():
    return table_data(clients=7, classes=3, inputs=4, seed=6, sizes=(10, 20))


def paper(session, request=None, training=RECIPE, **settings):
    requests = [] if request is None else [request]
    return Story(session, "newton", training, requests=requests, mode="paper", **settings)


def answered(dataset, level, *, model="softmax", features="unit", training=RECIPE, count=None, **settings):
    """Return a story with one answer, the rows before and after, and the answer."""
    changes = {} if count is None else {"count": count}
    request = request_for(dataset, **{**REQUESTS[level], **changes})
    with open_session(dataset, *model_for(dataset, model, features)) as session:
        story = paper(session, request, training, **settings)
        story.learn()
        story.forget(request)
        before = all_rows(story.network).astype(np.float64)
        outcome = story.unlearner.unlearn(story.network, request, story.situation())
        story.network.wipe()
        story.outcomes.append(outcome)
        twin, ending = story.twin()
        game = story.unlearner.tight_game(story.network, outcome, story.situation())
        return story, before, all_rows(story.network), outcome, (all_rows(twin), ending), game


# --- the broadcast ----------------------------------------------------------------------------------------------------


def test_every_node_adds_the_same_message_and_keeps_its_own_model(dataset):
    _, before, after, outcome, _, _ = answered(dataset, "sample", recovery="none", consensus=0.01)
    moved = after - before
    assert np.allclose(moved, moved[0], rtol=0, atol=1e-6)
    assert np.abs(before[1:] - before[0]).max() > 1e-5
    assert np.array_equal(outcome.release, after[0].astype(np.float32))
    noise = outcome.release - outcome.noise_free
    assert 0.5 < noise.std() / outcome.certificate.sigma < 1.5
    assert np.allclose(outcome.noise_free - before[0], moved[0] - noise, atol=1e-6)
    assert np.linalg.norm(outcome.noise_free - before[0]) == pytest.approx(outcome.details["correction_norm"], rel=1e-5)


def test_the_message_is_one_flood_and_the_noise_is_drawn_once(dataset):
    request = request_for(dataset, **REQUESTS["sample"])
    with open_session(dataset, *model_for(dataset), hosts=2) as session:
        story = paper(session, request, recovery="none")
        story.learn()
        story.network.phase = "unlearn"
        story.answer(request)
        flooded = story.network.graph.number_of_edges() - 2  # one message over each edge of the flood's tree
        sent = [e for e in story.network.ledger.summary()["by_kind"] if e["kind"] == "correction"]
    assert [(e["messages"], e["operations"]) for e in sent] == [(flooded, 1)]


@every_level
def test_the_models_come_within_the_claimed_distance_of_retraining(dataset, level):
    _, _, after, outcome, (rows, ending), _ = answered(dataset, level, corrections=4, recovery="none")
    certificate = outcome.certificate
    assert certificate.valid and certificate.kind == "single-node" and certificate.granularity == level
    assert not outcome.fell_back_to_retraining and outcome.details["correction_norm"] > 0.01
    noise = outcome.release - outcome.noise_free
    assert np.linalg.norm(after - noise - rows, axis=1).max() <= certificate.sensitivity
    assert np.linalg.norm(outcome.noise_free - ending.noise_free) <= certificate.sensitivity


def test_the_noise_is_the_target_by_default_and_follows_from_settings_and_counts_alone(dataset):
    _, _, _, outcome, _, _ = answered(dataset, "sample")
    assert outcome.certificate.sigma == pytest.approx(0.05, rel=1e-9)
    other = dataclasses.replace(dataset, labels=(dataset.labels + 1) % 3)
    found = [answered(data, "sample", bound="worst-case")[3].certificate for data in (dataset, other)]
    assert found[0].sigma == found[1].sigma and found[0].sensitivity == found[1].sensitivity
    assert found[0].constants["correction_norm"] != found[1].constants["correction_norm"]


def test_worst_case_noise_swamps_the_model_and_the_certificate_says_so(dataset):
    _, before, _, outcome, _, _ = answered(dataset, "sample", bound="worst-case", recovery="none")
    certificate = outcome.certificate
    assert certificate.valid and certificate.sigma > 5 * np.abs(before).max()
    assert any("of the size of the parameters" in line for line in certificate.limits)
    strong = RECIPE.model_copy(update={"l2": 1.0, "lr": 0.2})
    tame = answered(dataset, "sample", bound="worst-case", recovery="none", training=strong)[3].certificate
    assert tame.valid and tame.sigma < certificate.sigma / 100


def test_a_diagonal_fisher_correction_is_not_accepted_where_it_overshoots(dataset):
    _, _, _, outcome, (rows, _), _ = answered(dataset, "client", curvature="empirical-fisher-diagonal", recovery="none")
    assert outcome.fell_back_to_retraining and outcome.certificate.valid
    assert outcome.certificate.facts["fell_back"] and outcome.certificate.constants["correction_norm"] == 0.0
    assert np.linalg.norm(outcome.noise_free - rows[0]) <= outcome.certificate.sensitivity


def test_a_network_that_cannot_reach_tau_certifies_nothing(dataset):
    _, _, _, outcome, _, _ = answered(dataset, "client", features="raw", tolerance=1e-13, residual=1e-13)
    assert outcome.certificate is None and outcome.fell_back_to_retraining
    assert outcome.certificate_reason.startswith("none: the correction was not accepted, and retraining")


# --- what follows the noise -------------------------------------------------------------------------------------------


def test_a_round_that_mixes_models_with_one_draw_costs_the_certificate(dataset):
    for recovery, valid in (("round", False), ("local", True), ("none", True)):
        _, _, after, outcome, _, _ = answered(dataset, "sample", recovery=recovery)
        assert outcome.certificate.valid == valid
        assert outcome.certificate_reason == ("" if valid else "a premise of the theorem was not enforced: recovery")
        assert np.array_equal(after[0].astype(np.float32), outcome.release)
    _, _, after, outcome, _, _ = answered(dataset, "sample", consensus=0.0)
    assert outcome.certificate.valid and outcome.certificate.kind == "retrain-equivalence"


def test_recovery_is_a_round_of_the_recipe_on_retained_data(dataset):
    request = request_for(dataset, **REQUESTS["sample"])
    found = []
    for recovery, lr in (("none", None), ("round", None), ("round", 1e-9)):
        with open_session(dataset, *model_for(dataset)) as session:
            story = paper(session, request, recovery=recovery, recovery_lr=lr)
            story.learn()
            story.answer(request)
            if recovery == "none":
                train(story.network, RECIPE.model_copy(update={"rounds": 5}), first=4)
                by_hand = all_rows(story.network)
            found.append(all_rows(story.network))
    assert np.array_equal(found[1], by_hand)
    assert not np.array_equal(found[2], found[1])


# --- settings of the network ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "level"),
    [("centralized", "sample"), ("centralized", "class"), *(("federated", level) for level in REQUESTS)],
)
def test_one_vector_is_compared_with_retraining_as_a_whole(setting, level):
    clients = 1 if setting == "centralized" else 5
    data = table_data(clients=clients, seed=1, sizes=(20, 40))
    training = RECIPE if setting == "centralized" else RECIPE.model_copy(update={"algorithm": "fedavg"})
    request = (
        request_for(data, **{**REQUESTS[level], **({"client": 0} if level == "sample" else {})})
        if (level != "client" or clients > 1)
        else None
    )
    if request is None:
        return
    with open_session(data, *model_for(data)) as session:
        story = paper(session, request, training, corrections=4)
        story.learn()
        outcome = story.answer(request)
        _, ending = story.twin()
        game = story.unlearner.tight_game(story.network, outcome, story.situation())
    assert outcome.certificate.valid and outcome.certificate.kind == "retrain-equivalence"
    assert outcome.details["disagreement"] == 0.0 and game.ratio >= 0.99
    assert np.linalg.norm(outcome.noise_free - ending.noise_free) <= outcome.certificate.sensitivity


def test_models_of_several_answers_pay_the_square_root_and_one_vector_does_not(dataset):
    requests = [request_for(dataset, i, level="sample", client=c, count=2) for i, c in enumerate((1, 3))]
    for consensus, releases in ((None, 2), (0.0, 1)):
        with open_session(dataset, *model_for(dataset)) as session:
            story = Story(
                session, "newton", RECIPE, requests=requests, mode="paper", corrections=4, recovery="none",
                consensus=consensus, target_sigma=0.01,
            )  # fmt: skip
            story.learn()
            outcomes = [story.answer(r) for r in requests]
            _, ending = story.twin()
        for outcome in outcomes:
            certificate = outcome.certificate
            assert certificate.valid and certificate.constants["releases"] == releases
            assert certificate.mu == pytest.approx(np.sqrt(releases) * certificate.sensitivity / certificate.sigma)
        noise = [o.release - o.noise_free for o in outcomes]
        assert abs(np.corrcoef(*noise)[0, 1]) < 0.9 and not np.array_equal(*noise)
        assert np.linalg.norm(outcomes[1].noise_free - ending.noise_free) <= outcomes[1].certificate.sensitivity
        assert "The noise of earlier answers" in outcomes[1].certificate.limits[-1]


def test_training_ends_at_its_public_bounds(dataset):
    with open_session(dataset, *model_for(dataset)) as session:
        for number, consensus in enumerate((0.01, 1e-5, 1e-12)):
            story = paper(session, population=f"c{number}", consensus=consensus, tolerance=1e-4)
            outcome = story.learn()
            x, apart = disagreement(story.network)
            assert apart <= consensus and outcome.details["gradient_bound"] <= 1e-4
            central = Central(shards(dataset, model_for(dataset)[1]), 3, "equal", LAM)
            assert np.linalg.norm(central.gradient(x)) <= 1e-4
            rows = all_rows(story.network).astype(np.float64)
            assert np.linalg.norm(rows - rows.mean(0), axis=1).max() == pytest.approx(apart, abs=1e-12)
            assert outcome.release is None and outcome.certificate is None


# --- the message ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["sample", "client"])
def test_a_message_made_by_the_asking_client_alone_is_certified(dataset, level):
    """No sum over the network depends on the deleted records; the radius is a bound, so nothing is clipped."""
    request = request_for(dataset, **REQUESTS[level])
    with open_session(dataset, *model_for(dataset)) as session:
        story = paper(session, request, **ALONE)
        story.learn()
        story.network.phase = "unlearn"
        outcome = story.answer(request)
        kinds = {e["kind"] for e in story.network.ledger.summary()["by_kind"] if e["phase"] == "unlearn"}
    (message,) = outcome.further_certificates
    assert message.kind == "message" and message.valid and message.view == "T-V1"
    assert outcome.details["correction_norm"] < message.sensitivity
    assert message.sigma == outcome.certificate.sigma >= message.sensitivity / 0.26806
    assert outcome.certificate.valid and outcome.certificate.facts["own_curvature"]
    assert outcome.details["gradients"] == outcome.details["hvps"] == 0
    assert kinds == {"model", "disagreement", "correction"}  # means of models that everybody had before


def test_a_correction_summed_over_the_network_has_shown_itself_already(dataset):
    _, before, _, outcome, _, _ = answered(
        dataset, "client", message_radius=0.2, recovery="none", consensus=0.0, privacy=PrivacySettings(epsilon=50)
    )
    (message,) = outcome.further_certificates
    assert not message.valid and message.view == "none" and message.sensitivity == 0.2
    assert outcome.details["correction_norm"] > 0.2
    assert np.linalg.norm(outcome.noise_free - before[0]) == pytest.approx(0.2, rel=1e-6)  # clipped
    assert outcome.certificate is None and "r_max" in outcome.certificate_reason  # and so no Newton step any more
    assert not outcome.fell_back_to_retraining


def test_a_message_that_is_sent_in_any_case_leaves_acceptance_measured(dataset):
    outcome = answered(dataset, "sample", message_radius=5.0, recovery="none")[3]
    (message,) = outcome.further_certificates
    assert outcome.certificate.sigma == message.sigma > 10
    status = {p.name: p.status for p in outcome.certificate.premises}
    assert status.pop("error of the correction") == "measured" and set(status.values()) == {"enforced"}


def test_a_second_message_of_the_asking_client_certifies_the_message_only(dataset):
    requests = [request_for(dataset, i, level="sample", client=c, count=2) for i, c in enumerate((1, 3))]
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "newton", RECIPE, requests=requests, mode="paper", **ALONE)
        story.learn()
        story.answer(requests[0])
        outcome = story.answer(requests[1])
    assert outcome.certificate is None and "noise of an earlier answer" in outcome.certificate_reason
    assert outcome.further_certificates[0].valid


# --- models that are not convex ---------------------------------------------------------------------------------------


def test_a_deep_model_gets_a_condition_and_a_junk_start():
    data = image_data(clients=4, side=5, sizes=(6, 12))
    request = request_for(data, level="client", client=2)
    training = RECIPE.model_copy(update={"l2": 1e-3, "momentum": 0.0})
    with open_session(data, *model_for(data, "mlp", "raw")) as session:
        story = paper(session, request, training, curvature="fisher-diagonal", damping=0.5)
        story.learn()
        outcome = story.answer(request)
        certificate = outcome.certificate
        assert not certificate.valid and "on the condition of premises" in certificate.claim
        assert {"strong convexity", "error of the correction", "bounded rows"} <= {
            p.name for p in certificate.premises if p.status == "assumed"
        }
        assert not outcome.fell_back_to_retraining and outcome.noise_free is None
        twin, _ = story.twin()
        attempt = story.unlearner.junk_start(twin, story.situation("junk start"))
        junk = attempt()
        assert junk.certificate is None and junk.details["sigma"] == certificate.sigma
        assert np.isfinite(all_rows(twin)).all()
        assert story.unlearner.tight_game(story.network, outcome, story.situation()) is None
    with open_session(data, *model_for(data, "mlp", "raw")) as session:
        flat = paper(session, request, training.model_copy(update={"l2": 0.0}), curvature="none")
        flat.learn()
        free = flat.answer(request)
    assert free.certificate is None and "training.l2 > 0" in free.certificate_reason
    assert free.details["sigma"] == 0.05


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"bound": "worst-case", "curvature": "public"}, "unlearning.curvature = 'public' has no known error"),
        ({**ALONE, "gradient": "retained"}, "unlearning.gradient = 'retained' needs other clients' data"),
        ({**ALONE, "bound": "measured"}, "unlearning.bound = 'measured' needs other clients' data"),
        ({**ALONE, "curvature": "fisher-blocks"}, "unlearning.curvature = 'fisher-blocks' needs other clients' data"),
        (ALONE, "requests.0.level = 'class' concerns several clients"),
    ],
)
def test_contradictions_are_refused_before_training(dataset, settings, why):
    with open_session(dataset, *model_for(dataset)) as session, pytest.raises(UserError, match=why):
        paper(session, request_for(dataset, **REQUESTS["class"]), **settings)


def test_no_l2_is_refused_for_a_convex_model(dataset):
    with open_session(dataset, *model_for(dataset)) as session, pytest.raises(UserError, match=r"training.l2 = 0.0"):
        paper(session, training=RECIPE.model_copy(update={"l2": 0.0}))


# --- tight instances --------------------------------------------------------------------------------------------------


@every_level
@pytest.mark.parametrize("features", ["unit", "raw"])
def test_provable_mode_has_a_pair_at_both_ends_of_the_rule(dataset, level, features):
    request = request_for(dataset, **REQUESTS[level])
    with open_session(dataset, *model_for(dataset, features=features)) as session:
        story = Story(session, "newton", RECIPE, requests=[request])
        assert story.unlearner.tight_game(story.network, story.learn(), story.situation()) is None
        outcome = story.answer(request)
        rows = all_rows(story.network)
        game = story.unlearner.tight_game(story.network, outcome, story.situation())
        assert np.array_equal(all_rows(story.network), rows)
    assert 0.99 <= game.ratio <= 1.0 and game.sigma == outcome.certificate.sigma
    means = [game.score(game.draw(world, 4000, 5)).mean() for world in (0, 1)]
    assert means[0] - means[1] == pytest.approx(game.distance, abs=5 * game.sigma * np.sqrt(2 / 4000))
    assert game.score(game.draw(1, 4000, 6)).std() == pytest.approx(game.sigma, rel=0.06)


def test_paper_mode_is_tight_where_acceptance_is_measured(dataset):
    for settings in ({"corrections": 4, "recovery": "none"}, {"corrections": 4, "consensus": 0.0}):
        outcome, _, game = answered(dataset, "sample", **settings)[3:]
        assert game.ratio >= 0.99 and game.sensitivity == outcome.certificate.sensitivity
    assert answered(dataset, "sample", bound="worst-case", recovery="none")[5] is None  # nobody attains that error
    strong = RECIPE.model_copy(update={"l2": 1.0, "lr": 0.2})
    loose = answered(
        dataset, "sample", bound="worst-case", recovery="none", training=strong, tolerance=0.2, consensus=0.5
    )[5]
    assert 0.9 <= loose.ratio <= 1.0
