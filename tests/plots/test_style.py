"""The pieces all figures share."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from fedunlearn.errors import UserError
from fedunlearn.plots.style import colour_of, look, new_figure, save, spread_apart

places = st.lists(st.floats(-2, 2), min_size=1, max_size=7)


@given(places, st.floats(0.01, 1))
def test_labels_are_apart_in_order_and_centred(wanted, gap):
    found = np.array(spread_apart(wanted, gap))
    order = np.argsort(wanted, kind="stable")
    assert np.diff(found[order]).min(initial=np.inf) >= gap - 1e-9
    assert found.sum() == pytest.approx(sum(wanted), abs=1e-8)


def test_labels_that_are_apart_stay_where_they_are():
    assert spread_apart([3.0, 1.0, 2.0], 0.5) == [3.0, 1.0, 2.0]
    assert spread_apart([1.0, 1.0], 1.0) == [0.5, 1.5]
    assert spread_apart([], 1.0) == []


def test_labels_move_as_little_as_possible():
    wanted, gap = [0.0, 0.1, 0.15, 0.9, 0.95], 0.2
    truth = minimize(
        lambda y: np.sum((y - wanted) ** 2), np.arange(5) * 0.3, method="SLSQP",
        constraints={"type": "ineq", "fun": lambda y: np.diff(y) - gap},
    ).x  # fmt: skip
    np.testing.assert_allclose(spread_apart(wanted, gap), truth, atol=1e-5)


def test_the_look_does_not_stay():
    before = dict(matplotlib.rcParams)
    with look():
        assert matplotlib.rcParams["axes.spines.top"] is False
    assert dict(matplotlib.rcParams) == before


def test_controls_are_grey_and_the_others_differ():
    assert colour_of("public_head") == colour_of("anything else")
    assert len({colour_of(name) for name in ("original", "retrained", "unlearned", "public_head")}) == 4


def test_equal_figures_give_equal_files(tmp_path):
    paths = []
    for name in "ab":
        figure = new_figure(2, 1)
        figure.add_subplot().plot([0, 1])
        paths.append(save(figure, tmp_path / "new" / f"{name}.png"))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert b"fedunlearn/figure/1" in paths[0].read_bytes()


def test_drawing_needs_no_pyplot():
    code = "import sys, fedunlearn.plots; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_suffix_names_the_kind_of_image(tmp_path):
    assert save(new_figure(1, 1), tmp_path / "new" / "a.svg").read_text().startswith("<?xml")
    assert save(new_figure(1, 1), tmp_path / "a.pdf").read_bytes()[:4] == b"%PDF"
    with pytest.raises(UserError, match=r"'\.nix' is not a kind of image \(allowed: .*png"):
        save(new_figure(1, 1), tmp_path / "a.nix")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \("):
        save(new_figure(1, 1), tmp_path / "file" / "a.png")
