"""A SuperLink with TLS and two SuperNodes on loopback: the bits of a local run, also when a SuperNode is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedunlearn.cli.application import app
from fedunlearn.config import load_experiment
from fedunlearn.errors import UserError
from fedunlearn.flower import run_local
from fedunlearn.flower.deployment import Deployment, deploy
from fedunlearn.flower.places import Owner
from fedunlearn.flower.processes import _with_children

pytestmark = pytest.mark.deployment

DIGITS = """
name = "digits"
seed = 1
[data]
source = "digits"
clients = 8
[model]
name = "softmax"
features = "unit"
[topology]
generator = "ring"
[training]
rounds = 3
lr = 0.5
[[requests]]
level = "client"
client = 3
[unlearning]
method = "retrain"
[evaluation]
every = 3
controls = false
[runtime]
cache = false
"""


@pytest.fixture
def simulation(tmp_path: Path) -> Path:
    path = tmp_path / "digits.toml"
    path.write_text(DIGITS)
    return path


@pytest.fixture
def two() -> Iterator[Deployment]:
    with Deployment(2) as deployment:
        yield deployment
        family = [Owner.of(pid) for p in deployment.processes._running for pid in _with_children(p.pid)]
        assert sum(not member.is_dead() for member in family) > 4
    assert all(member.is_dead() for member in family), "everything that was started has ended"
    assert not deployment.place.exists(), "no key and no store is left"


def models(folder: Path) -> object:
    return json.loads((folder / "summary.json").read_text())["models"]


def wait_until(happened: object, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def journals(deployment: Deployment, host: int) -> list[dict[str, object]]:
    found = []
    for path in deployment.stores.glob(f"fedunlearn-*-{host}/journal.json"):
        try:
            found.append(json.loads(path.read_text()))
        except (OSError, ValueError):
            continue
    return found


def come_back(deployment: Deployment, host: int) -> None:
    """Start a SuperNode again until the SuperLink takes it, as a service manager would."""
    log = deployment.logs / f"host-{host}.log"
    known = log.read_text(errors="replace").count("SuperNode ID")
    for _ in range(30):
        process = deployment.start_supernode(host)
        while process.poll() is None:
            if log.read_text(errors="replace").count("SuperNode ID") > known:
                return
            time.sleep(0.1)
        deployment.processes._running.remove(process)
        time.sleep(5)
    raise AssertionError("the SuperLink never took the SuperNode back")


def kill(deployment: Deployment, host: int) -> None:
    """End a SuperNode and its ClientApp with kill -9."""
    process = next(p for p in deployment.processes._running if deployment.processes._names[p.pid] == f"host-{host}")
    family = _with_children(process.pid)
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    deployment.processes._running.remove(process)


def test_data_that_stay_on_their_supernodes_give_the_same_bits(simulation: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["data", "split", str(simulation), "--hosts", "2", "--out", str(tmp_path / "parts")])
    assert done.exit_code == 0, done.output
    local = run_local(load_experiment(simulation, ["runtime.workers=0"]), tmp_path / "local")
    assert local.folder is not None
    deploy(simulation, [], tmp_path / "far", 2, print, data=tmp_path / "parts")
    files = sorted(path.name for path in (local.folder / "models").iterdir())
    assert files and all(
        (tmp_path / "far" / "models" / name).read_bytes() == (local.folder / "models" / name).read_bytes()
        for name in files
    )
    told = json.loads((tmp_path / "far" / "summary.json").read_text())
    assert told["models"]["unlearned"]["forget_accuracy"] is None
    assert told["models"]["original"] == local.summary["models"]["original"]


def test_a_killed_supernode_comes_back_to_the_same_bits(two: Deployment, simulation: Path, tmp_path: Path) -> None:
    local = run_local(load_experiment(simulation, ["runtime.workers=0"]), tmp_path / "local")
    assert local.folder is not None
    run = two.submit(simulation, [], tmp_path / "far")
    wait_until(lambda: any(int(j["done"]) >= 2 for j in journals(two, 1)), 300, "host 1 did not get as far")
    log = two.logs / "host-1.log"
    sent = log.read_text(errors="replace").count("Sent successfully")
    wait_until(lambda: log.read_text(errors="replace").count("Sent successfully") > sent, 120, "no reply of host 1")
    kill(two, 1)  # at rest, or about to begin a message that nobody will tell the SuperLink of
    come_back(two, 1)
    wait_until(lambda: run.poll() is not None, 900, "the run did not end")
    assert (tmp_path / "far" / "summary.json").is_file(), (two.logs / "run.log").read_text()
    assert models(tmp_path / "far") == models(local.folder)
    assert not list(two.stores.iterdir()), "the hosts' stores are removed at the end"


def test_a_supernode_killed_at_work_says_so_and_the_run_is_resumed_to_the_same_numbers(
    two: Deployment, simulation: Path, tmp_path: Path
) -> None:
    changes = ["training.rounds=3", "training.local_epochs=4000", "training.lr=0.01", "runtime.checkpoint_seconds=0"]
    local = run_local(load_experiment(simulation, [*changes, "runtime.workers=0"]), tmp_path / "local")
    assert local.folder is not None

    since: dict[object, float] = {}

    def at_work() -> bool:
        """Return whether host 0 has been at one message for a while, after a checkpoint: a short one is soon over."""
        checkpoints = list(tmp_path.glob("far.partial-*/checkpoints/checkpoint-*.safetensors"))
        begun = [j["begun"] for j in journals(two, 0) if j["begun"] != j["done"] and int(j["done"]) >= 0]
        return bool(checkpoints and begun) and time.monotonic() - since.setdefault(begun[0], time.monotonic()) > 0.4

    run = two.submit(simulation, changes, tmp_path / "far")
    wait_until(at_work, 300, "host 0 did not begin again after a checkpoint")
    kill(two, 0)
    come_back(two, 0)
    wait_until(lambda: run.poll() is not None, 600, "the run did not end")
    said = (two.logs / "run.log").read_text()
    assert "host 0 was stopped in the middle of message" in said and "resume the run" in said, said
    assert not (tmp_path / "far").exists() and (tmp_path / "far.failed").is_dir()
    two.run(simulation, changes, tmp_path / "far", lambda line: None, resume=tmp_path / "far")
    assert models(tmp_path / "far") == models(local.folder)
    for file in sorted((local.folder / "models").iterdir()):
        assert (tmp_path / "far" / "models" / file.name).read_bytes() == file.read_bytes()
    assert json.loads((tmp_path / "far" / "summary.json").read_text())["resumed"]


def test_a_mistake_ends_the_deployment(simulation: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nodes.*logs: "), Deployment(1) as deployment:
        deployment.run(simulation, ["topology.nodes=5"], tmp_path / "far", lambda line: None)
    assert not deployment.place.exists() and not deployment.processes._running
