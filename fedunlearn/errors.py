"""The one kind of error that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what was asked, told in one sentence: what, where, its value, and what is allowed."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the closest of the allowed words, or an empty string."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""


def listed(words: Iterable[object]) -> str:
    """Return the words as a readable list for an error message."""
    return ", ".join(str(word) for word in words)
