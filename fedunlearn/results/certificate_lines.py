"""What a certificate claims, in the lines of a request's block on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fedunlearn.results.words import number


def certificate_lines(entry: Mapping[str, Any]) -> list[tuple[str, RenderableType]]:
    """Return what a request's certificates claim, or why there is none, as (label, text) lines of its block."""
    lines: list[tuple[str, RenderableType]] = []
    if entry["certificate"] is None:
        reason = entry.get("certificate_reason") or "the method gives none"
        lines = [("certificate", Text(reason if reason.startswith("none") else f"none: {reason}"))]
    else:
        lines = _claim_lines("certificate", entry["certificate"])
    for further in entry.get("further_certificates") or ():
        lines += _claim_lines("further", further)
    return lines


def _claim_lines(label: str, certificate: Mapping[str, Any]) -> list[tuple[str, RenderableType]]:
    """Return a claim with the numbers that belong together in one line, what it is worth, and whom it is about."""
    worth = str(certificate["worth"])
    step = "in a step of training: " if certificate["kind"] == "differential-privacy" else ""
    numbers = Text.assemble(
        (f"ε = {number(certificate['epsilon'])}, δ = {number(certificate['delta'])}", "bold"),
        f"   {step}sensitivity Δ = {number(certificate['sensitivity'])}   noise σ = {number(certificate['sigma'])}",
    )
    scope = Table.grid(padding=(0, 1))  # a grid of bullets, so that wrapped lines hang under their text
    for line in certificate["scope"]:
        who, colon, rest = line.partition(":")
        scope.add_row("·", Text.assemble((who + colon, "bold"), rest) if colon else Text(line))
    return [
        (label, numbers),
        ("", Text.assemble(f"{certificate['kind']}   ", _verdict(certificate))),
        ("worth", Text(worth, style="red" if worth.startswith("vacuous") else "")),
        ("theorem", Text(certificate["theorem"])),
        ("scope", scope),
    ]


def _verdict(certificate: Mapping[str, Any]) -> Text:
    if certificate["valid"]:
        return Text("valid: every premise was enforced", style="green")
    open_ = [f"{premise['name']} ({premise['status']})" for premise in _not_enforced(certificate)]
    return Text(f"NOT valid: {'; '.join(open_) or 'it names no premise'}", style="red")


def _not_enforced(certificate: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [premise for premise in certificate["premises"] if premise["status"] != "enforced"]
