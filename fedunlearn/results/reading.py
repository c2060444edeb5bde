"""Reading a finished run back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedunlearn.errors import UserError, listed
from fedunlearn.plain_text import parse_json, parse_toml
from fedunlearn.results.metrics import MetricRow, read_metrics
from fedunlearn.results.run_names import LEDGER, LEDGER_SCHEMA, METRICS, MODELS, REQUIRED, SETTINGS, SUMMARY
from fedunlearn.results.schema import SCHEMA, check_summary
from fedunlearn.results.vectors import read_vector


@dataclass(frozen=True)
class Run:
    """What a run directory says: its summary, and every number measured on the way."""

    path: Path
    summary: dict[str, Any]
    metrics: list[MetricRow]

    def model(self, name: str) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return a released model (d,) float32 and the table that says what it is; UserError if there is none."""
        path = self.path / MODELS / f"{name}.safetensors"
        if not path.is_file():
            there = sorted(file.stem for file in path.parent.glob("*.safetensors"))
            raise UserError(f"{path}: there is no such model (allowed: {listed(there) or 'none was released'})")
        return read_vector(path)


def read_summary(path: Path | str) -> dict[str, Any]:
    """Return the summary of a run directory as plain JSON values.

    Raises:
        UserError: if the file cannot be read or is not a summary of this version.
    """
    file = Path(path) / SUMMARY
    try:
        return check_summary(read_table(file, SCHEMA))
    except ValueError as error:
        raise UserError(f"{file.parent}/{error}") from None


def read_ledger(path: Path | str) -> dict[str, Any]:
    """Return the message record of a run directory as plain JSON values, for ``Ledger.from_summary``.

    Raises:
        UserError: if the file cannot be read or is not a ledger of this version.
    """
    return read_table(Path(path) / LEDGER, LEDGER_SCHEMA)


def read_settings(path: Path | str) -> dict[str, Any]:
    """Return the resolved settings of a run directory as a plain table; UserError if they cannot be read."""
    file = Path(path) / SETTINGS
    try:
        return parse_toml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise UserError(f"{file}: is not a TOML file ({error})") from None


def read_table(file: Path, schema: str) -> dict[str, Any]:
    """Return the table of a JSON file; UserError if it cannot be read or is of another schema."""
    try:
        table = parse_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise UserError(f"{file}: is not a JSON file ({error})") from None
    found = table.get("schema") if isinstance(table, dict) else None
    if found != schema:
        raise UserError(f"{file}: schema = {found!r} is not one this version reads (allowed: '{schema}')")
    assert isinstance(table, dict)
    return table


def read_run(path: Path | str) -> Run:
    """Return a finished run.

    Raises:
        UserError: if the folder is not a complete run or one of its files cannot be read.
    """
    path = Path(path)
    missing = [name for name in REQUIRED if not (path / name).is_file()]
    if missing:
        raise UserError(f"'{path}' is not a complete run: it has no {listed(missing)}")
    return Run(path, read_summary(path), read_metrics(path / METRICS))
