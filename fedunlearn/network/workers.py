"""A pool of persistent one-thread worker processes that share a host's store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedunlearn.errors import UserError
from fedunlearn.models.extractor import one_thread
from fedunlearn.network.block import Block
from fedunlearn.network.execute import Command, execute

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def default_workers() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _environment() -> dict[str, str]:
    """Return the workers' environment: one thread each, and this very package, wherever it was imported from."""
    here = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)
    return {**os.environ, **_ONE_THREAD, "PYTHONPATH": path}


class Workers:
    """Runs commands on ranges of vertices, in worker processes or, with ``count = 0``, in this process.

    A worker is an ordinary Python process with pipes: nothing is forked, no main module is imported again, nothing is
    pickled. Two workers need about two seconds to import torch, while the data are being loaded here.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "fedunlearn.network.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=_environment(),
            )
            for _ in range(count)
        ]
        self._threads = ThreadPoolExecutor(max_workers=max(1, count))
        self._block: Block | None = None

    def open(self, block: Block) -> None:
        """Make the workers open the block's store."""
        self._block = block
        list(
            self._threads.map(
                lambda p: self._ask(p, {"kind": "open", "folder": str(block.store.folder)}), self._processes
            )
        )

    def run(self, commands: Sequence[Command]) -> list[dict[str, Any]]:
        """Carry out commands, each on the first worker that is free, and return their answers in order."""
        assert self._block is not None, "open() comes before run()"
        if not self._processes:
            with one_thread():
                return [execute(self._block, c) for c in commands]
        free = list(self._processes)

        def one(command: Command) -> dict[str, Any]:
            process = free.pop()
            try:
                return self._ask(process, command)
            finally:
                free.append(process)

        return list(self._threads.map(one, commands))

    @staticmethod
    def _ask(process: subprocess.Popen[str], command: Command) -> dict[str, Any]:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            raise UserError(
                f"a worker process ended with exit code {process.poll()} while it ran "
                f"'{command.get('program', command['kind'])}'; it may have run out of memory: try runtime.workers = 1"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise UserError(answer["error"])
        if "failure" in answer:
            raise RuntimeError(f"a worker failed:\n{answer['failure']}")
        return answer

    def close(self) -> None:
        """End the worker processes."""
        for process in self._processes:
            if process.stdin is not None:
                with suppress(BrokenPipeError):  # a worker that died has nothing to be told
                    process.stdin.close()
        for process in self._processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._processes = []
        self._threads.shutdown(wait=False)
