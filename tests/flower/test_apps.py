"""The two ways to start a simulation: run_local, and the ServerApp with Flower's run configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from fedunlearn.errors import UserError
from fedunlearn.flower import LocalGrid, run_local, server_app
from fedunlearn.flower.client_app import app as client


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace the story of a simulation by a note of how it was called."""
    calls: list[dict[str, Any]] = []

    def simulate(experiment: Any, transport: Any, **asked: Any) -> SimpleNamespace:
        calls.append({"experiment": experiment, "hosts": transport.num_hosts, **asked})
        return SimpleNamespace(summary={}, folder=asked["out"])

    story = ModuleType("fedunlearn.simulation")
    story.simulate = simulate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fedunlearn.simulation", story)
    table = ModuleType("fedunlearn.results.table")
    table.summary_table = lambda summary: "THE TABLE"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fedunlearn.results.table", table)
    return calls


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text("seed = 3\n[unlearning]\nmethod = 'retrain'\n[training]\nrounds = 2\n")
    return path


def start(hosts: int = 1, **config: str) -> None:
    with LocalGrid(client, hosts) as grid:
        server_app.app(grid, Context(1, 1, {}, RecordDict(), dict(config)))


def test_run_local_uses_the_hosts_of_the_experiment(simulated: list[dict[str, Any]], file: Path) -> None:
    from fedunlearn.config import load_experiment

    experiment = load_experiment(file, ["runtime.hosts=2"])
    note = print
    result = run_local(experiment, file.parent / "out", note)
    assert result.folder == file.parent / "out"
    assert simulated == [
        {"experiment": experiment, "hosts": 2, "out": file.parent / "out", "progress": note, "resume": None}
    ]


def test_run_config_names_file_overrides_and_results(
    simulated: list[dict[str, Any]], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(2, simulation=str(file), overrides="training.rounds=5; training.lr = 0.5;", out=str(file.parent / "there"))
    (call,) = simulated
    assert (call["experiment"].training.rounds, call["experiment"].training.lr) == (5, 0.5)
    assert (call["hosts"], call["out"]) == (2, file.parent / "there")
    printed = capsys.readouterr().out
    assert "THE TABLE" in printed and f"results in {file.parent / 'there'}" in printed


def test_results_go_to_the_usual_folder(
    simulated: list[dict[str, Any]], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    start(simulation="small.toml", overrides="", out="")
    start(simulation="small.toml", overrides="out='kept/here'")
    Path("kept/here").mkdir(parents=True)
    Path("kept/here-2").mkdir()
    start(simulation="small.toml", overrides="out='kept/here'")
    assert [c["out"] for c in simulated] == [Path("runs/small-3"), Path("kept/here"), Path("kept/here-3")]


def test_the_file_is_looked_up_beside_the_package_too(
    simulated: list[dict[str, Any]], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_app, "__file__", str(file.parent / "fedunlearn" / "flower" / "server_app.py"))
    start(simulation="small.toml")
    assert simulated[0]["experiment"].seed == 3


def test_progress_is_at_most_ten_lines_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    log = server_app._log_lines()
    for phase, total in (("train", 200), ("unlearn", 3), ("train", 200)):
        for done in range(total + 1):
            log(phase, done, total)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["fedunlearn: train 20/200", "fedunlearn: train 40/200"]
    assert lines[9:13] == [f"fedunlearn: {t}" for t in ("train 200/200", "unlearn 1/3", "unlearn 2/3", "unlearn 3/3")]
    assert len(lines) == 23, "a phase that begins again is told again"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "run config: simulation is missing"),
        ({"simulation": "nowhere.toml"}, "nowhere.toml: no such file"),
        ({"simulation": "FILE", "overrides": "training.ruonds=2"}, "did you mean 'rounds'"),
    ],
)
def test_mistakes_are_printed_as_one_sentence(
    config: dict[str, str],
    sentence: str,
    simulated: list[dict[str, Any]],
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError, match=sentence):
        start(**{key: value.replace("FILE", str(file)) for key, value in config.items()})
    printed = capsys.readouterr().out
    assert sentence in printed and len(printed.splitlines()) == 1 and not simulated
