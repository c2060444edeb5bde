"""The certificate of a broadcast correction: its numbers by hand, what breaks it, and what it says about itself."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.privacy import Certificate, NoCertificate, delta_of, mu_of, write_certificates
from fedunlearn.privacy.claims import rebuild
from fedunlearn.privacy.claims.correction import certify
from fedunlearn.privacy.claims.correction_facts import CorrectionFacts
from fedunlearn.privacy.verify import verify

HASHES = {"settings.toml": "a" * 64}
MEASURED = CorrectionFacts(
    method="newton", granularity="client", lam=0.01, dim=12, convex_loss=True, softmax_rows=True, extractor="none",
    bound="measured", gradient="retained", curvature="auto", own_curvature=False, damping=0.0, weighting="equal",
    clients=8, total=100, forgotten=((12, 12),), leavers=1, nodes=7, tau=4e-5, retraining_always_stops=False,
    first_answer=True, residual_bound=5e-5, solve=1e-7, gradient_norm=0.1, residual_norm=4.9e-5, rounding_bound=1e-12,
    consensus_bound=0.002, consensus_residual=0.0019, correction_norm=0.5, clipped=False, always_sent=False,
    fell_back=False, recovery="local", releases=1, fresh_draw=True, sigma_drawn=0.05,
)  # fmt: skip
WORST = dataclasses.replace(
    MEASURED, bound="worst-case", lam=1.0, granularity="sample", forgotten=((2, 20),), leavers=0, nodes=8,
    gradient_norm=0.03, residual_norm=1e-10, sigma_drawn=1.0,
)  # fmt: skip


def certificate(facts: CorrectionFacts = MEASURED, epsilon: float = 1.0, hashes=HASHES, **changes) -> Certificate:
    return certify(dataclasses.replace(facts, **changes), epsilon, 1e-5, noise="simulated", hashes=hashes)


def statuses(issued: Certificate) -> dict[str, str]:
    return {p.name: p.status for p in issued.premises}


def test_measured_acceptance_by_hand():
    issued = certificate()
    assert issued.sensitivity == pytest.approx((5e-5 + 4e-5) / 0.01 + 2 * 0.002)
    assert issued.mu == pytest.approx(0.013 / 0.05)
    assert issued.valid and issued.kind == "single-node" and issued.view == "none"
    assert delta_of(issued.mu, 1.0) <= 1e-5 and "right in 55.17 %" in issued.worth
    assert "T2 (one node's own model), measured acceptance" in issued.theorem
    # v is 0.5 long under noise of 0.05: to a node that knew its model, mu = 10
    assert "mu = 10," in issued.view_reason
    assert "difference is free of noise" in issued.limits[0] and issued.scope[0].startswith("one node: ")
    assert "certifier form" in issued.claim


def test_worst_case_by_hand():
    issued = certificate(WORST)
    weight = 2 / (8 * 20)
    gradient = 2 * math.sqrt(2) * weight + 4e-5
    solve = 1e-7 * gradient
    step = (gradient + solve) / 1.0
    residual = solve + math.sqrt(2) / (3 * math.sqrt(3)) / 2 * step**2
    assert issued.constants["gradient_bound"] == pytest.approx(gradient, rel=1e-12)
    assert issued.sensitivity == pytest.approx(residual + 4e-5 + 0.004, rel=1e-12)
    assert issued.valid and "worst-case" in issued.theorem
    diagonal = certificate(WORST, curvature="fisher-diagonal", residual_norm=0.01)
    assert diagonal.sensitivity == pytest.approx(issued.sensitivity + 0.5 * step, rel=1e-9)
    assert diagonal.valid  # its error is bounded too, and costs that much


def test_worst_case_from_the_forget_set_alone_by_hand():
    """A whole client, equal weights: the L2 term counts, and tau grows by N/(N - 1)."""
    facts = dataclasses.replace(
        WORST, gradient="forget-set", forgotten=((12, 12),), leavers=1, nodes=7, gradient_norm=None,
        own_curvature=True, sigma_drawn=100.0,
    )  # fmt: skip
    issued = certificate(facts)
    gradient = (2 * math.sqrt(2) + 4e-5) / 7
    step = gradient * (1 + 1e-7)
    lipschitz = math.sqrt(2) / (3 * math.sqrt(3))
    error = 0.5 + lipschitz * 0.002 / 7
    residual = 1e-7 * gradient + 4e-5 * 8 / 7 + error * step + lipschitz / 2 * step**2
    assert issued.sensitivity == pytest.approx(residual + 4e-5 + 0.004, rel=1e-9) and issued.valid
    with pytest.raises(NoCertificate, match="carry the noise of an earlier answer"):
        certificate(facts, first_answer=False)


def test_a_worst_case_that_hides_the_model_says_so():
    issued = certificate(WORST, lam=0.001, sigma_drawn=1e7)
    assert issued.sensitivity > 10 and any("of the size of the parameters" in line for line in issued.limits)
    assert not any("of the size" in line for line in certificate(WORST).limits)


def test_one_vector_is_a_release_like_any_other():
    facts = dataclasses.replace(MEASURED, consensus_bound=0.0, consensus_residual=0.0, recovery="round")
    issued = certificate(facts)
    assert issued.kind == "certifier" and issued.valid and issued.sensitivity == pytest.approx(0.009)
    assert certificate(facts, retraining_always_stops=True).kind == "retrain-equivalence"
    assert not any("difference is free of noise" in line for line in issued.limits)


@pytest.mark.parametrize(
    ("changes", "name", "status"),
    [
        ({"recovery": "round"}, "recovery", "assumed"),
        ({"softmax_rows": False}, "bounded rows", "assumed"),
        ({"rounding_bound": None}, "bounded rows", "assumed"),
        ({"extractor": "unverified"}, "public features", "assumed"),
        ({"extractor": "public"}, "public features", "assumed"),
        ({"fresh_draw": False}, "single draw", "assumed"),
        ({"always_sent": True}, "error of the correction", "measured"),
        ({"residual_bound": 1e-10, "residual_norm": 0.0}, "error of the correction", "assumed"),
    ],
)
def test_each_missing_premise_is_named_and_takes_the_validity(changes, name, status):
    issued = certificate(**changes)
    assert not issued.valid
    found = statuses(issued)
    assert found.pop(name) == status and set(found.values()) == {"enforced"}


def test_settings_without_a_hash_are_assumed():
    found = statuses(certificate(hashes={}))
    assert found.pop("public settings") == "assumed" and set(found.values()) == {"enforced"}


@pytest.mark.parametrize(
    ("facts", "changes", "why"),
    [
        (MEASURED, {"lam": 0.0}, "without an L2 term"),
        (MEASURED, {"residual_norm": 5.01e-5}, "r_max"),
        (MEASURED, {"residual_norm": 5e-5, "rounding_bound": 1e-8}, "r_max"),
        (MEASURED, {"residual_norm": math.nan}, "r_max"),
        (MEASURED, {"residual_norm": None}, "nobody measured"),
        (MEASURED, {"consensus_residual": 0.0021}, "more than the public bound"),
        (MEASURED, {"sigma_drawn": 0.048}, "needs mu <="),
        (MEASURED, {"fell_back": True, "residual_norm": 4.1e-5}, "tau = 4.000e-05"),
        (MEASURED, {"releases": 2}, "needs mu <="),
        (WORST, {"clipped": True}, "no Newton step"),
        (WORST, {"gradient_norm": 0.04}, "before the correction"),
        (WORST, {"gradient_norm": None}, "nobody measured"),
        (WORST, {"residual_norm": 1e-7}, "left of the linear system"),
        (WORST, {"curvature": "public"}, "no bound on the error"),
    ],
)
def test_what_gives_no_certificate(facts, changes, why):
    with pytest.raises(NoCertificate, match=why):
        certificate(facts, **changes)


def test_a_retrained_network_needs_tau_and_no_accepted_correction():
    issued = certificate(fell_back=True, residual_norm=3.9e-5, correction_norm=0.0)
    assert issued.valid and "trained again" in issued.view_reason


def test_several_answers_of_own_models_pay_the_square_root():
    one, four = certificate(), certificate(releases=4, sigma_drawn=0.1)
    assert four.mu == pytest.approx(one.mu) and "sqrt(4)" in four.theorem


def test_a_model_that_is_not_convex_gives_a_condition_not_a_claim():
    issued = certificate(
        convex_loss=False, softmax_rows=False, rounding_bound=None, residual_norm=3.0, consensus_residual=1.0
    )
    found = statuses(issued)
    assert not issued.valid and "on the condition of premises" in issued.claim
    for name in ("strong convexity", "error of the correction", "retraining ends at tau", "agreement of the models"):
        assert found[name] == "assumed"
    assert any("3.000e+00" in p.detail for p in issued.premises)


@pytest.mark.parametrize("facts", [MEASURED, WORST])
def test_everything_follows_from_the_facts(facts, tmp_path):
    issued = certificate(dataclasses.replace(facts, nodes=np.int64(7), correction_norm=np.float64(0.5)))
    assert rebuild(issued.facts, 1.0, 1e-5, noise="simulated", hashes=HASHES) == issued
    assert Certificate.from_dict(issued.to_dict()) == issued
    model = tmp_path / "models" / "release-1.safetensors"
    model.parent.mkdir()
    model.write_bytes(b"a model")
    (tmp_path / "settings.toml").write_bytes(b"")
    from fedunlearn.privacy import file_sha256

    hashes = {
        "settings.toml": file_sha256(tmp_path / "settings.toml"), "models/release-1.safetensors": file_sha256(model)
    }  # fmt: skip
    whole = certificate(facts, hashes=hashes)
    path = tmp_path / "certificate.json"
    write_certificates(path, [whole])
    assert verify(path).ok
    write_certificates(path, [dataclasses.replace(whole, sensitivity=whole.sensitivity * 0.9)])
    assert [c.what for c in verify(path).failures] == ["sensitivity, from the facts of the run"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rule": "guess"}, "facts.rule = 'guess' is not known"),
        ({"bound": "guessed"}, "facts.bound = 'guessed'"),
        ({"dim": 1.5}, r"facts.dim = 1\.5"),
        ({"clipped": 0}, r"facts.clipped = 0"),
        ({"lam": "much"}, "facts.lam = 'much'"),
        ({"gradient_norm": "small"}, "facts.gradient_norm"),
        ({"forgotten": [[1, 2, 3]]}, "facts.forgotten"),
        ({"forgotten": [[1.5, 2]]}, "facts.forgotten"),
        ({"surprise": 1}, "unexpected keyword argument 'surprise'"),
    ],
)
def test_malformed_facts_are_refused(changes, why):
    plain = {**certificate().facts, **changes}
    with pytest.raises(UserError, match=why):
        rebuild(plain, 1.0, 1e-5, noise="simulated", hashes={})
    plain = dict(certificate().facts)
    plain.pop("tau")
    with pytest.raises(UserError, match="missing 1 required positional argument: 'tau'"):
        rebuild(plain, 1.0, 1e-5, noise="simulated", hashes={})


def test_the_claim_holds_at_the_noise_it_names():
    needed = 0.013 / mu_of(1.0, 1e-5)
    assert certificate(sigma_drawn=needed).mu == pytest.approx(0.268051, rel=1e-4)
    with pytest.raises(NoCertificate):
        certificate(sigma_drawn=needed * 0.999)
