"""Recompute every number and sentence of a certificate file, and the hashes of the files it speaks about.

The certificate holds the facts of its run; verification builds the certificate again from them and compares. It
answers: does this claim follow from these facts, and are these the files it was made for? It cannot tell whether the
facts are true: for that, run the settings file again (simulated noise makes the release reproducible bit for bit).
"""

from __future__ import annotations

import hashlib
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fedunlearn
from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian
from fedunlearn.privacy.accounting import integration
from fedunlearn.privacy.certificate import Certificate, NoCertificate, all_enforced, digest
from fedunlearn.privacy.certificate_file import read_entries
from fedunlearn.privacy.claims import rebuild

_RELATIVE = 1e-8
"""Agreement asked of recomputed floats: far above rounding, far below anything that changes a claim."""


@dataclass(frozen=True)
class Check:
    """One comparison: which certificate of the file, what was compared, and the outcome."""

    certificate: int
    what: str
    claimed: str
    recomputed: str
    ok: bool


@dataclass(frozen=True)
class Report:
    """All comparisons of one certificate file, and remarks that decide nothing."""

    path: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every comparison agreed. A certificate may be verified and say of itself that it is not valid."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The comparisons that did not agree."""
        return tuple(check for check in self.checks if not check.ok)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "checks": [asdict(check) for check in self.checks], "ok": self.ok}

    def text(self) -> str:
        """Return the report as text, one line a comparison."""
        lines = []
        for check in self.checks:
            mark = "ok  " if check.ok else "FAIL"
            found = check.claimed if check.ok else f"claimed {check.claimed}, recomputed {check.recomputed}"
            lines.append(f"{mark} certificate {check.certificate}: {check.what}: {found}")
        lines += [f"note {note}" for note in self.notes]
        failed = len(self.failures)
        lines.append(
            "verified: everything agrees" if self.ok else f"NOT verified: {failed} of {len(self.checks)} failed"
        )
        return "\n".join(lines)


def verify(path: Path | str) -> Report:
    """Recompute a ``certificate.json`` and hash the files beside it.

    Raises:
        UserError: if the file cannot be read or is not a certificate file of this version.
    """
    path = Path(path)
    checks: list[Check] = []
    notes: list[str] = []
    installed = code_sha256()
    entries = read_entries(path)
    for number, entry in enumerate(entries):
        checks += _checks_of(number, entry, path.parent)
        if entry in entries[:number]:  # every certificate names the release it is about, so no two are the same
            checks.append(Check(number, "listed once", "yes", f"a copy of {entries.index(entry)}", ok=False))
        hashes = entry.get("hashes")
        code = hashes.get("code") if isinstance(hashes, dict) else None
        if code is not None and code != installed:
            notes.append(f"certificate {number} was issued by other source code than the installed one")
        if entry.get("valid") is False:
            notes.append(f"certificate {number} says of itself that it is not valid: see its premises")
    if not checks:
        notes.append("the file holds no certificate")
    return Report(str(path), tuple(checks), tuple(notes))


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_sha256() -> str:
    """Return one SHA-256 over the names and contents of all source files of the installed package."""
    root = Path(fedunlearn.__path__[0])
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        whole.update(f"{path.relative_to(root).as_posix()}\0{file_sha256(path)}\n".encode())
    return whole.hexdigest()


