"""Conducting an audit: the run it looks at is the run, honest claims pass, and lies of the released code are found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_runs import THREE_REQUESTS, experiment, run

from fedunlearn.audit import audit_game, conduct
from fedunlearn.audit.conduct import NORM, Answered, audit, certificates_of, games_for, release_noise, shortened
from fedunlearn.audit.settings import AuditSettings
from fedunlearn.errors import UserError
from fedunlearn.results.vectors import read_vector
from fedunlearn.simulation.answered import answer_all
from fedunlearn.unlearning.certified import release
from fedunlearn.unlearning.games import Game, gaussian_game
from fedunlearn.unlearning.registry import method

FEW = AuditSettings(trials=200)


@pytest.fixture
def seen(monkeypatch):
    """Keep what the audited run handed over."""
    kept: list[Answered] = []

    def keep(world, session):
        kept.append(answer_all(world, session))
        return kept[-1]

    monkeypatch.setattr(conduct, "answer_all", keep)
    return kept


def changed(monkeypatch, change) -> None:
    """Let the audited run hand over something else."""
    monkeypatch.setattr(conduct, "answer_all", lambda world, session: change(answer_all(world, session)))


def natural(found):
    (verdict,) = (v for v in found.claims[0].verdicts if v.kind == "natural")
    return verdict


@pytest.mark.parametrize("requests", [[{"level": "client", "client": 2}], THREE_REQUESTS], ids=["one", "three"])
def test_the_audited_releases_are_those_of_the_run(tmp_path, seen, requests):
    audit(experiment(requests=requests), FEW)
    result = run(tmp_path / "run", requests=requests)
    (answered,) = seen
    folder = result.folder / "models"
    release, _ = read_vector(folder / f"release-{len(requests)}.safetensors")
    before, _ = read_vector(folder / f"release-{len(requests) - 1}.safetensors")
    retrained, _ = read_vector(folder / "retrained.safetensors")
    np.testing.assert_array_equal(answered.outcome.release, release)
    np.testing.assert_array_equal(answered.before.release, before)
    np.testing.assert_array_equal(answered.retrained.release, retrained)
    last = result.summary["requests"][-1]
    assert natural(audit(experiment(requests=requests), FEW)).distance == pytest.approx(last["distance_to_retrained"])


def test_an_honest_claim_passes_and_its_natural_instance_has_no_power():
    phases = []
    found = audit(experiment(), FEW, progress=lambda *said: phases.append(said))
    (claim,) = found.claims
    assert not found.refuted and claim.certificate.kind == "retrain-equivalence"
    verdict = natural(found)
    assert verdict.outcome == "no power"
    assert 0 < verdict.ratio < 1 and verdict.sensitivity == claim.certificate.sensitivity
    assert verdict.mu == claim.certificate.mu and verdict.trials == 200
    assert 0.9 < claim.noise.variance < 1.1
    names = [phase for phase, _, _ in phases]
    assert names.index("train") < names.index("retrain") < names.index("audit: retrain-equivalence")
    _, done, total = phases[-1]
    assert done == total > 0


def test_all_games_together_raise_a_false_alarm_in_at_most_five_percent():
    (claim,) = audit(experiment(), FEW).claims
    shares = [1 - verdict.confidence for verdict in claim.verdicts]
    assert len(shares) == 2 and sum(shares) + conduct.NOISE_LEVEL == pytest.approx(0.05, abs=1e-12)
    assert conduct.level_of_each(0, 0) == conduct.level_of_each(1, 0) == 0.025 > conduct.level_of_each(4, 1) > 0.006


def test_rounding_the_release_is_not_a_lie_about_its_noise():
    """At a huge epsilon sigma is below the spacing of most float32 entries: it is judged on the finest alone."""
    found = audit(experiment(unlearning={"method": "newton", "tolerance": 1e-9}, privacy={"epsilon": 1000.0}), FEW)
    (claim,) = found.claims
    assert claim.certificate.valid and claim.certificate.sigma < 1e-7
    assert not claim.noise_refutes and not found.refuted


def test_the_auditors_draws_follow_its_seed():
    first, again = (natural(audit(experiment(), AuditSettings(trials=40, seed=1))) for _ in range(2))
    other = natural(audit(experiment(), AuditSettings(trials=40, seed=2)))
    np.testing.assert_array_equal(first.scores.unlearned, again.scores.unlearned)
    assert first.distance == other.distance
    assert not np.array_equal(first.scores.unlearned, other.scores.unlearned)


def test_a_release_with_a_third_of_the_noise_is_refuted_by_its_own_noise(monkeypatch):
    honest = release.gaussian_noise
    monkeypatch.setattr(release, "gaussian_noise", lambda sigma, *rest, **more: honest(sigma / 3, *rest, **more))
    found = audit(experiment(), FEW)
    assert found.refuted and found.claims[0].noise_refutes
    assert found.claims[0].noise.variance == pytest.approx(1 / 9, rel=0.1)
    assert not natural(found).refuted


def test_an_answer_that_did_not_unlearn_is_refuted_by_distance_and_by_the_trade_off(monkeypatch):
    def lie(answered):
        vector = answered.retrained.noise_free + 0
        vector[0] += 40 * answered.outcome.certificate.sensitivity
        release = (answered.outcome.release + (vector - answered.outcome.noise_free)).astype(np.float32)
        return dataclasses.replace(
            answered, outcome=dataclasses.replace(answered.outcome, noise_free=vector, release=release)
        )

    changed(monkeypatch, lie)
    found = audit(experiment(), FEW)
    assert found.refuted and not found.claims[0].noise_refutes
    assert set(natural(found).refuted_by) == {"distance", "trade-off"}
    assert natural(found).ratio == pytest.approx(40)


def test_games_of_the_method_are_played(monkeypatch):
    def tight(self, network, outcome, situation):
        bound, sigma = outcome.certificate.sensitivity, outcome.certificate.sigma
        return gaussian_game("worst pair", "tight", np.array([bound, 0]), np.zeros(2), sigma, bound)

    def own(self, network, before, outcome, retrained, situation):
        assert before.release is not None and before.certificate is None and retrained.noise_free is not None
        return gaussian_game("own pair", "natural", np.array([1.0]), np.zeros(1), 1.0, 2.0)

    newton = method("newton").implementation
    monkeypatch.setattr(newton, "tight_game", tight)
    monkeypatch.setattr(newton, "natural_game", own)
    verdicts = audit(experiment(), FEW).claims[0].verdicts
    assert [(v.game, v.kind) for v in verdicts] == [("worst pair", "tight"), ("own pair", "natural")]
    assert verdicts[0].ratio == 1 and verdicts[1].ratio == 0.5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unlearning": {"method": "finetune"}}, "'finetune' certifies nothing"),
        ({"unlearning": {"method": "retrain"}}, "is retraining itself"),
        ({"unlearning": {"method": "newton", "mode": "one-step"}}, "correction"),
    ],
)
def test_without_a_certificate_there_is_a_sentence_instead(change, reason):
    found = audit(experiment(**change), FEW)
    assert found.claims == () and not found.refuted
    assert reason in found.reason and not found.reason.startswith("none: ")


def test_methods_that_certify_nothing_are_not_trained(seen):
    audit(experiment(unlearning={"method": "finetune"}), FEW)
    assert seen == []


def test_an_experiment_without_requests_is_refused():
    with pytest.raises(UserError, match=r"'small' has no \[\[requests\]\]"):
        audit(experiment(requests=[]), FEW)


# --- which games there are -------------------------------------------------------------------------------------------


@pytest.fixture
def answered(seen, monkeypatch):
    """A finished story whose hosts are gone, so no game of the method's own can be made any more."""
    monkeypatch.setattr(method("newton").implementation, "tight_game", lambda *of: None)
    audit(experiment(), AuditSettings(trials=20))
    return seen[0]


