"""Where hosts' stores lie, whose they are, and which of them nobody will ask for again.

A store notes its owner: the process whose end makes it useless. That is this process for a local run, Ray's own process
on the machine for the simulation runtime, the SuperNode for the deployment runtime. Whoever makes a store removes those
of dead owners in the same place. A SuperNode may come back after it was killed, so its stores are kept for a day.

Beside the stores of a session lies a *token*, a small file of random letters, by which hosts know that they see the
same folder. It goes with the last of the session's stores.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import stat
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from fedunlearn.errors import UserError
from fedunlearn.network.store import Store, new_folder

LASTING = "one-process"
"""Key of a node configuration: all messages to the SuperNode come to this one process."""
OWNER = "owner"
KEPT_SECONDS = 24 * 3600.0
"""How long the store of a SuperNode that is gone waits for it."""
_PREFIX = "fedunlearn-"
_SESSION = re.compile(r"[0-9a-f]{32}")
_NAMED = re.compile(rf"\.?{_PREFIX}([0-9a-f]{{32}})-.*")
"""The name of a SuperNode's store, or of a token."""
_PROC = Path("/proc")


@dataclass(frozen=True)
class Owner:
    """A process, named so that no other is taken for it: a process id is given again, its start time is not."""

    pid: int
    started: str
    boot: str
    namespace: str
    machine: str

    @classmethod
    def of(cls, pid: int) -> Owner:
        """Return the owner that the running process ``pid`` is."""
        return cls(pid, _start_time(pid) or "", _boot(), _namespace(), platform.node())

    def is_dead(self) -> bool:
        """Return whether the process has certainly ended; where this cannot be known from here, it has not."""
        if (self.machine, self.namespace) != (platform.node(), _namespace()):
            return False
        if not (_PROC / "self").exists():
            return not _exists(self.pid)
        return self.boot != _boot() or _start_time(self.pid) != self.started


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_time(pid: int) -> str | None:
    """Return when a process began, in clock ticks since the machine did; None if there is no such process."""
    fields = _status(pid)
    return None if fields is None or fields[0] in "ZX" else fields[19]


def _status(pid: int) -> list[str] | None:
    """Return what the kernel tells of a process, from its state on; its name may hold spaces and brackets."""
    with suppress(OSError):
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return None


def _boot() -> str:
    with suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return ""


def _namespace() -> str:
    with suppress(OSError):
        return os.readlink(_PROC / "self/ns/pid")
    return ""


def owner_of_stores() -> tuple[int, bool]:
    """Return the process that owns the stores made by this ClientApp, and whether it may come back for them.

    On Ray that is Ray's process on this machine, the parent of its actors: it never comes back. Elsewhere it is the
    SuperNode, an ancestor of this process; where none is found, the parent.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return os.getppid(), False
    return _supernode(), True


def _supernode() -> int:
    pid = os.getppid()
    while pid > 1:
        with suppress(OSError):
            if (_PROC / str(pid) / "comm").read_text().startswith("flower-supernod"):  # the kernel keeps 15 letters
                return pid
        fields = _status(pid)
        pid = int(fields[1]) if fields is not None else 0
    return os.getppid()


# --- stores --------------------------------------------------------------------------------------------------------


def new_store(owner: int, *, root: Path | None = None, session: str = "", host: int = 0, kept: bool = False) -> Path:
    """Make a private folder that process ``owner`` owns, after stores of dead owners beside it were removed.

    With a ``root`` it is named after session and host, so that :func:`find_store` finds it. ``kept``: a dead owner may
    come back for it within a day. Raises UserError where the folder cannot be made.
    """
    if root is None:
        folder = new_folder()
    else:
        folder = _named(root, session, host)
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise UserError(f"store = '{root}': cannot make a folder there ({error.strerror}); name another") from None
    Store(folder).write_json(OWNER, {**asdict(Owner.of(owner)), "kept": kept})
    remove_stale(folder.parent, but=folder)
    return folder


def find_store(root: Path, session: str, host: int) -> Path | None:
    """Return the folder that :func:`new_store` made for a host of a session, if it is there and is this user's."""
    folder = _named(root, session, host)
    return folder if _is_mine(folder) else None


