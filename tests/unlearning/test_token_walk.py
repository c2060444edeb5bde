"""Routes of a walking token, and what the vertices on them do to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedunlearn.unlearning.certified.routes import Route
from fedunlearn.unlearning.certified.token_walk import (
    noisy_visit,
    project,
    shrink,
)
from tests.unlearning.central import shards
from tests.worlds import model_for, open_session, ring_network, table_data

HOP = "fedunlearn.unlearning.certified.token_walk:restart_hop"
PLAIN = {
    "visited": 0, "lr": 0.3, "noise": 0.0, "clip": 1e6, "l2": 0.05, "minibatches": 1, "batch": 10**6, "local_steps": 1,
    "optimiser": "sgd", "noise_first": False, "ball": None, "trust": None, "batch_seed": 3, "noise_kind": "simulated",
    "noise_seed": 4,
}  # fmt: skip


@given(st.integers(0, 10**6), st.floats(0.01, 10))
@settings(max_examples=80, deadline=None)
def test_clipping_and_projecting_are_non_expansive(seed, radius):
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=(5, 3)) * 10 ** rng.uniform(-2, 2, (5, 1)) for _ in range(2))
    centre = rng.normal(size=3)
    for f in (lambda v: shrink(v, radius), lambda v: project(v, centre, radius)):
        before, after = np.linalg.norm(a - b, axis=1), np.linalg.norm(f(a) - f(b), axis=1)
        assert (after <= before * (1 + 1e-12) + 1e-15).all()
    assert (np.linalg.norm(shrink(a, radius), axis=1) <= radius * (1 + 1e-12)).all()
    inside = centre + shrink(a, radius) * 0.99
    assert np.allclose(project(inside, centre, radius), inside)


def test_noise_last_leaves_the_trust_region_and_noise_first_ends_on_its_sphere():
    rng = np.random.default_rng(0)
    reference, noise = rng.normal(size=4), 50 * rng.normal(size=(20, 4))
    moved = reference + 10 * rng.normal(size=(20, 4))
    honest = noisy_visit(moved, noise, reference=reference, trust=0.5)
    assert (np.linalg.norm(honest - noise - reference, axis=1) <= 0.5 + 1e-12).all()
    published = noisy_visit(moved, noise, first=True, reference=reference, trust=0.5)
    assert np.allclose(np.linalg.norm(published - reference, axis=1), 0.5)
    ball = noisy_visit(moved, noise, centre=np.zeros(4), ball=0.1)
    assert (np.linalg.norm(ball - noise, axis=1) <= 0.1 + 1e-12).all()


# --- node programs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    data = table_data(clients=6, classes=3, inputs=4, seed=2, sizes=(6, 14))
    with open_session(data, *model_for(data), hosts=2) as session:
        yield data, session, ring_network(session, "walks"), shards(data, model_for(data)[1])


def gradients_by_hand(part, token, classes=3):
    """Per-sample gradients of one client, (n, d), one record after the other."""
    out = []
    for a, y in zip(*part):
        z = token.reshape(classes, -1) @ a
        p = np.exp(z - z.max())
        p /= p.sum()
        p[y] -= 1
        out.append(np.outer(p, a).reshape(-1))
    return np.array(out)


def hop_at(network, node, token, *, hop=0, vectors=None, **changes):
    return network.walk(HOP, {**PLAIN, **changes}, token, [(0, False)] * hop + [(node, True)], vectors or {})


def test_the_expected_step_is_a_gradient_step_of_the_retained_objective(world):
    """Exact alignment at restart 1/N: from the node, everybody is next with probability 1/N (Lamri and Maniatakos)."""
    data, _, _, _ = world
    token = np.random.default_rng(1).normal(size=15)
    gone = data.train_rows(0)[:3]
    with open_session(data, *model_for(data)) as session:
        network = ring_network(session)
        network.erase(gone)
        steps = [hop_at(network, node, token) - token for node in range(6)]
    kept = shards(data, model_for(data)[1], gone)
    expected = np.mean([gradients_by_hand(part, token).mean(0) for part in kept], axis=0) + 0.05 * token
    assert np.allclose(np.mean(steps, axis=0), -0.3 * expected, rtol=0, atol=1e-12)


def test_every_sample_is_clipped_at_the_node_and_every_minibatch_elsewhere(world):
    _, _, network, parts = world
    token = np.random.default_rng(2).normal(size=15)
    for clip in (0.05, 0.4):
        each = gradients_by_hand(parts[0], token)
        scale = np.minimum(1, clip / np.linalg.norm(each, axis=1))
        by_hand = 0.985 * token - 0.3 * (scale[:, None] * each).mean(0)
        assert np.allclose(hop_at(network, 0, token, clip=clip), by_hand, rtol=0, atol=1e-12)
        mean = gradients_by_hand(parts[3], token).mean(0)
        by_hand = 0.985 * token - 0.3 * mean * min(1, clip / np.linalg.norm(mean))
        assert np.allclose(hop_at(network, 3, token, clip=clip), by_hand, rtol=0, atol=1e-12)


def test_a_gradient_that_is_not_a_number_is_no_step():
    """Noise may carry a token where a network's own arithmetic overflows: a walk that gave up there would tell."""
    data = table_data(clients=3, classes=3, inputs=4, seed=2, sizes=(6, 9))
    with open_session(data, *model_for(data, "mlp")) as session:
        network = ring_network(session)
        far = np.full(network.dim, 1e30)
        for node in (0, 1):  # the noisy node, and one that takes a minibatch
            assert np.array_equal(hop_at(network, node, far, clip=1.0, lr=0.5, l2=0.0), far)
        near = np.zeros(network.dim)
        both = hop_at(network, 1, np.stack([far, near]), clip=1.0, l2=0.0)
        assert np.array_equal(both[0], far) and both[1].any()


