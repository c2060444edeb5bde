"""Programs that are started together and are all ended again, by their process ids, whatever happens."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from fedunlearn.errors import UserError
from fedunlearn.flower.places import Owner

_GRACE = 10.0
"""Seconds that programs get to end by themselves."""
_PR_SET_PDEATHSIG = 1


class Processes:
    """Programs with a log file each; use as a context manager, which ends them and all they have started."""

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs, self._environment = logs, dict(environment)
        self._running: list[subprocess.Popen[bytes]] = []
        self._names: dict[int, str] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program of this Python environment; what it prints goes to ``<logs>/<name>.log``."""
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [program(command[0]), *command[1:]], env=self._environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,  # Ctrl-C is for the one who started them
                preexec_fn=_end_with_parent,
            )  # fmt: skip
        self._running.append(process)
        self._names[process.pid] = name
        return process

    def dismiss(self, name: str) -> None:
        """Let programs of this name that have ended be expected to: :meth:`check` says nothing of them."""
        self._running = [p for p in self._running if self._names[p.pid] != name or p.poll() is None]

    def check(self, but: subprocess.Popen[bytes] | None = None) -> None:
        """Raise UserError if a program has ended that should not have; ``but`` may."""
        for process in self._running:
            if process is not but and process.poll() is not None:
                name = self._names[process.pid]
                raise UserError(f"'{name}' ended with exit code {process.returncode}; see the logs in {self._logs}")

    def end(self) -> None:
        """End all programs: ask them, wait, and kill those that are left, with whatever they had started."""
        family = [Owner.of(pid) for process in self._running for pid in _with_children(process.pid)]
        for process in reversed(self._running):
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline and not all(_ended(p) for p in self._running):
            time.sleep(0.05)
        for member in family:
            if not member.is_dead():
                with suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGKILL)
        for process in self._running:
            process.wait()
        self._running = []
        while time.monotonic() < deadline + _GRACE and not all(member.is_dead() for member in family):
            time.sleep(0.02)  # what a program had started is nobody's child now: it ends, but nobody can wait for it


def program(name: str) -> str:
    """Return the path of a program that came into this Python environment; UserError if it is not there."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise UserError(f"'{name}' is not beside {sys.executable}; install fedunlearn into this environment with pip")
    return str(path)


def free_ports(count: int) -> list[int]:
    """Return ports on this machine that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


def listens(port: int) -> bool:
    """Return whether somebody on this machine accepts connections at a port."""
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def _end_with_parent() -> None:
    """Let the kernel end this process when its parent ends, even by kill -9; on Linux only."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None


def _with_children(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for parent in found:  # grows while it is gone through
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                with suppress(OSError):
                    found += [int(child) for child in (task / "children").read_text().split()]
    return found
