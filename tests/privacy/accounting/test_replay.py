"""The step-by-step recursion of rewinding: golden numbers, closed forms, and domination of measured distances."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax

from fedunlearn.errors import UserError
from fedunlearn.privacy.accounting import replay
from fedunlearn.privacy.accounting.replay import Descent, average_distance, distance, runs
from fedunlearn.privacy.accounting.rewinding import Rewinding, bounds

ROOT2 = math.sqrt(2)
MEASURED = Descent("strongly-convex", ((1000, 0.5),), ((1000, 8 / 400),), 1, 0.01, ROOT2, 0.5)
"""Softmax on 400 rows of norm one, lambda 0.01, 1000 full-batch steps of 0.5, 8 records deleted."""


def test_golden_numbers_of_the_strongly_convex_row():
    assert [round(distance(MEASURED, k), 2) for k in (0, 100, 500)] == [2.81, 1.69, 0.21]
    assert replay.gradient_only(MEASURED) == pytest.approx(1414.2, abs=0.05)
    smooth = Rewinding(1000, 0.5, 8, 400, ROOT2, 0.5)
    assert math.log10(bounds(smooth, 0)[1].value) == pytest.approx(96, abs=0.1)


def test_the_closed_form_of_the_strongly_convex_row():
    for rewound in (0, 1, 37, 999, 1000):
        kappa = 1 - 0.5 * 0.01
        closed = sum(kappa ** (999 - t) * 0.5 * ROOT2 * 8 / 400 for t in range(1000 - rewound))
        assert distance(MEASURED, rewound) == pytest.approx(closed, rel=1e-10)
    assert distance(MEASURED, 500) <= (1 - 0.005) ** 500 * ROOT2 * 8 / (400 * 0.01)


def test_the_closed_form_of_the_convex_row_counts_epochs():
    """Each epoch before the rewind point adds eta G m/b, however the deleted ids fall into its batches."""
    rng = np.random.default_rng(0)
    epoch = np.array([3, 0, 1, 0, 4]) / 16
    shares = np.concatenate([rng.permutation(epoch) for _ in range(6)])
    plain = Descent("convex", ((30, 0.2),), runs(shares), 1, 0.0, 2.0, 1.0)
    assert distance(plain, 10) == pytest.approx(4 * 0.2 * 2.0 * 8 / 16)


def test_a_network_divides_the_released_distance_by_its_size():
    ring = Descent("strongly-convex", ((1000, 0.25),), ((1000, 8 / 50),), 8, 0.01, ROOT2, 0.5)
    alone = Descent("strongly-convex", ((1000, 0.25),), ((1000, 8 / 50),), 1, 0.01, ROOT2, 0.5)
    assert distance(ring, 900) == distance(alone, 900) == replay.joint_distance(ring, 900)
    assert average_distance(ring, 900) == distance(alone, 900) / 8


def test_clipping_alone_bounds_any_loss():
    clipped = Descent("clipped", ((100, 0.1),), runs([0.25] * 100), 4, 0.0, 3.0)
    # each step: eta G S before the rewind point, and 2 eta G P always
    assert distance(clipped, 40) == pytest.approx(60 * 0.1 * 3 * 0.25 + 100 * 2 * 0.1 * 3 * 3.75)
    assert average_distance(clipped, 40) <= replay.gradient_only(clipped)


def test_a_ball_bounds_everything():
    ball = Descent("clipped", ((100, 0.1),), runs([0.25] * 100), 4, 0.0, 3.0, radius=0.5)
    assert average_distance(ball, 40) == 1.0
    tight = Descent("strongly-convex", ((1000, 0.5),), ((1000, 0.02),), 1, 0.01, ROOT2, 0.5, radius=1.0)
    assert distance(tight, 0) == 2.0 and distance(tight, 500) == pytest.approx(distance(MEASURED, 500), rel=0.25)


def test_the_smooth_row_grows_and_the_clipped_one_takes_over():
    smooth = Descent("smooth", ((50, 0.5),), runs([0.1] * 50), 1, 0.0, 1.0, 0.5)
    first = list(replay.path(smooth, 0))[:3]
    assert first == pytest.approx([0.05, 0.05 * 1.25 + 0.05, (0.05 * 1.25 + 0.05) * 1.25 + 0.05])
    clipped = Descent("clipped", ((50, 0.5),), runs([0.1] * 50), 1, 0.0, 1.0)
    assert distance(smooth, 0) < distance(clipped, 0)
    last = list(replay.path(smooth, 0))
    assert last[-1] - last[-2] == pytest.approx(0.5 * (0.1 + 2 * 0.9))  # the second entry of the minimum


def test_roundings_add_up_from_where_the_runs_part():
    """By hand: nothing while both runs are alike, then 2 r N B a step, B the largest norm a row may have so far."""
    rates, shares, r = [0.5, 0.25, 0.5], [0.0, 0.3, 0.1], 1e-3
    descent = Descent("strongly-convex", runs(rates), runs(shares), 3, 0.2, ROOT2, 0.5, rounding=r, start_norm=0.1)
    norm, d, expected = 0.1, 0.0, []
    for t, (rate, share) in enumerate(zip(rates, shares)):
        norm = max(norm, (1 + r) * ((1 - rate * 0.2) * norm + rate * ROOT2))
        d = 0.0 if t == 0 else (1 - rate * 0.2) * d + rate * ROOT2 * share + 2 * r * 3 * norm
        expected.append(d)
    assert list(replay.path(descent, 0)) == pytest.approx(expected)
    assert distance(descent, 2) == 0  # no deleted id before the rewind point
    ball = replace(descent, radius=0.3)
    assert list(replay.path(ball, 0))[1] == pytest.approx(0.25 * ROOT2 * 0.3 + 2 * r * 3 * (1 + r) * 0.3)


def test_runs_that_never_part_end_alike_whatever_the_loss():
    assert distance(Descent("clipped", ((9, 0.5),), ((9, 0.2),), 2, 0.0, 1.0), 9) == 0


@given(
    st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0, 3)), min_size=1, max_size=40),
    st.sampled_from(["strongly-convex", "smooth", "clipped"]),
    st.floats(0.001, 0.5),
)
def test_rewinding_farther_never_hurts(steps, row, l2):
    rates, shares = zip(*steps)
    descent = Descent(row, runs(rates), runs(shares), 3, l2, 1.3, None if row == "clipped" else 0.5)
    path = [distance(descent, k) for k in range(len(steps) + 1)]
    if row != "clipped":
        assert all(a >= b * (1 - 1e-12) for a, b in pairwise(path)) and path[-1] == 0
    target = path[len(path) // 2] / 3
    best = replay.rewind_for(descent, target)
    assert best is not None and path[best] / 3 <= target and (best == 0 or path[best - 1] / 3 > target)
    every = range(0, len(steps) + 1, 2)
    chosen = replay.rewind_for(descent, target, list(every))
    assert chosen == next((k for k in every if path[k] / 3 <= target), None)


# --- measured distances ----------------------------------------------------------------------------------------------


def doubly_stochastic(rng, n):
    """A random convex combination of permutations, symmetrised."""
    w = sum(p * np.eye(n)[rng.permutation(n)] for p in rng.dirichlet(np.ones(4)))
    return (w + w.T) / 2


def softmax_runs(rng, n, classes, inputs, steps, rewound, lr, l2, local, deleted, clip=None):
    """Two decentralized runs over a schedule with holes; returns rows (2, n, d) and the descent that bounds them."""
    counts = rng.integers(4, 12, n)
    data = []
    for c in counts:
        x = rng.normal(size=(c, inputs))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        gone = np.zeros(c, bool)
        gone[: int(deleted * c)] = rng.random() < 0.5
        data.append((x, rng.integers(classes, size=c), gone))
    if not any(d[2].any() for d in data):
        data[0][2][0] = True
    batch = [min(len(d[1]), 5) for d in data]
    schedule = [[rng.permutation(len(d[1]))[:b] for d, b in zip(data, batch)] for _ in range(steps)]
    w = doubly_stochastic(rng, n)
    start = 3 * rng.normal(size=(n, classes, inputs))
    both = [start.copy(), start.copy()]
    for t in range(steps):
        for run, rows in enumerate(both):
            for i, (x, y, gone) in enumerate(data):
                ids = schedule[t][i]
                present = ids[~gone[ids]] if run == 1 or t >= steps - rewound else ids
                each = [
                    np.outer(softmax(rows[i] @ a) - np.eye(classes)[label], a)
                    for a, label in zip(x[present], y[present])
                ]
                if clip is not None:
                    each = [g * min(1.0, clip / max(np.linalg.norm(g), 1e-30)) for g in each]
                rows[i] = rows[i] - lr * sum(each, np.zeros_like(rows[i])) / len(ids) - lr * l2 * rows[i]
            if (t + 1) % local == 0:
                both[run] = np.einsum("ij,jkl->ikl", w, rows)
    shares = [sum(d[2][ids].sum() / len(ids) for d, ids in zip(data, row)) for row in schedule]
    kind = ("strongly-convex" if l2 else "convex") if clip is None else "smooth"
    bound = ROOT2 if clip is None else clip
    return np.array(both), Descent(kind, ((steps, lr),), runs(shares), n, l2, bound, 0.5)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([0.0, 0.05, 0.3]), st.floats(0.05, 1.8),
    st.integers(1, 25), st.floats(0, 1), st.integers(1, 3), st.sampled_from([None, 0.4]),
)  # fmt: skip
def test_the_recursion_dominates_random_networks(seed, n, l2, lr, steps, back, local, clip):
    rng = np.random.default_rng(seed)
    rewound = round(back * steps)
    rows, descent = softmax_runs(rng, n, 3, 4, steps, rewound, lr, l2, local, 0.6, clip)
    difference = (rows[0] - rows[1]).reshape(n, -1)
    bound = distance(descent, rewound) * (1 + 1e-9)
    assert np.linalg.norm(difference, axis=1).sum() <= bound
    assert np.linalg.norm(difference) <= bound
    assert np.linalg.norm(difference.mean(0)) <= average_distance(descent, rewound) * (1 + 1e-9)


@given(st.integers(0, 10**6), st.sampled_from([1.0, 2.0, np.inf]))
def test_mixing_does_not_drive_rows_apart(seed, q):
    rng = np.random.default_rng(seed)
    w, x = doubly_stochastic(rng, 6), rng.normal(size=(6, 3))
    before, after = (np.linalg.norm(np.linalg.norm(rows, axis=1), q) for rows in (x, w @ x))
    assert after <= before * (1 + 1e-12)


@pytest.mark.parametrize(("row", "l2"), [("strongly-convex", 0.1), ("convex", 0.0)])
def test_a_step_size_that_breaks_the_condition_is_refused_and_would_break_the_bound(row, l2):
    largest = replay.largest_rate(0.5, l2)
    Descent(row, ((5, largest),), ((5, 0.1),), 1, l2, ROOT2, 0.5)
    with pytest.raises(UserError, match="too large for the"):
        Descent(row, ((5, largest * 1.01),), ((5, 0.1),), 1, l2, ROOT2, 0.5)
    # In the direction of largest curvature a step beyond the limit expands more than kappa allows.
    assert abs(1 - 1.01 * largest * (0.5 + l2)) > abs(1 - 1.01 * largest * l2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.floats(0.1, 1.5), st.floats(0, 0.3))
def test_undoing_steps_stays_within_its_error_bound(seed, steps, lr, l2):
    """Logistic regression: walk back with remainders made by hand, and compare with where training came by."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = rng.integers(2, size=20)

    def step(theta):
        return theta - lr * (x.T @ (expit(x @ theta) - y) / 20 + l2 * theta)

    path = [rng.normal(size=3)]
    for _ in range(steps):
        path.append(step(path[-1]))
    at, residual = path[-1], 1e-6
    for _ in range(steps):
        push = rng.normal(size=3)
        target = at + residual * push / np.linalg.norm(push)
        at = target.copy()
        for _ in range(200):
            at = (target + lr * (x.T @ (expit(x @ at) - y) / 20)) / (1 - lr * l2)
    bound = replay.inverse_error(residual * (1 + 1e-6), lr, l2, 0.25, steps)
    assert np.linalg.norm(at - path[0]) <= bound
    with pytest.raises(UserError, match="too large to undo"):
        replay.inverse_error(1e-6, 4.0, 0.1, 0.25, 3)


def test_run_length_encoding():
    assert runs([1.0, 1.0, 2.0, 1.0]) == ((2, 1.0), (1, 2.0), (1, 1.0)) and runs([]) == ()
    assert replay.length(runs([0.5] * 7 + [0.25])) == 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"row": "concave"}, "row = 'concave'"),
        ({"nodes": 0}, "nodes = 0"),
        ({"shares": ((999, 0.1),)}, "do not belong together"),
        ({"shares": ((1000, 1.5),)}, "share of 1.5"),
        ({"rates": ((1000, 0.0),)}, "rate of 0.0"),
        ({"smoothness": None}, "smoothness = None"),
        ({"l2": 0.0}, "l2 = 0"),
        ({"radius": -1.0}, "radius = -1.0"),
        ({"gradient": math.nan}, "gradient = nan"),
    ],
)
def test_what_makes_no_sense_is_refused(change, words):
    values = {**vars(MEASURED), **change}
    with pytest.raises(UserError, match=words):
        Descent(**values)


def test_a_rewind_beyond_the_start_is_refused():
    with pytest.raises(UserError, match="rewound = 1001"):
        distance(MEASURED, 1001)