def as_kind(answered, kind):
    certificate = dataclasses.replace(answered.outcome.certificate, kind=kind)
    outcome = dataclasses.replace(answered.outcome, certificate=certificate)
    return dataclasses.replace(answered, outcome=outcome), certificate


@pytest.mark.parametrize(("length", "after_clipping"), [(0.125, 0.125), (3.0, 0.5)])
def test_messages_are_played_at_full_length_and_at_their_own(answered, length, after_clipping):
    first = answered.outcome.certificate
    message = dataclasses.replace(first, kind="message", sensitivity=0.5, sigma=2.0, facts={NORM: length})
    outcome = dataclasses.replace(answered.outcome, further_certificates=(message,))
    assert certificates_of(outcome) == [first, message]
    *games, said = games_for(dataclasses.replace(answered, outcome=outcome), message)
    assert "too small when it was sent would not be noticed" in said
    assert [(g.kind, g.distance, g.sensitivity, g.sigma) for g in games] == [
        ("tight", 0.5, 0.5, 2.0), ("natural", after_clipping, 0.5, 2.0),
    ]  # fmt: skip
    seen = [games[1].score(games[1].draw(world, 4000, 5)) for world in (0, 1)]
    assert np.mean(seen[0]) - np.mean(seen[1]) == pytest.approx(after_clipping, abs=4 * 2 * np.sqrt(2 / 4000))
    assert np.std(seen[0]) == pytest.approx(2, rel=0.05)
    unknown = dataclasses.replace(message, facts={})
    assert "length of the message is not known" in list(games_for(answered, unknown))[1]


