"""What `fedunlearn deploy` prepares and ends, without a SuperLink; the real ones are in test_deployment.py."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedunlearn.cli.application import app
from fedunlearn.errors import UserError
from fedunlearn.flower import deployment, processes
from fedunlearn.flower.deployment import RUN_CONFIG, Deployment, write_app
from fedunlearn.flower.places import Owner
from fedunlearn.flower.processes import Processes, free_ports

PROJECT = Path(__file__).resolve().parents[2]


def test_the_app_it_submits_is_the_projects(tmp_path: Path) -> None:
    ours = tomllib.loads((write_app(tmp_path / "app") / "pyproject.toml").read_text())
    theirs = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    assert ours["tool"]["flwr"]["app"]["components"] == theirs["tool"]["flwr"]["app"]["components"]
    assert {**theirs["tool"]["flwr"]["app"]["config"], "simulation": ""} == RUN_CONFIG
    assert ours["tool"]["flwr"]["app"]["config"] == RUN_CONFIG
    assert ours["project"]["version"] == theirs["project"]["version"]
    assert (tmp_path / "app" / "fedunlearn" / "flower" / "client_app.py").is_file()


def test_programs_and_what_they_started_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "program", lambda name: name)
    monkeypatch.setattr(processes, "_GRACE", 0.5)
    stubborn = "import signal,subprocess,sys,time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); "
    child = f"subprocess.Popen([sys.executable, '-c', {(stubborn + 'time.sleep(60)')!r}]); time.sleep(60)"
    with pytest.raises(ZeroDivisionError), Processes(tmp_path, os.environ) as programs:
        first = programs.start("first", [sys.executable, "-c", stubborn + child])
        deadline = time.monotonic() + 20
        while (tmp_path / "first.log").read_text().count("up") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        family = [Owner.of(pid) for pid in processes._with_children(first.pid)]
        assert len(family) == 2
        _ = 1 / 0
    assert all(member.is_dead() for member in family)


def test_programs_end_with_whoever_started_them(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from fedunlearn.flower import processes as p; "
        "p.program = lambda name: name; "
        "programs = p.Processes(Path(sys.argv[1]), os.environ); "
        "x = programs.start('x', [sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print(x.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = Owner.of(int(parent.stdout.readline()))
    assert not child.is_dead()
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while not child.is_dead():
        assert time.monotonic() < deadline, "kill -9 of the one left the other running"
        time.sleep(0.05)


def test_a_program_that_ends_by_itself_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "program", lambda name: name)
    with Processes(tmp_path, os.environ) as programs:
        short = programs.start("host-3", [sys.executable, "-c", "raise SystemExit(7)"])
        short.wait()
        programs.check(but=short)
        with pytest.raises(UserError, match=r"'host-3' ended with exit code 7; see the logs in"):
            programs.check()


def test_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_nothing_is_left_when_the_start_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = []

    def fails(self: Deployment) -> None:
        places.append(self.place)
        (self.logs / "superlink.log").write_text("why")
        raise UserError(f"no luck; see the logs in {self.logs}")

    monkeypatch.setattr(Deployment, "_start_superlink", fails)
    monkeypatch.setattr(deployment, "mkdtemp", lambda prefix: str(tmp_path))
    with pytest.raises(UserError, match="no luck; see the logs in ") as caught:
        deployment.deploy(tmp_path / "x.toml", [], tmp_path / "out", 2, print)
    assert not places[0].exists() and (tmp_path / "superlink.log").read_text() == "why"
    assert str(places[0]) not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.toml"], "nowhere.toml: no such file"),
        (["FILE", "--set", "training.ruonds=2"], "did you mean 'rounds'"),
        (["FILE", "--out", "OUT"], "is there already"),
    ],
)
def test_mistakes_are_told_before_anything_is_started(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    (tmp_path / "small.toml").write_text("[unlearning]\nmethod = 'retrain'\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "something").write_text("")
    named = {"FILE": str(tmp_path / "small.toml"), "OUT": str(tmp_path / "out")}
    done = CliRunner().invoke(app, ["deploy", *(named.get(a, a) for a in arguments)])
    assert done.exit_code == 2 and sentence in " ".join(done.output.split()), done.output