def _checks_of(number: int, entry: Mapping[str, Any], folder: Path) -> Iterator[Check]:
    def check(what: str, claimed: object, recomputed: object, ok: bool | None = None) -> Check:
        agree = _agree(claimed, recomputed) if ok is None else ok
        shown, found = _shown(claimed), _shown(recomputed)
        if agree:
            shown, found = textwrap.shorten(shown, 100), textwrap.shorten(found, 100)
        return Check(number, what, shown, found, agree)

    yield check("digest of the entries", entry.get("sha256"), digest(entry))
    try:
        claimed = Certificate.from_dict(entry)
    except UserError as error:
        yield check("entries", "a certificate", str(error), ok=False)
        return
    statuses = [premise.status for premise in claimed.premises]
    yield check("valid, from the premises", entry.get("valid"), all_enforced(statuses))
    yield from _profile_checks(entry, claimed, check)
    try:
        rebuilt = rebuild(claimed.facts, claimed.epsilon, claimed.delta, noise=claimed.noise, hashes=claimed.hashes)
    except (UserError, NoCertificate, TypeError, ValueError, ArithmeticError) as error:
        yield check("the claim, from the facts of the run", "a certificate", f"none: {error}", ok=False)
    else:
        for name in ("sensitivity", "mu", "sigma", "constants", "method", "kind", "granularity", "theorem", "claim"):
            yield check(f"{name}, from the facts of the run", getattr(claimed, name), getattr(rebuilt, name))
        for name in ("scope", "view", "view_reason", "limits"):
            yield check(f"{name}, from the facts of the run", getattr(claimed, name), getattr(rebuilt, name))
        names = [premise.name for premise in claimed.premises]
        yield check("names of the premises", names, [premise.name for premise in rebuilt.premises])
        for mine, theirs in zip(rebuilt.premises, claimed.premises):
            yield check(f"premise '{mine.name}'", f"{theirs.status}: {theirs.detail}", f"{mine.status}: {mine.detail}")
    yield from _file_checks(claimed, folder, check)


def _profile_checks(entry: Mapping[str, Any], claimed: Certificate, check: Any) -> Iterator[Check]:
    """Compare the claim with the exact Gaussian profile, from the numbers of the certificate alone."""
    try:
        yield check("worth, from mu or from epsilon and delta", entry.get("worth"), claimed.worth)
    except (UserError, ValueError) as error:
        yield check("worth, from mu or from epsilon and delta", "a sentence", str(error), ok=False)
    if claimed.mu is None:  # no Gaussian profile: the accountant that rebuilds the claim from the facts decides
        return
    try:
        delta = gaussian.delta_of(claimed.mu, claimed.epsilon)
        ok = 0 < claimed.delta < 1 and delta <= claimed.delta * (1 + _RELATIVE)
        yield check(f"delta at epsilon = {claimed.epsilon:g}", claimed.delta, delta, ok=ok)
        second = integration.delta_of(claimed.mu, claimed.epsilon)
        yield check("the same by numerical integration", delta, second, ok=math.isclose(delta, second, rel_tol=1e-7))
        if claimed.facts.get("rule") != "tolerance":
            return
        releases = claimed.constants.get("releases", 1.0)
        needed = gaussian.sigma_for(claimed.sensitivity * math.sqrt(releases), claimed.epsilon, claimed.delta)
        ok = claimed.sigma >= needed * (1 - _RELATIVE)
        yield check("sigma, at least what the sensitivity needs", claimed.sigma, needed, ok=ok)
    except (UserError, ValueError) as error:
        yield check("epsilon, delta, mu, sigma", "numbers in range", str(error), ok=False)


def _file_checks(claimed: Certificate, folder: Path, check: Any) -> Iterator[Check]:
    """Compare the hashes of files named by the certificate; a key without a file suffix names no file."""
    files = [key for key in claimed.hashes if Path(key).suffix]
    models = [key for key in files if key.endswith(".safetensors")]
    yield check("released model", models or "none named", "at least one file", ok=bool(models))
    for key in files:
        path = folder / key
        if not path.resolve().is_relative_to(folder.resolve()):
            yield check(f"hash of {key}", claimed.hashes[key], "not a file of this run", ok=False)
            continue
        try:
            found = file_sha256(path)
        except OSError as error:
            found = f"cannot be read: {error.strerror or error}"
        yield check(f"hash of {key}", claimed.hashes[key], found)


def _agree(claimed: object, recomputed: object) -> bool:
    if isinstance(claimed, float) and isinstance(recomputed, float):
        return math.isclose(claimed, recomputed, rel_tol=_RELATIVE)
    if isinstance(claimed, dict) and isinstance(recomputed, dict):
        return claimed.keys() == recomputed.keys() and all(_agree(claimed[key], recomputed[key]) for key in claimed)
    return type(claimed) is type(recomputed) and claimed == recomputed


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_shown(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(_shown(entry) for entry in value)
    return str(value)
