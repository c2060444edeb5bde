"""The certificate of a clipped, noised broadcast."""

from __future__ import annotations

import dataclasses
import math

import pytest

from fedunlearn.errors import UserError
from fedunlearn.privacy import Certificate, NoCertificate, delta_of, junk_start_limit, sigma_for
from fedunlearn.privacy.claims import rebuild
from fedunlearn.privacy.claims.message import MessageFacts, certify

HASHES = {"settings.toml": "a" * 64}
FACTS = MessageFacts(
    method="newton", granularity="client", radius=0.8, radius_source="setting", correction_norm=2.0,
    sent_nothing_else=True, continued_on_retained=True, fell_back=False, fresh_draw=True,
    sigma_drawn=sigma_for(0.8, 1.0, 1e-5), dim=12,
)  # fmt: skip


def certificate(epsilon: float = 1.0, hashes=HASHES, **changes) -> Certificate:
    return certify(dataclasses.replace(FACTS, **changes), epsilon, 1e-5, noise="simulated", hashes=hashes)


def test_the_radius_sets_the_noise_and_nothing_is_said_about_forgetting():
    """A correction of norm 0.80 asks for noise of 2.98, where the release asked for 0.0075."""
    issued = certificate()
    assert issued.sigma == pytest.approx(2.98, abs=0.01) and issued.sensitivity == 0.8
    assert issued.kind == "message" and issued.view == "T-V1" and issued.valid
    assert delta_of(issued.mu, 1.0) == pytest.approx(1e-5, rel=1e-6)
    assert "no retrain-equivalence" in issued.limits[0] and "2 C_v = 1.6" in issued.limits[1]
    assert f"mu = {2 * issued.mu:.6g}" in issued.limits[1]
    assert junk_start_limit(issued) is None


def test_more_noise_than_needed_is_a_smaller_mu():
    assert certificate(sigma_drawn=8.0).mu == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"sent_nothing_else": False}, "nothing else was sent"),
        ({"fresh_draw": False}, "single draw"),
        ({"continued_on_retained": False}, "continuation"),
    ],
)
def test_each_missing_premise_is_named(changes, name):
    issued = certificate(**changes)
    assert [p.name for p in issued.premises if p.status != "enforced"] == [name]
    assert (issued.view == "none") == ("sent_nothing_else" in changes)


def test_what_gives_no_certificate():
    with pytest.raises(NoCertificate, match="was not a dummy"):
        certificate(fell_back=True)
    with pytest.raises(NoCertificate, match=r"needs 2\.98"):
        certificate(sigma_drawn=2.9)
    for radius in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match="both must be positive"):
            certificate(radius=radius)


def test_everything_follows_from_the_facts():
    issued = certificate()
    assert rebuild(issued.facts, 1.0, 1e-5, noise="simulated", hashes=HASHES) == issued
    assert Certificate.from_dict(issued.to_dict()) == issued
    for changes, why in (
        ({"radius_source": "guess"}, "facts.radius_source"),
        ({"fell_back": 1}, "facts.fell_back = 1"),
        ({"more": 1}, "unexpected"),
    ):
        with pytest.raises(UserError, match=why):
            rebuild({**issued.facts, **changes}, 1.0, 1e-5, noise="simulated", hashes={})
