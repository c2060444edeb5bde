"""What a host has done: one small file in its store, so that no message is carried out twice or after a lost one.

A message is *begun*, then carried out, then *done*, and its reply is kept until the next is done. Delivered again, it
is answered from here. Begun but not done means that a process ended half-way: nobody knows which rows it had changed,
so the host says so and does nothing more; its store can still be deleted. One process at a time holds the journal.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from fedunlearn.errors import UserError
from fedunlearn.network.store import Store
from fedunlearn.network.transport import Reply

_NAME, _LOCK, _REPLY = "journal", "journal.lock", "journal.reply.npz"
_PAGE, _PAGES = 4096, 16
RESUME = "resume the run from its last checkpoint"


class Journal:
    """The journal of one host's store; every method is for the process that holds it (:meth:`held`)."""

    def __init__(self, folder: Path, session: str, host: int) -> None:
        self.folder, self.session, self.host = folder, session, host
        self._store = Store(folder)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the journal; waits for a process of this host that is still at work, which the kernel knows to end."""
        with (self.folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def open(self) -> None:
        """Begin a journal in a new store: nothing is done."""
        self._write(begun=-1, done=-1, error=None, state="")

    def answer(self, sequence: int, checksum: str | None = None) -> Reply | None:
        """Return the reply to a message that is done already, or None for the one that is to be carried out now.

        ``checksum``: what the SuperNode remembers of the store's state, if it remembers anything. Raises the UserError
        that was the reply, or one that says why the message cannot be carried out.
        """
        notes = self._read()
        begun, done = int(notes["begun"]), int(notes["done"])
        self._refuse_others(notes)
        if begun != done:
            raise UserError(
                f"host {self.host} was stopped in the middle of message {begun}: nobody knows which rows it had "
                f"changed; {RESUME}"
            )
        if sequence not in (done, done + 1):
            raise UserError(
                f"host {self.host} got message {sequence} after message {done}, which is not its turn; {RESUME}"
            )
        if checksum is not None and sequence == done + 1 and checksum != notes["state"]:
            raise UserError(f"the store {self.folder} is not as host {self.host} left it; {RESUME}")
        if notes["state"] != self._checksum(done):
            raise UserError(f"the store {self.folder} of host {self.host} was changed by somebody else; {RESUME}")
        if sequence == done:
            return self._reply(notes)
        return None

    def is_done(self, sequence: int) -> bool:
        """Return whether a message is done; False where nobody has begun a journal."""
        with suppress(UserError):
            return int(self._read()["done"]) >= sequence
        return False

    def check_owner(self) -> None:
        """Raise UserError if the store is another host's; one that tells nobody's name is taken for this host's."""
        try:
            notes = self._read()
        except UserError:
            return
        self._refuse_others(notes)

    def begin(self, sequence: int) -> None:
        """Note that a message is being carried out."""
        notes = self._read()
        self._write(begun=sequence, done=int(notes["done"]), error=None, state=notes["state"])

    def finish(self, sequence: int, outcome: Reply | UserError) -> str:
        """Note that a message is done and keep its reply; returns the checksum of the store's state."""
        error = str(outcome) if isinstance(outcome, UserError) else None
        heads = None
        if isinstance(outcome, Reply):
            parts = [*outcome.before, outcome]
            arrays = {f"{i}/{name}": a for i, part in enumerate(parts) for name, a in part.arrays.items()}
            temporary = self.folder / f".{_REPLY}"
            with suppress(OSError):  # no room: the reply still travels, only a second delivery would be refused
                with temporary.open("wb") as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
                os.replace(temporary, self.folder / _REPLY)
                heads = [part.params for part in parts]
            temporary.unlink(missing_ok=True)
        state = self._checksum(sequence)
        self._write(begun=sequence, done=sequence, error=error, state=state, reply=heads)
        return state

    # --- the file ----------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        try:
            notes: dict[str, Any] = self._store.read_json(_NAME)
        except (OSError, ValueError):
            raise UserError(f"the store {self.folder} of host {self.host} is gone or damaged; {RESUME}") from None
        return notes

    def _refuse_others(self, notes: dict[str, Any]) -> None:
        if (notes["session"], notes["host"]) != (self.session, self.host):
            raise UserError(f"the store {self.folder} belongs to another host or session; {RESUME}")

    def _write(self, **notes: Any) -> None:
        self._store.write_json(_NAME, {"session": self.session, "host": self.host, **notes})

    def _reply(self, notes: dict[str, Any]) -> Reply:
        if notes["error"] is not None:
            raise UserError(notes["error"])
        heads = notes.get("reply")
        if heads is None:
            raise UserError(f"host {self.host} had no room to keep its reply to message {notes['done']}; {RESUME}")
        arrays: list[dict[str, np.ndarray]] = [{} for _ in heads]
        with np.load(self.folder / _REPLY, allow_pickle=False) as file:  # which refuses everything but plain arrays
            for key in file.files:
                part, _, name = key.partition("/")
                arrays[int(part)][name] = file[key]
        *before, last = [Reply(params, part) for params, part in zip(heads, arrays)]
        return Reply(last.params, last.arrays, tuple(before))

    def _checksum(self, sequence: int) -> str:
        """Return a hash of what identifies the store's state: session, host, message, and of every array its name,
        size and sixteen pages spread over it. It tells one state from another; it is no proof of every byte."""
        digest = hashlib.sha256(f"{self.session} {self.host} {sequence}".encode())
        for path in sorted(self.folder.glob("*.npy")):
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(f"{path.name} {size}".encode())
                for at in sorted({(size - _PAGE) * i // (_PAGES - 1) for i in range(_PAGES)} if size > _PAGE else {0}):
                    file.seek(at)
                    digest.update(file.read(_PAGE))
        return digest.hexdigest()
