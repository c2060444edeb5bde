"""Flower carries the conductor's requests to the hosts; no other room knows about it.

The ServerApp (``server_app:app``) conducts, a ClientApp (``client_app:app``) is one host. :func:`run_local` lets both
work in one process over :class:`LocalGrid`; ``flwr run .`` starts the same two in Flower's own runtimes.
"""

from fedunlearn.flower.grid import LocalGrid
from fedunlearn.flower.local import run_local
from fedunlearn.flower.transport import GridTransport, wait_for_nodes

__all__ = ["GridTransport", "LocalGrid", "run_local", "wait_for_nodes"]
