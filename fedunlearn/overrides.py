"""Changes to a table of settings by dotted keys: ``training.rounds=40``, ``requests.0.client=3``."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

from fedunlearn.errors import UserError
from fedunlearn.plain_text import parse_toml
from fedunlearn.validation import fields_of, without_none, written


@dataclass(frozen=True)
class Override:
    """One change: the dotted key in parts, and its new value as TOML would give it."""

    key: tuple[str, ...]
    value: Any

    @classmethod
    def of(cls, dotted: str, value: Any) -> Override:
        """Return the override of a dotted key by a value; raises UserError for a key with an empty part."""
        parts = tuple(part.strip() for part in dotted.split("."))
        if not all(parts):
            raise UserError(f"--set {dotted}: the key must be words joined by dots, as in training.rounds=40")
        return cls(parts, value)

    @classmethod
    def parse(cls, text: str, model: type[BaseModel] | None = None) -> Override:
        """Read ``"a.b=value"``.

        The value is written as in TOML; what is not TOML is taken as a text. A key that ``model`` knows to be a text
        takes the value as it stands, so that ``data.train_clients=5`` needs no quotes.
        """
        dotted, sign, raw = text.partition("=")
        if not sign:
            raise UserError(f"--set {text}: needs the form key=value, as in training.rounds=40")
        override = cls.of(dotted, _value(raw.strip()))
        if model is not None and not isinstance(override.value, str) and _is_text(model, override.key):
            return cls(override.key, raw.strip())
        return override

    def __str__(self) -> str:
        return f"{'.'.join(self.key)}={written(self.value)}"


def _value(raw: str) -> Any:
    try:
        return parse_toml(f"value = {raw}")["value"] if "\n" not in raw else raw
    except tomllib.TOMLDecodeError:
        return raw


def _is_text(model: type[BaseModel], key: Sequence[str]) -> bool:
    current: Any = model
    for part in key:
        if part.isdigit() and get_args(current):
            current = get_args(current)[0]
            continue
        if not (isinstance(current, type) and issubclass(current, BaseModel)) or hasattr(current, "fields_for"):
            return False
        field = fields_of(current, {}).get(part)
        if field is None:
            return False
        current = without_none(field.annotation)
    return current is str


def apply_overrides(table: Mapping[str, Any], overrides: Sequence[Override], source: str) -> dict[str, Any]:
    """Return a copy of ``table`` with every override applied in order.

    A missing table on the way is made; in a list of tables a number names an entry, and the number just past the end
    adds one. Raises UserError where a key leads through something that is neither, or past the end of a list.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(table))
    for override in overrides:
        _set(changed, override, source)
    return changed


def _set(table: dict[str, Any], override: Override, source: str) -> None:
    here: Any = table
    for depth, part in enumerate(override.key):
        last = depth == len(override.key) - 1
        so_far = ".".join(override.key[: depth + 1])
        if isinstance(here, list):
            index = int(part) if part.isdigit() else -1
            if not 0 <= index <= len(here):
                allowed = f"a number from 0 to {len(here)}"
                raise UserError(f"{source} with --set {override}: '{part}' in {so_far} must be {allowed}")
            if index == len(here):
                here.append(None)
            slot: Any = index
        elif isinstance(here, dict):
            slot = part
        else:
            above = ".".join(override.key[:depth])
            raise UserError(f"{source} with --set {override}: {above} = {written(here)} has no keys of its own")
        if last:
            here[slot] = override.value
            return
        following_is_index = override.key[depth + 1].isdigit()
        present = here[slot] if isinstance(here, list) else here.get(slot)
        if present is None:
            here[slot] = [] if following_is_index else {}
        here = here[slot]
