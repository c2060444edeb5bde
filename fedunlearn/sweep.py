"""A small grid over settings, or a list of named variants: every point runs in its own folder, once.

A sweep file names an experiment and lists values for dotted keys; every combination is a point::

    base = "simulations/femnist_newton.toml"

    [grid]
    seed = [0, 1, 2]
    "training.rounds" = [20, 40]
    unlearning.method = ["newton", "finetune"]

or it lists the points by name, each with its own changes, and with a ``base`` of its own where it has another one::

    [[points]]
    name = "newton"
    base = "simulations/femnist_newton.toml"
    unlearning.method = "newton"
    may_refuse = true

``may_refuse`` says that the program may refuse the point (a method that is not defined there): that is then its result
and no failure. With both, every named point takes every combination of the grid. Optional keys of the file: ``name``
(default: the file's name) and ``out`` (default: ``runs/<name>``). ``base`` is looked for beside the sweep file, then in
the current folder.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedunlearn import __version__
from fedunlearn.config import Experiment, canonical_json, load_experiment, read_toml
from fedunlearn.errors import UserError, listed, nearest
from fedunlearn.overrides import Override
from fedunlearn.paths import confined
from fedunlearn.plain_text import parse_json
from fedunlearn.validation import written

__all__ = ["Outcome", "Point", "Sweep", "load_sweep", "run_sweep", "write_summary"]

SCHEMA = "fedunlearn/sweep/1"

# Where a run's results are put, what it is called and where it is computed are no part of what it computes.
_NOT_CONTENT = ("out", "name", "runtime")
_KEYS = ("base", "name", "out", "grid", "points")
_POINT_KEYS = ("name", "base", "may_refuse")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Progress = Callable[[str, int, int], None]
Runner = Callable[[Experiment, Path, Progress | None], Any]


@dataclass(frozen=True)
class Point:
    """One combination of the grid, or one named point: the experiment that its values make, and its folder's name.

    Attributes:
        values: what differs from the base experiment, by dotted key.
        experiment: all its settings; a named point's experiment bears its name.
        folder: the name of its folder.
        name: of a named point; empty in a grid without names.
        may_refuse: a refusal by the program is a result and no failure.
    """

    values: dict[str, Any]
    experiment: Experiment
    folder: str
    name: str = ""
    may_refuse: bool = False


@dataclass(frozen=True)
class Sweep:
    """A sweep file read: its name, the folder of all its points, and the points in the order of the file."""

    name: str
    out: Path
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a point: ``status`` is "run", "cached" (it was finished before), "refused" or "failed".

    The last two come with their ``error``; "refused" is what a point with ``may_refuse`` became.
    """

    point: Point
    status: str
    summary: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def load_sweep(path: str | Path, out: Path | None = None) -> Sweep:
    """Read a sweep file and all of its experiments, so that a mistake in any point is told before the first runs."""
    path = Path(path)
    table = read_toml(path)
    for key in table:
        if key not in _KEYS:
            raise UserError(f"{path}: {key} is not a known key{nearest(key, _KEYS)} (allowed: {listed(_KEYS)})")
    for key in ("base", "name", "out"):
        if key in table and not (isinstance(table[key], str) and table[key]):
            raise UserError(f"{path}: {key} = {written(table[key])} must be a text in quotes")
    grid = _grid(path, table.get("grid"), needed="points" not in table)
    name = table.get("name", path.stem)
    points: dict[str, Point] = {}
    for variant in _variants(path, table):
        for combination in itertools.product(*grid.values()):
            point = _point(path, variant, dict(zip(grid, combination, strict=True)))
            former = points.setdefault(_content(point.experiment), point)
            if former.name != point.name:
                raise UserError(f"{path}: points '{former.name}' and '{point.name}' have the same settings")
    return Sweep(name, out or confined(table.get("out", f"runs/{name}"), f"{path}: out"), tuple(points.values()))


@dataclass(frozen=True)
class _Variant:
    """One entry of ``[[points]]``, or the base experiment where there are none."""

    base: Path
    name: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    may_refuse: bool = False


def _point(path: Path, variant: _Variant, combination: Mapping[str, Any]) -> Point:
    values = {**variant.values, **combination}
    overrides = [Override.of(key, value) for key, value in values.items()]
    if variant.name:
        overrides.insert(0, Override.of("name", variant.name))
    label = ", ".join(part for part in (variant.name, _label(combination if variant.name else values)) if part)
    try:
        experiment = load_experiment(variant.base, overrides)
    except UserError as error:
        raise UserError(f"{path}: point {label}: {error}") from None
    return Point(values, experiment, _folder(label, experiment), variant.name, variant.may_refuse)


def _variants(path: Path, table: Mapping[str, Any]) -> list[_Variant]:
    if "points" not in table:
        return [_Variant(_find_base(path, table))]
    entries = table["points"]
    if not (isinstance(entries, list) and entries and all(isinstance(entry, Mapping) for entry in entries)):
        raise UserError(f"{path}: points must be tables, each under [[points]] with a name of its own")
    found: dict[str, _Variant] = {}
    for number, entry in enumerate(entries):
        name, may_refuse = entry.get("name"), entry.get("may_refuse", False)
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            given = "is missing" if name is None else f"= {written(name)} is not allowed"
            raise UserError(f"{path}: points.{number}.name {given} (allowed: letters, digits, '.', '_' and '-')")
        if name in found:
            raise UserError(f"{path}: points.{number}.name = {written(name)} is the name of another point")
        if not isinstance(may_refuse, bool):
            raise UserError(f"{path}: points.{number}.may_refuse = {written(may_refuse)} must be true or false")
        values = dict(_flat({key: value for key, value in entry.items() if key not in _POINT_KEYS}))
        if "out" in values:
            raise UserError(f"{path}: points.{number}.out is not a key of a point, for every point has its own folder")
        base = _find_base(path, entry, f"points.{number}.") if "base" in entry else _find_base(path, table)
        found[name] = _Variant(base, name, values, may_refuse)
    return list(found.values())


