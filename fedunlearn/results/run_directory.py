"""The folder of one run: written under another name, renamed when it is complete.

While a run is going on its files lie in ``<out>.partial-XXXXXXXX``. :meth:`RunDirectory.finish` checks that nothing
is missing and renames that folder to ``<out>`` in one step; a run that ends in an error leaves it as ``<out>.failed``.
So a folder named ``<out>`` is always a whole run, whenever the program was stopped. A folder of the other two names is
taken up again by :meth:`RunDirectory.resume`; a lock that ends with its process says which run is still going on.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.privacy import Certificate, write_certificates
from fedunlearn.results.checkpoints import FOLDER as CHECKPOINTS
from fedunlearn.results.checkpoints import holds_work
from fedunlearn.results.files import cannot_write, lined_json, readable_json, write_atomically
from fedunlearn.results.metrics import MetricRow, metrics_csv
from fedunlearn.results.run_names import (
    CERTIFICATES,
    FAILURE,
    FIGURES,
    LEDGER,
    LEDGER_SCHEMA,
    METRICS,
    MODELS,
    REQUIRED,
    SETTINGS,
    SUMMARY,
    finished_name,
    is_run,
    unfinished,
)
from fedunlearn.results.schema import check_summary
from fedunlearn.results.vectors import vector_bytes

FAILURE_SCHEMA = "fedunlearn/failure/1"
_LOCK, _COMPLETE = ".lock", ".complete"


class RunDirectory:
    """The files of a run that is being made.

    As a context manager it finishes the folder when the block ends well and calls :meth:`fail` when it does not::

        with RunDirectory.create("runs/quickstart") as run:
            run.write_settings(text)
            ...

    Attributes:
        out: the folder's name once the run is complete.
        path: where the files are now.
    """

    def __init__(self, out: Path, path: Path, overwrite: bool) -> None:
        self.out, self.path = out, path
        self._overwrite = overwrite
        self._lock = _locked(path)
        self._open = True

    @classmethod
    def create(cls, out: Path | str, *, overwrite: bool = False, settings: str | None = None) -> RunDirectory:
        """Start the folder of a run. An existing ``out`` stays untouched until the new run is complete.

        Args:
            out: name of the finished folder; its parents are made.
            overwrite: whether a finished or failed run of that name may be replaced.
            settings: text of ``settings.toml``; there is then no moment at which the folder lacks it.

        Raises:
            UserError: if ``out`` exists (with ``overwrite``: and is not a run), or nothing can be written there.
        """
        out = Path(out)
        _refuse_taken(out, overwrite)
        token = secrets.token_hex(4)
        path = out.with_name(f"{out.name}.partial-{token}" if settings is None else f".{out.name}.{token}")
        try:
            path.mkdir(parents=True)
            (path / MODELS).mkdir()
            (path / FIGURES).mkdir()
            run = cls(out, path, overwrite)
            if settings is not None:
                run.write_settings(settings)
                run._rename(out.with_name(f"{out.name}.partial-{token}"))
        except (OSError, UserError) as error:
            shutil.rmtree(path, ignore_errors=True)
            raise error if isinstance(error, UserError) else cannot_write(out, error) from None
        return run

    @classmethod
    def resume(cls, name: Path | str) -> RunDirectory:
        """Take up an unfinished run: ``<out>.partial-XXXXXXXX``, ``<out>.failed``, or for ``<out>`` the newest.

        Raises:
            UserError: if there is none, it is finished, is still going on, or holds no settings.
        """
        path = unfinished(name)
        out = finished_name(path)
        _refuse_taken(out, overwrite=False)
        if not (path / SETTINGS).is_file():
            raise UserError(f"'{path}': has no {SETTINGS}, so there is nothing to go on from; start the run again")
        try:
            run = cls(out, path, overwrite=False)
            if path.name.endswith(".failed"):
                run._rename(out.with_name(f"{out.name}.partial-{secrets.token_hex(4)}"))
            (run.path / FAILURE).unlink(missing_ok=True)
            for leftover in [*run.path.glob(".*"), *(run.path / MODELS).glob(".*")]:
                if leftover.name not in (_LOCK, _COMPLETE):  # what was being written when the run was stopped
                    leftover.unlink()
            for folder in (MODELS, FIGURES):
                (run.path / folder).mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from None
        return run

    def _rename(self, path: Path) -> None:
        os.rename(self.path, path)
        self.path = path

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.fail(error)

    @property
    def figures(self) -> Path:
        """The folder that figures go to."""
        return self.path / FIGURES

    def write_settings(self, text: str) -> Path:
        """Write ``settings.toml``, the resolved settings as :func:`fedunlearn.config.dump_toml` gives them."""
        if "schema" not in tomllib.loads(text):
            raise ValueError("settings.toml must name its schema")
        return self._write(SETTINGS, text.encode())

    def read_settings(self) -> str:
        """Return ``settings.toml`` as it was written; UserError if it cannot be read."""
        try:
            return (self.path / SETTINGS).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path / SETTINGS}: cannot be read ({error})") from None

    def write_summary(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Check a summary against the schema, write ``summary.json``, and return what was written.

        Raises:
            ValueError: if an entry is missing or of the wrong kind.
        """
        checked = check_summary(summary)
        self._write(SUMMARY, readable_json(checked).encode())
        return checked

    def write_metrics(self, rows: Iterable[MetricRow]) -> Path:
        """Write ``metrics.csv``."""
        return self._write(METRICS, metrics_csv(rows).encode())

    def write_certificates(self, certificates: Sequence[Certificate]) -> Path:
        """Write ``certificate.json``; an empty list says that nothing was certified."""
        write_certificates(self.path / CERTIFICATES, certificates)
        return self.path / CERTIFICATES

    def write_ledger(self, ledger: Mapping[str, Any]) -> Path:
        """Write ``ledger.json``, every record and every graph on a line of its own."""
        return self._write(LEDGER, lined_json({"schema": LEDGER_SCHEMA, **ledger}).encode())

    def write_model(self, name: str, theta: NDArray[Any], info: Mapping[str, Any]) -> Path:
        """Write ``models/<name>.safetensors`` with the vector (d,) as float32 and a table that says what it is.

        Raises:
            ValueError: if the name is more than letters, digits, ``-``, ``_``, or the vector is not flat and finite.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ValueError(f"'{name}' cannot be the name of a model file")
        return self._write(f"{MODELS}/{name}.safetensors", vector_bytes(theta, info))

    def finish(self) -> Path:
        """Give the complete folder its name and return it.

        Raises:
            RuntimeError: if a required file was not written.
            UserError: if the name was taken in the meantime; the complete results then stay where they are.
        """
        missing = [name for name in REQUIRED if not (self.path / name).is_file()]
        if missing or not self._open:
            raise RuntimeError(
                f"the run in {self.path} is not complete: {', '.join(missing) or 'it was closed before'}"
            )
        self._write(_COMPLETE, b"")  # from here on nothing is computed again, whenever the program is stopped
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)
        (self.path / _LOCK).unlink(missing_ok=True)
        try:
            _refuse_taken(self.out, self._overwrite)
            _replace(self.path, self.out)
        except (OSError, UserError) as error:
            raise UserError(f"the complete results are in '{self.path}', for '{self.out}' was taken: {error}") from None
        self.path, self._open = self.out, False
        (self.path / _COMPLETE).unlink(missing_ok=True)
        self._release()
        return self.out

    @property
    def complete(self) -> bool:
        """Whether everything was computed and written, and only the name is missing."""
        return (self.path / _COMPLETE).is_file()

    def fail(self, error: BaseException | str) -> Path | None:
        """Leave what there is as ``<out>.failed`` with a ``failure.json``, in place of an earlier failure of that name.

        Returns the folder, or None when the run was closed before. Never raises: it is called while an error travels.
        """
        if not self._open:
            return None
        self._open = False
        sentence = str(error) or type(error).__name__
        failed = self.out.with_name(f"{self.out.name}.failed")
        try:
            self._write(FAILURE, readable_json({"schema": FAILURE_SCHEMA, "error": sentence}).encode())
            if failed.exists() and (not (failed / FAILURE).is_file() or holds_work(failed)):
                return self.path  # it is somebody else's, or can be resumed itself
            _replace(self.path, failed)
            self.path = failed
        except (OSError, UserError):
            pass
        finally:
            self._release()
        return self.path

    def _release(self) -> None:
        with suppress(OSError):
            (self.path / _LOCK).unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write(self, name: str, content: bytes) -> Path:
        try:
            write_atomically(self.path / name, content)
        except OSError as error:
            raise cannot_write(self.path / name, error) from None
        return self.path / name


def _locked(path: Path) -> int | None:
    """Lock a run's folder for this process, for as long as it lives; None where the system has no such locks.

    Raises:
        UserError: if another process has it: that run is still going on.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"'{path}': is a run that is still going on") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def _refuse_taken(out: Path, overwrite: bool) -> None:
    try:
        free = not out.exists() or (out.is_dir() and not any(out.iterdir()))
        replaceable = out.is_dir() and (is_run(out) or (out / FAILURE).is_file())
    except OSError as error:
        raise cannot_write(out, error) from None
    if free or (overwrite and replaceable):
        return
    if overwrite:
        raise UserError(f"'{out}' exists and is not a run directory (allowed: a new name, or the folder of a run)")
    raise UserError(f"'{out}' exists already (allowed: a new or empty folder)")


def _replace(path: Path, target: Path) -> None:
    """Rename a folder to a name that may be taken; the former folder is back in place if that fails."""
    former = target.with_name(f"{target.name}.replaced-{secrets.token_hex(4)}") if target.exists() else None
    if former is not None:
        os.rename(target, former)
    try:
        os.rename(path, target)
    except OSError:
        if former is not None:
            os.rename(former, target)
        raise
    if former is not None:
        shutil.rmtree(former, ignore_errors=True)
