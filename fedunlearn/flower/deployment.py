"""A real Flower deployment on this machine: a SuperLink with TLS, SuperNodes with keys of their own, and one run.

Everything that is made for it lies in one private folder, in shared memory where there is any, and goes when it ends.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp

import fedunlearn
from fedunlearn.data.split import CONDUCTOR
from fedunlearn.errors import UserError
from fedunlearn.flower.certificates import write_papers
from fedunlearn.flower.places import new_store
from fedunlearn.flower.processes import Processes, free_ports, listens, program
from fedunlearn.network.store import Store
from fedunlearn.network.workers import default_workers

_START_SECONDS = 60.0
_POLL = "0.1"
"""Seconds between two looks of Flower's SuperExec for work; by default one."""
_LINE = "fedunlearn: "
RUN_CONFIG = {"simulation": "", "overrides": "", "out": "", "resume": "", "store": "", "patience": 600}
"""Keys of the run configuration with their defaults, as in pyproject.toml."""


def deploy(
    simulation: Path, overrides: Sequence[str], out: Path, hosts: int, say: Callable[[str], None], *,
    data: Path | None = None, resume: Path | None = None,
) -> None:  # fmt: skip
    """Run an experiment on ``hosts`` SuperNodes of this machine and write its results to ``out``.

    ``say`` gets the lines of the run's log. ``data``: folder of files made by ``fedunlearn data split``, of which the
    conductor and each SuperNode read their own. ``resume``: folder of an unfinished run, which is gone on with and then
    called ``out``. Whatever happens, all programs that were started have ended when this returns; raises UserError with
    what went wrong.
    """
    if data is not None:
        missing = [n for n in (CONDUCTOR, *(f"host-{h}.npz" for h in range(hosts))) if not (data / n).is_file()]
        if missing:
            raise UserError(f"--data {data}: has no {missing[0]}; make it by `fedunlearn data split --hosts {hosts}`")
        overrides = [*overrides, f"data.parts={json.dumps(str((data / CONDUCTOR).resolve()))}"]
    with Deployment(hosts, data=data) as deployment:
        say(f"SuperLink at {deployment.address} with TLS, {hosts} SuperNodes with keys of their own")
        deployment.run(simulation, overrides, out, say, resume)


