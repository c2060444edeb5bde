"""The single Newton/Fisher correction: the derivation of its gradient, the published check, and its limits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fedunlearn.unlearning.certified.correction import correction, gradient_from_forget_set
from fedunlearn.unlearning.objective import NetworkObjective
from tests.unlearning.central import Central, shards
from tests.worlds import (
    Story,
    TrainingSettings,
    all_rows,
    empty_request,
    model_for,
    open_session,
    request_for,
    table_data,
)

LAM = 0.05
LEVELS = {
    "sample": {"level": "sample", "client": 2, "count": 6},
    "client": {"level": "client", "client": 2},
    "class": {"level": "class", "label": 1},
}


@pytest.fixture(scope="module")
def logistic():
    """The heterogeneous logistic problem of the derivation: 8 clients of 60 records, two classes, lambda 0.05."""
    dataset = table_data(clients=8, classes=2, inputs=5, seed=1, sizes=(60, 61))
    return dataset, *model_for(dataset)


def corrected(world, request, weighting, **settings):
    """Start at the optimum on all data, answer a request, and return the models before, after, and retrained."""
    dataset, model, mapping = world
    start = Central(shards(dataset, mapping), 2, weighting, LAM).minimiser()
    training = TrainingSettings(rounds=0, l2=LAM, weighting=weighting)
    with open_session(dataset, model, mapping, hosts=settings.pop("hosts", 1)) as session:
        story = Story(session, "newton", training, mode="one-step", **settings)
        story.learn()
        story.network.write(start.astype(np.float32))
        outcome = story.answer(request)
        rows = all_rows(story.network)
    assert outcome.certificate is None and "none: " in outcome.certificate_reason
    assert outcome.release is None and (rows == rows[0]).all()
    retrained = Central(shards(dataset, mapping, request.sample_ids), 2, weighting, LAM).minimiser()
    return start, rows[0].astype(np.float64), retrained


@pytest.mark.parametrize("weighting", ["equal", "samples"])
@pytest.mark.parametrize("gradient", ["retained", "forget-set"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_error_to_exact_retraining_falls_fifty_fold(logistic, level, gradient, weighting):
    request = request_for(logistic[0], **LEVELS[level])
    before, after, retrained = corrected(logistic, request, weighting, gradient=gradient)
    # a whole class among two is no small perturbation: there the quadratic error of one step shows
    factor = 50 if level != "class" else 2
    assert np.linalg.norm(after - retrained) < np.linalg.norm(before - retrained) / factor


def test_without_the_clients_own_gradient_the_correction_is_wrong_for_equal_weights(logistic):
    """The familiar formula ``H^-1 sum_U grad f / (N (n_u - m))`` leaves most of the error on heterogeneous clients."""
    dataset, _, mapping = logistic
    request = request_for(dataset, **LEVELS["sample"])
    before, after, retrained = corrected(logistic, request, "equal", gradient="forget-set")
    rows = np.asarray(mapping.apply(dataset.inputs[request.sample_ids]), dtype=np.float64)
    forget = Central([(rows, dataset.labels[request.sample_ids])], 2, "equal", 0.0)
    n, m = len(dataset.train_rows(2)), len(request.sample_ids)
    forgotten = m * (forget.gradient(before) + LAM * before)  # sum over U of grad f, with the L2 term inside f
    hessian = Central(shards(dataset, mapping, request.sample_ids), 2, "equal", LAM).hessian(before)
    naive = before + np.linalg.solve(hessian, forgotten) / (8 * (n - m))
    own = Central([shards(dataset, mapping)[2]], 2, "equal", LAM).gradient(before)
    full = before + np.linalg.solve(hessian, forgotten - m * own) / (8 * (n - m))
    assert np.linalg.norm(after - full) < 1e-6  # what the network did, float32 rows
    error = np.linalg.norm(full - retrained)
    assert np.linalg.norm(naive - retrained) > 10 * error


@pytest.mark.parametrize("weighting", ["equal", "samples"])
@pytest.mark.parametrize("what", [*LEVELS, "class that empties a client"])
def test_both_gradients_agree_at_the_optimum(what, weighting):
    """Also where some clients leave and others stay; the forget set's formula takes grad F = 0 for granted."""
    dataset = table_data(clients=7, classes=3, inputs=4, seed=4)
    own = {c: np.unique(dataset.labels[dataset.train_rows(c)]) for c in range(7)}
    if what in LEVELS:
        request = request_for(dataset, **LEVELS[what])
    else:
        dataset.labels[dataset.train_rows(3)] = 0
        request = request_for(dataset, level="class", label=0)
        assert request.leaves == (3,) and any(0 in own[c] for c in range(7) if c != 3)
    model, mapping = model_for(dataset)
    x = Central(shards(dataset, mapping), 3, weighting, LAM).minimiser()
    training = TrainingSettings(rounds=0, l2=LAM, weighting=weighting)
    with open_session(dataset, model, mapping, hosts=2) as session:
        story = Story(session, "newton", training, mode="one-step")
        story.network.write(x.astype(np.float32))
        forget = gradient_from_forget_set(story.network, request, weighting, LAM)
        story.forget(request)
        retained = NetworkObjective(story.network, weighting, LAM).gradient(x)
    central = Central(shards(dataset, mapping, request.sample_ids), 3, weighting, LAM).gradient(x)
    assert np.allclose(retained, central, rtol=0, atol=1e-14)
    assert np.linalg.norm(forget - retained) < 1e-6 < 5e-3 < np.linalg.norm(retained)


