"""Differentially private training: certificates by group privacy, and what has none."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, norm

from fedunlearn.errors import UserError
from fedunlearn.privacy import Certificate, NoCertificate, epsilon_of
from fedunlearn.privacy.claims import rebuild
from fedunlearn.privacy.claims.dp_training import DpTrainingFacts, certify, claimable, opinion_of

HASHES = {"settings.toml": "a" * 64}
DELTA = 1e-5
GOOD = {
    "method": "dp-sgd",
    "granularity": "sample",
    "sampling": "poisson",
    "rate": 0.2,
    "steps": 3,
    "noise_multiplier": 4.0,
    "clip": 0.5,
    "forget_count": 1,
    "capacity": 1,
    "dim": 15,
    "clipped_every_record": True,
    "fixed_divisor": True,
    "fresh_draws": True,
    "independent_coins": True,
    "public_start": True,
    "steps_fixed": True,
    "extractor": "none",
}


def facts(**changes):
    return DpTrainingFacts(**{**GOOD, **changes})


def certificate(epsilon=5.0, hashes=HASHES, **changes):
    return certify(facts(**changes), epsilon, DELTA, noise="simulated", hashes=hashes)


def test_a_certificate_says_what_it_is_about_and_holds():
    made = certificate(forget_count=3)
    assert made.valid and made.kind == "differential-privacy" and made.mu is None and made.view == "T-V2"
    assert made.sigma == 2.0 and made.sensitivity == 1.5
    opinion = opinion_of(facts(forget_count=3), DELTA)
    assert opinion.epsilon <= made.epsilon == 5.0 and opinion.epsilon <= opinion.second["rdp"]
    assert "3 deleted records" in made.claim and "both ways" in made.claim


@pytest.mark.parametrize("group", [1, 2, 7])
def test_without_sampling_it_is_the_exact_gaussian_of_the_whole_group(group):
    exact = epsilon_of(group * 2 / 4.0, DELTA)
    claimed = claimable(facts(rate=1.0, steps=4, forget_count=group), 1e-9, DELTA)
    assert exact <= claimed <= 1.001 * exact and f"{claimed:.4g}" == repr(claimed).removesuffix(".0")
    assert certificate(epsilon=claimed, rate=1.0, steps=4, forget_count=group).epsilon == claimed


@pytest.mark.parametrize(("group", "rate", "z"), [(1, 0.2, 1.0), (3, 0.3, 2.0)])
def test_one_step_is_the_integral_over_its_binomial_mixture(group, rate, z):
    """Hockey-stick divergences of the mixture and N(0, z^2), both ways, by quadrature."""
    weights = binom.pmf(np.arange(group + 1), group, rate)

    def delta_at(epsilon):
        def density(x):
            return weights @ norm.pdf(x, loc=np.arange(group + 1), scale=z), norm.pdf(x, scale=z)

        def excess(x, forth):
            p, q = density(x) if forth else density(x)[::-1]
            return max(0.0, p - math.exp(epsilon) * q)

        knots = np.linspace(-9 * z, group + 9 * z, 41)
        return max(quad(excess, -12 * z, group + 12 * z, (f,), points=knots, limit=400)[0] for f in (True, False))

    epsilon = opinion_of(facts(rate=rate, steps=1, noise_multiplier=z, forget_count=group), DELTA).epsilon
    assert delta_at(epsilon) <= DELTA * (1 + 1e-3)
    assert delta_at(epsilon * 0.99) > DELTA


def test_epsilon_grows_with_the_number_of_deleted_records_and_falls_with_noise():
    found = [claimable(facts(forget_count=m), 1e-9, DELTA) for m in (0, 1, 2, 5, 20)]
    assert found[0] == found[1] and found == sorted(found) and found[-1] > 5 * found[1]
    assert claimable(facts(noise_multiplier=8.0), 1e-9, DELTA) < found[1]
    assert claimable(facts(), 3.0, DELTA) == 3.0  # what was asked for, where it holds


def test_noise_too_small_for_the_claim_is_refused_with_the_epsilon_that_holds():
    obtained = opinion_of(facts(forget_count=4), DELTA).epsilon
    with pytest.raises(NoCertificate, match=f"epsilon = {obtained:.6g}.*4 deleted records, more than 0.1"):
        certificate(epsilon=0.1, forget_count=4)
    with pytest.raises(NoCertificate):
        certificate(epsilon=obtained * (1 - 1e-6), forget_count=4)
    assert certificate(epsilon=obtained, forget_count=4).epsilon == obtained


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "shuffled"}, "sampled as 'shuffled'.*independent coins only"),
        ({"sampling": "fixed-size"}, "independent coins only"),
        ({"clipped_every_record": False}, "not clipped record by record"),
        ({"fixed_divisor": False}, "depends on who was sampled"),
    ],
)
def test_what_no_theorem_covers_has_no_certificate(changes, message):
    with pytest.raises(NoCertificate, match=message):
        certificate(**changes)
    with pytest.raises(NoCertificate, match=message):
        claimable(facts(**changes), 1.0, DELTA)


@pytest.mark.parametrize(
    ("changes", "premise"),
    [
        ({"independent_coins": False}, "Poisson sampling"),
        ({"fresh_draws": False}, "noise of its own for every step"),
        ({"public_start": False}, "public start"),
        ({"steps_fixed": False}, "no selection"),
        ({"extractor": "unverified"}, "public features"),
        ({"extractor": "public"}, "public features"),  # no hash of it
        ({"hashes": {}}, "public settings"),
    ],
)
def test_a_premise_that_was_not_enforced_makes_it_invalid(changes, premise):
    made = certificate(**changes)
    assert not made.valid
    assert [p.name for p in made.premises if p.status != "enforced"] == [premise]


def test_it_is_rebuilt_from_its_file_and_every_fact_counts():
    made = certificate(epsilon=claimable(facts(forget_count=2), 1e-9, DELTA), forget_count=2)
    stored = json.loads(json.dumps(made.to_dict()))
    again = rebuild(stored["facts"], made.epsilon, made.delta, noise="simulated", hashes=made.hashes)
    assert again == made == Certificate.from_dict(stored)
    for name, other in (("noise_multiplier", 3.9), ("rate", 0.21), ("steps", 4), ("forget_count", 3)):
        with pytest.raises(NoCertificate, match="epsilon = "):
            rebuild({**stored["facts"], name: other}, made.epsilon, DELTA, noise="simulated", hashes=made.hashes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"granularity": "row"}, "facts.granularity = 'row'"),
        ({"fixed_divisor": 1}, "facts.fixed_divisor = 1 .* true or false"),
        ({"steps": 2.0}, "facts.steps = 2.0 .* whole number from 1"),
        ({"forget_count": -1}, "facts.forget_count = -1"),
        ({"rate": 1.5}, "facts.rate = 1.5"),
        ({"noise_multiplier": 0.0}, "facts.noise_multiplier = 0.0"),
        ({"clip": math.nan}, "facts.clip = nan"),
        ({"sampling": 3}, "facts.sampling = 3"),
    ],
)
def test_ill_typed_facts_are_told(changes, message):
    with pytest.raises(UserError, match=message):
        facts(**changes)


def test_facts_of_another_rule_or_shape_are_told():
    plain = facts().to_dict()
    assert DpTrainingFacts.from_dict(plain) == facts()
    for broken in ({**plain, "rule": "walk"}, {**plain, "extra": 1}, {k: v for k, v in plain.items() if k != "clip"}):
        with pytest.raises(UserError, match="facts"):
            DpTrainingFacts.from_dict(broken)