def test_the_lightweight_step_climbs_the_deleted_samples_alone(world):
    data, _, network, parts = world
    token = np.random.default_rng(3).normal(size=15)
    ids = data.train_rows(0)[[1, 4]]
    each = gradients_by_hand(parts[0], token)
    scale = np.minimum(1, 0.3 / np.linalg.norm(each, axis=1))[:, None]
    by_hand = 0.985 * token + 0.3 * (scale * each)[[1, 4]].sum(0) / len(each)
    found = hop_at(network, 0, token, clip=0.3, forget=ids.tolist())
    assert np.allclose(found, by_hand, rtol=0, atol=1e-12)


def test_minibatches_are_averaged_and_a_deletion_moves_no_other_sample(world):
    """The mean of many minibatch steps is the full step, and s minibatches spread less than one."""
    _, _, network, _ = world
    token = np.random.default_rng(4).normal(size=15)
    full = hop_at(network, 3, token)
    one, four = (
        np.array([hop_at(network, 3, token, batch=2, minibatches=s, batch_seed=k) for k in range(250)]) for s in (1, 4)
    )
    for steps in (one, four):
        assert (abs(steps.mean(0) - full) < 5 * steps.std(0) / np.sqrt(250) + 1e-12).all()
    assert (four.std(0) < 0.7 * one.std(0) + 1e-12).all()


