"""Simulate deletion requests in a network that learns, with certificates you can check.

The three public names are imported when they are first used, so that ``import fedunlearn`` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedunlearn.api import run
    from fedunlearn.config import Experiment, load_experiment

__version__ = "0.5.0"
__all__ = ["Experiment", "__version__", "load_experiment", "run"]

_HOMES = {"run": "fedunlearn.api", "Experiment": "fedunlearn.config", "load_experiment": "fedunlearn.config"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fedunlearn' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