class Deployment:
    """A SuperLink and its SuperNodes on this machine; use as a context manager, which ends them all."""

    def __init__(self, hosts: int, *, data: Path | None = None) -> None:
        self.hosts, self._data = hosts, data
        self.place = new_store(os.getpid())  # noted as ours, so that a later run removes it should we be killed
        self.logs, self.stores = self.place / "logs", self.place / "stores"
        self.logs.mkdir()
        self.papers = write_papers(self.place / "keys", ["127.0.0.1", "localhost"], hosts)
        self._ports = free_ports(1 + hosts)
        self.address = f"127.0.0.1:{self._ports[0]}"
        self.environment = self._make_environment()
        self.processes = Processes(self.logs, self.environment)

    def __enter__(self) -> Deployment:
        try:
            self._start_superlink()
            for host in range(self.hosts):
                self._register(host)
                self.start_supernode(host)
        except BaseException as error:
            self.__exit__(type(error), error)
            raise
        return self

    def __exit__(self, kind: object, error: object, *_: object) -> None:
        self.processes.end()
        kept = _keep_logs(self.logs) if error is not None else None
        Store(self.place).remove()
        if isinstance(error, UserError) and kept is not None:
            raise UserError(f"{str(error).replace(str(self.logs), str(kept))} (logs: {kept})") from None

    def _make_environment(self) -> dict[str, str]:
        """Return the environment of all programs: a Flower home of its own, which names the SuperLink ``here``."""
        home = self.place / "home"
        home.mkdir()
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{self.address}"\n'
            f"root-certificates = {json.dumps(str(self.papers.authority))}\n"
        )
        path = os.pathsep.join(p for p in (str(Path(program("flwr")).parent), os.environ.get("PATH")) if p)
        return {
            **os.environ, "PATH": path, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _POLL, "PYTHONUNBUFFERED": "1",
        }  # fmt: skip

    def _start_superlink(self) -> None:
        papers, port = self.papers, self._ports[0]
        self.processes.start(
            "superlink",
            [
                "flower-superlink", "--ssl-ca-certfile", str(papers.authority), "--ssl-certfile",
                str(papers.certificate), "--ssl-keyfile", str(papers.key), "--enable-supernode-auth",
                "--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(port),
            ],
        )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while not listens(port):
            self.processes.check()
            if time.monotonic() > deadline:
                raise UserError(f"the SuperLink does not answer after {_START_SECONDS:g} s")
            time.sleep(0.1)

    def _register(self, host: int) -> None:
        public = self.papers.supernodes[host][1]
        command = [program("flwr"), "supernode", "register", str(public), "here", "--name", f"host-{host}"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise UserError(f"the key of host {host} could not be registered: {(done.stdout + done.stderr)[-300:]}")

    def start_supernode(self, host: int) -> subprocess.Popen[bytes]:
        """Start the SuperNode of a host, with its own key: for the first time, or again."""
        workers = default_workers() // self.hosts
        config: dict[str, str | int] = {"store": str(self.stores)}
        if workers > 1:
            config["workers"] = workers
        if self._data is not None:
            config["data"] = str((self._data / f"host-{host}.npz").resolve())
        return self.processes.start(
            f"host-{host}",
            [
                "flower-supernode", "--superlink", self.address, "--root-certificates", str(self.papers.authority),
                "--auth-supernode-private-key", str(self.papers.supernodes[host][0]),
                "--host", "127.0.0.1", "--port", str(self._ports[1 + host]),
                "--node-config", " ".join(f"{key}={json.dumps(value)}" for key, value in config.items()),
            ],
        )  # fmt: skip

    def run(
        self, simulation: Path, overrides: Sequence[str], out: Path, say: Callable[[str], None],
        resume: Path | None = None,
    ) -> None:  # fmt: skip
        """Submit a run, pass on its lines, and raise UserError with the sentence that ended it without results."""
        before = self.logs / "run.log"
        begins = before.stat().st_size if before.exists() else 0
        run = self.submit(simulation, overrides, out, resume)
        last = ""
        with (self.logs / "run.log").open(errors="replace") as log:
            log.seek(begins)
            while True:
                ended = run.poll() is not None
                for line in log.read().splitlines():
                    if line.startswith(_LINE):
                        last = line.removeprefix(_LINE)
                        say(last)
                if ended:
                    break
                self.processes.check(but=run)
                time.sleep(0.2)
        if not (out / "summary.json").is_file():
            raise UserError(last or "the run ended without results")

    def submit(
        self, simulation: Path, overrides: Sequence[str], out: Path, resume: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Submit a run and return the program that streams its log to ``<logs>/run.log``, until it ends."""
        wrong = [o for o in overrides if ";" in o]
        if wrong:
            raise UserError(f"--set {wrong[0]}: a value with ';' cannot be sent in a run configuration")
        chosen = {
            "simulation": str(simulation.resolve()), "out": str(out.resolve()),
            "overrides": ";".join([*overrides, f"runtime.hosts={self.hosts}"]),
            "resume": "" if resume is None else str(resume.resolve()),
        }  # fmt: skip
        self.processes.dismiss("run")
        config, app = self.place / "run.toml", self.place / "app"
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in chosen.items()))
        app = app if app.exists() else write_app(app)
        command = ["flwr", "run", str(app), "here", "--stream", "--run-config", str(config)]
        return self.processes.start("run", command)


def write_app(folder: Path) -> Path:
    """Write what ``flwr run`` submits, this package and its Flower settings, into a folder of its own."""
    source = Path(fedunlearn.__file__).parent
    shutil.copytree(source, folder / "fedunlearn", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    config = "\n".join(f"{key} = {json.dumps(value)}" for key, value in RUN_CONFIG.items())
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "fedunlearn"\nversion = "{fedunlearn.__version__}"\ndescription = "deletion requests"\n'
        'license = "Apache-2.0"\ndependencies = []\n'
        '[tool.flwr.app]\npublisher = "fedunlearn"\nfab-include = ["fedunlearn/**/*.py"]\n'
        '[tool.flwr.app.components]\nserverapp = "fedunlearn.flower.server_app:app"\n'
        f'clientapp = "fedunlearn.flower.client_app:app"\n[tool.flwr.app.config]\n{config}\n'
    )
    return folder


def _keep_logs(logs: Path) -> Path | None:
    if not logs.is_dir() or not any(logs.iterdir()):
        return None
    kept = Path(mkdtemp(prefix="fedunlearn-logs-"))
    shutil.copytree(logs, kept, dirs_exist_ok=True)
    return kept
