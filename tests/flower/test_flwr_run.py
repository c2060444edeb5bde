"""``flwr run .`` on a SuperLink of our own, with Flower's simulation runtime (Ray): the models of a local run."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedunlearn.config import load_experiment
from fedunlearn.flower import run_local

PROJECT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="pip install 'fedunlearn[ray]' brings Ray"),
]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def program(name: str) -> str:
    """Path of a program that came with Flower into this environment."""
    return str(Path(sys.executable).parent / name)


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A SuperLink on loopback with a Flower home of its own; gives the environment in which ``flwr`` finds it."""
    home = tmp_path_factory.mktemp("flwr")
    port = free_port()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "test"\n\n[superlink.test]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    options = ["--insecure", "--simulation", "--disable-runtime-dependency-installation"]
    log = (home / "superlink.log").open("w")
    process = subprocess.Popen(
        [program("flower-superlink"), *options, "--port", str(port)],
        cwd=home, env=environment, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        for _ in range(300):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (home / "superlink.log").read_text()
            time.sleep(0.1)
        yield environment
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def flwr_run(environment: dict[str, str], supernodes: int, **config: str) -> str:
    """Run the project to its end and return what was logged."""
    run_config = " ".join(f'{key}="{value}"' for key, value in config.items())
    done = subprocess.run(
        [
            program("flwr"), "run", str(PROJECT), "test", "--stream", "--run-config", run_config,
            "--federation-config", f"num-supernodes={supernodes} client-resources-num-cpus=1",
        ],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.stdout + done.stderr


def models(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "models").iterdir()}


CHANGES = ["training.rounds=3", "runtime.cache=false"]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "run"
    run_local(load_experiment(PROJECT / "simulations" / "deployment.toml", CHANGES), out)
    return out


@pytest.mark.parametrize("supernodes", [1, 2, 4])
def test_the_models_of_a_local_run(supernodes: int, superlink: dict[str, str], local: Path, tmp_path: Path) -> None:
    log = flwr_run(
        superlink, supernodes, simulation="simulations/deployment.toml", overrides=";".join(CHANGES),
        out=str(tmp_path / "run"), store=str(tmp_path / "stores"),
    )  # fmt: skip
    assert f"results in {tmp_path / 'run'}" in log, log
    assert models(tmp_path / "run") == models(local) and len(models(local)) > 3
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["hosts"]["count"] == supernodes
    assert not any((tmp_path / "stores").iterdir()), "the hosts' stores are removed at the end"


def test_a_mistake_is_told_in_one_line(superlink: dict[str, str], tmp_path: Path) -> None:
    log = flwr_run(superlink, 1, overrides="training.ruonds=2", out=str(tmp_path / "run"))
    (line,) = [line for line in log.splitlines() if line.startswith("fedunlearn: ")]
    assert "did you mean 'rounds'" in line
    assert not (tmp_path / "run").exists()
