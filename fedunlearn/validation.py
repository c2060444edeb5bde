"""Turns what pydantic found wrong into one sentence: the file, the dotted key, its value, and what is allowed."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from fedunlearn.errors import UserError, listed, nearest

# Names that other programs use for our keys; difflib alone would not find them.
_OTHER_NAMES = {
    "learning_rate": "lr",
    "step_size": "lr",
    "batch_size": "batch",
    "weight_decay": "l2",
    "lambda": "l2",
    "epochs": "local_epochs",
    "num_rounds": "rounds",
    "num_nodes": "nodes",
    "num_clients": "clients",
    "dataset": "source",
    "eps": "epsilon",
    "graph": "generator",
    "class": "label",
    "node": "client",
    "max_grad_norm": "clip",
    "participation": "client_fraction",
}

_PLAIN = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "true or false"}
_PLURAL = {int: "whole numbers", float: "numbers", str: "texts in quotes", bool: "true or false values"}
_BOUNDS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}


def fields_of(model: type[BaseModel], data: object) -> dict[str, FieldInfo]:
    """Return the keys that a table may hold; a model whose keys depend on its data has a ``fields_for`` method."""
    by_data = getattr(model, "fields_for", None)
    return by_data(data) if by_data is not None else dict(model.model_fields)


def without_none(annotation: Any) -> Any:
    """Return the annotation with ``None`` taken out of a union, for an optional key is simply left out of a file."""
    if get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [a for a in get_args(annotation) if a is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return annotation


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """Return the words that a key may have as its value, or an empty tuple where it is not a choice of words."""
    annotation = without_none(field.annotation)
    if get_origin(annotation) is typing.Literal:
        return tuple(str(word) for word in get_args(annotation))
    for rule in field.metadata:
        words = re.fullmatch(r"\^\(([\w|-]+)\)\$", getattr(rule, "pattern", None) or "")
        if words:
            return tuple(words[1].split("|"))
    return ()


def allowed(field: FieldInfo, item: bool = False) -> str:
    """Return in words what a key, or with ``item`` one entry of its list, may be: ``"a number greater than 0"``."""
    annotation = without_none(field.annotation)
    if item:
        return _kind(get_args(annotation)[0]) if get_args(annotation) else "another kind of value"
    choices = choices_of(field)
    if choices:
        return f"one of {listed(choices)}"
    if any(getattr(rule, "pattern", None) for rule in field.metadata):
        return f"a text of this form: {field.description}"
    limits = [(name, getattr(rule, name)) for rule in field.metadata for name in _BOUNDS if hasattr(rule, name)]
    text = _kind(annotation)
    if not limits:
        return text
    link = " of " if limits[0][0] in ("ge", "le") else " "
    return text + link + " and ".join(f"{_BOUNDS[name]} {limit}" for name, limit in limits)


def _kind(annotation: Any) -> str:
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(_kind(a) for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) in (tuple, list):
        item = get_args(annotation)[0] if get_args(annotation) else None
        if isinstance(item, type) and issubclass(item, BaseModel):
            return "a list of tables"
        return f"a list of {_PLURAL.get(item, 'values')}" if item is not None else "a list"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a table"
    return "another kind of value"


def written(value: object, limit: int = 60) -> str:
    """Return a value as it would stand in a TOML file, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=True)
        if not text.isprintable():  # a sentence is one line, whatever a terminal makes of the rest
            text = json.dumps(value, allow_nan=True)
    except (TypeError, ValueError, RecursionError):
        text = readable(str(type(value).__name__ if isinstance(value, int) else value))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def readable(name: str, limit: int = 60) -> str:
    """Return a name from a file as it may stand in a sentence: one line of printable characters, not too long."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."


def explain(
    error: ValidationError, model: type[BaseModel], data: Mapping[str, Any], source: str, prefix: str = ""
) -> UserError:
    """Return the first mistake of ``error`` as one sentence.

    ``data`` is what was validated against ``model``; ``source`` is the file or option to name; ``prefix`` is put before
    the dotted key, for a table that was validated alone.
    """
    mistakes = error.errors(include_url=False)
    first = mistakes[0]
    loc, field, table, value = _locate(model, data, first["loc"], first.get("input"))
    key = ".".join(readable(str(part)) for part in ([prefix] if prefix else []) + list(loc))
    places = {tuple(_locate(model, data, mistake["loc"], None)[0]) for mistake in mistakes}
    more = f" ({len(places) - 1} more after this one)" if len(places) > 1 else ""
    kind, message = first["type"], first["msg"].removeprefix("Value error, ").rstrip(".")
    if kind == "extra_forbidden":
        return UserError(f"{source}: {unknown_key(key, value, table, model)}{more}")
    if kind == "missing":
        what = f"; it must be {allowed(field)}" if field is not None else ""
        return UserError(f"{source}: {key} is missing{what}{more}")
    if kind in ("value_error", "assertion_error"):
        stated = f"{key} = {written(value)}" if field is not None and not isinstance(value, Mapping) else key
        link = " " if message.startswith("must") else ": "
        offered = re.search(r"must be one of (.+?)(?: or |$)", message)
        hint = nearest(value, offered[1].split(", ")) if offered and isinstance(value, str) else ""
        return UserError(f"{source}: {stated}{link}{message}{hint}{more}" if stated else f"{source}: {message}{more}")
    item = bool(loc) and isinstance(loc[-1], int)
    what = allowed(field, item) if field is not None else message
    hint = nearest(value, choices_of(field)) if field is not None and isinstance(value, str) else ""
    return UserError(f"{source}: {key} = {written(value)} must be {what}{hint}{more}")


def unknown_key(key: str, value: object, fields: Mapping[str, FieldInfo], root: type[BaseModel]) -> str:
    """Return the sentence for a key that a table does not have, with the nearest one that it has."""
    last = key.rsplit(".", 1)[-1]
    hint = _nearest_key(last, fields)
    if not hint:
        homes = [name for name, field in root.model_fields.items() if last in _keys_below(field)]
        hint = f", did you mean '{homes[0]}.{last}'?" if homes else ""
    stated = (
        f"[{key}] is not a known table"
        if isinstance(value, Mapping)
        else f"{key} = {written(value)} is not a known key"
    )
    return f"{stated}{hint} (allowed: {listed(fields)})"


def _nearest_key(word: str, fields: Mapping[str, FieldInfo]) -> str:
    names = {name: name for name in fields} | {k: v for k, v in _OTHER_NAMES.items() if v in fields}
    hint = nearest(word.lower(), names)
    found = re.search(r"'(.+)'", hint)
    return f", did you mean '{names[found[1]]}'?" if found else ""


def _keys_below(field: FieldInfo) -> Sequence[str]:
    annotation = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and not hasattr(annotation, "fields_for"):
        return list(annotation.model_fields)
    return ()


def _locate(
    model: type[BaseModel], data: object, loc: Sequence[str | int], value: object
) -> tuple[list[str | int], FieldInfo | None, dict[str, FieldInfo], object]:
    """Follow an error's location through models and data.

    Returns the location without the tags that pydantic adds for unions, the field there (None at a whole table or an
    unknown key), the keys of the innermost table, and the value there.
    """
    table, field, here, kept = fields_of(model, data), None, data, []
    current: Any = model
    for part in loc:
        inside = isinstance(current, type) and issubclass(current, BaseModel)
        if isinstance(here, Mapping) and inside:
            field = table.get(str(part))
            current = without_none(field.annotation) if field is not None else None
            here = here.get(str(part))
        elif isinstance(here, Sequence) and not isinstance(here, str) and isinstance(part, int) and part < len(here):
            current = get_args(current)[0] if get_args(current) else None
            here = here[part]
        else:
            break
        kept.append(part)
        if isinstance(current, type) and issubclass(current, BaseModel) and isinstance(here, Mapping):
            table, field = fields_of(current, here), None
    return kept, field, table, value
