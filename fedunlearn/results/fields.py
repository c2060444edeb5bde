"""What all schemas of a run's files share: their base class, how a table is fitted to one, and their documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from fedunlearn.results.files import plain


class Entry(BaseModel):
    """A table of a schema: it may hold further entries, and every number is finite."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


def fitted(entry: type[BaseModel], table: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return a table as plain JSON values that fit a schema's outermost class, with defaults filled in.

    Raises:
        ValueError: naming the file and the first entry that is missing or of the wrong kind.
    """
    try:
        # by JSON rules, where 1 is a float but "1" is none
        checked = entry.model_validate(plain(table), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{file}: {place}: {first['msg']}") from None
    return checked.model_dump(by_alias=True)


def field_table(outermost: type[BaseModel]) -> str:
    """Return a schema as Markdown: for every class, outermost first, its fields."""
    parts = []
    for path, entry in _walk("", outermost):
        doc = (entry.__doc__ or "").strip()
        lines = [
            f"### {f'`{path}`' if path else 'The file'}",
            "",
            doc,
            "",
            "| field | type | meaning |",
            "|---|---|---|",
        ]
        for name, field in entry.model_fields.items():
            lines.append(f"| `{field.alias or name}` | {_type_name(field.annotation)} | {field.description} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _walk(path: str, entry: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, entry
    for name, field in entry.model_fields.items():
        inner, suffix = _inner(field.annotation)
        if inner is not None:
            yield from _walk(f"{path}.{name}{suffix}".lstrip("."), inner)


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """Return the table class inside an annotation, and how a path into it goes on."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    suffix = {list: "[]", dict: ".<name>"}.get(get_origin(annotation), "")
    for argument in get_args(annotation):
        found, more = _inner(argument)
        if found is not None:
            return found, suffix + more
    return None, ""


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    arguments = get_args(annotation)
    if NoneType in arguments:
        return " or ".join([_type_name(a) for a in arguments if a is not NoneType] + ["null"])
    if get_origin(annotation) is list:
        return f"list of {_type_name(arguments[0])}s"
    if get_origin(annotation) is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "table"
    return {str: "text", float: "number", int: "whole number", bool: "true or false"}.get(annotation, "value")
