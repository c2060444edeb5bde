"""Network-level evaluation of small runs: every curve against rows read back, and what it says of nothing done."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from small_runs import THREE_REQUESTS, experiment

from fedunlearn.battery.network_level import network_level
from fedunlearn.battery.reached import FORGET_LIMIT, forget_samples, measure_reach
from fedunlearn.battery.retold import retell
from fedunlearn.battery.settings import BatterySettings
from fedunlearn.evaluation.attacks.membership import loss_threshold_auc
from fedunlearn.evaluation.measure import Found
from fedunlearn.evaluation.nodes import reach
from fedunlearn.evaluation.nodes.accumulated import accumulated_influence
from fedunlearn.evaluation.nodes.consensus import consensus_distance
from fedunlearn.evaluation.utility import accuracy_and_loss, losses
from fedunlearn.simulation import prepare
from fedunlearn.unlearning.base import Unlearner

SETTINGS = BatterySettings(recovery_rounds=2)
FINETUNE = {"unlearning": {"method": "finetune", "rounds": 2}}
CLIENT = 2


def look(**changes) -> Found:
    """Return what is found about a small run."""
    with retell(prepare(experiment(**changes), lambda *_: None), 1) as retold:
        return network_level(retold, SETTINGS, lambda *_: None)


def values(found: Found, name: str) -> dict[str, float]:
    """Return the columns of one line."""
    (measure,) = [m for m in found.measures if m.name == name]
    columns = {c: getattr(measure, c) for c in ("original", "unlearned", "retrained", "control")}
    return {c: estimate.value for c, estimate in columns.items() if estimate is not None}


@pytest.fixture(scope="module")
def told():
    with ExitStack() as stack:
        world = prepare(experiment(**FINETUNE), lambda *_: None)
        retold = stack.enter_context(retell(world, 1))
        ticks: list[tuple[str, int, int]] = []
        yield retold, network_level(retold, SETTINGS, lambda *tick: ticks.append(tick)), ticks


def test_distances_are_those_of_the_rows(told):
    retold, found, _ = told
    others = [i for i in range(6) if i != CLIENT]
    rows = {
        name: net.read_rows(others).astype(np.float64)
        for name, net in (
            ("before", retold.before), ("after", retold.network), ("floor", retold.sibling), ("twin", retold.twin)
        )
    }  # fmt: skip
    curve = found.curves["network"]
    assert curve["client"] == CLIENT and curve["nodes"] == 6
    assert curve["hops"] == [2, 1, 0, 1, 2, 3]  # a ring of six
    assert sorted(map(tuple, map(sorted, curve["edges"]))) == sorted([(0, 5), *((i, i + 1) for i in range(5))])
    for when in ("before", "after", "floor"):
        expected = np.linalg.norm(rows[when] - rows["twin"], axis=1)
        each = curve["per_node"][f"distance_{when}"]
        assert each[CLIENT] is None
        np.testing.assert_allclose([each[i] for i in others], expected, rtol=1e-9)
        profile = curve["by_hop"][f"distance_{when}"]
        expected_by_hop = [None, (each[1] + each[3]) / 2, (each[0] + each[4]) / 2, each[5]]
        assert profile[0] is None and profile[1:] == pytest.approx(expected_by_hop[1:])
        column = {"before": "original", "after": "unlearned", "floor": "control"}[when]
        assert values(found, "distance_to_retrained_node_mean")[column] == pytest.approx(expected.mean())
        assert values(found, "distance_to_retrained_node_largest")[column] == pytest.approx(expected.max())
        assert values(found, "distance_to_retrained_hop_1")[column] == pytest.approx(profile[1])
        assert values(found, "distance_to_retrained_farthest_hop")[column] == pytest.approx(profile[3])
        ratio = values(found, "distance_ratio_farthest_hop_to_hop_1")[column]
        assert ratio == pytest.approx(profile[3] / profile[1])
    assert curve["by_hop"]["count"] == [1, 2, 2, 1]


def test_what_every_node_says_about_the_forget_set(told):
    retold, found, _ = told
    samples = forget_samples(retold.world, retold.evaluator, retold.request)
    np.testing.assert_array_equal(np.sort(samples.rows), np.sort(retold.request.sample_ids))
    assert len(samples.rows) <= FORGET_LIMIT
    test, model = retold.evaluator.node_test, retold.world.model
    each = found.curves["network"]["per_node"]
    for node in (0, 1, 5):
        nets = {"before": retold.before, "after": retold.network, "retrained": retold.twin, "control": retold.sibling}
        row = {name: net.read(node) for name, net in nets.items()}
        f = {name: losses(model, x, samples.inputs, samples.labels) for name, x in row.items()}
        t = {name: losses(model, x, test.inputs, test.labels) for name, x in row.items()}
        for name, x in row.items():
            right = accuracy_and_loss(model, x, samples.inputs, samples.labels)[0]
            assert each[f"forget_accuracy_{name}"][node] == pytest.approx(right)
        for when, name in (("before", "before"), ("after", "after"), ("floor", "control")):
            area = loss_threshold_auc(f[name], f["retrained"])
            for key, x in (("loss_share_below", f), ("test_loss_share_below", t)):
                share = float(np.mean(x[name] < x["retrained"]))
                assert each[f"{key}_{when}"][node] == pytest.approx(share, abs=0.02)
            assert each[f"membership_auc_{when}"][node] == pytest.approx(area, abs=1e-3)  # the last bits may tie or not
        for key, name in (("", "after"), ("_retrained", "retrained"), ("_control", "control")):
            area = loss_threshold_auc(f["before"] - f[name], t["before"] - t[name])
            assert each[f"learned_from_both{key}"][node] == pytest.approx(area, abs=1e-3)
    for name in each:
        assert each[name][CLIENT] is None or name in ("predicted", "view_reason")


def test_two_starts_are_not_taken_for_the_floor_of_the_nodes():
    """Of an MLP the control's start is elsewhere; the floor of single nodes is what other batches make."""
    changes = {**FINETUNE, "model": {"name": "mlp", "features": "raw", "hidden": [8]}, "training": {"lr": 0.2}}
    with retell(prepare(experiment(**changes), lambda *_: None), 1) as retold:
        found = network_level(retold, SETTINGS, lambda *_: None)
        floor = retold.evaluator.row_distances(retold.sibling, retold.twin)
        far = retold.evaluator.row_distances(retold.control, retold.twin)
    assert values(found, "distance_to_retrained_node_mean")["control"] == pytest.approx(np.nanmean(floor))
    assert values(found, "distance_to_retrained_node_mean")["control"] < np.nanmean(far) / 2


