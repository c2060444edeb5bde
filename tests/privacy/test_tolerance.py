"""The tolerance certificate: its constants, its theorem on small problems, and what each fact of a run does to it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.privacy import (
    NoCertificate,
    RunFacts,
    calibrate,
    certify,
    compose,
    delta_of,
    joint_sensitivity,
    meets_tolerance,
    mu_of,
    mu_over_releases,
    sensitivity,
    sigma_for,
    stopping_value,
    tolerance_for,
)

Maker = Callable[..., RunFacts]
EPSILON, DELTA = 1.0, 1e-5


# --- arithmetic ------------------------------------------------------------------------------------------------------


def test_rule_for_tau() -> None:
    assert tolerance_for(0.05, 1, EPSILON, DELTA) == pytest.approx(0.0067, abs=5e-5)
    for lam in (1e-5, 1e-3, 0.5):
        plan = calibrate(EPSILON, DELTA, lam)
        assert plan.tau == pytest.approx(0.0067 * lam, rel=0.01)
        assert plan.sigma == pytest.approx(0.05)
        assert plan.sensitivity == pytest.approx(2 * plan.tau / lam)
        assert plan.mu == pytest.approx(0.26805, rel=1e-4)


def test_sigma_table() -> None:
    """Noise at (1, 1e-5) for tolerances that were used on FEMNIST heads."""
    for lam, tau, sigma in ((1e-3, 1e-5, 0.0746), (1e-4, 1e-6, 0.0746), (1e-5, 1e-6, 0.746), (1e-5, 1e-8, 0.0075)):
        assert calibrate(EPSILON, DELTA, lam, tau=tau).sigma == pytest.approx(sigma, rel=0.01)


@given(st.floats(1e-4, 1), st.floats(1e-6, 1), st.floats(0.01, 20), st.floats(-12, -1), st.integers(1, 50))
@settings(deadline=None)
def test_target_noise_is_met(target: float, lam: float, epsilon: float, exponent: float, releases: int) -> None:
    delta = 10.0**exponent
    tau = tolerance_for(target, lam, epsilon, delta, releases)
    plan = calibrate(epsilon, delta, lam, tau=tau, releases=releases)
    assert plan.sigma == pytest.approx(target, rel=1e-9)
    assert delta_of(plan.mu, epsilon) <= delta * (1 + 1e-8)


def test_tolerance_has_a_floor() -> None:
    plan = calibrate(EPSILON, DELTA, 1e-9)
    assert plan.tau == 1e-9
    assert plan.sigma > 0.05


def test_joint_sensitivity_is_the_largest_distance() -> None:
    """Stack N rows mean + deviation in two worlds: no admissible pair is farther apart, and one pair attains it."""
    rng = np.random.default_rng(0)
    nodes, dim, radius, bound = 5, 4, 0.3, 0.7
    claimed = joint_sensitivity(radius, 1, nodes, bound)

    def world(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        deviation = deviation - deviation.mean(axis=0)
        deviation *= bound / np.linalg.norm(deviation)
        return mean * radius / np.linalg.norm(mean) + deviation

    for _ in range(300):
        first = world(rng.normal(size=dim), rng.normal(size=(nodes, dim)))
        second = world(rng.normal(size=dim), rng.normal(size=(nodes, dim)))
        assert np.linalg.norm(first - second) <= claimed * (1 + 1e-12)
    mean, deviation = rng.normal(size=dim), rng.normal(size=(nodes, dim))
    extreme = np.linalg.norm(world(mean, deviation) - world(-mean, -deviation))
    assert extreme == pytest.approx(claimed, rel=1e-12)


def test_joint_release_costs_sqrt_of_nodes() -> None:
    one, many = sensitivity(1e-6, 1e-4), joint_sensitivity(1e-6, 1e-4, 16, 0)
    assert many == pytest.approx(4 * one)
    # Averaging 16 releases with the noise of one undoes it: the mean has sigma / 4, as the joint mu says.
    assert many / 0.05 == pytest.approx(one / (0.05 / 4))
    assert sensitivity(1e-6, 1e-4, 0.01) == pytest.approx(one + 0.02)


def test_releases_from_secret_starts_compose() -> None:
    for k in (1, 4, 16):
        assert mu_over_releases(0.268, k, "secret") == pytest.approx(compose([0.268] * k))
        assert mu_over_releases(0.268, k, "released") == 0.268
        assert mu_over_releases(0.268, k, "public") == 0.268
    assert mu_over_releases(mu_of(EPSILON, DELTA), 4, "secret") == pytest.approx(0.536, abs=1e-3)
    assert mu_over_releases(mu_of(EPSILON, DELTA), 16, "secret") == pytest.approx(1.072, abs=1e-3)
    assert tolerance_for(0.05, 1, EPSILON, DELTA, 9) == pytest.approx(tolerance_for(0.05, 1, EPSILON, DELTA) / 3)


def test_stopping_value() -> None:
    assert stopping_value(1.0, 0, 0.25, 0.5) == pytest.approx(1.75)
    assert stopping_value(1.0, 10**9) - 1 == pytest.approx(10**9 * 2.0**-53, rel=1e-6)
    assert meets_tolerance(0.9, 1, 100, 0.05, 0.04)
    assert not meets_tolerance(0.9, 1, 100, 0.05, 0.06)
    assert not meets_tolerance(1.0, 1, 1)  # the norm itself is rounded
    assert not meets_tolerance(math.nan, 1, 100)


def test_bad_constants() -> None:
    for tau, lam in ((0, 1), (1, 0), (-1, 1), (1, math.nan), (math.inf, 1)):
        with pytest.raises(UserError, match="must be a positive finite number"):
            sensitivity(tau, lam)
    with pytest.raises(UserError, match="nodes = 0"):
        joint_sensitivity(1, 1, 0, 0)
    with pytest.raises(UserError, match="consensus_bound"):
        joint_sensitivity(1, 1, 2, -1)
    with pytest.raises(UserError, match="consensus_bound"):
        sensitivity(1, 1, -1)
    with pytest.raises(UserError, match="releases = 0"):
        calibrate(1, 1e-5, 1, releases=0)
    with pytest.raises(UserError, match="target_sigma"):
        calibrate(1, 1e-5, 1, target_sigma=0)


# --- T1 on softmax heads ---------------------------------------------------------------------------------------------


def softmax_gradient(weights: np.ndarray, rows: np.ndarray, labels: np.ndarray, lam: float) -> np.ndarray:
    logits = rows @ weights
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return rows.T @ p / len(labels) + lam * weights


def descend(start: np.ndarray, rows: np.ndarray, labels: np.ndarray, lam: float, tau: float) -> np.ndarray:
    """Gradient descent with step 1/L until the gradient norm is at most tau."""
    x = start
    while np.linalg.norm(g := softmax_gradient(x, rows, labels, lam)) > tau:
        x = x - g / (0.5 + lam)
    return x


def problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(40, 3))
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1)
    return rows, rng.integers(0, 3, size=40)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tau", [1e-2, 1e-4])
def test_two_stops_are_within_the_sensitivity(seed: int, tau: float) -> None:
    """Unlearning from the model of all data and retraining from anywhere end within 2 tau/lam."""
    rows, labels = problem(seed)
    rng, lam = np.random.default_rng(seed), 0.05
    trained = descend(np.zeros((3, 3)), rows, labels, lam, tau)
    kept = slice(0, 30 - 5 * seed)  # any number of deletions
    unlearned = descend(trained, rows[kept], labels[kept], lam, tau)
    retrained = descend(3 * rng.normal(size=(3, 3)), rows[kept], labels[kept], lam, tau)
    assert np.linalg.norm(unlearned - retrained) <= sensitivity(tau, lam)


def test_the_sensitivity_is_attained() -> None:
    """The logit shift common to all classes is invisible to the data, so its curvature is exactly lam."""
    rows, labels = problem(1)
    tau, lam = 1e-3, 0.05
    optimum = descend(np.zeros((3, 3)), rows, labels, lam, 1e-13)
    blind = np.outer([1.0, -2.0, 0.5], np.ones(3))
    blind *= tau / lam / np.linalg.norm(blind)
    for x in (optimum + blind, optimum - blind):
        assert np.linalg.norm(softmax_gradient(x, rows, labels, lam)) == pytest.approx(tau, rel=1e-6)
    assert np.linalg.norm(2 * blind) / sensitivity(tau, lam) == pytest.approx(1, abs=1e-6)


def test_the_bias_must_be_regularised() -> None:
    """With the L2 term off one row of weights, two points can meet the tolerance and be arbitrarily far apart."""
    rows, labels = problem(2)
    rows[:, 2] = 1 / math.sqrt(2)
    lam, tau = 0.05, 1e-3
    mask = np.array([[1.0], [1.0], [0.0]])

    def gradient(x: np.ndarray) -> np.ndarray:
        return softmax_gradient(x, rows, labels, 0) + lam * mask * x

    x = np.zeros((3, 3))
    while np.linalg.norm(gradient(x)) > tau / 2:
        x = x - gradient(x)
    far = x + 100 * np.outer([0, 0, 1.0], np.ones(3))
    assert np.linalg.norm(gradient(far)) <= tau
    assert np.linalg.norm(far - x) > 1000 * sensitivity(tau, lam)


# --- facts to premises -----------------------------------------------------------------------------------------------


def test_all_premises_enforced(good_facts: Maker, good_hashes: dict[str, str]) -> None:
    facts = good_facts()
    certificate = certify(facts, EPSILON, DELTA, noise="secret", hashes=good_hashes)
    assert certificate.valid
    assert certificate.sensitivity == pytest.approx(2 * facts.tau / facts.lam)
    assert certificate.sigma == facts.sigma_drawn == pytest.approx(0.05)
    assert certificate.mu == pytest.approx(0.26805, rel=1e-4)
    assert "T1" in certificate.theorem and "T5.3" in certificate.theorem
    assert certificate.view == "T-V2"
    assert [line.split(":")[0] for line in certificate.scope] == ["released", "state", "noise", "requests", "constants"]
    names = [premise.name for premise in certificate.premises]
    assert len(set(names)) == len(names)
    assert {"strong convexity", "tolerance", "rounding bound", "single draw", "state erased"} <= set(names)


@pytest.mark.parametrize(
    ("changes", "premise", "status"),
    [
        ({"l2_on_all_parameters": False}, "strong convexity", "assumed"),
        ({"convex_loss": False}, "strong convexity", "assumed"),
        ({"gradient_dtype": "float32"}, "tolerance", "measured"),
        ({"rounding_bound": 4e-7}, "tolerance", "measured"),
        ({"gradient_slack": 4e-7}, "tolerance", "measured"),
        ({"tau": 9e-10, "gradient_norm": 1e-12}, "tolerance", "measured"),
        ({"rounding_bound": None}, "rounding bound", "assumed"),
        ({"softmax_loss": False}, "rounding bound", "assumed"),
        ({"features_bounded": False}, "rounding bound", "assumed"),
        ({"retained_objective": False}, "retained objective", "assumed"),
        ({"fresh_draw": False}, "single draw", "assumed"),
        ({"state_erased": False}, "state erased", "assumed"),
        ({"state_erased": False, "start": "public"}, "state erased", "assumed"),
        ({"extractor": "unverified"}, "public features", "assumed"),
    ],
)
def test_each_fact_has_its_premise(
    good_facts: Maker, good_hashes: dict[str, str], changes: dict, premise: str, status: str
) -> None:
    certificate = certify(good_facts(**changes), EPSILON, DELTA, noise="simulated", hashes=good_hashes)
    assert {p.name: p.status for p in certificate.premises if p.status != "enforced"} == {premise: status}
    assert not certificate.valid


@pytest.mark.parametrize(
    ("missing", "premise"),
    [
        ("settings.toml", "public settings"),
        ("extractor", "public features"),
        ("extractor_training_rows", "public features"),
    ],
)
def test_hashes_are_premises(good_facts: Maker, good_hashes: dict[str, str], missing: str, premise: str) -> None:
    del good_hashes[missing]
    certificate = certify(good_facts(), EPSILON, DELTA, noise="simulated", hashes=good_hashes)
    assert [p.name for p in certificate.premises if p.status == "assumed"] == [premise]
    certificate = certify(
        good_facts(extractor="none"), EPSILON, DELTA, noise="simulated", hashes={"settings.toml": "a"}
    )
    assert certificate.valid


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gradient_norm": 1e-5}, "stopping rule was not met"),
        ({"gradient_norm": math.nan}, "stopping rule was not met"),
        ({"lam": 0.0}, "without an L2 term"),
        ({"release": "shared-draw"}, "differences carry no noise"),
        ({"release": "per-node", "consensus_bound": 1e-4, "consensus_residual": 2e-4}, "more than the public bound"),
        ({"release": "per-node"}, "needs mu <="),  # the noise of one model is too little for 19
        ({"sigma_drawn": 0.0499}, "needs mu <="),
        ({"start": "secret", "releases": 2}, "needs mu <="),
    ],
)
def test_no_certificate(good_facts: Maker, good_hashes: dict[str, str], changes: dict, reason: str) -> None:
    with pytest.raises(NoCertificate, match=reason):
        certify(good_facts(**changes), EPSILON, DELTA, noise="simulated", hashes=good_hashes)


def test_shared_draw_on_one_node_is_one_vector(good_facts: Maker, good_hashes: dict[str, str]) -> None:
    certificate = certify(
        good_facts(release="shared-draw", nodes=1), EPSILON, DELTA, noise="simulated", hashes=good_hashes
    )
    assert certificate.valid and certificate.claim.startswith("What is released")


def test_joint_release_of_all_nodes(good_facts: Maker, good_hashes: dict[str, str]) -> None:
    facts = good_facts()
    bound = 1e-3
    plan = calibrate(EPSILON, DELTA, facts.lam, tau=facts.tau, nodes=19, consensus_bound=bound)
    facts = good_facts(release="per-node", sigma_drawn=plan.sigma, consensus_bound=bound, consensus_residual=bound / 2)
    certificate = certify(facts, EPSILON, DELTA, noise="simulated", hashes=good_hashes)
    assert certificate.valid
    expected = 2 * math.sqrt(19 * (facts.tau / facts.lam) ** 2 + bound**2)
    assert certificate.sensitivity == pytest.approx(expected)
    assert certificate.sigma == pytest.approx(sigma_for(expected, EPSILON, DELTA))
    assert "T2 (joint release of 19 models" in certificate.theorem
    assert certificate.claim.startswith("The joint release of all 19 models")


def test_secret_start_covers_releases_only(good_facts: Maker, good_hashes: dict[str, str]) -> None:
    plan = calibrate(EPSILON, DELTA, 1e-4, tau=1e-7, releases=4)
    facts = good_facts(
        tau=1e-7, gradient_norm=5e-8, sigma_drawn=plan.sigma, start="secret", releases=4, state_erased=False
    )
    certificate = certify(facts, EPSILON, DELTA, noise="simulated", hashes=good_hashes)
    assert certificate.valid
    assert certificate.mu == pytest.approx(2 * certificate.sensitivity / certificate.sigma)
    assert delta_of(certificate.mu, EPSILON) <= DELTA * (1 + 1e-8)
    assert "T5.2" in certificate.theorem
    assert not any(line.startswith("state") for line in certificate.scope)
    assert certificate.view == "none" and "noise-free models" in certificate.view_reason
    assert any("noise-free models" in line for line in certificate.limits)


def test_views(good_facts: Maker) -> None:
    def view(**changes: object) -> tuple[str, str]:
        certificate = certify(good_facts(**changes), EPSILON, DELTA, noise="simulated")
        return certificate.view, certificate.view_reason

    assert view()[0] == "T-V2" and "last release" in view()[1]
    assert view(start="public")[0] == "T-V0" and "public point" in view(start="public")[1]
    assert view(start="secret")[0] == "none"
    for start in ("released", "public", "secret"):
        assert view(start=start, retained_messages_only=False)[0] == "none"


def test_claim_without_proof_that_retraining_stops(good_facts: Maker, good_hashes: dict[str, str]) -> None:
    facts = good_facts(retraining_always_stops=False)
    certificate = certify(facts, EPSILON, DELTA, noise="simulated", hashes=good_hashes)
    assert certificate.valid
    assert "exact minimiser" in certificate.claim and "certifier form" in certificate.claim
    assert "retraining without the deleted data" in certify(good_facts(), EPSILON, DELTA, noise="simulated").claim


def test_simulated_noise_is_named(good_facts: Maker) -> None:
    simulated = certify(good_facts(), EPSILON, DELTA, noise="simulated")
    assert any(line.startswith("simulation only") for line in simulated.scope)
    secret = certify(good_facts(), EPSILON, DELTA, noise="secret")
    assert not any("simulation" in line for line in secret.scope)


def test_facts_are_checked(good_facts: Maker) -> None:
    with pytest.raises(UserError, match=r"facts.start = 'warm'.*released, public, secret"):
        good_facts(start="warm")
    with pytest.raises(UserError, match=r"facts.state_erased = 1 is not allowed"):
        good_facts(state_erased=1)
    with pytest.raises(UserError, match=r"facts.rule = 'other' is not known"):
        RunFacts.from_dict({**good_facts().to_dict(), "rule": "other"})
    with pytest.raises(UserError, match="unexpected keyword argument 'extra'"):
        RunFacts.from_dict({**good_facts().to_dict(), "extra": 1})
    numpy_facts = good_facts(gradient_norm=np.float64(1e-9), dim=np.int64(7))
    assert type(numpy_facts.to_dict()["dim"]) is int
    assert RunFacts.from_dict(numpy_facts.to_dict()) == numpy_facts
