"""``fedunlearn audit``: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_runs import BASE, experiment
from typer.testing import CliRunner

from fedunlearn.audit import conduct
from fedunlearn.cli import app
from fedunlearn.config import dump_toml, load_experiment
from fedunlearn.unlearning.certified.newton import Newton
from fedunlearn.unlearning.games import gaussian_game


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run the command in an empty folder that holds ``small.toml``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "small.toml").write_text(dump_toml(experiment()))
    return lambda *words: CliRunner().invoke(app, ["audit", "small.toml", *words])


def test_an_audit_prints_a_table_and_writes_a_folder(call, tmp_path):
    result = call("--trials", "100")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / f"small-{BASE['seed']}-audit"
    assert {path.name for path in folder.iterdir()} == {"audit.json", "audit.png", "settings.toml"}
    entries = json.loads((folder / "audit.json").read_text())
    assert entries["trials"] == 100 and entries["seconds"] > 0 and not entries["refuted"]
    assert load_experiment(folder / "settings.toml") == experiment()
    for piece in ("small  audit of newton, seed 3", "100 trials a world", "retrain-equivalence: ε = 1", "audit.png"):
        assert piece in result.stdout
    assert "audit: retrain-equivalence: 2/2" in result.stderr
    again = call("--trials", "100")
    assert again.exit_code == 0 and "small-3-audit-2" in again.stdout


def test_json_prints_the_report_alone_and_writes_nothing(call, tmp_path):
    result = call("--trials", "100", "--json", "--set", "unlearning.target_sigma=0.1", "--seed", "5")
    entries = json.loads(result.stdout)
    assert entries["schema"] == "fedunlearn/audit/1" and entries["seed"] == 5
    assert entries["claims"][0]["sigma"] == pytest.approx(0.1)
    assert not (tmp_path / "runs").exists()
    assert call("--trials", "100", "--json", "--out", "here").exit_code == 0
    assert json.loads((tmp_path / "here" / "audit.json").read_text())["trials"] == 100


def test_a_refuted_claim_is_exit_code_1(call, monkeypatch):
    def without_noise(self, network, outcome, situation):
        claim = outcome.certificate
        far = np.array([claim.sensitivity])
        return gaussian_game("no noise", "tight", far, np.zeros(1), claim.sigma / 50, claim.sensitivity)

    monkeypatch.setattr(Newton, "tight_game", without_noise)
    result = call("--trials", "200")
    assert result.exit_code == 1
    assert "refuted: retrain-equivalence" in result.stdout


def test_methods_without_a_claim_get_one_sentence(call, tmp_path):
    result = call("--set", "unlearning.method=finetune", "--out", "none")
    assert result.exit_code == 0
    assert "nothing is claimed, so there is nothing to refute: 'finetune' certifies nothing" in result.stdout
    assert not (tmp_path / "none" / "audit.png").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--trials", "3"], "--trials 3: must be at least 20"),
        (["--set", "unlearning.method=forget"], "unlearning.method = 'forget'"),
        (["--set", "requests=[]"], "[[requests]]"),
        (["--out", "small.toml"], "--out small.toml"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(call, words, says):
    result = call(*words)
    assert result.exit_code == 2
    assert says in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_the_auditor_and_the_command_ask_for_as_many_trials():
    from fedunlearn.audit.attacks import SMALLEST_TRIALS
    from fedunlearn.audit.settings import AuditSettings
    from fedunlearn.cli.audit import SMALLEST

    assert SMALLEST == SMALLEST_TRIALS == AuditSettings.model_fields["trials"].metadata[0].ge
    assert conduct.AuditSettings().trials == 1000
