"""The figure of an audit: the claimed curve is the claim, and the measured one goes through the measured errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from test_figures import lines, texts

from fedunlearn.evaluation.bounds import trade_off_curve
from fedunlearn.plots.audit import AuditPanel, audit_figure, claimed_curve
from fedunlearn.privacy import delta_of
from fedunlearn.randomness import generator


def panel(shift: float = 1.0, mu: float | None = 0.5, **changes) -> AuditPanel:
    draws = generator(2, "figure of an audit").standard_normal((2, 300))
    unlearned, retrained = draws[0] + shift, draws[1]
    made = {
        "title": "worst pair (tight)", "verdict": "ε ≥ 0: not refuted", "refuted": False, "epsilon": 1.0,
        "delta": 1e-5, "mu": mu, "unlearned": unlearned, "retrained": retrained, "threshold": shift / 2,
        "errors": trade_off_curve(unlearned, retrained),
    }  # fmt: skip
    return AuditPanel(**{**made, **changes})


@given(st.floats(0.05, 4), st.floats(0, 3))
def test_a_gaussian_claim_is_the_lower_envelope_of_its_pairs(mu, epsilon):
    grid = np.linspace(0.001, 0.999, 97)
    pair = claimed_curve(grid, epsilon, delta_of(mu, epsilon), None)
    assert (claimed_curve(grid, 1.0, 1e-5, mu) >= pair - 1e-12).all()


def test_the_claimed_curves_at_known_points():
    np.testing.assert_allclose(claimed_curve(np.array([0.5]), 1, 1e-5, 1.0), 0.15865525)
    np.testing.assert_allclose(claimed_curve(np.array([0, 0.5, 1]), 1, 1e-5, 0.0), [1, 0.5, 0])
    np.testing.assert_allclose(claimed_curve(np.array([0, 1]), np.log(3), 0.1, None), [0.9, 0])
    np.testing.assert_allclose(claimed_curve(np.array([0.1, 0.5]), np.log(3), 0.1, None), [0.6, 0.4 / 3])
    assert claimed_curve(np.array([0.5]), 5000.0, 0.0, None) < 1e-300


def test_the_measured_curve_and_the_chosen_test_are_drawn():
    shown = panel()
    figure = audit_figure([shown], "Audit of newton on quickstart", "client 7 leaves")
    claim, measured, chosen = lines(figure)
    np.testing.assert_allclose(claim[:, 1], claimed_curve(claim[:, 0], 1.0, 1e-5, 0.5))
    np.testing.assert_array_equal(measured[:, 0], shown.errors["false_positive"])
    np.testing.assert_array_equal(measured[:, 1], shown.errors["false_negative"])
    alarm, miss = chosen[0]
    assert alarm == np.mean(shown.retrained > 0.5) and miss == np.mean(shown.unlearned <= 0.5)
    assert ndtri(1 - alarm) - ndtri(miss) == pytest.approx(1.0, abs=0.3)
    outline = figure.axes[0].patches[-1].get_xy()
    assert outline.min() >= 0 and outline.max() <= 1
    written = texts(figure)
    for piece in (
        "Audit of newton on quickstart",
        "client 7 leaves",
        "worst pair (tight)",
        "ε ≥ 0: not refuted",
        "μ = 0.5",
    ):
        assert piece in written


def test_the_band_holds_the_measured_curve():
    errors = panel().errors
    for of in ("false_positive", "false_negative"):
        assert (errors[f"{of}_low"] <= errors[of]).all() and (errors[of] <= errors[f"{of}_high"]).all()


def test_one_row_a_game_and_refuted_ones_are_marked():
    shown = [panel(), panel(6.0, None, title="no noise", verdict="REFUTED", refuted=True), panel(0.0)]
    figure = audit_figure(shown, "Audit")
    assert len(figure.axes) == 6 and figure.get_size_inches()[1] > 2 * audit_figure([panel()], "x").get_size_inches()[1]
    colours = {text.get_text(): text.get_color() for text in figure.texts}
    assert colours["REFUTED"] != colours["ε ≥ 0: not refuted"]
    texts(figure)


def test_scores_without_spread_and_far_thresholds_are_still_a_picture():
    same = np.zeros(20)
    flat = panel(unlearned=same, retrained=same, threshold=np.inf, errors=trade_off_curve(same, same))
    texts(audit_figure([flat], "Audit"))


def test_histograms_hold_all_scores_as_shares():
    figure = audit_figure([panel(30.0)], "Audit")
    drawn = [patch.get_data().values for patch in figure.axes[1].patches]
    for values in drawn:
        assert values.sum() == pytest.approx(1)
