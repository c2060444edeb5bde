"""The command ``fedunlearn``: one module for each group of commands, heavy imports only inside them."""

from __future__ import annotations

from fedunlearn.cli.application import app, main

__all__ = ["app", "main"]
