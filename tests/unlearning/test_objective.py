"""The network's objective against a plain central computation, before and after deletions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fedunlearn.unlearning.objective import NetworkObjective
from tests.unlearning.central import Central, shards
from tests.worlds import Story, TrainingSettings, image_data, model_for, open_session, request_for, table_data

LAM = 0.03
REQUESTS = {
    "nothing deleted": None,
    "sample": {"level": "sample", "client": 1, "samples": (0, 3, 4)},
    "class": {"level": "class", "label": 0},
    "client": {"level": "client", "client": 4},
}


def after_deletion(session, dataset, request, weighting):
    story = Story(session, "retrain", TrainingSettings(rounds=0, l2=LAM, weighting=weighting))
    if request is not None:
        story.forget(request_for(dataset, **request))
    return NetworkObjective(story.network, weighting, LAM)


@pytest.mark.parametrize("weighting", ["equal", "samples"])
@pytest.mark.parametrize("what", REQUESTS)
def test_every_derivative_equals_the_central_one(what, weighting):
    dataset = table_data(clients=6, classes=3, inputs=4)
    model, mapping = model_for(dataset)
    rng = np.random.default_rng(1)
    x, v = rng.normal(size=(2, model.dim))
    for hosts in (1, 2):
        with open_session(dataset, model, mapping, hosts=hosts) as session:
            objective = after_deletion(session, dataset, REQUESTS[what], weighting)
            parts = shards(dataset, mapping, objective.network.deleted)
            central = Central(parts, dataset.num_classes, weighting, LAM)
            hessian = central.hessian(x)
            assert np.allclose(objective.gradient(x), central.gradient(x), rtol=0, atol=1e-14)
            assert np.allclose(objective.hvp(x, v), hessian @ v, rtol=0, atol=1e-13)
            # the true Fisher matrix of a softmax head is the Hessian
            assert np.allclose(objective.fisher(x, "true"), hessian, rtol=0, atol=1e-14)
            assert np.allclose(objective.fisher_diagonal(x, "true"), np.diag(hessian), rtol=0, atol=1e-14)
            for place, block in objective.fisher_blocks(x):
                assert np.allclose(block, hessian[np.ix_(place, place)], rtol=0, atol=1e-14)
            residual = central._probabilities(x) - central.hot
            each = np.einsum("nk,nq->nkq", residual, central.a).reshape(len(residual), -1)
            empirical = (each * central.w[:, None]).T @ each + LAM * np.eye(model.dim)
            assert np.allclose(objective.fisher(x, "empirical"), empirical, rtol=0, atol=1e-14)
            assert np.allclose(objective.fisher_diagonal(x, "empirical"), np.diag(empirical), rtol=0, atol=1e-14)


@pytest.mark.parametrize("weighting", ["equal", "samples"])
@pytest.mark.parametrize("what", ["nothing deleted", "client"])
def test_a_network_of_perceptrons_is_differentiated_alike(what, weighting):
    dataset = image_data(clients=5, side=5)
    model, mapping = model_for(dataset, "mlp", "raw")
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(2, model.dim)) * 0.2
    with open_session(dataset, model, mapping) as session:
        objective = after_deletion(session, dataset, REQUESTS[what], weighting)
        gradient, product = objective.gradient(x), objective.hvp(x, v)
        deleted, clients = objective.network.deleted, objective.network.num_alive
    kept = [np.setdiff1d(dataset.train_rows(c), deleted) for c in range(5)]
    total = sum(map(len, kept))

    def loss(theta):
        value = LAM / 2 * theta.square().sum()
        for rows in kept:
            if len(rows):
                pixels = torch.from_numpy(dataset.inputs[rows].astype(np.float32) / np.float32(255)).double().flatten(1)
                mean = cross_entropy(model.logits(theta, pixels), torch.from_numpy(dataset.labels[rows]))
                value = value + mean * (1 / clients if weighting == "equal" else len(rows) / total)
        return value

    point, along = torch.from_numpy(x), torch.from_numpy(v)
    assert np.allclose(gradient, torch.autograd.functional.jacobian(loss, point).numpy(), rtol=0, atol=1e-12)
    assert np.allclose(product, torch.autograd.functional.hvp(loss, point, along)[1].numpy(), rtol=0, atol=1e-12)


def test_weightings_agree_exactly_where_clients_are_of_one_size():
    dataset = table_data(sizes=(10, 11))
    model, mapping = model_for(dataset)
    x = np.random.default_rng(2).normal(size=model.dim)
    with open_session(dataset, model, mapping) as session:
        equal, samples = (after_deletion(session, dataset, None, w).gradient(x) for w in ("equal", "samples"))
        assert np.allclose(equal, samples, rtol=0, atol=1e-15)
        deleted = REQUESTS["sample"]
        equal, samples = (after_deletion(session, dataset, deleted, w).gradient(x) for w in ("equal", "samples"))
        assert np.abs(equal - samples).max() > 1e-4


def test_every_evaluation_is_counted_and_costs_one_tree_all_reduce():
    dataset = table_data(clients=6)
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping) as session:
        objective = after_deletion(session, dataset, REQUESTS["client"], "equal")
        network = objective.network
        before, clock = network.ledger.totals(), network.clock.seconds
        x = np.zeros(model.dim)
        for _ in range(3):
            objective.gradient(x)
        objective.hvp(x, x)
        after = network.ledger.totals()
        assert (objective.gradients, objective.hvps) == (3, 1)
        assert (network.work["gradients"], network.work["hvps"]) == (3, 1)
        assert after["messages"] - before["messages"] == 4 * 2 * (5 - 1)
        assert after["bytes"] - before["bytes"] == 4 * 2 * (5 - 1) * 8 * model.dim
        assert network.clock.seconds > clock
