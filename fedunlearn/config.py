"""The experiment as typed settings: read from a TOML file, changed by overrides, written back resolved.

A file has the keys ``name``, ``seed`` and ``out``, one table for each room, and one ``[[requests]]`` table for each
deletion request. The keys of ``[unlearning]`` other than ``method`` are those of the method named there.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import (
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from fedunlearn.data.settings import DataSettings
from fedunlearn.errors import UserError, nearest
from fedunlearn.evaluation.settings import EvaluationSettings
from fedunlearn.faults.settings import FaultSettings
from fedunlearn.models.settings import ModelSettings
from fedunlearn.network.settings import LinkSettings, RuntimeSettings, TrainingSettings
from fedunlearn.overrides import Override, apply_overrides
from fedunlearn.paths import stays_inside
from fedunlearn.plain_text import parse_toml
from fedunlearn.privacy.settings import PrivacySettings
from fedunlearn.requests.settings import RequestPolicy, RequestSettings
from fedunlearn.settings import Settings
from fedunlearn.topology.settings import TopologySettings
from fedunlearn.validation import explain

__all__ = [
    "DEFAULT_METHOD",
    "SCHEMA",
    "Experiment",
    "UnlearningChoice",
    "canonical_json",
    "dump_toml",
    "load_experiment",
    "parse_experiment",
    "settings_sha256",
]

SCHEMA = "fedunlearn/settings/1"
DEFAULT_METHOD = "newton"


class UnlearningChoice(Settings):
    """The unlearning method and its own settings; in a file they share one table.

    ``UnlearningChoice.model_validate({"method": "newton", "tolerance": 1e-3})`` validates every key but ``method`` with
    the settings class that the method registered; ``model_dump`` gives the same flat table back.
    """

    method: str = Field(default=DEFAULT_METHOD, description="name of a registered unlearning method")
    settings: SerializeAsAny[Settings]

    @classmethod
    def fields_for(cls, data: object) -> dict[str, FieldInfo]:
        """Return the keys of the table: ``method``, and those of the method that ``data`` names where it exists."""
        from fedunlearn.unlearning.registry import settings_for

        name = data.get("method", DEFAULT_METHOD) if isinstance(data, Mapping) else DEFAULT_METHOD
        try:
            own = settings_for(name).model_fields if isinstance(name, str) else {}
        except UserError:
            own = {}
        return {"method": cls.model_fields["method"], **own}

    @model_validator(mode="before")
    @classmethod
    def _by_method(cls, data: Any) -> Any:
        from fedunlearn.unlearning.registry import settings_for

        if not isinstance(data, Mapping):
            return data
        name = data.get("method", DEFAULT_METHOD)
        if not isinstance(name, str):
            return {"method": name, "settings": Settings()}
        own = {key: value for key, value in data.items() if key != "method"}
        if set(own) == {"settings"} and isinstance(own["settings"], Settings):
            own = own["settings"].model_dump()
        return {"method": name, "settings": settings_for(name).model_validate(own)}

    @model_serializer(mode="wrap")
    def _flat(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        table = handler(self)
        return {"method": table["method"], **table["settings"]}


def _default_choice() -> UnlearningChoice:
    return UnlearningChoice.model_validate({})


class Experiment(Settings):
    """Everything that fixes a run; :func:`settings_sha256` is its identity."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="letters, digits, '.', '_', '-'"
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="seed of everything that is drawn in the run")
    out: str | None = Field(default=None, description="folder of the results; default: runs/<name>-<seed>")
    data: DataSettings = DataSettings()
    topology: TopologySettings = TopologySettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    links: LinkSettings = LinkSettings()
    faults: FaultSettings = FaultSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    unlearning: UnlearningChoice = Field(default_factory=_default_choice)
    privacy: PrivacySettings = PrivacySettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    policy: RequestPolicy = RequestPolicy()
    requests: tuple[RequestSettings, ...] = Field(default=(), description="deletion requests, answered in this order")

    _inside = field_validator("out")(stays_inside)


