"""The one door for paths that settings name: a relative path stays in the working folder.

An experiment file may come from somebody else. What it names relatively is looked for, or written, below the folder in
which the program was started, whatever ``..`` and symbolic links say; only who writes an absolute path (or ``~``) means
a place elsewhere. Options of the command line and environment variables are the user's own hand and are not confined.

A settings class declares its paths by ``_inside = field_validator("path")(stays_inside)``; whoever opens one goes
through :func:`confined` again, for a link may have been changed since.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from fedunlearn.errors import UserError

__all__ = ["confined", "is_plain_name", "stays_inside"]

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]*")
_LONGEST = 4000  # bytes; the kernel's own limit is 4096
_LONGEST_NAME = 255


def confined(given: str | Path, key: str, beside: Path | None = None) -> Path:
    """Return the path that the setting ``key`` names, ``~`` expanded; it need not exist.

    Args:
        given: as it stands in the settings.
        key: what the error names, such as ``data.path``.
        beside: a folder that may be named too: that of the file in which the path stands. A relative path is then
            relative to it.

    Raises:
        UserError: one sentence, where a relative path leaves the working folder (and ``beside``), by ``..`` or through
            a symbolic link, or where the text can be no path at all.
    """
    fault = _fault(str(given), beside)
    if fault is not None:
        raise UserError(f"{key} = '{_shown(str(given))}' {fault}")
    path = Path(given).expanduser()
    return path if beside is None or path.is_absolute() else beside / path


def stays_inside(value: str | None) -> str | None:
    """Return a path of a settings class unchanged; ValueError as :func:`confined` says it, for a pydantic validator."""
    fault = None if value is None else _fault(value, None)
    if fault is not None:
        raise ValueError(fault)
    return value


def is_plain_name(name: object) -> bool:
    """Return whether something is a name that can be a part of a file's name, and nothing else.

    Letters, digits, ``_``, ``.``, ``-`` and blanks, at most 100 characters, not beginning with a point: no separator,
    no way up, no hidden file, no control character.
    """
    return isinstance(name, str) and len(name) <= 100 and _PLAIN.fullmatch(name) is not None


def _fault(given: str, beside: Path | None) -> str | None:
    """Return what is wrong with a path, as the rest of a sentence, or None."""
    if not given.strip():
        return "must name a file or a folder"
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in given):
        return "must be a path without control characters"
    if len(os.fsencode(given)) > _LONGEST or any(len(os.fsencode(p)) > _LONGEST_NAME for p in Path(given).parts):
        return "must be a path that a file system can hold: it is too long"
    try:
        path = Path(given).expanduser()
        if path.is_absolute():
            return None
        roots = [Path.cwd().resolve()] if beside is None else [beside.resolve(), Path.cwd().resolve()]
        end = (path if beside is None else beside / path).resolve()
    except (OSError, RuntimeError, ValueError):  # no such user, a ring of links, a folder that is gone
        return "must be a path that leads somewhere"
    if any(end.is_relative_to(root) for root in roots):
        return None
    way = "by '..'" if ".." in path.parts else "through a symbolic link"
    return f"must stay in the working folder, which it leaves {way}; write an absolute path if that is what you mean"


def _shown(text: str) -> str:
    """Return a text as it may stand in a sentence: one line, not too long."""
    plain = "".join(c if c.isprintable() else "�" for c in text)
    return plain if len(plain) <= 80 else plain[:77] + "..."
