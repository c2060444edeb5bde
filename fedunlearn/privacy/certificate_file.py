"""The file format of certificates: written whole or not at all, read without trust."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedunlearn.errors import UserError
from fedunlearn.plain_text import parse_json
from fedunlearn.privacy.certificate import Certificate

SCHEMA = "fedunlearn/certificates/2"


def write_certificates(path: Path | str, certificates: Sequence[Certificate]) -> None:
    """Write ``certificate.json`` so that a reader sees the old file or the whole new one.

    Raises:
        UserError: if the folder cannot be written.
    """
    path = Path(path)
    entry = {"schema": SCHEMA, "certificates": [certificate.to_dict() for certificate in certificates]}
    content = json.dumps(entry, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=path.name, delete=False
        ) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)  # the temporary file is private, the certificate is not
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def read_entries(path: Path | str) -> list[dict[str, Any]]:
    """Return the entries of a ``certificate.json`` as plain tables, unjudged.

    Raises:
        UserError: if the file cannot be read, is not JSON, or is not of this schema.
    """
    path = Path(path)
    try:
        content = parse_json(path.read_text(encoding="utf-8"), finite=False)  # verify says what is not a number
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a JSON or an encoding error
        raise UserError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else None
        raise UserError(f"{path}: schema = {found!r} is not a certificate file of this version, which has '{SCHEMA}'")
    entries = content.get("certificates")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: certificates is not a list of tables")
    return entries


def read_certificates(path: Path | str) -> list[Certificate]:
    """Return the certificates of a ``certificate.json``.

    Raises:
        UserError: if the file cannot be read or one of its entries is malformed.
    """
    certificates = []
    for number, entry in enumerate(read_entries(path)):
        try:
            certificates.append(Certificate.from_dict(entry))
        except UserError as error:
            raise UserError(f"{path}: certificates.{number}: {error}") from error
    return certificates
