"""The comparison of certified methods: files that differ in nothing but the method, lines that say what runs said."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import certified
from benchmarks import certified_comparison as comparison
from benchmarks.certified_figure import draw
from benchmarks.certified_rows import (
    CLAIMS,
    EFFECTS,
    Row,
    claim_cells,
    controls_of,
    effect_cells,
    markdown,
    refused,
    remarks,
    rows_of,
)
from fedunlearn.config import load_experiment
from fedunlearn.privacy import delta_of
from fedunlearn.privacy.accounting.transcripts import network_dp_sigma
from fedunlearn.privacy.certificate import worth_of
from fedunlearn.simulation import estimate
from fedunlearn.sweep import load_sweep
from fedunlearn.unlearning.registry import methods

FILES = certified.files()
NAMES = [path.stem for path in FILES]


# --- the files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_file_of_the_comparison_passes_a_dry_run(path):
    found = estimate(load_experiment(path))
    assert found["nodes"] == 10


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_file_begins_with_two_lines_that_say_what_it_shows(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.startswith("# ") for line in lines[:3]] == [True, True, False]
    assert load_experiment(path).name == f"certified-{path.stem}"


def test_every_method_is_compared():
    assert {load_experiment(path).unlearning.method for path in FILES} == set(methods())


def test_all_files_share_network_data_claim_and_seed_and_all_but_one_the_request():
    experiments = {path.stem: load_experiment(path) for path in FILES}
    first = experiments["retrain"]
    for name, other in experiments.items():
        for room in ("seed", "data", "topology", "privacy", "links"):
            assert getattr(other, room) == getattr(first, room), (name, room)
        assert (other.requests == first.requests) == (name != "rewind-client"), name


def test_files_on_the_softmax_head_share_model_and_recipe_but_for_how_long_and_how_fast():
    """Private training takes fewer and smaller steps; the whole client takes more of them."""
    experiments = {path.stem: load_experiment(path) for path in FILES if "-mlp" not in path.stem}
    first = experiments["retrain"]
    for name, other in experiments.items():
        assert other.model == first.model, name
        longer = {"rounds": 300} if name == "rewind-client" else {"rounds": 300, "lr": 3.8} if name == "dp-sgd" else {}
        assert other.training.model_copy(update=longer) == first.training, name
    deep = [load_experiment(path) for path in FILES if "-mlp" in path.stem]
    assert len(deep) == 2 and deep[0].model == deep[1].model and deep[0].training == deep[1].training


def test_the_table_goes_from_exact_to_private_and_ends_with_other_models():
    assert NAMES[:3] == ["retrain", "finetune", "newton"] and NAMES[-2:] == ["rewind-mlp", "rr-du-mlp"]
    assert NAMES.index("rewind") < NAMES.index("rr-du") < NAMES.index("dp-sgd") < NAMES.index("ddp")


# --- the lines -------------------------------------------------------------------------------------------------------


def claim(kind: str = "retrain-equivalence", mu: float | None = 0.268, valid: bool = True, **changes: Any) -> dict:
    statuses = ["enforced", "enforced" if valid else "assumed"]
    return {
        "kind": kind, "valid": valid, "epsilon": 1.0, "delta": 1e-5, "sensitivity": 0.02, "sigma": 0.0746,
        "worth": worth_of(1.0, 1e-5, mu), "premises": [{"name": f"p{i}", "status": s} for i, s in enumerate(statuses)],
        **changes,
    }  # fmt: skip


def summary(certificate: dict | None, **request: Any) -> dict:
    cost = {"seconds": 0.5, "messages": 100}
    entry = {
        "method": "newton", "certificate": certificate, "certificate_reason": "", "further_certificates": [],
        "distance_to_retrained": 0.005, "cost": cost, "retrain_cost": {"seconds": 2.0, "messages": 1000},
        "controls": {}, **request,
    }  # fmt: skip
    return {
        "models": {"unlearned": {"test_accuracy": 0.9}, "retrained": {"test_accuracy": 0.91}}, "requests": [{}, entry]
    }  # fmt: skip


def test_a_line_has_the_numbers_of_the_last_request():
    (row,) = rows_of("newton", summary(claim()), True)
    assert (row.epsilon, row.delta, row.sensitivity, row.sigma, row.valid) == (1.0, 1e-5, 0.02, 0.0746, True)
    assert row.ratio == pytest.approx(0.25) and row.guess == pytest.approx(0.5533, abs=1e-4) and not row.vacuous
    assert (row.unlearned, row.retrained, row.junk) == (0.9, 0.91, None)
    assert (row.seconds, row.retrain_seconds, row.messages, row.retrain_messages) == (0.5, 2.0, 100, 1000)
    assert row.verified is True and row.remark == ""


@pytest.mark.parametrize("kind", ["certifier", "transcript", "differential-privacy", "message"])
def test_a_distance_is_compared_only_with_a_bound_on_it(kind):
    (row,) = rows_of("x", summary(claim(kind)), True)
    assert row.ratio is None and row.distance is None and claim_cells(row)[-1] == "–"


def test_no_sensitivity_no_ratio():
    (row,) = rows_of("x", summary(claim("exact", sensitivity=0.0), distance_to_retrained=0.0), True)
    assert row.ratio is None


def test_a_vacuous_claim_says_so_in_place_of_a_number():
    (row,) = rows_of("x", summary(claim(worth=worth_of(1e6, 1e-5, 1000.0))), True)
    assert row.vacuous and "vacuous" in claim_cells(row)


def test_without_a_certificate_the_reason_is_a_remark_and_retraining_is_exact():
    (row,) = rows_of("x", summary(None, certificate_reason="none: because"), None)
    assert (row.kind, row.remark, row.valid, row.distance) == ("none", "because", None, 0.005)
    (row,) = rows_of("x", summary(None, certificate_reason="none is needed: it is retraining"), None)
    assert row.kind == "exact"


def test_an_invalid_claim_names_the_premises_that_are_open():
    (row,) = rows_of("x", summary(claim(valid=False)), True)
    assert row.remark == "not valid: p1 (assumed)" and "NO" in claim_cells(row)


def test_certificates_about_other_observers_get_a_line_of_claims_alone():
    first, further = rows_of("x", summary(claim(), further_certificates=[claim("message")]), True)
    assert (first.name, further.name, further.kind) == ("x", "x: message", "message")
    assert further.seconds is None and set(effect_cells(further)[1:]) == {"–"}


def test_the_junk_start_and_other_controls_are_told_apart():
    controls = {
        "junk_start": {"test_accuracy": 0.8, "allowed_difference": 0.107, "messages": 5},
        "newton_from_initial_model": {"test_accuracy": 0.9, "messages": 252},
    }
    found = summary(claim(), controls=controls)
    (row,) = rows_of("x", found, True)
    assert (row.junk, row.allowed) == (0.8, 0.107)
    assert controls_of(found) == ["newton from initial model: 252 messages"]


def test_remarks_name_what_is_wrong():
    lines = [
        Row("a", "m", "exact", verified=False), Row("b", "m", "exact", fell_back=True, verified=True),
        refused("c", "m", "no"), Row("d", "m", "exact", verified=True),
    ]  # fmt: skip
    assert list(remarks(lines)) == ["a: NOT VERIFIED", "b: fell back to retraining", "c: no"]


def test_tables_have_as_many_cells_as_heads():
    (row,) = rows_of("x", summary(claim()), True)
    assert len(claim_cells(row)) == len(CLAIMS) and len(effect_cells(row)) == len(EFFECTS)
    text = markdown(CLAIMS, [claim_cells(row), claim_cells(refused("y", "m", "no"))])
    assert {line.count("|") for line in text.splitlines()} == {len(CLAIMS) + 1} and len(text.splitlines()) == 4


def test_the_figure_leaves_out_what_does_not_exist():
    """One line a file: none of messages for what sends none, none at all for what is not defined."""
    claims = [rows_of("newton", summary(claim(epsilon=e)), True)[0] for e in (0.1, 1.0, 10.0)]
    silent = [rows_of("dp", summary(claim("differential-privacy"), cost={"seconds": 0, "messages": 0}), True)[0]] * 3
    figure = draw({"newton": claims, "dp": silent, "ddp": [refused("ddp", "ddp", "no")] * 3})
    left, right = figure.axes
    assert len(left.lines) == 2 and len(right.lines) == 1
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["0.1", "1", "10"]
    assert list(right.lines[0].get_ydata()) == [100, 100, 100]


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_method_that_refuses_gets_a_line_that_says_why():
    path = certified.FOLDER / "ddp.toml"
    (row,), controls = certified.measure(path, ["topology.generator=ring"])
    assert row.kind == "not defined" and "complete" in row.remark and controls == []


def test_a_file_is_run_and_its_certificate_verified():
    path = certified.FOLDER / "ddp.toml"
    (row,), _ = certified.measure(path, ["runtime.workers=0"])
    assert row.verified is True and row.kind == "differential-privacy" and row.messages == 0 < row.retrain_messages


def test_the_document_has_a_line_for_every_file():
    page = (Path(certified.__file__).parents[1] / "docs" / "comparison.md").read_text(encoding="utf-8")
    assert {name for name in NAMES if len(re.findall(rf"^\| {name} \|", page, re.MULTILINE)) >= 2} == set(NAMES)


# --- a sweep of named points: two tasks ------------------------------------------------------------------------------

SWEEP = Path(certified.__file__).parents[1] / "simulations" / "certified_comparison.toml"


def walk(accounting: str = "paper", **changes: Any) -> dict:
    facts = {
        "rule": "walk", "accounting": accounting, "visits": [3, 7, 20, 31], "clip": 1.0, "noise": 20.0, "nodes": 20,
        "hops": 100, "restart_probability": 0.05, "local_steps": 1, "forget_count": 5, "granularity": "sample",
    }  # fmt: skip
    return {**claim("transcript", None, accounting != "paper", facts=facts), "mu": None, **changes}


def test_the_comparison_of_tasks_asks_the_same_of_every_method_of_a_task():
    points = load_sweep(SWEEP).points
    for task in ("softmax", "cnn"):
        mine = [p.experiment for p in points if p.name.startswith(f"{task}-")]
        assert {"retrain", "finetune", "newton", "rewind", "rr-du", "dp-sgd", "ddp"} == {
            e.unlearning.method for e in mine
        }
        first = mine[0]
        for other in mine:
            for room in ("seed", "data", "topology", "model", "privacy", "requests", "links"):
                assert getattr(other, room) == getattr(first, room), (other.name, room)
            if other.unlearning.method != "dp-sgd":
                l2 = first.training.l2 if other.name != "cnn-newton-paper" else 1e-3
                assert other.training == first.training.model_copy(update={"l2": l2}), other.name
    shared = {str((p.experiment.seed, p.experiment.data, p.experiment.topology, p.experiment.requests)) for p in points}
    assert len(shared) == 1


def test_the_restart_walk_is_accounted_by_its_paper_and_by_composition():
    """By hand: 2 sqrt 2 C sqrt(p T ln(1/delta) ln N/N)/noise; four visits of C/noise each are mu = 2 C/noise."""
    proved, supposed, paper = comparison.accounts(walk())
    assert proved is None
    assert paper == pytest.approx(8**0.5 * math.sqrt(5 * math.log(1e5) * math.log(20) / 20) / 20)
    assert delta_of(2 / 20, supposed) == pytest.approx(1e-5, rel=1e-6)
    assert comparison.accounts(walk("conservative"))[:2] == (1.0, None)


def test_a_private_walk_is_composed_whatever_calibrated_it():
    proved, supposed, paper = comparison.accounts(walk("network-dp"))
    assert supposed is None and delta_of(2 * 2 / 20, proved) == pytest.approx(1e-5, rel=1e-6)
    assert network_dp_sigma(paper, 1e-5, 20, 100, 1.0, 5) == pytest.approx(20.0, rel=1e-4)


def test_other_papers_calibrate_by_the_textbook_formula():
    valid = {**claim(facts={"rule": "tolerance"}), "mu": 0.268}
    assert comparison.accounts(valid) == (
        pytest.approx(1.0, rel=1e-3),
        None,
        pytest.approx(0.268 * math.sqrt(2 * math.log(1.25e5))),
    )
    assert comparison.accounts({**valid, "valid": False})[:2] == (None, 1.0)
    assert comparison.accounts({**valid, "mu": 0.0})[2] is None
    assert comparison.accounts(None) == (None, None, None)


def test_what_is_only_supposed_stands_in_parentheses_and_a_refusal_has_a_line():
    row = rows_of("cnn-x", summary(claim(valid=False)), True)[0]
    found = comparison.cells(comparison.Line(row, None, 1.0, 1.3, 0.005), "cnn")
    assert found[0] == "x" and found[5:7] == ("(1)", "1.3") and len(found) == len(comparison.HEADS)
    lines = [comparison.Line(row), comparison.Line(refused("softmax-y", "y", "no"))]
    assert list(comparison.tasks(lines)) == ["cnn", "softmax"]
    assert set(comparison.cells(lines[1], "softmax")[2:]) == {"–"}


def test_finished_points_are_read_and_not_run_again(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = '[[points]]\nname = "{0}-ddp"\nbase = "{1}"\ntopology.generator = "{2}"\nmay_refuse = true\n'
    base = (certified.FOLDER / "ddp.toml").as_posix()
    text = text.format("a", base, "complete") + text.format("b", base, "ring") + "runtime.workers = 0\n"
    (tmp_path / "two.toml").write_text(text)
    arguments = ["--comparison", "two.toml", "--out", "runs", "--markdown", "--figure", "claims.png"]
    assert certified.main(arguments) == 0
    first = capsys.readouterr()
    assert (
        "**a**" in first.out
        and "| ddp | differential-privacy | yes |" in first.out
        and (tmp_path / "claims.png").is_file()
    )
    assert "| ddp | not defined | – |" in first.out and "b-ddp: topology: nodes" in first.out
    assert certified.main(arguments) == 0
    again = capsys.readouterr()
    assert "a-ddp: cached" in again.err and again.out == first.out
