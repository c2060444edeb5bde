"""The network engine: a population of models as rows of one store, and the bulk primitives methods are written against.

``Session`` opens the hosts, ``Network`` is one population on a graph, ``train`` runs a recipe on it. Names are imported
on first use: a worker process needs few of them, and the command line reads settings without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedunlearn.network.network import Network
    from fedunlearn.network.session import Session
    from fedunlearn.network.settings import LinkSettings, RuntimeSettings, TrainingSettings
    from fedunlearn.network.training import train, train_together
    from fedunlearn.network.transport import Reply, Request, Transport

_HOMES = {
    "LinkSettings": "settings",
    "Network": "network",
    "Reply": "transport",
    "Request": "transport",
    "RuntimeSettings": "settings",
    "Session": "session",
    "TrainingSettings": "settings",
    "Transport": "transport",
    "train": "training",
    "train_together": "training",
}

__all__ = [
    "LinkSettings",
    "Network",
    "Reply",
    "Request",
    "RuntimeSettings",
    "Session",
    "TrainingSettings",
    "Transport",
    "train",
    "train_together",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
