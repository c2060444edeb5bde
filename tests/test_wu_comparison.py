"""The comparison with Wu et al.: its files load, its arithmetic is right, and an interrupted one can be printed."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from benchmarks import wu_comparison as wu
from fedunlearn.config import load_experiment

SUMMARY = {
    "models": {
        "unlearned": {"test_accuracy": 0.86, "membership_auc_forget_vs_test": 0.51},
        "retrained": {"test_accuracy": 0.87, "membership_auc_forget_vs_test": 0.48},
    },
    "requests": [
        {
            "certificate": {"kind": "single-node", "valid": True, "sigma": 0.05},
            "cost": {"seconds": 3.0, "messages": 40.0},
            "retrain_cost": {"seconds": 100.0, "messages": 160.0},
            "details": {"gradients": 3},
            "fell_back_to_retraining": False,
            "distance_to_retrained": 0.001,
            "distance_before": 0.9,
            "controls": {"newton_from_initial_model": {"messages": 60.0}},
        }
    ],
}


def row(seed: int = 0, **changes: object) -> wu.Row:
    found = wu.row_of(wu.Case("mnist", "ring", "client", seed), SUMMARY)
    return wu.Row(**{**asdict(found), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", wu.DATA)
def test_the_files_load_and_run_paper_mode_with_a_certificate(name):
    experiment = load_experiment(wu.FOLDER / f"wu_{name}.toml")
    assert experiment.requests
    assert experiment.unlearning.method == "newton"
    assert experiment.training.l2 > 0
    assert experiment.model.name == "softmax"


@pytest.mark.parametrize("case", list(wu.cases(wu.DATA, wu.PARTS, 1)), ids=lambda c: f"{c.data}-{c.graph}-{c.variant}")
def test_every_case_loads_with_its_own_graph_level_and_seed_and_no_cache(case):
    experiment = load_experiment(case.file, case.changes)
    (request,) = experiment.requests
    assert (experiment.topology.generator, request.level, experiment.seed) == (case.graph, case.level, case.seed)
    assert not experiment.runtime.cache
    assert (experiment.model.name == "small-cnn") == case.variant.startswith("CNN")


def test_the_certified_cases_are_every_graph_and_level_of_both_data_sets_at_every_seed():
    found = list(wu.cases(wu.DATA, ["certified"], 3))
    assert len(found) == len(set(found)) == 2 * 2 * 3 * 3
    assert [c.seed for c in found] == sorted(c.seed for c in found)


def test_the_two_cnn_cases_differ_in_their_curvature_alone():
    exact, fisher = (load_experiment(c.file, c.changes) for c in wu.cases(["mnist"], ["cnn"], 1))
    a, b = exact.model_dump(mode="json"), fisher.model_dump(mode="json")
    assert {key for key in a if a[key] != b[key]} == {"unlearning"}


def test_a_row_holds_the_gaps_and_what_was_saved():
    found = row()
    assert found.gap == pytest.approx(-1.0)
    assert found.auc_gap == pytest.approx(0.03)
    assert found.time_saved == pytest.approx(0.97)
    assert found.messages_saved == pytest.approx(0.75)
    assert found.corrections == 2  # one gradient before the first correction, one after each
    assert found.controls == {"newton_from_initial_model": 60.0}


def test_a_retrained_network_counts_no_corrections_and_a_missing_certificate_is_none():
    request = {**SUMMARY["requests"][0], "fell_back_to_retraining": True, "certificate": None}
    found = wu.row_of(wu.Case("mnist", "ring", "client", 0), {**SUMMARY, "requests": [request]})
    assert found.corrections is None
    assert (found.kind, found.valid, found.sigma) == ("none", None, None)


def test_groups_are_means_over_seeds_and_say_how_many_fell_back():
    rows = [row(0), row(1, unlearned=0.84, fell_back=True), row(0, level="class")]
    client, other = wu.grouped(rows)
    assert (len(client), len(other)) == (2, 1)
    line = dict(zip(wu.HEADS, wu.cells(client), strict=True))
    assert line["acc"] == "0.850 ± 0.010"
    assert line["gap (points)"] == "-2.0 ± 1.0"
    assert line["fell back"] == "1 of 2"
    assert line["certificate"] == "single-node, valid"
    assert line["time saved"] == "97% ± 0%"


def test_the_control_is_compared_with_unlearning_and_with_retraining():
    (line,) = wu.controls([row()])
    assert "1.50 times as cheap as this control" in line  # 60 messages without training against 40 for unlearning
    assert "4.0 times as cheap as retraining" in line


def test_written_lines_are_printed_without_running_anything(tmp_path, capsys):
    file = tmp_path / "runs.jsonl"
    file.write_text("".join(json.dumps(asdict(r)) + "\n" for r in (row(0), row(1))))
    assert wu.read_lines(file) == [row(0), row(1)]
    assert wu.main(["--from", str(file), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2
    assert wu.main(["--from", str(file)]) == 0
    assert "| mnist | ring | client | paper | 2 |" in capsys.readouterr().out


def test_nothing_saved_is_said_of_a_reference_that_took_nothing():
    assert wu.saved(1.0, 0.0) != wu.saved(1.0, 0.0)
    assert wu.saved(3.0, 2.0) == -0.5
