"""Peak memory of a process and all its descendants together.

Resident sizes of processes that share memory cannot be added: a mapped array would count once a process. Linux tells
the *proportional* set size of each, in which a page shared by k processes counts 1/k, so the sum over the tree counts
every page once. Where /proc is missing, ``ps`` gives resident sizes, whose sum is an upper bound.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROC = Path("/proc")


def descendants(pid: int) -> list[int]:
    """Return a process and all its living descendants, by Linux' lists of children."""
    found = [pid]
    for process in found:  # grows while it is gone through
        try:
            for thread in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{thread}/children") as children:
                    found += [int(child) for child in children.read().split()]
        except OSError:  # it has ended meanwhile
            continue
    return found


def proportional_kib(pid: int) -> int:
    """Return the proportional set size of a process in KiB, 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as sizes:
            return next((int(line.split()[1]) for line in sizes if line.startswith("Pss:")), 0)
    except OSError:
        return 0


def resident_kib(pid: int, listing: str) -> int:
    """Return the summed resident sizes of a process and its descendants in KiB, from ``ps -A -o pid=,ppid=,rss=``."""
    rows = [tuple(map(int, line.split())) for line in listing.splitlines() if line.strip()]
    tree, grown = {pid}, True
    while grown:
        more = {child for child, parent, _ in rows if parent in tree} - tree
        tree, grown = tree | more, bool(more)
    return sum(size for process, _, size in rows if process in tree)


def tree_kib(pid: int) -> tuple[int, int]:
    """Return the memory of a process tree in KiB, and how many processes it has."""
    if (_PROC / str(pid) / "smaps_rollup").exists():
        tree = descendants(pid)
        return sum(map(proportional_kib, tree)), len(tree)
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,rss="], capture_output=True, text=True).stdout
    return resident_kib(pid, listing), 0


class TreeMemory:
    """Watches the memory of this process and its descendants while it is open.

    Looking takes about ten milliseconds of a core for three processes with torch, so it is paused while something is
    timed.

    Attributes:
        every: seconds between looks; may be changed meanwhile.
        peak_mb: largest sum seen so far, in MB of 10^6 bytes.
        processes: number of processes when that was, 0 where only ``ps`` could tell.
        looks: how often it was looked.
        cost_s: processor seconds that looking took altogether.
    """

    def __init__(self, every: float = 0.3, pid: int | None = None) -> None:
        self.every, self.pid = every, pid or os.getpid()
        self.peak_mb, self.processes, self.looks, self.cost_s = 0.0, 0, 0, 0.0
        self._running, self._over = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> TreeMemory:
        self._running.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        self._over.set()
        self._running.set()
        self._thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not look by itself in here; on return one look that was under way has ended."""
        self._running.clear()
        with self._lock:
            pass
        try:
            yield
        finally:
            self._running.set()

    def look(self) -> None:
        """Look now."""
        with self._lock:
            began = time.thread_time()
            kib, processes = tree_kib(self.pid)
            if kib * 1024 / 1e6 > self.peak_mb:
                self.peak_mb, self.processes = kib * 1024 / 1e6, processes
            self.looks += 1
            self.cost_s += time.thread_time() - began

    def _watch(self) -> None:
        while not self._over.is_set():
            self._running.wait()
            if not self._over.is_set():
                self.look()
            self._over.wait(self.every)
