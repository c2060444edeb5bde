"""The names of a run's files, and which folders are runs: finished ones, and unfinished ones by their names to be."""

from __future__ import annotations

import re
from pathlib import Path

from fedunlearn.errors import UserError
from fedunlearn.results.checkpoints import FOLDER as CHECKPOINTS

LEDGER_SCHEMA = "fedunlearn/ledger/2"

SETTINGS, SUMMARY, METRICS = "settings.toml", "summary.json", "metrics.csv"
CERTIFICATES, LEDGER, FAILURE = "certificate.json", "ledger.json", "failure.json"
MODELS, FIGURES = "models", "figures"
_UNFINISHED = re.compile(r"(?P<out>.+)\.(failed|partial-[0-9a-f]+)")
REQUIRED = (SETTINGS, SUMMARY, METRICS, CERTIFICATES, LEDGER)
"""Files without which a run is not complete."""


def is_run(path: Path | str) -> bool:
    """Return whether a folder is a complete run: it has every required file, and no failure is noted in it."""
    path = Path(path)
    return all((path / name).is_file() for name in REQUIRED) and not (path / FAILURE).exists()


def unfinished(name: Path | str) -> Path:
    """Return the folder of an unfinished run: ``name`` itself, or the newest of those that would be called so.

    Raises:
        UserError: if there is none, or ``name`` is a finished run.
    """
    name = Path(name)
    name = name if name.name not in ("", "..") else name.resolve()
    if _UNFINISHED.fullmatch(name.name) and name.is_dir():
        return name
    if name.is_dir() and is_run(name):
        raise UserError(f"'{name}': is a finished run, there is nothing to resume")
    found = _unfinished_of(name)
    if not found:
        raise UserError(f"'{name}': no unfinished run of this name (a folder {name}.failed or {name}.partial-...)")
    return max(found, key=_last_written)


def finished_name(path: Path) -> Path:
    """Return what the folder of an unfinished run will be called once it is complete."""
    match = _UNFINISHED.fullmatch(path.name)
    return path if match is None else path.with_name(match["out"])


def has_begun(name: Path | str) -> bool:
    """Return whether there is a run of this name, finished or not, or ``name`` is the folder of an unfinished one."""
    name = Path(name)
    return name.exists() or _UNFINISHED.fullmatch(name.name) is not None or bool(_unfinished_of(name))


def _unfinished_of(name: Path) -> list[Path]:
    """Return the folders of the unfinished runs that would have this name."""
    beside = list(name.parent.iterdir()) if name.parent.is_dir() else []
    matches = [(path, _UNFINISHED.fullmatch(path.name)) for path in beside if (path / SETTINGS).is_file()]
    return [path for path, match in matches if match and match["out"] == name.name]


def _last_written(path: Path) -> float:
    places = [path, path / MODELS, path / CHECKPOINTS]
    return max(place.stat().st_mtime for place in places if place.exists())
