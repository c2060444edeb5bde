"""How much memory a run may use: what is free, what processes take, and what is left for the arrays of a host."""

from __future__ import annotations

from pathlib import Path

from fedunlearn.network.settings import RuntimeSettings

BASE_BYTES = 600 << 20
"""This process and its libraries."""
WORKER_BYTES = 250 << 20
"""One worker process and its libraries."""
_LEFT_FREE = 0.1
"""Share of what is free that a run without a budget of its own leaves to others."""


def available_bytes() -> int:
    """Return the memory that is free now, by the kernel's own estimate where there is one."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62


def room_for_arrays(runtime: RuntimeSettings, workers: int, data_bytes: int, hosts: int) -> int:
    """Return how many bytes of shared memory each of ``hosts`` hosts may fill with rows and samples.

    It is what ``runtime.memory_gb`` leaves after the processes and the data set (``data_bytes``), which are there
    already; without a budget it is nine tenths of what is free. What does not fit goes to files (``runtime.scratch``).
    """
    if runtime.memory_gb is None:
        room = int((1 - _LEFT_FREE) * available_bytes()) - workers * WORKER_BYTES
    else:
        room = int(runtime.memory_gb * 2**30) - BASE_BYTES - workers * WORKER_BYTES - data_bytes
    return max(0, room) // hosts
