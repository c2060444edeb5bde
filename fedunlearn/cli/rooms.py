"""Settings of one room alone, for the commands that need no whole experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from fedunlearn.overrides import Override, apply_overrides
from fedunlearn.settings import Settings
from fedunlearn.validation import explain

Room = TypeVar("Room", bound=Settings)


def room_settings(model: type[Room], room: str, table: Mapping[str, Any], overrides: Sequence[str]) -> Room:
    """Return the settings of one room from a table and ``--set`` texts, with or without the room's name before the key.

    Raises UserError with one sentence for a key or value that is not allowed.
    """
    parsed = [Override.parse(text.removeprefix(f"{room}."), model) for text in overrides]
    changed = apply_overrides(table, parsed, "command line")
    try:
        return model.model_validate(changed)
    except ValidationError as error:
        raise explain(error, model, changed, "command line", prefix=room) from None