def place_of(root: Path, session: str) -> str:
    """Return a name that is the same for all hosts of a session that find each other's stores below ``root``.

    That is the folder itself, as one running system knows it, whose it is, and the session's token in it; the name
    tells nothing else of them. Empty, which stands for no place, where one of these cannot be known: hosts then read
    nothing of each other.
    """
    there, boot, token = root.stat(), _boot(), _token(root, session)
    known = (session, boot, there.st_dev, there.st_ino, os.geteuid(), token)
    return hashlib.sha256(" ".join(map(str, known)).encode()).hexdigest() if boot and token else ""


def _token(root: Path, session: str) -> str:
    """Return what the token of a session says, made now if there is none; empty unless it is this user's own.

    Machines that were restored from one snapshot, or share a disk, have the same names for a folder, and containers the
    same number for their users: none of them has a file that another one made since, and owns it.
    """
    path = root / f".{_PREFIX}{session}-{os.geteuid()}"
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with suppress(OSError):  # another host may have been first
        written = os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
        try:
            with written:
                written.write(secrets.token_hex(32))
            os.link(fresh, path)
        finally:
            fresh.unlink()
    with (
        suppress(OSError, UnicodeDecodeError),
        os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as token,
    ):
        status = os.fstat(token.fileno())
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            return token.read(64)
    return ""


def adopt(folder: Path, owner: int, kept: bool) -> None:
    """Note a new owner of a store: its SuperNode was started again."""
    Store(folder).write_json(OWNER, {**asdict(Owner.of(owner)), "kept": kept})


def store_root(node: str, run: str) -> Path:
    """Return the folder for stores, made if need be: the SuperNode's own ``store``, the run's, or the default place.

    The run's must be an absolute path: it is read in processes that were started in different folders.
    """
    if not node and run and not Path(run).expanduser().is_absolute():
        raise UserError(f"run config: store = '{run}' must be an absolute path: hosts are started in different folders")
    if not node and not run:
        shared = Path("/dev/shm")
        return shared if shared.is_dir() and os.access(shared, os.W_OK) else Path(gettempdir())
    root = Path(node or run).expanduser()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"store = '{root}' is not a folder that can be made ({error.strerror}); name another") from None
    if not os.access(root, os.W_OK | os.X_OK):
        raise UserError(f"store = '{root}' is not a folder that can be written to; name another")
    return root


def remove_store(folder: Path) -> None:
    """Remove a store, and the token of its session if it was the last one there."""
    Store(folder).remove()
    named = _NAMED.fullmatch(folder.name)
    if named is not None and not any(folder.parent.glob(f"{_PREFIX}{named[1]}-*")):
        with suppress(OSError):
            (folder.parent / f".{_PREFIX}{named[1]}-{os.geteuid()}").unlink()


def remove_stale(root: Path, *, but: Path | None = None) -> list[Path]:
    """Remove the stores below ``root`` whose owners are dead, and return them; tokens without a store go after a day.

    Left alone: stores of other users, of other machines and of other containers, those that note no owner, and those of
    SuperNodes that were used in the last day.
    """
    removed = []
    for folder in root.glob(f"{_PREFIX}*"):
        if folder != but and _is_mine(folder) and _is_stale(folder):
            remove_store(folder)
            removed.append(folder)
    for token in root.glob(f".{_PREFIX}*"):
        with suppress(OSError):  # another user's, or just being removed
            named, age = _NAMED.fullmatch(token.name), time.time() - token.lstat().st_mtime
            if named is not None and age > KEPT_SECONDS and not any(root.glob(f"{_PREFIX}{named[1]}-*")):
                token.unlink()
    return removed


def _is_stale(folder: Path) -> bool:
    try:
        note: dict[str, Any] = Store(folder).read_json(OWNER)
        kept = bool(note.pop("kept"))
        dead = Owner(**{**note, "pid": int(note["pid"])}).is_dead()
        last = max(entry.stat().st_mtime for entry in folder.glob("*.json"))
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError):
        return False  # another program's, or just being made or removed
    return dead and not (kept and time.time() - last < KEPT_SECONDS)


def _is_mine(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.geteuid()


def _named(root: Path, session: str, host: int) -> Path:
    if not _SESSION.fullmatch(session) or host < 0:  # they come with a message and become part of a path
        raise UserError(f"a message names session '{session[:40]}' and host {host}, which no conductor sends")
    return root / f"{_PREFIX}{session}-{host}"