def load_experiment(path: str | Path, overrides: Sequence[str | Override] = ()) -> Experiment:
    """Read an experiment from a TOML file.

    ``overrides`` are applied in order: texts ``"training.rounds=40"`` or ``"requests.0.client=3"``, whose values are
    written as in TOML (a bare word is a text), or :class:`~fedunlearn.overrides.Override` values. An override of
    ``unlearning.method`` drops the keys of the file that only the former method has. The name is by default the
    file's. Every mistake raises :class:`~fedunlearn.errors.UserError` with one sentence.
    """
    path = Path(path)
    data = read_toml(path)
    data.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("._-") or "experiment")
    return parse_experiment(data, overrides, source=str(path))


def parse_experiment(
    data: Mapping[str, Any], overrides: Sequence[str | Override] = (), source: str = "experiment"
) -> Experiment:
    """Return the experiment of a table as read from TOML or JSON; ``source`` is named in errors."""
    table = dict(data)
    schema = table.pop("schema", SCHEMA)
    if schema != SCHEMA:
        raise UserError(f"{source}: schema = {schema!r} is not one this version reads (allowed: {SCHEMA!r})")
    parsed = [o if isinstance(o, Override) else Override.parse(o, Experiment) for o in overrides]
    changed = apply_overrides(table, parsed, source)
    if any(o.key == ("unlearning", "method") for o in parsed):
        changed = _without_former_method(table, changed, parsed)
    try:
        return Experiment.model_validate(changed)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    except ValidationError as error:
        loc = tuple(str(part) for part in error.errors()[0]["loc"])
        by_override = any(loc[: len(o.key)] == o.key or o.key[: len(loc)] == loc for o in parsed)
        raise explain(error, Experiment, changed, f"{source} with --set" if by_override else source) from None


def _without_former_method(
    table: Mapping[str, Any], changed: dict[str, Any], overrides: Sequence[Override]
) -> dict[str, Any]:
    """Return ``changed`` without the keys that only the file's own method has, unless an override sets them."""
    choice = changed["unlearning"]
    former = UnlearningChoice.fields_for(table.get("unlearning", {}))
    present = UnlearningChoice.fields_for(choice)
    asked = {o.key[1] for o in overrides if o.key[0] == "unlearning" and len(o.key) > 1}
    kept = {key: value for key, value in choice.items() if key in asked or key in present or key not in former}
    return {**changed, "unlearning": kept}


def read_toml(path: Path) -> dict[str, Any]:
    """Return the table of a TOML file; raises UserError when the file is missing, unreadable or not TOML."""
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = [str(other) for other in sorted(path.parent.glob("*.toml"))] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file{nearest(str(path), beside)}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, but a TOML file is needed") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: is not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file in UTF-8, as TOML must be") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def dump_toml(experiment: Experiment) -> str:
    """Return the resolved settings, defaults included, as TOML; loading the text gives an equal experiment."""
    table = _without_none(experiment.model_dump(mode="json"))
    requests = table.pop("requests", [])
    parts = [tomli_w.dumps({"schema": SCHEMA, **table})]
    parts += ["[[requests]]\n" + tomli_w.dumps(request) for request in requests]
    return "\n".join(parts)


def _without_none(value: Any) -> Any:
    """Return nested tables without their ``None`` entries: TOML has no null, and a key left out means the default."""
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return [_without_none(entry) for entry in value] if isinstance(value, list) else value


def canonical_json(experiment: Experiment, leave_out: Collection[str] = ("out",)) -> str:
    """Return the settings as JSON with sorted keys and no spaces, without the named top-level keys.

    ``out`` is left out by default: where the results are put does not change them.
    """
    table = experiment.model_dump(mode="json", exclude=set(leave_out))
    return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def settings_sha256(experiment: Experiment, leave_out: Collection[str] = ("out",)) -> str:
    """Return the SHA-256 of :func:`canonical_json` in hexadecimal, 64 characters."""
    return hashlib.sha256(canonical_json(experiment, leave_out).encode()).hexdigest()
