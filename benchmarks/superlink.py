"""A SuperLink for simulations on loopback, and `flwr run` on it, for whoever measures Flower's simulation runtime."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peer_flower_ray import QUIET
from fedunlearn.flower.processes import Processes, free_ports, listens, program

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def superlink(folder: Path) -> Iterator[dict[str, str]]:
    """Start a SuperLink on loopback; give the environment in which ``flwr`` finds it under the name ``here``."""
    (port,) = free_ports(1)
    (folder / "config.toml").write_text(f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
    path = os.pathsep.join((str(Path(program("flwr")).parent), os.environ["PATH"]))
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(folder), "OMP_NUM_THREADS": "1", "PATH": path}
    with Processes(folder, environment) as processes:
        options = ["--insecure", "--simulation", "--disable-runtime-dependency-installation", "--port", str(port)]
        processes.start("superlink", ["flower-superlink", *options])
        deadline = time.monotonic() + 60
        while not listens(port):
            processes.check()
            if time.monotonic() > deadline:
                raise RuntimeError("the SuperLink does not answer after a minute")
            time.sleep(0.1)
        yield environment


def flwr_run(
    environment: dict[str, str], simulation: str, overrides: Sequence[str], out: Path, supernodes: int
) -> float:
    """Run an experiment on ``supernodes`` SuperNodes of one CPU each, and return the seconds that took.

    RuntimeError with the end of the log if it made no results.
    """
    config = {"simulation": simulation, "overrides": ";".join(overrides), "out": str(out)}
    began = time.perf_counter()
    done = subprocess.run(
        [
            program("flwr"), "run", str(ROOT), "here", "--stream",
            "--run-config", " ".join(f"{key}={json.dumps(value)}" for key, value in config.items()),
            "--federation-config", f"num-supernodes={supernodes} client-resources-num-cpus=1",
        ],
        env=environment, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    if not (out / "summary.json").exists():
        raise RuntimeError(f"flwr run made no results: {(done.stdout + done.stderr)[-800:]}")
    return time.perf_counter() - began
