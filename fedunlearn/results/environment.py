"""What a run was computed with."""

from __future__ import annotations

import platform
from importlib import metadata

import fedunlearn

LIBRARIES = ("torch", "flwr", "numpy", "scipy", "networkx", "safetensors")
"""Installed packages whose version can change a number of a run."""


def versions() -> dict[str, str]:
    """Return versions of this package, Python, and the libraries that decide numbers, with processor and system.

    Nothing is imported for it; a library that is not installed is left out.
    """
    found = {"fedunlearn": fedunlearn.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "system": platform.system(), "machine": platform.machine()}