def test_predicted_influence_has_the_mean_of_the_measured(told):
    retold, found, _ = told
    each = found.curves["network"]["per_node"]
    others = [i for i in range(6) if i != CLIENT]
    counts = np.array([len(retold.world.dataset.train_rows(i)) for i in range(6)])
    training = retold.world.experiment.training
    (c,) = accumulated_influence(retold.world.graph, "metropolis", CLIENT, training, counts, [training.rounds])
    predicted, measured = np.array(each["predicted"]), np.array([each["distance_before"][i] for i in others])
    np.testing.assert_allclose(predicted / predicted[0], c / c[0])
    assert predicted[others].mean() == pytest.approx(measured.mean())
    assert values(found, "influence_rank_correlation_predicted_with_measured")["original"] > 0.5


def test_consensus_recovery_and_progress(told):
    retold, found, ticks = told
    networks = {
        "before": retold.before, "after": retold.network, "retrained": retold.twin, "control": retold.sibling
    }  # fmt: skip
    expected = {name: consensus_distance(network) for name, network in networks.items()}
    assert found.curves["network"]["consensus"] == expected and min(expected.values()) > 0
    assert values(found, "consensus_distance")["unlearned"] == expected["after"]
    recovery = found.curves["network"]["recovery"]
    accuracy = retold.evaluator.nodes(retold.network)[:, 0]
    assert recovery["rounds"] == [0, 1, 2]
    assert recovery["mean"][0] == np.nanmean(accuracy) and recovery["worst"][0] == np.nanmin(accuracy)
    for what, key in (("mean", "mean_accuracy"), ("worst", "worst_accuracy")):
        reached = [k for k, x in enumerate(recovery[what]) if x >= recovery[f"target_{what}"] - 0.005]
        assert recovery[f"recovered_{what}"] == (reached[0] if reached else None)
        name = f"recovery_rounds_{key}"
        if reached:
            assert values(found, name) == {"unlearned": reached[0]}
        else:
            assert "in 2 rounds" in next(r.reason for r in found.refusals if r.name == name)
    assert {phase for phase, _, _ in ticks} == {"network"}
    done = [d for _, d, _ in ticks]
    assert done == sorted(done) and ticks[-1][1] == ticks[-1][2] and {total for *_, total in ticks} == {6}


def test_everything_is_plain_and_every_name_is_there_once(told):
    _, found, _ = told
    text = json.dumps(found.curves, allow_nan=False)
    assert json.loads(text) == found.curves
    names = [m.name for m in found.measures] + [r.name for r in found.refusals]
    assert len(set(names)) == len(names)
    assert {m.section for m in found.measures} == {"network"} and all(m.reads for m in found.measures)


def test_an_answer_that_changes_nothing_leaves_everything_where_it_was(told):
    retold, _, _ = told
    idle = replace(retold, network=retold.before, outcome=retold.before_outcome)
    found = measure_reach(idle, None, lambda done: None)
    for name in ("distance", "membership_auc", "loss_share_below", "forget_accuracy"):
        np.testing.assert_array_equal(found[f"{name}_after"], found[f"{name}_before"])
    there = found["learned_from_both"][~np.isnan(found["learned_from_both"])]
    assert len(there) == 5 and (there == 0.5).all()