def _find_base(path: Path, table: Mapping[str, Any], where: str = "") -> Path:
    if "base" not in table:
        raise UserError(
            f'{path}: base is missing; it must name an experiment, as in base = "simulations/quickstart.toml"'
        )
    base = table["base"]
    if not (isinstance(base, str) and base):
        raise UserError(f"{path}: {where}base = {written(base)} must be a text in quotes")
    tried = [confined(base, f"{path}: {where}base", beside=path.parent), Path(base).expanduser()]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    places = " or ".join(dict.fromkeys(str(place) for place in tried))
    raise UserError(f"{path}: {where}base = {written(base)} names no file (looked for {places})")


def _grid(path: Path, table: object, *, needed: bool) -> dict[str, list[Any]]:
    if table is None and not needed:
        return {}
    if not isinstance(table, Mapping) or not table:
        raise UserError(f"{path}: [grid] must hold at least one dotted key with a list of values, as in seed = [0, 1]")
    grid = dict(_flat(table))
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: grid.{key} = {written(values)} must be a list of at least one value")
        if key == "out":
            raise UserError(f"{path}: grid.out is not a key of a grid, for every point has a folder of its own")
    return grid


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _content(experiment: Experiment) -> str:
    """Return the SHA-256 of what decides a point's results: its settings and the version of this program."""
    text = f"{__version__}\n{canonical_json(experiment, _NOT_CONTENT)}"
    return hashlib.sha256(text.encode()).hexdigest()


def _label(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value if isinstance(value, str) else written(value)}" for key, value in values.items())


def _folder(label: str, experiment: Experiment) -> str:
    """Return a folder name that a person can read; the hash at its end keeps points of an edited base file apart."""
    readable = re.sub(r"[^A-Za-z0-9._=,-]+", "-", label.replace(", ", ","))[:120].strip("-,.")
    return f"{readable}-{_content(experiment)[:8]}"


def run_sweep(
    sweep: Sweep,
    runner: Runner,
    progress: Callable[[Point], Progress | None] | None = None,
    done: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Run every point that is not finished, and keep ``summary.csv`` in the sweep's folder up to date.

    ``runner(experiment, folder, progress)`` runs one point into a folder that appears only when the run is complete, as
    :func:`fedunlearn.flower.local.run_local` does; so a folder with a summary is a finished point, whatever stopped an
    earlier sweep. A point that ends in a UserError is noted as failed, or as refused, and the others still run.
    """
    outcomes: list[Outcome] = []
    for point in sweep.points:
        outcome = _run_point(sweep.out / point.folder, point, runner, progress(point) if progress else None)
        outcomes.append(outcome)
        write_summary(sweep, outcomes)
        if done is not None:
            done(outcome)
    return outcomes


def _run_point(folder: Path, point: Point, runner: Runner, progress: Progress | None) -> Outcome:
    finished = _summary_of(folder)
    if finished is not None:
        return Outcome(point, "cached", finished)
    try:
        result = runner(point.experiment, folder, progress)
    except UserError as error:
        return Outcome(point, "refused" if point.may_refuse else "failed", error=str(error))
    return Outcome(point, "run", dict(result.summary))


def _summary_of(folder: Path) -> dict[str, Any] | None:
    try:
        summary = parse_json((folder / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise UserError(
            f"{folder}: holds a summary.json that cannot be read; remove the folder to run it again"
        ) from None
    return dict(summary)


def numbers(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the single numbers of a summary by dotted name: accuracies, certificates, distances, costs, seconds."""
    rows: dict[str, Any] = {}
    for room in ("models", "requests", "seconds"):
        _collect(rows, room, summary.get(room))
    return rows


def _collect(rows: dict[str, Any], name: str, value: object) -> None:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _collect(rows, f"{name}.{key}", entry)
    elif isinstance(value, Sequence) and not isinstance(value, str) and name == "requests":
        for index, entry in enumerate(value):
            _collect(rows, f"{name}.{index}", entry)
    elif isinstance(value, bool | int | float):
        rows[name] = value


def write_summary(sweep: Sweep, outcomes: Sequence[Outcome]) -> Path:
    """Write ``summary.csv``, one row a point: its status, its values of the grid, and the numbers of its summary."""
    measured = [numbers(outcome.summary) for outcome in outcomes]
    keys = list(dict.fromkeys(key for outcome in outcomes for key in outcome.point.values))
    columns = list(dict.fromkeys(name for row in measured for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["schema", "folder", "status", *keys, *columns, "error"])
    for outcome, row in zip(outcomes, measured, strict=True):
        values = [outcome.point.values.get(key, "") for key in keys]
        cells = [row.get(name, "") for name in columns]
        writer.writerow([SCHEMA, outcome.point.folder, outcome.status, *values, *cells, outcome.error])
    path = sweep.out / "summary.csv"
    try:
        sweep.out.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".csv.partial")
        partial.write_text(text.getvalue(), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{sweep.out}: cannot be written to ({error.strerror})") from None
    return path