def test_away_from_the_optimum_only_the_retained_gradient_is_right(logistic):
    dataset, model, mapping = logistic
    request = request_for(dataset, **LEVELS["client"])
    retrained = Central(shards(dataset, mapping, request.sample_ids), 2, "equal", LAM).minimiser()
    errors = {}
    for gradient in ("retained", "forget-set"):
        with open_session(dataset, model, mapping) as session:
            story = Story(
                session, "newton", TrainingSettings(rounds=1, lr=0.5, l2=LAM), mode="one-step", gradient=gradient
            )
            story.learn()
            story.answer(request)
            errors[gradient] = np.linalg.norm(story.network.mean() - retrained)
    assert errors["retained"] < errors["forget-set"] / 10


def test_an_empty_forget_set_changes_nothing_when_it_is_all_that_is_read(logistic):
    dataset, model, mapping = logistic
    request = empty_request(dataset)
    with open_session(dataset, model, mapping) as session:
        story = Story(session, "newton", TrainingSettings(rounds=2, l2=LAM), mode="one-step", gradient="forget-set")
        story.learn()
        before = all_rows(story.network)
        story.answer(request)
        assert np.array_equal(all_rows(story.network), before)


@pytest.mark.parametrize("kind", ["fisher", "empirical-fisher", "fisher-diagonal", "empirical-fisher-diagonal"])
def test_an_inverse_applied_once_is_the_named_matrix_and_damping_shortens_the_step(logistic, kind):
    """The true Fisher matrix is Newton's; empirical and diagonal ones are worse, which is why nothing is certified."""
    request = request_for(logistic[0], **LEVELS["client"])
    before, after, retrained = corrected(logistic, request, "equal", curvature=kind)
    exact = corrected(logistic, request, "equal")[1]
    error, newton = np.linalg.norm(after - retrained), np.linalg.norm(exact - retrained)
    assert error < 1.01 * newton if kind == "fisher" else error > 5 * newton
    damped = corrected(logistic, request, "equal", curvature=kind, damping=1.0)[1]
    assert 0 < np.linalg.norm(damped - before) < np.linalg.norm(after - before)


def test_the_correction_is_one_flood_and_reaches_every_alive_row(logistic):
    dataset, model, mapping = logistic
    with open_session(dataset, model, mapping) as session:
        story = Story(session, "newton", TrainingSettings(rounds=1, l2=LAM), mode="one-step")
        story.learn()
        network = story.network
        network.phase = "unlearn"
        before = all_rows(network)
        clock = network.clock.seconds
        outcome = story.answer(request_for(dataset, **LEVELS["sample"]))
        moved = all_rows(network).astype(np.float64) - before
        assert np.allclose(moved, moved[0], rtol=0, atol=1e-6)
        assert np.linalg.norm(moved[0]) == pytest.approx(outcome.details["correction_norm"], rel=1e-5)
        sent = [entry for entry in network.ledger.summary()["by_kind"] if entry["kind"] == "correction"]
        assert [entry["messages"] for entry in sent] == [7]
        assert network.clock.seconds > clock


# --- on a quadratic, where one Newton step is retraining --------------------------------------------------------------


class LeastSquares:
    """``F(x) = sum_i w_i mean_z (a_z x - b_z)^2 / 2 + (lam/2)||x||^2``: stands in for a network and its objective."""

    def __init__(self, shares, weighting, lam):
        total, l2 = sum(len(b) for _, b in shares), lam
        weights = [1 / len(shares) if weighting == "equal" else len(b) / total for _, b in shares]
        d = shares[0][0].shape[1]
        self.matrix = sum(w * a.T @ a / len(b) for w, (a, b) in zip(weights, shares)) + lam * np.eye(d)
        self.b = sum(w * a.T @ b / len(b) for w, (a, b) in zip(weights, shares))
        self.weighting, self.l2, self.at = weighting, l2, None
        session = SimpleNamespace(model=SimpleNamespace(dim=d, convex=True))
        self.network = SimpleNamespace(dim=d, session=session, mean=lambda phase_cost: self.at)

    def gradient(self, x):
        return self.matrix @ x - self.b

    def hvp(self, x, v):
        return self.matrix @ v

    def fisher_diagonal(self, x, kind):
        return np.diag(self.matrix)


@pytest.mark.parametrize("weighting", ["equal", "samples"])
@pytest.mark.parametrize("level", ["sample", "class", "client"])
def test_one_correction_is_retraining_on_a_quadratic(level, weighting):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        shares = []
        for n in rng.integers(5, 30, size=6):
            a = rng.normal(size=(n, 7)) @ np.diag(rng.uniform(0.1, 2, 7))
            shares.append((a, a @ rng.normal(size=7) + rng.normal(size=n)))
        if level == "client":
            kept = shares[:3] + shares[4:]
        elif level == "sample":
            kept = [(a[4:], b[4:]) if i == 3 else (a, b) for i, (a, b) in enumerate(shares)]
        else:  # a "class": records with a positive target, wherever they are
            kept = [(a[b < 1], b[b < 1]) for a, b in shares]
        full, retained = (LeastSquares(s, weighting, 0.01) for s in (shares, kept))
        retained.at = np.linalg.solve(full.matrix, full.b)
        answer = retained.at + correction(retained, None, "auto", 0.0, SimpleNamespace(public=None))
        exact = np.linalg.solve(retained.matrix, retained.b)
        assert np.linalg.norm(retained.at - exact) > 1e-3
        assert np.linalg.norm(answer - exact) < 1e-6 * np.linalg.norm(exact)
