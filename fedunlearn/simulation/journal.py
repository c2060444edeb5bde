"""When a run writes a checkpoint, and which vectors were noised: what makes an interrupted run go on.

A checkpoint is written after a stage of the story, or at a point of a learning curve, when so many seconds have passed
since the last one (``runtime.checkpoint_seconds``), and at most so often that it takes 2 % of the time. With secret
noise one follows every release at once, and all older ones are deleted, for they know what is to be forgotten; they are
deleted also where none can be written. What was noised is stored whatever ``runtime.checkpoints`` says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.network.memory import available_bytes
from fedunlearn.results.checkpoints import Checkpoints
from fedunlearn.results.files import cannot_write

SHARE = 0.02
"""Largest share of the time that goes into checkpoints."""
_BYTES_PER_SECOND = 1.5e8
"""How fast a checkpoint is read from the hosts, hashed and written, until the first one has shown it."""

RELEASED, MESSAGE = "release", "message"
"""Words for what is noised: what everybody holds in the end, or what everybody adds to a model of its own."""

Tell = Callable[[str], None]


@dataclass
class Journal:
    """The checkpoints of one run as it goes on; without ``checkpoints`` it writes nothing and knows nothing.

    Attributes:
        seconds: how long to go without a checkpoint at least.
        secret: whether noise is secret: then what was noised is stored before anybody receives it.
        tell: says a sentence to whoever watches the run.
    """

    checkpoints: Checkpoints | None
    seconds: float
    secret: bool
    tell: Tell
    _last: float = field(default_factory=time.monotonic)
    _rate: float = _BYTES_PER_SECOND
    _given_up: bool = False
    _warned: bool = False
    _answered: bool = False

    @property
    def active(self) -> bool:
        """Whether checkpoints are wanted and can be written at all."""
        return self.checkpoints is not None and self.checkpoints.states and not self._given_up

    def due(self, size: int) -> bool:
        """Return whether it is time for a checkpoint of about so many bytes."""
        if not self.active:
            return False
        least = 0.0 if self.seconds == 0 else size / self._rate / SHARE
        return time.monotonic() - self._last >= max(self.seconds, least)

    def write(self, state: Callable[[], dict[str, Any]], size: int, what: str, *, alone: bool = False) -> bool:
        """Store a state of about so many bytes; return whether that was done.

        One that cannot be written costs a sentence and not the run, and leaves the older ones as they were. Where
        requests have been answered since the last one, all older ones are deleted with it; with ``alone`` they are
        deleted in any case, and what was drawn stays.
        """
        written = self.active and self._try(state, size, what, alone)
        if alone and not written and self.checkpoints is not None:
            self.checkpoints.clear()
        return written

    def _try(self, state: Callable[[], dict[str, Any]], size: int, what: str, alone: bool) -> bool:
        assert self.checkpoints is not None
        if 2 * size > available_bytes():
            self._warn(f"no checkpoint: it would take {size / 2**30:.1f} GB of memory that is not there")
            return False
        began = time.monotonic()
        try:
            self._write(self.checkpoints, state(), what, alone)
        except OSError as error:
            self._warn(f"no checkpoint: {cannot_write(self.checkpoints.folder, error)}")
            self._last = time.monotonic()
            return False
        except TypeError as error:
            self._given_up = True
            self._warn(f"no checkpoint: {error}")
            return False
        self._last, self._answered = time.monotonic(), False
        self._rate = size / max(self._last - began, 1e-6)
        return True

    def _write(self, checkpoints: Checkpoints, state: dict[str, Any], what: str, alone: bool) -> None:
        try:
            checkpoints.write(state, what, alone=alone or self._answered)
        except OSError:
            if not alone:
                raise
            checkpoints.clear()  # they must not be there any longer, whether this one can be written or not
            checkpoints.write(state, what)

    def answered(self) -> None:
        """Note that a request was answered: older checkpoints know the deleted data, and go with the next one."""
        self._answered = True

    # --- noise -------------------------------------------------------------------------------------------------------

    def keep(self, key: str, vector: NDArray[np.float32]) -> None:
        """Store a noised vector before anybody receives it; noise that follows from the seed needs no storing.

        Raises:
            UserError: if it cannot be stored.
        """
        if self.checkpoints is None or not self.secret:
            return
        try:
            self.checkpoints.draw(key, vector)
        except OSError as error:
            raise cannot_write(self.checkpoints.folder, error) from None

    def kept(self, key: str) -> NDArray[np.float32] | None:
        """Return the noised vector that was stored under a key, None if there is none."""
        return None if self.checkpoints is None or not self.secret else self.checkpoints.drawn(key)

    def settle(self, releases: Iterable[int]) -> None:
        """Forget the messages of releases that a checkpoint has followed.

        A message that nodes add to models of their own is not the release: beside it, it tells the model before.
        """
        if self.checkpoints is None or not self.secret:
            return
        try:
            for release in releases:
                self.checkpoints.spend(key_of("main", release, MESSAGE))
        except OSError as error:
            why = cannot_write(self.checkpoints.folder, error)
            self._warn(f"a message that was sent stays beside its release: {why}")

    def _warn(self, sentence: str) -> None:
        if not self._warned:
            self._warned = True
            self.tell(sentence)


def key_of(world: str, release: int, what: str) -> str:
    """Return the key under which a noised vector of a world's release is stored, as a situation keeps it."""
    return f"{world} {release} {what}"


def silent() -> Journal:
    """Return a journal that writes nothing, for a story that is told in memory."""
    return Journal(None, 0.0, False, lambda sentence: None)
