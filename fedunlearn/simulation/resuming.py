"""What it takes to go on with a run that was interrupted: its settings, its inputs, its newest whole checkpoint."""

from __future__ import annotations

import hashlib
import sys
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from fedunlearn.config import Experiment, parse_experiment
from fedunlearn.errors import UserError
from fedunlearn.plain_text import parse_toml
from fedunlearn.results.checkpoints import FOLDER, Checkpoints, Kept
from fedunlearn.results.environment import versions
from fedunlearn.results.files import canonical_json
from fedunlearn.results.run_directory import MODELS, SETTINGS, unfinished
from fedunlearn.results.vectors import read_vector
from fedunlearn.simulation.journal import MESSAGE, RELEASED, key_of
from fedunlearn.simulation.recording import RELEASE, Record
from fedunlearn.simulation.world import World
from fedunlearn.topology.graphs import edge_array

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
    """Return the checkpoints of a run that has a folder.

    Where no new ones are wanted, those that are there are used, and secret noise has a place to store what was drawn.

    Raises:
        UserError: if they cannot be continued, or a release lies in the folder whose noise would be drawn again.
    """
    if record.directory is None:
        return None
    run, wanted, secret = record.directory.path, experiment.runtime.checkpoints, experiment.privacy.noise == "secret"
    if not (wanted or secret or (run / FOLDER).is_dir()):
        return None
    identity = {
        "settings": record.hashes["settings.toml"],
        "code": record.hashes["code"],
        "versions": canonical_json(versions()),
        "device": device,
    }
    checkpoints = Checkpoints.open(run, identity, states=wanted)
    if secret:
        _refuse_undrawn(run / MODELS, checkpoints)
    return checkpoints


def _refuse_undrawn(models: Path, checkpoints: Checkpoints) -> None:
    """Raise UserError where a release was handed out whose draw is not stored, nor that of one equal to it."""
    paths = {int(path.stem.removeprefix(RELEASE)): path for path in models.glob(f"{RELEASE}[0-9]*.safetensors")}
    known = {n for n in paths if any(checkpoints.has_drawn(key_of("main", n, what)) for what in (RELEASED, MESSAGE))}
    for number in sorted(paths.keys() - known):
        vector, _ = read_vector(paths[number])
        if not any(np.array_equal(vector, read_vector(paths[other])[0]) for other in known):
            raise UserError(
                f"'{paths[number]}' was released, and what its noise was drawn for is not in '{checkpoints.folder}': "
                "noise is not drawn twice for the same state; start a new run"
            )


def inputs_of(world: World) -> dict[str, str]:
    """Return hashes of everything that enters a run beside its settings and decides numbers, by what people call it.

    Of a model class or a method of one's own the module that defines it counts, not what that imports.
    """
    dataset, features, unlearner = world.dataset, world.features, type(world.unlearner).__module__
    edges = np.array([world.graph.number_of_nodes(), *edge_array(world.graph).ravel()], dtype="<i8")
    found = {
        "data": "; ".join([dataset.sha256(), *dataset.parts]),
        "graph": hashlib.sha256(edges.tobytes()).hexdigest(),
        "starting model": hashlib.sha256(world.start.astype("<f4").tobytes()).hexdigest(),
    }
    if features.weights_sha256 is not None:
        found["feature extractor"] = f"{features.weights_sha256} {features.training_rows_sha256}"
    own, _, class_name = world.model.spec["name"].partition(":")
    if class_name:
        found["model class"] = _source_of(own, type(world.model.template).__module__)
    if unlearner.partition(".")[0] != __name__.partition(".")[0]:
        found["method"] = _source_of(unlearner)
    return found


def _source_of(*modules: str) -> str:
    """Return the hash of the files that modules were imported from."""
    whole = hashlib.sha256()
    for name in modules:
        file = getattr(sys.modules.get(name), "__file__", None)
        with suppress(OSError):
            whole.update(b"" if file is None else hashlib.sha256(Path(file).read_bytes()).digest())
    return whole.hexdigest()


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
