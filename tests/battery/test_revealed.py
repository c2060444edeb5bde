"""Views of the last answer: those of ``fedunlearn certify views``, and lines that hide no view without a number."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_runs import experiment
from typer.testing import CliRunner

from fedunlearn.battery.retold import retell
from fedunlearn.battery.revealed import View, epsilon_measures, rise_measures, views_of
from fedunlearn.cli import app
from fedunlearn.network.inline import InlineTransport
from fedunlearn.simulation import prepare, simulate

TWO = [{"level": "sample", "client": 1, "count": 5}, {"level": "client", "client": 4}]
REWIND = {
    "unlearning": {"method": "rewind"}, "training": {"lr": 1.9, "batch": 512, "schedule": "holes"},
    "topology": {"generator": "ring", "repair": "relay"},
}  # fmt: skip
BROADCAST = {
    "method": "newton", "mode": "paper", "bound": "worst-case", "gradient": "forget-set",
    "curvature_data": "asking-client", "message_radius": 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{"requests": TWO[::-1]}, {"unlearning": BROADCAST}, REWIND,
     {"unlearning": {"method": "finetune"}}, {"unlearning": {"method": "retrain"}},
     {"requests": [{"level": "class", "label": 3}], "unlearning": {"method": "finetune"}}],
    ids=["newton, one left before", "broadcast", "rewind", "finetune", "retrain", "class"],
)  # fmt: skip
def test_views_are_those_of_certify_views(changes, tmp_path):
    told = experiment(**changes)
    folder = simulate(told, InlineTransport(1), out=tmp_path / "run").folder
    answer = CliRunner().invoke(app, ["certify", "views", str(folder), "--json"])
    assert answer.exit_code == 0, answer.output
    number = len(told.requests) - 1
    tables = {table["title"].split(":")[0]: table["rows"] for table in json.loads(answer.stdout)["tables"][::-1]}
    with retell(prepare(told, lambda *_: None), 1) as retold:
        views = views_of(retold, range(6))
    expected = [(int(row["node"]), row["epsilon"], row["by"]) for row in tables[f"request {number}"]]
    assert [(view.node, view.epsilon, view.by) for view in views] == expected
    assert all(view.reason for view in views)


def test_lines_of_epsilon():
    views = [View(0, 0.5, "T-V1", "a"), View(1, 1.5, "T-V1", "a"), View(3, 0.1, "T-V1", "a")]
    found = {m.name: m for m in epsilon_measures(views, [0, 3, 5]).measures}
    values = {name: m.unlearned.value for name, m in found.items()}
    assert values == {
        "view_without_certificate_share": 0.0, "view_epsilon_hop_1_largest": 0.5,
        "view_epsilon_hop_1_mean": pytest.approx(0.3), "view_epsilon_node_largest": 1.5,
        "view_epsilon_node_mean": pytest.approx(0.7),
    }  # fmt: skip
    assert found["view_epsilon_hop_1_mean"].samples == {"nodes": 2}


def test_a_view_without_a_number_is_not_averaged_away():
    views = [View(0, 0.5, "T-V1", "a"), View(1, None, "no certificate", "Nobody knows."), View(3, 0.1, "T-V1", "a")]
    found = epsilon_measures(views, [0, 3])
    assert [m.name for m in found.measures] == [
        "view_without_certificate_share", "view_epsilon_hop_1_largest", "view_epsilon_hop_1_mean"
    ]  # fmt: skip
    assert found.measures[0].unlearned.value == pytest.approx(1 / 3)
    (refusal,) = found.refusals
    assert refusal.name == "view_epsilon_node"
    assert refusal.reason == "1 of 3 views have no certified epsilon, such as node 1: Nobody knows."
    assert [r.name for r in epsilon_measures(views, None).refusals] == ["view_epsilon_node"]
    assert "no such node" in epsilon_measures(views, [5]).refusals[0].reason


def test_lines_of_rises():
    columns = [np.array([0.6, 0.9, np.nan, 0.5]), np.array([0.5, 0.7, np.nan, 0.6]), np.array([0.5, 0.5, np.nan, 0.5])]
    found = {m.name: m for m in rise_measures(*columns, [0, 2, 3], {"forget": 7}).measures}
    tail = "forget_rises_above_test"
    near = found[f"learned_from_both_auc_hop_1_mean_{tail}"]
    assert near.unlearned.value == pytest.approx(0.55) and near.retrained.value == pytest.approx(0.55)
    assert near.samples == {"forget": 7, "nodes": 2} and near.original is None
    worst = found[f"learned_from_both_auc_node_largest_{tail}"]
    assert (worst.unlearned.value, worst.retrained.value, worst.control.value) == (0.9, 0.7, 0.5)
    assert len(found) == 4
    assert len(rise_measures(*columns, [2], {}).refusals) == 2
