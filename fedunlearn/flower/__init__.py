"""Flower carries the conductor's requests to the hosts; no other room knows about it.

The ServerApp (``server_app:app``) conducts, a ClientApp (``client_app:app``) is one host. :func:`run_local` lets both
work in one process over :class:`LocalGrid`; ``flwr run .`` starts the same two in Flower's own runtimes. Names are
imported on first use: a local run starts its workers before it loads Flower.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedunlearn.flower.grid import LocalGrid
    from fedunlearn.flower.local import run_local
    from fedunlearn.flower.transport import GridTransport, wait_for_nodes

_HOMES = {"GridTransport": "transport", "LocalGrid": "grid", "run_local": "local", "wait_for_nodes": "transport"}

__all__ = ["GridTransport", "LocalGrid", "run_local", "wait_for_nodes"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
