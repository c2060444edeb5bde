"""What it takes to go on with a run that was interrupted: its settings, and its newest checkpoint that is whole."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedunlearn.config import Experiment, parse_experiment
from fedunlearn.errors import UserError
from fedunlearn.plain_text import parse_toml
from fedunlearn.results.checkpoints import Checkpoints, Kept
from fedunlearn.results.environment import versions
from fedunlearn.results.files import canonical_json
from fedunlearn.results.run_directory import SETTINGS, unfinished
from fedunlearn.simulation.recording import Record

_FREE = ("runtime", "out")
"""Settings that change no number: they may be others when a run goes on."""


def settings_of(name: Path | str, wanted: Experiment | None = None) -> Experiment:
    """Return the settings of an unfinished run; those of ``runtime`` as ``wanted`` has them, where it is given.

    Args:
        name: the run's folder, or the name that it would have had in the end.
        wanted: the experiment that somebody believes the run to be of.

    Raises:
        UserError: if there is no such run, its settings cannot be read, or ``wanted`` differs in another key.
    """
    file = unfinished(name) / SETTINGS
    try:
        table = parse_toml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); start the run again") from None
    found = parse_experiment(table, source=str(file))
    if wanted is None:
        return found
    there, here = found.model_dump(mode="json"), wanted.model_dump(mode="json")
    for key in _FREE:
        there.pop(key), here.pop(key)
    difference = _first_difference(there, here)
    if difference is not None:
        key, old, new = difference
        raise UserError(
            f"{key} = {new} is not what this run was begun with ({file} has {old}), so it cannot be resumed with it"
        )
    return found.model_copy(update={"runtime": wanted.runtime})


def _first_difference(there: Any, here: Any, key: str = "") -> tuple[str, str, str] | None:
    """Return the first key whose value differs, in the order of the file, and both values as people write them."""
    pairs: list[tuple[Any, Any, str]] = []
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        pairs = [(there.get(k), here.get(k), f"{key}.{k}".lstrip(".")) for k in dict.fromkeys([*there, *here])]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = [(a, b, f"{key}.{i}") for i, (a, b) in enumerate(zip(there, here))]
    elif there != here:
        return key, _shown(there), _shown(here)
    return next((found for a, b, k in pairs if (found := _first_difference(a, b, k)) is not None), None)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} of them"
    return "nothing" if value is None else repr(value)


def open_checkpoints(record: Record, experiment: Experiment, device: str) -> Checkpoints | None:
    """Return the checkpoints of a run that has a folder and may write them; UserError if they cannot be continued."""
    if record.directory is None or not experiment.runtime.checkpoints:
        return None
    identity = {
        "settings": record.hashes["settings.toml"],
        "code": record.hashes["code"],
        "versions": canonical_json(versions()),
        "device": device,
    }
    return Checkpoints.open(record.directory.path, identity)


def newest(checkpoints: Checkpoints | None, classes: tuple[type, ...], tell: Callable[[str], None]) -> Kept | None:
    """Return the newest checkpoint that is whole, and say what is taken from where; None: begin at the beginning."""
    kept = None if checkpoints is None else checkpoints.newest(classes)
    for sentence in () if checkpoints is None else checkpoints.damaged:
        tell(f"{sentence}, so {'the one before' if kept is not None else 'none'} is used")
    if kept is None:
        tell("resumed at the beginning: there is no checkpoint")
    else:
        tell(f"resumed at {kept.what}")
    return kept