def test_an_answer_that_is_retraining_leaves_nothing():
    found = look(unlearning={"method": "retrain"})
    each = found.curves["network"]["per_node"]
    others = [i for i in range(6) if i != CLIENT]
    assert {each["distance_after"][i] for i in others} == {0.0}
    for name in ("membership_auc", "loss_share_below", "test_loss_share_below"):
        assert {each[f"{name}_after"][i] for i in others} == {0.5}
    assert [each["learned_from_both"][i] for i in others] == [each["learned_from_both_retrained"][i] for i in others]
    assert min(each["distance_before"][i] for i in others) > 0.01
    assert values(found, "view_epsilon_hop_1_largest") == {"unlearned": 0.0}


def test_a_release_is_measured_before_its_noise():
    with retell(prepare(experiment(), lambda *_: None), 1) as retold:
        found = network_level(retold, SETTINGS, lambda *_: None)
        after = np.linalg.norm(retold.outcome.noise_free - retold.twin_outcome.noise_free)
        noisy = np.linalg.norm(retold.network.read(0).astype(float) - retold.twin.read(0))
    assert values(found, "distance_to_retrained_node_mean")["unlearned"] == pytest.approx(after)
    assert abs(after - noisy) > 1e-6
    assert values(found, "consensus_distance") == dict.fromkeys(("original", "unlearned", "retrained", "control"), 0.0)
    reasons = {r.name: r.reason for r in found.refusals}
    assert "one vector for all nodes" in reasons["influence_log_slope_measured_on_predicted"]


def test_on_a_complete_graph_all_are_influenced_alike():
    found = look(topology={"generator": "complete"}, training={"lr": 0.01}, **FINETUNE)
    near = found.curves["network"]["per_node"]["distance_before"]
    others = [x for i, x in enumerate(near) if i != CLIENT]
    assert np.ptp(others) < 1e-3 * max(others)
    reasons = {r.name: r.reason for r in found.refusals}
    assert "predicted influence is the same" in reasons["influence_rank_correlation_predicted_with_measured"]
    assert "neighbour" in reasons["distance_half_hop"]


def test_hosts_change_no_number():
    one, two = (look(runtime={"hosts": hosts, "workers": 0, "cache": False}, **FINETUNE) for hosts in (1, 2))
    assert one == two


def test_a_class_has_no_hops_and_a_sample_leaves_its_client_where_it_is():
    of_class = look(requests=[{"level": "class", "label": 3}], **FINETUNE)
    curve = of_class.curves["network"]
    assert curve["client"] is None and curve["hops"] == [None] * 6 and curve["by_hop"]["hop"] == []
    assert not [m.name for m in of_class.measures if "hop" in m.name]
    assert {"reach_by_hop", "view_epsilon_node"} <= {r.name for r in of_class.refusals}
    assert values(of_class, "distance_to_retrained_node_mean")["original"] > 0
    of_sample = look(requests=[{"level": "sample", "client": 2, "count": 6}], **FINETUNE)
    assert of_sample.curves["network"]["by_hop"]["distance_before"][0] > 0
    assert "distance_to_retrained_hop_0" in {m.name for m in of_sample.measures}
    assert values(of_sample, "forget_accuracy_hop_0")["original"] > 0


def test_of_several_requests_the_last_is_looked_at():
    found = look(requests=THREE_REQUESTS, **FINETUNE)
    assert found.curves["network"]["client"] == 4
    (measure,) = [m for m in found.measures if m.name == "forget_accuracy_node_mean"]
    assert measure.samples["forget"] < 100 and measure.samples["nodes"] == 5


def test_of_a_large_network_some_nodes_of_every_hop_are_looked_at(monkeypatch):
    everywhere = look(**FINETUNE).curves["network"]
    monkeypatch.setattr(reach, "LARGE", 5)
    monkeypatch.setattr(reach, "PER_HOP", 1)
    found = look(**FINETUNE).curves["network"]
    assert found["edges"] == [] and found["by_hop"]["count"] == [1, 2, 2, 1]
    for name in ("distance_before", "membership_auc_after", "learned_from_both"):
        seen = [i for i, x in enumerate(found["per_node"][name]) if x is not None]
        assert len(seen) == 3 and {found["hops"][i] for i in seen} == {1, 2, 3}
        assert all(found["per_node"][name][i] == everywhere["per_node"][name][i] for i in seen)
    assert sum(reason != "" for reason in found["per_node"]["view_reason"]) == 3


def test_one_node_is_no_network():
    (request,) = [{"level": "sample", "client": 0, "count": 5}]
    found = look(data={"clients": 1}, topology={"generator": "complete"}, requests=[request], **FINETUNE)
    assert not found.measures and not found.curves
    assert found.refusals[0].reason.startswith("the run has one node")


class Own(Unlearner):
    """A method that trains in a way of its own."""

    def train(self, network, situation, *, every=1, watch=None):
        """Train by no recipe."""


def test_methods_with_a_recipe_of_their_own_are_not_trained_on(told):
    retold, *_ = told
    found = network_level(replace(retold, world=replace(retold.world, unlearner=Own())), SETTINGS, lambda *_: None)
    reasons = {r.name: r.reason for r in found.refusals}
    assert "recipe of its own" in reasons["recovery_rounds_mean_accuracy"]
    assert "recipe of its own" in reasons["influence_rank_correlation_predicted_with_measured"]
    assert found.curves["network"]["recovery"] is None
