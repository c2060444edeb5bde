"""Certificates of walks: what each fact does to the claim, its premises and its view."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from fedunlearn.errors import UserError
from fedunlearn.privacy import Certificate, NoCertificate, junk_start_limit
from fedunlearn.privacy.accounting.walks import (
    hidden_route_sigma,
    network_dp_sigma,
    paper_sigma,
    sigma_for_walk,
    transcript_delta,
    transcript_sigma,
)
from fedunlearn.privacy.claims import rebuild
from fedunlearn.privacy.claims.walk import certify, from_facts
from fedunlearn.privacy.claims.walk_facts import WalkFacts
from fedunlearn.privacy.gaussian import delta_of, mu_of

EPSILON, DELTA = 1.0, 1e-5
VISITS = (1, 3, 5, 20, 27, 34, 41, 48, 54, 60)
HASHES = {"settings.toml": "a" * 64}
NOISE = {
    "retrain": sigma_for_walk(EPSILON, DELTA, VISITS, 60, 1.0, 0.1, 1.0),
    "conservative": transcript_sigma(EPSILON, DELTA, 10, 1.0),
    "paper": paper_sigma(EPSILON, DELTA, 60, 0.1, 10, 1.0),
    "network-dp": transcript_sigma(EPSILON, DELTA, 10, 2.0),
}


def facts(accounting: str = "retrain", **changes: Any) -> WalkFacts:
    """Return facts whose every premise holds in that accounting, with some of them replaced."""
    good: dict[str, Any] = {
        "method": "rr-du",
        "granularity": "sample",
        "accounting": accounting,
        "alignment": "exact",
        "hops": 60,
        "visits": VISITS,
        "nodes": 10,
        "lr": 0.1,
        "clip": 1.0,
        "noise": NOISE[accounting],
        "start": "public" if accounting == "network-dp" else "secret",
        "start_radius": 1.0,
        "start_projected": True,
        "ball_radius": None,
        "trust_radius": None,
        "route_public": True,
        "noise_after_step": True,
        "clipped_everywhere": True,
        "plain_steps": True,
        "maps_shared": True,
        "fresh_draw": True,
        "state_erased": True,
        "forget_count": 5,
        "client_count": 50,
        "dim": 100,
        "extractor": "none",
        "restart_probability": 0.1,
        "noise_every_hop": accounting == "network-dp",
        "complete_graph": True,
    }
    return WalkFacts(**{**good, **changes})


def issue(accounting: str = "retrain", **changes: Any) -> Certificate:
    return certify(facts(accounting, **changes), EPSILON, DELTA, noise="secret", hashes=HASHES)


def assumed(certificate: Certificate) -> set[str]:
    return {premise.name for premise in certificate.premises if premise.status != "enforced"}


# --- retrain accounting ----------------------------------------------------------------------------------------------


def test_retrain_certificate() -> None:
    certificate = issue()
    assert certificate.valid
    assert certificate.kind == "certifier"
    assert certificate.mu == pytest.approx(mu_of(EPSILON, DELTA))
    assert certificate.mu == pytest.approx(certificate.sensitivity / certificate.sigma)
    assert certificate.sensitivity == pytest.approx(2 + 5 * 0.2)  # merged at hop 5
    assert certificate.sigma == pytest.approx(math.sqrt(3) * 0.1 * NOISE["retrain"])
    assert certificate.constants["merged_at_hop"] == 5
    assert certificate.view == "none"
    assert certificate.scope[0].startswith("released")
    assert junk_start_limit(certificate) == pytest.approx(0.107, abs=5e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trust_radius": 10.82}, "around the trained model"),
        ({"clipped_everywhere": False}, "not clipped"),
        ({"plain_steps": False}, "momentum or adaptive"),
        ({"start_projected": False}, "not projected onto a public ball"),
        ({"noise_after_step": False}, "not the last thing"),
        ({"maps_shared": False}, "depended on more"),
        ({"noise": 0.0}, "no noise"),
        ({"visits": ()}, "mu = inf"),
        ({"noise": NOISE["retrain"] * 0.999}, "needs mu <= 0.268"),
        ({"start_radius": 1.01}, "needs mu <= 0.268"),
        ({"alignment": "lightweight"}, "needs mu <= 0.268"),
        ({"local_steps": 2}, "needs mu <= 0.268"),
    ],
)
def test_what_no_theorem_covers_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(NoCertificate, match=reason):
        issue(**changes)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"fresh_draw": False}, "single draw"),
        ({"state_erased": False}, "state erased"),
        ({"extractor": "unverified"}, "public features"),
        ({"extractor": "public"}, "public features"),
    ],
)
def test_premises_that_were_not_enforced(changes: dict[str, Any], name: str) -> None:
    certificate = issue(**changes)
    assert not certificate.valid
    assert assumed(certificate) == {name}


def test_settings_without_a_hash_are_assumed() -> None:
    certificate = certify(facts(), EPSILON, DELTA, noise="secret")
    assert assumed(certificate) == {"public settings"}


def test_public_features_by_hash() -> None:
    hashes = {**HASHES, "extractor": "b" * 64, "extractor_training_rows": "c" * 64}
    assert certify(facts(extractor="public"), EPSILON, DELTA, noise="secret", hashes=hashes).valid


def test_simulated_noise_is_said() -> None:
    certificate = certify(facts(), EPSILON, DELTA, noise="simulated", hashes=HASHES)
    assert certificate.valid
    assert any(line.startswith("simulation only") for line in certificate.scope)


def test_view_of_messages() -> None:
    assert issue(start="released").view == "T-V2"
    public = issue(start="public", noise=0.0, start_projected=False)
    assert (public.view, public.mu, public.valid) == ("T-V0", 0.0, True)
    # the worlds are merged before the token leaves the noisy node, or after
    noise = sigma_for_walk(EPSILON, DELTA, (1, 2, 3, 4), 60, 1.0, 0.1, 1.0)
    opening = issue(visits=(1, 2, 3, 4), noise=noise)
    assert (opening.view, opening.constants["merged_at_hop"]) == ("T8", 4)
    assert "before it set out" in opening.view_reason  # a noise-free start has to come together somewhere
    noise = sigma_for_walk(EPSILON, DELTA, (1, 2, 3, 5), 60, 1.0, 0.1, 1.0)
    late = issue(visits=(1, 2, 3, 5), noise=noise)
    assert (late.view, late.constants["merged_at_hop"]) == ("none", 5)
    lightweight = issue(
        visits=(1, 2),
        alignment="lightweight",
        noise=2.4 / (0.1 * math.sqrt(2) * mu_of(EPSILON, DELTA)),
        start="released",
    )
    assert lightweight.view == "T8"  # not T-V2: its messages are functions of the deleted data


def test_steps_on_deleted_data_need_a_known_route_from_a_public_start_as_well() -> None:
    """Visits that nobody counted are not visits that did not happen."""
    with pytest.raises(NoCertificate, match="exact alignment"):
        issue(start="public", alignment="lightweight", visits=(), route_public=False, noise=0.0)
    assert issue(start="public", alignment="exact", visits=(), route_public=False, noise=0.0).mu == 0.0


@pytest.mark.parametrize("accounting", ["conservative", "network-dp"])
def test_noise_that_a_step_follows_hides_nothing_of_that_step(accounting: str) -> None:
    with pytest.raises(NoCertificate, match="not the last thing"):
        issue(accounting, noise_after_step=False)


def test_a_transcript_says_that_the_making_of_its_start_is_not_in_it() -> None:
    for start, said in (("secret", True), ("released", False)):
        limits = issue("conservative", start=start).limits
        assert any("before the token set out" in line for line in limits) == said


def test_lightweight_counts_its_share() -> None:
    noise = sigma_for_walk(EPSILON, DELTA, VISITS, 60, 1.0, 0.1, 1.0, alignment="lightweight")
    certificate = issue(alignment="lightweight", noise=noise)
    assert certificate.valid
    assert "taut string" in certificate.theorem
    assert certificate.constants["forgotten_share"] == pytest.approx(0.1)
    assert certificate.mu == pytest.approx(certificate.sensitivity / certificate.sigma)


def test_ball_gives_a_claim_at_one_point() -> None:
    noise = sigma_for_walk(EPSILON, DELTA, VISITS, 60, 1.0, 0.1, 1.0, ball=1.0)
    certificate = issue(ball_radius=1.0, noise=noise)
    assert certificate.valid
    assert certificate.mu is None
    assert "T-contraction" in certificate.theorem
    assert certificate.curve() == [(EPSILON, DELTA)]
    with pytest.raises(NoCertificate):
        issue(ball_radius=1.0, noise=noise * 0.999)
    enough = issue(ball_radius=1.0, noise=2 / (0.1 * mu_of(EPSILON, DELTA)))
    assert enough.mu is not None


def test_hidden_route() -> None:
    claim = 1e-2  # 60 hops at p = 0.1 pass by with probability 1.8e-3
    noise = hidden_route_sigma(EPSILON, claim, 60, 0.1, 1.0, 0.1, 1.0)
    hidden = facts(visits=(), route_public=False, noise=noise)
    certificate = certify(hidden, EPSILON, claim, noise="secret", hashes=HASHES)
    assert certificate.valid
    assert certificate.mu is None
    assert any(line.startswith("route: nobody learns") for line in certificate.scope)
    with pytest.raises(NoCertificate, match="hidden routes"):
        certify(hidden, EPSILON, claim / 2, noise="secret", hashes=HASHES)
    with pytest.raises(NoCertificate, match="restart probability"):
        certify(dataclasses.replace(hidden, restart_probability=None), EPSILON, claim, noise="secret", hashes=HASHES)


# --- statements about messages ---------------------------------------------------------------------------------------


def test_conservative_certificate() -> None:
    certificate = issue("conservative", trust_radius=10.82, start_projected=False)
    assert certificate.valid
    assert certificate.kind == "transcript"
    assert certificate.mu == pytest.approx(math.sqrt(10) / NOISE["conservative"])
    assert certificate.mu == pytest.approx(certificate.sensitivity / certificate.sigma)
    assert any("Not retrain-equivalence" in line for line in certificate.limits)
    assert junk_start_limit(certificate) is None
    with pytest.raises(NoCertificate, match="needs mu"):
        issue("conservative", visits=(*VISITS[:-1], 59, 60))  # one visit more than the noise was made for
    for flag in ("clipped_everywhere", "plain_steps", "maps_shared"):
        with pytest.raises(NoCertificate, match="nothing bounds"):
            issue("conservative", **{flag: False})


def test_conservative_over_a_random_number_of_visits() -> None:
    noise = 20.0
    assert transcript_delta(EPSILON, 60, 0.1, 1.0, noise) <= DELTA
    certificate = issue("conservative", visits=(), route_public=False, noise=noise)
    assert certificate.valid
    assert certificate.mu is None
    with pytest.raises(NoCertificate, match="number of visits"):
        issue("conservative", visits=(), route_public=False, noise=transcript_sigma(EPSILON, DELTA, 6, 1.0))
    with pytest.raises(NoCertificate, match="restart probability"):
        issue("conservative", visits=(), route_public=False, noise=noise, restart_probability=None)


def test_paper_certificate_is_never_valid() -> None:
    certificate = issue("paper", trust_radius=10.82)
    assert not certificate.valid
    assert certificate.kind == "transcript"
    assert certificate.mu is None
    assert assumed(certificate) == {"amplification ln N / N", "number of visits"}
    text = " ".join(certificate.limits)
    for point in ("Not retrain-equivalence", "trust region", "Amplification by iteration", "adaptive", "random"):
        assert point in text
    assert "bounded steps" in assumed(issue("paper", plain_steps=False))
    with pytest.raises(NoCertificate, match="published formula"):
        issue("paper", noise=NOISE["paper"] * 0.999)
    # p defaults to 1/N
    assert issue("paper", restart_probability=None).epsilon == EPSILON


# --- private training walks ------------------------------------------------------------------------------------------


def test_private_walk_by_composition() -> None:
    certificate = issue("network-dp", complete_graph=False)
    assert certificate.valid
    assert certificate.kind == "differential-privacy"
    assert certificate.mu == pytest.approx(2 * math.sqrt(10) / NOISE["network-dp"])
    assert certificate.view == "transcript"
    assert junk_start_limit(certificate) is None
    assert any(line.startswith("everyone") for line in certificate.scope)


def test_private_walk_by_the_published_constants() -> None:
    """In a large network the published noise is below composition: then the claim rests on what was assumed."""
    visits = tuple(range(1, 12_001, 100))
    noise = network_dp_sigma(10.0, DELTA, 2000, 200_000, 1.0)
    run = facts(
        "network-dp", nodes=2000, hops=200_000, visits=visits, noise=noise, granularity="client", convex_smooth=True
    )
    certificate = certify(run, 10.0, DELTA, noise="secret", hashes=HASHES)
    assert certificate.mu is None
    assert assumed(certificate) == {"amplification by decentralization"}
    assert certificate.view == "none"
    assert certificate.scope[0].startswith("network")
    bumpy = certify(dataclasses.replace(run, convex_smooth=False), 10.0, DELTA, noise="secret", hashes=HASHES)
    assert "non-expansive" in bumpy.text()
    with pytest.raises(NoCertificate, match="5 deleted records asks for"):
        certify(dataclasses.replace(run, granularity="sample"), 10.0, DELTA, noise="secret", hashes=HASHES)
    with pytest.raises(NoCertificate, match="covers 120"):
        more = dataclasses.replace(run, visits=(*visits, 12_001))
        certify(more, 10.0, DELTA, noise="secret", hashes=HASHES)
    with pytest.raises(NoCertificate, match="complete graph only"):
        certify(dataclasses.replace(run, complete_graph=False), 10.0, DELTA, noise="secret", hashes=HASHES)


@pytest.mark.parametrize(
    "changes",
    [{"start": "secret"}, {"noise_every_hop": False}, {"clipped_everywhere": False}, {"plain_steps": False}],
)
def test_private_walk_refusals(changes: dict[str, Any]) -> None:
    with pytest.raises(NoCertificate):
        issue("network-dp", **changes)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accounting", ["retrain", "conservative", "paper", "network-dp"])
def test_certificate_follows_from_its_file(accounting: str) -> None:
    certificate = issue(accounting)
    plain = json.loads(json.dumps(certificate.to_dict(), allow_nan=False))
    assert Certificate.from_dict(plain).to_dict() == certificate.to_dict()
    again = rebuild(plain["facts"], EPSILON, DELTA, noise="secret", hashes=HASHES)
    assert again.to_dict() == certificate.to_dict()
    assert from_facts(plain["facts"], EPSILON, DELTA, noise="secret", hashes=HASHES) == again
    if certificate.mu is not None:
        assert delta_of(certificate.mu, EPSILON) <= DELTA * (1 + 1e-8)
    assert certificate.text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "tolerance"}, "facts.rule"),
        ({"accounting": "best"}, "facts.accounting"),
        ({"visits": [0]}, "facts.visits"),
        ({"visits": [3, 2]}, "facts.visits"),
        ({"visits": "1"}, "facts.visits"),
        ({"visits": [1.5]}, "facts.visits"),
        ({"hops": 0}, "facts.hops"),
        ({"hops": True}, "facts.hops"),
        ({"noise": -1}, "facts.noise"),
        ({"noise": "1"}, "facts.noise"),
        ({"noise": None}, "facts.noise"),
        ({"lr": float("nan")}, "facts.lr"),
        ({"ball_radius": -1}, "facts.ball_radius"),
        ({"plain_steps": 1}, "facts.plain_steps"),
        ({"contraction": 1.5}, "facts.contraction"),
        ({"restart_probability": 2}, "facts.restart_probability"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_ill_typed_facts(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WalkFacts.from_dict({**facts().to_dict(), **changes})


def test_missing_facts() -> None:
    plain = facts().to_dict()
    del plain["clip"]
    with pytest.raises(UserError, match="clip"):
        WalkFacts.from_dict(plain)
    assert WalkFacts.from_dict(facts().to_dict()) == facts()
