"""Real processes and kill -9 at random times: every resume ends with identical numbers (slow)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from resume_kit import FILES
from small_runs import numbers, releases

from fedunlearn.results.run_names import has_begun

KILLS = 50
EXPERIMENT = """
name = "killed"
seed = 5
[data]
source = "digits"
partition = "dirichlet"
clients = 8
[topology]
generator = "ring"
[model]
name = "softmax"
features = "unit"
[training]
rounds = 150
lr = 4.0
l2 = 1e-2
momentum = 0.5
[evaluation]
every = 10
controls = true
[runtime]
workers = 0
cache = false
checkpoint_seconds = 0
[[requests]]
level = "sample"
client = 1
count = 9
[[requests]]
level = "client"
client = 4
"""


SERVER = """
import json, os, sys, traceback
from pathlib import Path
import fedunlearn.plots
from fedunlearn.config import load_experiment
from fedunlearn.flower.client_app import app
from fedunlearn.flower.local import run_local
from fedunlearn.results.run_names import SETTINGS, unfinished
fedunlearn.plots.draw_all = lambda *_, **__: None  # takes longer than all the rest
for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        print(os.waitpid(job["wait"], 0)[1], flush=True)
        continue
    child = os.fork()
    if child == 0:
        os.setsid()
        log = os.open(job["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        try:
            file, out, resume = (Path(job[key]) if key in job else None for key in ("file", "out", "resume"))
            experiment = load_experiment(file or unfinished(resume) / SETTINGS, job["changes"])
            run_local(experiment, out, lambda phase, done, total: print(phase, flush=True), resume)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    print(child, flush=True)
"""


class Server:
    """Starts runs as processes of their own, without the seconds that a process takes to import everything."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def _ask(self, job: dict) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, changes: tuple[str, ...] = (), **where: Path) -> int:
        """Start a run in a process group of its own; returns its id."""
        self.log.unlink(missing_ok=True)
        job = {"log": str(self.log), "changes": list(changes), **{key: str(path) for key, path in where.items()}}
        return self._ask(job)

    def wait(self, process: int) -> int:
        """Wait for its end; 0 if all went well."""
        return self._ask({"wait": process})

    def close(self) -> None:
        """End."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def workers_of(process: int) -> list[int]:
    """Return the ids of the processes that a process has started, in order."""
    try:
        listed = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return sorted(int(each) for each in listed.split())


def stores_of(process: int) -> set[Path]:
    """Return the folders of the stores that a process has open."""
    try:
        lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    except OSError:
        return set()
    return {Path(line.split()[5]).parent for line in lines if "/fedunlearn-" in line and line.endswith(".npy")}


def assert_same(found: Path, reference: Path) -> None:
    summaries = [numbers(json.loads((folder / "summary.json").read_text())) for folder in (found, reference)]
    for summary in summaries:
        summary.pop("resumed")
        summary.pop("hosts", None)  # who sent what to whom since it was taken up
    assert summaries[0] == summaries[1]
    assert releases(found) == releases(reference)
    for name in FILES:
        assert (found / name).read_bytes() == (reference / name).read_bytes(), name
    assert not (found / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds worker processes in /proc")
def test_fifty_random_kills_of_the_conductor_or_a_worker_change_no_number(tmp_path):
    file = tmp_path / "killed.toml"
    file.write_text(EXPERIMENT)
    one_worker = ("runtime.workers=1",)
    server, rng, told = Server(tmp_path), np.random.default_rng(0), []
    seconds: dict[bool, float] = {}
    for only_a_worker in (False, True):
        began = time.monotonic()
        changes = one_worker if only_a_worker else ()
        process = server.start(changes, file=file, out=tmp_path / f"whole-{only_a_worker}")
        assert server.wait(process) == 0, server.log.read_text()
        seconds[only_a_worker] = time.monotonic() - began
    number = 0
    while len(told) < KILLS:
        number += 1
        out, only_a_worker = tmp_path / f"run-{number}", number % 5 == 4
        changes = one_worker if only_a_worker else ()
        process = server.start(changes, file=file, out=out)
        time.sleep(float(rng.uniform(0.0, 1.0)) * seconds[only_a_worker])
        while only_a_worker and not (workers := workers_of(process)) and not out.exists():
            time.sleep(0.01)
        stores = stores_of(process)
        if only_a_worker:
            for worker in workers[:1]:
                os.kill(worker, signal.SIGKILL)
        else:
            os.killpg(process, signal.SIGKILL)
        server.wait(process)
        if out.exists():
            seconds[only_a_worker] *= 0.9  # it was over already: this does not count
            shutil.rmtree(out)
            continue
        where = {"resume": out} if has_begun(out) else {"file": file, "out": out}
        assert server.wait(server.start(changes, **where)) == 0, server.log.read_text()
        lines = server.log.read_text().splitlines()
        told.append(next((line for line in lines if line.startswith("resumed at")), "not begun yet: begun again"))
        print(number, "worker" if only_a_worker else "all", told[-1], flush=True)
        assert_same(out, tmp_path / f"whole-{only_a_worker}")
        assert not list(tmp_path.glob(f"{out.name}.*"))
        shutil.rmtree(out)
        for store in stores:  # who is killed cannot tidy up
            shutil.rmtree(store, ignore_errors=True)
    server.close()
    assert sum("round" in line for line in told) >= 5 and len(told) == KILLS
