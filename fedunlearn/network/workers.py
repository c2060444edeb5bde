"""A pool of persistent one-thread worker processes that share a host's store.

Torch is not imported here, so that workers can be started before their host is (:func:`started_early`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError

if TYPE_CHECKING:
    from fedunlearn.network.block import Block
    from fedunlearn.network.execute import Command

    Process = subprocess.Popen[str]

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
"""Settings of glibc: what a training step frees stays with the process, and the next step's memory is warm."""
_early: SimpleQueue[Process] = SimpleQueue()
"""Workers that have been started and belong to no host yet, or no longer."""
_keeping: list[bool] = []
"""One entry for every :func:`kept_on` that is entered."""


def default_workers() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _environment() -> dict[str, str]:
    """Return the workers' environment: one thread each, memory that stays, and this very package."""
    here = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)
    return {**_KEEP_MEMORY, **os.environ, **_ONE_THREAD, "PYTHONPATH": path}


def _start() -> Process:
    return subprocess.Popen(
        [sys.executable, "-m", "fedunlearn.network.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(),
    )


def _early_or_new() -> Process:
    with suppress(Empty):
        while True:
            process = _early.get_nowait()
            if process.poll() is None:
                return process
            _end([process])
    return _start()


@contextmanager
def started_early(count: int | None = None) -> Iterator[None]:
    """Start workers (default: one a core) that hosts made inside take over; those that none took are ended.

    A worker is busy for a second with importing torch. Entered before this process imports torch itself, both happen at
    the same time.
    """
    for _ in range(default_workers() if count is None else count):
        _early.put(_start())
    try:
        yield
    finally:
        _end_waiting()


@contextmanager
def kept_on() -> Iterator[None]:
    """Let hosts that are closed inside hand their workers to those that are opened later; in the end all are ended.

    For whoever opens many hosts one after another: starting a worker takes longer than a small training.
    """
    _keeping.append(True)
    try:
        yield
    finally:
        _keeping.pop()
        _end_waiting()


def _end_waiting() -> None:
    left = []
    with suppress(Empty):
        while True:
            left.append(_early.get_nowait())
            left[-1].kill()  # it may still be importing; there is nothing to finish
    _end(left)


def _end(processes: Sequence[Process]) -> None:
    for process in processes:
        if process.stdin is not None:
            with suppress(BrokenPipeError):  # a worker that died has nothing to be told
                process.stdin.close()
    for process in processes:
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


class Workers:
    """Runs commands on ranges of vertices, in worker processes or, with ``count = 0``, in this process.

    A worker is an ordinary Python process with pipes: nothing is forked, no main module is imported again, nothing is
    pickled.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._processes = [_early_or_new() for _ in range(count)]
        self._free: SimpleQueue[Process] = SimpleQueue()
        for process in self._processes:
            self._free.put(process)
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

    def shares(self, pieces: int) -> NDArray[np.float64]:
        """Return where to cut a piece of work for :meth:`run`, (pieces + 1,) rising from 0 to 1.

        With several pieces a worker, they get smaller towards the end, so that all workers end at nearly the same time:
        trapezoid self-scheduling (Tzeng and Ni, IEEE TPDS 1993). None is more than double the average.
        """
        left = np.arange(pieces, -1.0, -1.0)
        return 1.0 - (left / pieces if pieces <= self.count else left * (left + 1) / (pieces * (pieces + 1)))

    def run(self, commands: Sequence[Command]) -> list[dict[str, Any]]:
        """Carry out commands, each on the first worker that is free, and return their answers in order.

        Several threads may call this at once; their commands are taken in the order in which they came.
        """
        assert self._block is not None, "open() comes before run()"
        if not self._processes:
            from fedunlearn.models.extractor import one_thread  # these two import torch
            from fedunlearn.network.execute import execute

            with one_thread():
                return [execute(self._block, c) for c in commands]

        def one(command: Command) -> dict[str, Any]:
            process = self._free.get()
            try:
                return self._ask(process, command)
            finally:
                self._free.put(process)

        return list(self._threads.map(one, commands))

    @staticmethod
    def _ask(process: Process, command: Command) -> dict[str, Any]:
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
        """End the worker processes, or let them wait for other hosts (:func:`kept_on`)."""
        waiting = self._put_to_rest() if _keeping else []
        _end([process for process in self._processes if process not in waiting])
        for process in waiting:
            _early.put(process)
        self._processes = []
        self._threads.shutdown(wait=False)

    def _put_to_rest(self) -> list[Process]:
        """Make the workers that have nothing to do let go of the store; return those that did."""
        rested = []
        with suppress(Empty):
            while True:  # who is still busy is not free, and must not be given to anybody
                process = self._free.get_nowait()
                with suppress(UserError, RuntimeError):
                    self._ask(process, {"kind": "rest"})
                    rested.append(process)
        return rested
