"""The one kind of error that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 1500
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "could not create a primitive")


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


def out_of_memory(error: BaseException) -> UserError | None:
    """Return the sentence to end with if an error says that there was no memory, else None.

    Such errors are Python's own, and those of torch and the libraries below it, which have no class for them.
    """
    said = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    if not isinstance(error, MemoryError) and not (
        isinstance(error, RuntimeError | OSError) and any(words in said[0].lower() for words in _NO_MEMORY)
    ):
        return None
    return UserError(
        f"out of memory ({said[0][:200]}): set fewer runtime.workers or a smaller runtime.memory_gb, end other "
        "programs, or take a machine with more; a run that was broken off goes on with --resume"
    )


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the closest of the allowed words, or an empty string."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""


def listed(words: Iterable[object]) -> str:
    """Return the words as a readable list for an error message."""
    return ", ".join(str(word) for word in words)
