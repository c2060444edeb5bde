"""The folder of one run: written under another name, renamed when it is complete.

While a run is going on its files lie in ``<out>.partial-XXXXXXXX``. :meth:`RunDirectory.finish` checks that nothing
is missing and renames that folder to ``<out>`` in one step; a run that ends in an error leaves it as ``<out>.failed``.
So a folder named ``<out>`` is always a whole run, whenever the program was stopped.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.privacy import Certificate, write_certificates
from fedunlearn.results.files import cannot_write, lined_json, readable_json, write_atomically
from fedunlearn.results.metrics import MetricRow, metrics_csv
from fedunlearn.results.schema import check_summary
from fedunlearn.results.vectors import vector_bytes

LEDGER_SCHEMA = "fedunlearn/ledger/2"
FAILURE_SCHEMA = "fedunlearn/failure/1"

SETTINGS, SUMMARY, METRICS = "settings.toml", "summary.json", "metrics.csv"
CERTIFICATES, LEDGER, FAILURE = "certificate.json", "ledger.json", "failure.json"
MODELS, FIGURES = "models", "figures"
REQUIRED = (SETTINGS, SUMMARY, METRICS, CERTIFICATES, LEDGER)
"""Files without which a run is not complete."""


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
        self._open = True

    @classmethod
    def create(cls, out: Path | str, *, overwrite: bool = False) -> RunDirectory:
        """Start the folder of a run. An existing ``out`` stays untouched until the new run is complete.

        Args:
            out: name of the finished folder; its parents are made.
            overwrite: whether a finished or failed run of that name may be replaced.

        Raises:
            UserError: if ``out`` exists (with ``overwrite``: and is not a run), or nothing can be written there.
        """
        out = Path(out)
        _refuse_taken(out, overwrite)
        path = out.with_name(f"{out.name}.partial-{secrets.token_hex(4)}")
        try:
            path.mkdir(parents=True)
            (path / MODELS).mkdir()
            (path / FIGURES).mkdir()
        except OSError as error:
            raise cannot_write(out, error) from None
        return cls(out, path, overwrite)

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
        try:
            _refuse_taken(self.out, self._overwrite)
            _replace(self.path, self.out)
        except (OSError, UserError) as error:
            raise UserError(f"the complete results are in '{self.path}', for '{self.out}' was taken: {error}") from None
        self.path, self._open = self.out, False
        return self.out

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
            if failed.exists() and not (failed / FAILURE).is_file():
                return self.path  # somebody else's folder happens to have the name
            _replace(self.path, failed)
            self.path = failed
        except (OSError, UserError):
            pass
        return self.path

    def _write(self, name: str, content: bytes) -> Path:
        try:
            write_atomically(self.path / name, content)
        except OSError as error:
            raise cannot_write(self.path / name, error) from None
        return self.path / name


def is_run(path: Path | str) -> bool:
    """Return whether a folder is a complete run: it has every required file, and no failure is noted in it."""
    path = Path(path)
    return all((path / name).is_file() for name in REQUIRED) and not (path / FAILURE).exists()


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