@given(seed=st.integers(0, 10**6), clip=st.floats(0.01, 2), lr=st.floats(0.01, 2), steps=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_a_hop_parts_two_tokens_by_no_more_than_the_accountant_allows(world, seed, clip, lr, steps):
    _, _, network, _ = world
    rng = np.random.default_rng(seed)
    pair = rng.normal(size=(2, 15)) * 10 ** rng.uniform(-1, 1, (2, 1))
    before = np.linalg.norm(pair[0] - pair[1])
    for node, count in ((0, 1), (4, steps)):
        x, y = hop_at(network, node, pair, clip=clip, lr=lr, local_steps=count, batch=3, minibatches=2)
        keep = 1 - lr * 0.05
        allowed = keep**count * before + 2 * lr * clip * sum(keep**k for k in range(count))
        assert np.linalg.norm(x - y) <= allowed * (1 + 1e-12)


def test_tokens_side_by_side_fare_like_tokens_alone(world):
    _, _, network, _ = world
    route = [(1, True), (2, False), (0, True), (5, True), (0, True)]
    tokens = np.random.default_rng(5).normal(size=(7, 15))
    changes = {**PLAIN, "batch": 3, "clip": 0.3, "local_steps": 2}
    together = network.walk(HOP, changes, tokens, route)
    alone = np.stack([network.walk(HOP, changes, t, route) for t in tokens])
    assert np.allclose(together, alone, rtol=0, atol=1e-13) and np.ptp(together, axis=0).min() > 0
    noisy = network.walk(HOP, {**changes, "noise": 2.0}, tokens, route) - together
    assert np.std(noisy) > 0.3  # and no two tokens share their noise
    assert np.abs(np.corrcoef(noisy) - np.eye(7)).max() < 0.95


def test_noise_is_fresh_at_every_visit_and_has_the_standard_deviation_that_is_accounted(world):
    _, _, network, _ = world
    tokens = np.zeros((400, 15))
    still = {**PLAIN, "lr": 0.5, "l2": 0.0, "clip": 1e-12}
    once = network.walk(HOP, {**still, "noise": 3.0}, tokens, [(0, True)])
    twice = network.walk(HOP, {**still, "noise": 3.0}, tokens, [(0, True), (3, True), (0, True)])
    assert np.std(once) == pytest.approx(1.5, rel=0.03)
    assert np.std(twice) == pytest.approx(1.5 * np.sqrt(2), rel=0.03)
    assert abs(np.corrcoef(once.ravel(), (twice - once).ravel())[0, 1]) < 0.05


def test_only_the_visited_vertex_adds_noise(world):
    _, _, network, _ = world
    token = np.ones(15)
    for node in range(1, 6):
        assert np.array_equal(hop_at(network, node, token, noise=5.0), hop_at(network, node, token))


def test_adam_starts_anew_at_every_hop(world):
    """Its first step has length lr in every direction that has a gradient, at every hop again."""
    _, _, network, _ = world
    token = np.random.default_rng(6).normal(size=15)
    first = hop_at(network, 3, token, optimiser="adam", l2=0.0) - token
    again = hop_at(network, 3, token, hop=0, optimiser="adam", l2=0.0) - token
    assert np.allclose(abs(first), 0.3, rtol=1e-5) and np.array_equal(first, again)


def test_the_public_ball_holds_the_token_everywhere(world):
    _, _, network, _ = world
    centre = np.full(15, 0.2)
    for node in (0, 3):
        end = hop_at(network, node, np.full(15, 9.0), ball=0.7, vectors={"centre": centre})
        assert np.linalg.norm(end - centre) == pytest.approx(0.7)


def test_a_model_that_is_not_convex_takes_the_steps_of_automatic_differentiation(world):
    import torch

    data = world[0]
    with open_session(data, *model_for(data, "mlp")) as session:
        network, model = ring_network(session), session.model
        token = model.initial(0).astype(np.float64)
        found = network.walk(HOP, {**PLAIN, "clip": 0.2, "l2": 0.0}, np.stack([token, 2 * token]), [(0, True)])
        host = session.transport._hosts[0]
        x, y = host.block.batch(host.block.samples("main", 0))
        for k, row in enumerate((token, 2 * token)):
            total = np.zeros(model.dim)
            for a, b in zip(x, y):
                theta = torch.tensor(row, requires_grad=True)
                torch.nn.functional.cross_entropy(model.logits(theta, a[None]), b[None]).backward()
                g = theta.grad.numpy()
                total += g * min(1, 0.2 / np.linalg.norm(g)) / len(y)
            assert np.allclose(found[k], row - 0.3 * total, rtol=0, atol=1e-6)


def test_passing_the_token_on_is_charged_and_staying_is_not(world):
    _, session, _, _ = world
    network = ring_network(session, "charged")
    route = Route(((0, False), (1, False), (2, True), (2, True), (1, False), (0, True)), 0)
    network.walk(HOP, PLAIN, np.zeros(15), route.moves)
    record = network.ledger.traffic[-1]
    assert (record.pattern, record.messages, record.message_bytes) == ("walk", 4, 4 * 15)
    assert [h["senders"] for h in network.ledger.received_by(1)] == [[0, 2]]
    assert route.stops == (2, 2, 0) and route.visits == (3,)
