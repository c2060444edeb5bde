"""The rewind certificate: its arithmetic, its premises, and how it is made again from its facts."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from fedunlearn.errors import UserError
from fedunlearn.privacy import Certificate, NoCertificate, delta_of, epsilon_of, junk_start_limit
from fedunlearn.privacy.claims import rebuild
from fedunlearn.privacy.claims.rewind import certify, obtained
from fedunlearn.privacy.claims.rewind_facts import RewindFacts

HASHES = {"settings.toml": "0" * 64}
FACTS = RewindFacts(
    method="rewind", granularity="sample", row="strongly-convex", rates=((1000, 0.5),), shares=((1000, 0.02),),
    rewound=500, nodes=1, l2=0.01, gradient_bound=math.sqrt(2), gradient_bound_by="softmax", clip=None, smoothness=0.5,
    radius=None, softmax_loss=True, features_bounded=True, schedule_over_ids=True, fixed_divisor=True, plain_steps=True,
    equal_steps=True, float64_steps=True, roundings=2, start_norm=0.0,
    mixing_kept=True, all_deletions_counted=True, public_start=True, noise_on_both_sides=True,
    start_rows="checkpoint", offset=0.0, residual=None, deleted=8, total=400, dim=30, extractor="none",
    fresh_draw=True, sigma_drawn=0.9,
)  # fmt: skip
ROUNDED = sum(4 * 2.0**-24 * math.sqrt(2) / 0.01 * (1 - 0.995 ** (t + 1)) * 0.995 ** (999 - t) for t in range(1000))
"""What two roundings a step add: of rows whose norm approaches G/lambda, in both runs."""
SENSITIVITY = 0.21189980 + ROUNDED


def certificate(**changes):
    facts = replace(FACTS, **changes)
    return certify(facts, 1.0, 1e-5, noise="simulated", hashes=HASHES)


def statuses(issued):
    return {premise.name: premise.status for premise in issued.premises}


def test_an_honest_rewind_is_valid():
    issued = certificate()
    assert issued.valid and issued.kind == "retrain-equivalence"
    assert issued.sensitivity == pytest.approx(SENSITIVITY, rel=1e-6)
    assert issued.mu == pytest.approx(SENSITIVITY / 0.9, rel=1e-6)
    assert delta_of(issued.mu, 1.0) <= 1e-5
    assert issued.view == "none" and "checkpoint" in issued.view_reason
    assert any("checkpoint" in line for line in issued.limits)
    assert junk_start_limit(issued) is None


def test_every_bound_stands_beside_the_claim():
    """Distance by every row that applies, by the published theorem, and the epsilon of this noise."""
    constants = certificate().constants
    kappa = 1 - 0.5 * 0.01
    assert constants["distance_strongly_convex"] == pytest.approx(SENSITIVITY, rel=1e-6)
    assert constants["distance_gradient_only"] == pytest.approx(2 * 0.5 * math.sqrt(2) * 1000)
    first = [kappa ** (999 - t) * 0.5 * math.sqrt(2) * (0.02 + 2 * 0.98) for t in range(500)]
    later = [kappa ** (999 - t) * 0.5 * math.sqrt(2) * 2 * 0.98 for t in range(500, 1000)]
    assert constants["distance_clipped"] == pytest.approx(sum(first) + sum(later) + ROUNDED)
    assert constants["distance_published"] > 1e80
    for elsewhere in ({"nodes": 2}, {"shares": ((500, 0.01), (500, 0.03))}):  # neither one node nor full batches
        assert "distance_published" not in certificate(sigma_drawn=9.0, **elsewhere).constants
    expanding = certificate(
        l2=5.0, row="clipped", softmax_loss=False, clip=1.0, gradient_bound_by="clipping", sigma_drawn=1e300,
        rates=((9, 0.5),), shares=((9, 0.02),), rewound=4,
    ).constants  # fmt: skip
    assert "distance_gradient_only" not in expanding and expanding["distance_clipped"] > 0
    assert constants["epsilon_at_this_noise"] == pytest.approx(epsilon_of(SENSITIVITY / 0.9, 1e-5), rel=1e-5)
    assert "distance_convex" not in constants


def test_the_certificate_follows_from_its_facts():
    for issued in (certificate(), certificate(clip=0.3, gradient_bound=0.3, gradient_bound_by="clipping",
                                              row="smooth", rewound=995, sigma_drawn=2000.0)):  # fmt: skip
        plain = json.loads(json.dumps(issued.to_dict(), allow_nan=False))
        again = Certificate.from_dict(plain)
        assert again.facts == issued.facts
        rebuilt = rebuild(again.facts, again.epsilon, again.delta, noise="simulated", hashes=HASHES)
        assert rebuilt == issued


def test_a_public_start_means_that_everything_was_replayed():
    with pytest.raises(NoCertificate, match="does not lead to the public start"):
        certificate(start_rows="public", rewound=999)


def test_too_little_noise_or_too_large_steps_give_no_certificate():
    with pytest.raises(NoCertificate, match="more than epsilon"):
        certificate(sigma_drawn=0.7)
    with pytest.raises(NoCertificate, match="too large"):
        certificate(rates=((1000, 4.0),))
    with pytest.raises(UserError, match="sigma_drawn"):
        certificate(sigma_drawn=0.0)


def test_rewinding_everything_is_exact():
    issued = certificate(rewound=1000, start_rows="public", sigma_drawn=1e-3)
    assert issued.kind == "exact" and issued.sensitivity == 0 and issued.mu == 0 and issued.valid
    assert issued.view == "T-V0" and not any("checkpoint" in line for line in issued.limits)
    assert "50 %" in issued.worth


def test_the_claim_at_a_fixed_noise_is_what_comes_out():
    assert obtained(0.2, 0.9, 1.0, 1e-5) == 1.0
    found = obtained(0.2, 0.05, 1.0, 1e-5)
    assert found == epsilon_of(4.0, 1e-5) > 1
    with pytest.raises(NoCertificate, match="no finite epsilon"):
        obtained(1e300, 1e-300, 1.0, 1e-5)


def test_a_loss_that_is_not_convex_is_certified_and_worth_nothing():
    facts = replace(
        FACTS, row="clipped", softmax_loss=False, clip=1.0, gradient_bound=1.0, gradient_bound_by="clipping",
        smoothness=None, l2=0.0, sigma_drawn=0.01,
    )  # fmt: skip
    epsilon = obtained(2 * 0.5 * 990, 0.01, 1.0, 1e-5)
    issued = certify(facts, epsilon, 1e-5, noise="simulated", hashes=HASHES)
    assert issued.valid and issued.worth.startswith("vacuous")
    assert 100 * issued.sensitivity == issued.mu > 50_000 and issued.epsilon > 1e8


@pytest.mark.parametrize(
    ("changes", "premise", "status"),
    [
        ({"fixed_divisor": False}, "public schedule", "assumed"),
        ({"schedule_over_ids": False}, "public schedule", "assumed"),
        ({"plain_steps": False}, "plain steps", "assumed"),
        ({"equal_steps": False}, "plain steps", "assumed"),
        ({"nodes": 2, "mixing_kept": False}, "same mixing", "assumed"),
        ({"all_deletions_counted": False}, "deletions counted", "assumed"),
        ({"public_start": False}, "public start", "assumed"),
        ({"roundings": 0}, "arithmetic", "assumed"),
        ({"float64_steps": False}, "arithmetic", "assumed"),
        ({"noise_on_both_sides": False}, "noise on both sides", "assumed"),
        ({"fresh_draw": False}, "single draw", "assumed"),
        ({"features_bounded": False}, "gradient bound", "assumed"),
        ({"gradient_bound": 0.3}, "gradient bound", "assumed"),
        ({"gradient_bound_by": "measured"}, "gradient bound", "measured"),
        ({"gradient_bound_by": "clipping", "clip": 2.0}, "gradient bound", "assumed"),
        ({"smoothness": 0.2}, "loss", "assumed"),
        ({"softmax_loss": False}, "loss", "assumed"),
        ({"clip": 0.5, "gradient_bound_by": "clipping"}, "loss", "assumed"),
        ({"extractor": "unverified"}, "public features", "assumed"),
        ({"start_rows": "walked-back", "offset": 1e-3}, "walked-back rows", "assumed"),
    ],
)
def test_what_was_not_enforced_makes_the_certificate_invalid(changes, premise, status):
    issued = certificate(**changes)
    assert not issued.valid and statuses(issued)[premise] == status


def test_rows_that_were_walked_back_widen_the_distance():
    issued = certificate(start_rows="walked-back", offset=1e-3, residual=1e-14)
    assert issued.valid
    assert issued.sensitivity == pytest.approx(SENSITIVITY + 1e-3 * (1 - 0.005) ** 500, rel=1e-6)
    with pytest.raises(NoCertificate, match="too large to undo"):
        certificate(start_rows="walked-back", offset=1e-3, residual=1e-14, rates=((1000, 3.5),))


def test_settings_without_a_hash_are_assumed():
    issued = certify(FACTS, 1.0, 1e-5, noise="simulated")
    assert not issued.valid and statuses(issued)["public settings"] == "assumed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rule": "tolerance"}, "facts.rule"),
        ({"row": "flat"}, "facts.row"),
        ({"nodes": 2.5}, "facts.nodes"),
        ({"deleted": -1}, "facts.deleted"),
        ({"fresh_draw": "yes"}, "facts.fresh_draw"),
        ({"l2": "small"}, "facts.l2"),
        ({"clip": "none"}, "facts.clip"),
        ({"rates": [[0, 0.5]]}, "facts.rates"),
        ({"shares": [[1000]]}, "facts.shares"),
        ({"colour": "red"}, "facts.colour"),
    ],
)
def test_facts_of_the_wrong_kind_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        RewindFacts.from_dict({**FACTS.to_dict(), **change})


def test_missing_facts_are_refused():
    plain = FACTS.to_dict()
    del plain["shares"]
    with pytest.raises(UserError, match=r"facts\.shares is missing"):
        RewindFacts.from_dict(plain)
