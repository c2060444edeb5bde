"""Preconditioners: each is the inverse of the matrix it names, and none changes what is found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.unlearning import curvature
from fedunlearn.unlearning.base import PublicKnowledge
from fedunlearn.unlearning.curvature import choose, public_curvature
from fedunlearn.unlearning.objective import NetworkObjective
from fedunlearn.unlearning.optimise import Stop, newton_cg
from tests.unlearning.central import Central, shards
from tests.worlds import model_for, open_session, ring_network, table_data

LAM = 0.01
KINDS = [
    "public",
    "fisher-diagonal",
    "empirical-fisher-diagonal",
    "fisher",
    "empirical-fisher",
    "fisher-blocks",
    "none",
]


@pytest.fixture(scope="module")
def world():
    dataset = table_data(clients=6, classes=3, inputs=4)
    other = table_data(clients=1, classes=3, inputs=4, seed=0, sizes=(40, 41))
    model, mapping = model_for(dataset)
    rows, labels = mapping.apply(other.inputs), other.labels
    head = Central([(rows.astype(np.float64), labels)], 3, "equal", LAM).minimiser()
    with open_session(dataset, model, mapping) as session:
        objective = NetworkObjective(ring_network(session), "equal", LAM)
        yield objective, Central(shards(dataset, mapping), 3, "equal", LAM), PublicKnowledge(rows, labels, head)


def dense(apply, d):
    return np.stack([apply(e) for e in np.eye(d)], axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_the_inverse_of_the_matrix_it_names(world, kind):
    objective, central, public = world
    d = objective.network.dim
    x = np.random.default_rng(3).normal(size=d)
    hessian = central.hessian(x)
    residual = central._probabilities(x) - central.hot
    each = np.einsum("nk,nq->nkq", residual, central.a).reshape(len(residual), -1)
    empirical = (each * central.w[:, None]).T @ each + LAM * np.eye(d)
    blocks = np.kron(np.eye(3), np.ones((d // 3, d // 3)))  # one block a class
    at_head = Central([(public.inputs.astype(np.float64), public.labels)], 3, "equal", LAM).hessian(public.head)
    shift = curvature.SHIFT * np.trace(at_head - LAM * np.eye(d)) / np.sqrt(len(public.labels))
    matrix = at_head + shift * np.eye(d)
    scale = np.clip(np.sqrt((np.diag(hessian) + shift) / np.diag(matrix)), 1 / 3, 3)
    named = {
        "public": matrix * np.outer(scale, scale),
        "fisher-diagonal": np.diag(np.diag(hessian)),
        "empirical-fisher-diagonal": np.diag(np.diag(empirical)),
        "fisher": hessian,
        "empirical-fisher": empirical,
        "fisher-blocks": hessian * blocks,
        "none": np.eye(d),
    }
    inverse = dense(choose(kind, objective, x, public, None), d)
    # the public factor is kept in float32, and thinned: at these random points few pairs of classes weigh little
    precision = 2e-2 if kind == "public" else 1e-10
    assert np.allclose(inverse @ named[kind], np.eye(d), rtol=0, atol=precision)
    assert np.linalg.eigvalsh((inverse + inverse.T) / 2).min() > 0


def test_auto_is_public_curvature_where_there_is_some_else_the_diagonal(world):
    objective, _, public = world
    x, d = np.zeros(objective.network.dim), objective.network.dim
    automatic = dense(choose("auto", objective, x, public, None), d)
    assert np.array_equal(automatic, dense(choose("public", objective, x, public, None), d))
    for nothing in (None, dataclasses.replace(public, head=None)):
        automatic = dense(choose("auto", objective, x, nothing, None), d)
        assert np.array_equal(automatic, dense(choose("fisher-diagonal", objective, x, None, None), d))


def test_public_curvature_is_built_from_public_records_and_matched_to_the_clients_by_one_all_reduce(world):
    objective, _, public = world
    x = np.zeros(objective.network.dim)
    before = objective.network.ledger.totals()["messages"]
    built = public_curvature(objective.network.session.model, public, LAM)
    public_curvature(objective.network.session.model, public, LAM, at=x)
    assert objective.network.ledger.totals()["messages"] == before
    choose("public", objective, x, public, built)
    assert objective.network.ledger.totals()["messages"] - before == 2 * (objective.network.num_nodes - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_preconditioner_changes_the_cost_and_not_the_answer(world, kind):
    objective, central, public = world
    start = np.zeros(objective.network.dim)
    solution = newton_cg(objective, start, Stop(1e-9), precondition=choose(kind, objective, start, public, None))
    assert solution.met
    assert np.linalg.norm(solution.x - central.minimiser()) <= 1e-9 / LAM


def test_public_curvature_saves_products_where_clients_resemble_the_public_ones():
    pool = table_data(clients=1, classes=3, inputs=12, sizes=(1800, 1801))
    scaled = (pool.inputs * np.logspace(0, -2, 12)).astype(np.float32)
    data = dataclasses.replace(
        pool, inputs=scaled, offsets=np.append(np.arange(9) * 100, len(scaled)),
        roles=np.zeros(9, dtype=np.uint8), client_names=tuple("abcdefghi"),
    )  # fmt: skip
    model, mapping = model_for(data)
    (*_, (rows, labels)) = parts = shards(data, mapping)
    head = Central(parts[-1:], 3, "equal", 1e-4).minimiser()
    public, used = PublicKnowledge(rows.astype(np.float32), labels, head), {}
    with open_session(data, model, mapping) as session:
        network = ring_network(session)
        for kind in ("none", "public"):
            objective, start = NetworkObjective(network, "equal", 1e-4), np.zeros(model.dim)
            assert newton_cg(
                objective, start, Stop(1e-8), precondition=choose(kind, objective, start, public, None)
            ).met
            used[kind] = objective.hvps
    assert used["public"] < 0.7 * used["none"]


def test_public_curvature_without_public_clients_is_told_in_one_sentence(world):
    objective, _, public = world
    x = np.zeros(objective.network.dim)
    for nothing in (None, dataclasses.replace(public, head=None)):
        with pytest.raises(UserError, match=r"unlearning.curvature = 'public' needs public clients: set data"):
            choose("public", objective, x, nothing, None)


def test_full_matrices_are_refused_for_large_models(world, monkeypatch):
    objective, _, public = world
    monkeypatch.setattr(curvature, "FULL_LIMIT", 14)
    x = np.zeros(objective.network.dim)
    with pytest.raises(UserError, match=r"'public' forms a 15 x 15 matrix; it is offered up to 14 parameters: use"):
        choose("public", objective, x, public, None)
    for kind in ("fisher", "empirical-fisher"):
        with pytest.raises(UserError, match=rf"'{kind}' forms a full matrix.*this model has 15: use '{kind}-diagonal'"):
            choose(kind, objective, x, public, None)
    diagonal = choose("auto", objective, x, public, None)
    assert np.array_equal(diagonal(np.ones(15)), choose("fisher-diagonal", objective, x, public, None)(np.ones(15)))


def test_a_factor_of_the_same_public_data_is_not_built_twice(world, monkeypatch):
    objective, _, public = world
    model = objective.network.session.model
    first = public_curvature(model, public, LAM, cache=True)
    assert not first.cached and first.seconds == first.built_in > 0
    again = public_curvature(model, public, LAM, cache=True)
    assert again.cached and again.built_in == first.built_in
    assert np.array_equal(np.tril(again.factor), np.tril(first.factor)) and again.shift == first.shift
    v = np.random.default_rng(0).normal(size=model.dim)
    assert np.array_equal(again.solve(v), first.solve(v)) and np.array_equal(again.diagonal, first.diagonal)
    other = dataclasses.replace(public, head=public.head + 1e-9)
    relabelled = dataclasses.replace(public, labels=np.roll(public.labels, 1))
    assert not public_curvature(model, other, LAM, cache=True).cached
    assert not public_curvature(model, relabelled, LAM, cache=True).cached
    assert not public_curvature(model, public, 2 * LAM, cache=True).cached
    assert not public_curvature(model, public, LAM).cached  # as with runtime.cache = false
    # a point that is not public is never looked for, and never kept
    assert not public_curvature(model, public, LAM, at=public.head, cache=True).cached
