"""The one kind of error that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 1500


class UserError(Exception):
    """A mistake in what was asked, told in one sentence: what, where, its value, and what is allowed.

    What a file or a message holds may be quoted in it: it is one line of printable characters whatever that was, and
    the middle of a very long one is left out.
    """

    def __init__(self, sentence: object = "") -> None:
        text = str(sentence)
        if not text.isprintable():
            text = "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
        if len(text) > _LONGEST:
            text = f"{text[: 2 * _LONGEST // 3]} ... {text[-_LONGEST // 3 :]}"
        super().__init__(text)


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the closest of the allowed words, or an empty string."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""


def listed(words: Iterable[object]) -> str:
    """Return the words as a readable list for an error message."""
    return ", ".join(str(word) for word in words)