@pytest.mark.parametrize("kind", ["certifier", "transcript", "differential-privacy"])
def test_a_claim_that_is_not_about_retraining_has_no_default_natural_instance(answered, kind):
    games = list(games_for(*as_kind(answered, kind)))
    assert not any(isinstance(game, Game) and game.kind == "natural" for game in games)
    assert f"no second world for a claim of kind {kind}" in games[-1]


def test_an_exact_answer_is_played_only_where_it_is_not_exact(answered):
    """The numbers of answer and retraining either agree, or their distance refutes the claim."""
    lying, certificate = as_kind(answered, "exact")
    certificate = dataclasses.replace(certificate, mu=0.0, sensitivity=0.0)
    lying = dataclasses.replace(lying, outcome=dataclasses.replace(lying.outcome, certificate=certificate))
    (game,) = games_for(lying, certificate)
    assert game.distance > 0 and "distance" in audit_game(game, 40, 0.0, 1.0, 1e-5, 0).refuted_by
    same = dataclasses.replace(lying.outcome, noise_free=lying.retrained.noise_free)
    assert list(games_for(dataclasses.replace(lying, outcome=same), certificate)) == [
        "answer and retraining are the same numbers: nothing tells them apart"
    ]
    unknown = dataclasses.replace(lying, outcome=dataclasses.replace(lying.outcome, noise_free=None))
    (said,) = games_for(unknown, certificate)
    assert "not known" in said
    assert release_noise(lying.outcome, certificate) is not None


def test_unknown_vectors_and_further_claims_are_not_played(answered):
    hidden, certificate = as_kind(answered, "retrain-equivalence")
    hidden = dataclasses.replace(hidden, outcome=dataclasses.replace(hidden.outcome, noise_free=None))
    assert list(games_for(hidden, certificate))[-1].endswith("are not known")
    further = dataclasses.replace(certificate, kind="transcript")
    assert "this one is of kind transcript" in next(iter(games_for(hidden, further)))


def test_the_noise_of_a_release_is_judged_where_it_is_known(answered):
    outcome, certificate = answered.outcome, answered.outcome.certificate
    standardised = (outcome.release.astype(float) - outcome.noise_free) / certificate.sigma
    assert release_noise(outcome, certificate).mean == pytest.approx(standardised.mean())
    single = dataclasses.replace(certificate, kind="single-node")
    assert release_noise(dataclasses.replace(outcome, certificate=single), single) is None
    assert release_noise(outcome, dataclasses.replace(certificate)) is None
    assert release_noise(dataclasses.replace(outcome, noise_free=None), certificate) is None


def test_long_vectors_keep_their_distance():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 30))
    short = shortened(one, other, 7)
    assert [len(v) for v in short] == [7, 7]
    assert np.linalg.norm(short[0] - short[1]) == pytest.approx(np.linalg.norm(one - other))
    np.testing.assert_array_equal(shortened(one, other, 30)[0], one)
