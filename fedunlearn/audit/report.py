"""What an audit says: ``audit.json`` with its schema, and a table for the terminal.

The classes are the documentation too (docs/audit.md). Every table may hold further entries, which readers should
ignore; a null says that a number does not exist or is not finite.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedunlearn.audit.conduct import Audit, Audited
from fedunlearn.audit.verdict import Verdict
from fedunlearn.evaluation.bounds import trade_off_curve
from fedunlearn.plots.audit import AuditPanel, audit_figure
from fedunlearn.plots.style import save
from fedunlearn.results import versions
from fedunlearn.results.fields import Entry, fitted
from fedunlearn.results.files import cannot_write, readable_json, write_atomically
from fedunlearn.results.words import number

SCHEMA: Literal["fedunlearn/audit/1"] = "fedunlearn/audit/1"
FIGURE = "audit.png"
_COLOURS = {"refuted": "bold red", "not refuted": "green", "no power": "yellow"}


class VerdictEntry(Entry):
    """One pair of worlds that was played for a claim."""

    game: str = Field(description="the pair of worlds, in a few words")
    kind: Literal["tight", "natural"] = Field(description="as far apart as the theorem lets them, or those of the run")
    trials: int = Field(ge=1, description="draws of each world; one half chose the test, the other was counted")
    confidence: float = Field(gt=0, lt=1, description="of every lower bound")
    decides: Literal["trade-off", "epsilon-delta"] = Field(description="the one sampled test that can refute the claim")
    outcome: Literal["refuted", "not refuted", "no power"] = Field(
        description="`no power`: even a gross fault would have gone unnoticed"
    )
    refuted_by: list[str] = Field(description="the tests that refute: the deciding one, or `distance`")
    epsilon_lower: float = Field(ge=0, description="lower bound on ε at the claimed δ")
    mu_lower: float | None = Field(description="lower bound on μ")
    mu_parametric: float | None = Field(default=None, description="the same, if the noise is trusted to be Gaussian")
    distance: float | None = Field(default=None, description="L2 distance of the noise-free vectors")
    sensitivity: float | None = Field(default=None, description="its claimed bound")
    ratio: float | None = Field(default=None, description="distance over sensitivity")
    pair_epsilon: float | None = Field(default=None, description="exact ε of this pair under the claimed noise")
    largest_refutable: float | None = Field(
        default=None, description="no claim of a larger ε can be refuted with so many trials, however wrong it is"
    )
    smallest_refutable: float | None = Field(
        default=None, description="smallest true ε that would refute the claim in 9 of 10 such audits; null: none would"
    )
    power: str = Field(description="one sentence on what would have been noticed")


class NoiseEntry(Entry):
    """The noise that the run's own release carries, in units of the claimed σ."""

    mean: float = Field(description="of all entries; 0 is claimed")
    variance: float = Field(description="of all entries; 1 is claimed")
    p: float = Field(ge=0, le=1, description="smallest p value of mean, variance and Kolmogorov's test")
    refutes: bool = Field(description="whether that is below one in a million")


class ClaimEntry(Entry):
    """A certificate, and what came of the attempts to refute it."""

    kind: str = Field(description="what the release is compared with (docs/certificates.md)")
    granularity: str = Field(description="what was deleted: `sample`, `class` or `client`")
    epsilon: float = Field(description="ε of the claim")
    delta: float = Field(description="δ of the claim")
    mu: float | None = Field(description="μ of the claim; null: it is about one pair (ε, δ) alone")
    sigma: float = Field(
        description="standard deviation of the noise on each parameter; `differential-privacy`: in a step of training"
    )
    sensitivity: float = Field(
        description="proved bound on the L2 distance of the noise-free vectors; `differential-privacy`: of a step"
    )
    valid: bool = Field(description="whether every premise was enforced")
    worth: str = Field(description="how often the best observer guesses right")
    theorem: str = Field(description="the statement that is invoked")
    refuted: bool = Field(description="whether one of the games refutes it")
    games: list[VerdictEntry] = Field(description="the games")
    noise: NoiseEntry | None = Field(
        default=None, description="noise of the run's own release; null where release and noise-free vector are unknown"
    )
    remarks: list[str] = Field(default=[], description="instances that there are not, and why")


class Report(Entry):
    """A whole audit."""

    schema_: Literal["fedunlearn/audit/1"] = Field(default=SCHEMA, alias="schema", description="this version")
    name: str = Field(description="name of the experiment")
    seed: int = Field(description="seed of the experiment")
    versions: dict[str, str] = Field(description="Python, this package and the libraries that decide numbers")
    method: str = Field(description="unlearning method")
    request: str = Field(description="the last request, whose answer was audited")
    trials: int = Field(ge=1, description="draws of each world in every game")
    refuted: bool = Field(description="whether one of the claims is refuted")
    claims: list[ClaimEntry] = Field(description="the claims; an empty list says that nothing is claimed")
    reason: str = Field(default="", description="why nothing is claimed, in one sentence")
    seconds: float | None = Field(default=None, description="wall-clock seconds of everything")


def report(audit: Audit, seconds: float | None = None) -> dict[str, Any]:
    """Return an audit as plain JSON values that fit the schema."""
    claims = [_claim_entry(claim) for claim in audit.claims]
    entries = {
        "name": audit.name, "seed": audit.seed, "versions": versions(), "method": audit.method,
        "request": audit.request, "trials": audit.trials, "refuted": audit.refuted, "claims": claims,
        "reason": audit.reason, "seconds": seconds,
    }  # fmt: skip
    return check_report(entries)


def check_report(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report as plain JSON values that fit the schema, as :func:`fedunlearn.results.fields.fitted` does."""
    return fitted(Report, {"schema": SCHEMA, **entries}, "audit.json")


def audit_panels(audit: Audit) -> list[AuditPanel]:
    """Return what the figure of an audit shows, one panel a game."""
    panels = []
    for claim in audit.claims:
        for verdict in claim.verdicts:
            scores = verdict.scores
            assert scores is not None, "a verdict that was just reached has its scores"
            said = "REFUTED" if verdict.refuted else verdict.outcome
            panels.append(
                AuditPanel(
                    f"{verdict.game} ({verdict.kind})",
                    f"ε ≥ {number(verdict.epsilon_lower)}, μ ≥ {number(verdict.mu_lower)}: {said}", verdict.refuted,
                    verdict.epsilon, verdict.delta, verdict.mu, scores.unlearned, scores.retrained, scores.threshold,
                    trade_off_curve(scores.unlearned, scores.retrained, level=(1.0 - verdict.confidence) / 2),
                )
            )  # fmt: skip
    return panels


def write_audit(folder: Path, audit: Audit, report: Mapping[str, Any], settings: str) -> Path | None:
    """Write the folder of an audit in one step: audit.json, settings.toml and, where something was played, audit.png.

    Args:
        folder: a name that is free.
        audit, report: what :func:`fedunlearn.audit.conduct.audit` and :func:`report` returned.
        settings: the experiment as :func:`fedunlearn.config.dump_toml` gives it.

    Returns:
        The figure, or None where nothing was played.

    Raises:
        UserError: if nothing can be written there.
    """
    partial = folder.with_name(f"{folder.name}.partial-{secrets.token_hex(4)}")
    panels = audit_panels(audit)
    try:
        partial.mkdir(parents=True)
        write_atomically(partial / "audit.json", readable_json(report).encode())
        write_atomically(partial / "settings.toml", settings.encode())
        if panels:
            headline = f"Audit of {audit.method} on {audit.name}"
            below = f"{audit.request}; {audit.trials:,} trials a world"
            save(audit_figure(panels, headline, below), partial / FIGURE)
        os.rename(partial, folder)
    except OSError as error:
        raise cannot_write(folder, error) from None
    return folder / FIGURE if panels else None


def audit_table(report: Mapping[str, Any]) -> RenderableType:
    """Return the printable audit: for every claim its numbers, one row a game, and what the games can say."""
    title = Text.assemble((report["name"], "bold"), (f"  audit of {report['method']}, seed {report['seed']}", "dim"))
    if not report["claims"]:
        return Group(title, Text(f"nothing is claimed, so there is nothing to refute: {report['reason']}"))
    about = Text(f"{report['request']}; {report['trials']:,} trials a world{_bounds_at(report)}", style="dim")
    blocks = [_claim_block(claim) for claim in report["claims"]]
    return Group(title, about, *blocks, Padding(_sum_up(report), (1, 0, 0, 0)))


def _bounds_at(report: Mapping[str, Any]) -> str:
    """Say how sure each bound is, and all of them together."""
    errors = [1.0 - game["confidence"] for claim in report["claims"] for game in claim["games"]]
    if not errors:
        return ""
    each = f", bounds at {number(100 * (1.0 - max(errors)))} %"
    return each if len(errors) == 1 else f"{each}, all together at {number(100 * (1.0 - sum(errors)))} %"


def _claim_block(claim: Mapping[str, Any]) -> RenderableType:
    mu = "" if claim["mu"] is None else f", μ = {number(claim['mu'])}"
    status = "valid" if claim["valid"] else "NOT valid: some premise was not enforced"
    head = Text.assemble(
        (f"{claim['kind']}: ε = {number(claim['epsilon'])}, δ = {number(claim['delta'])}{mu}", "bold"), f"   {status}"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("worlds", overflow="fold", min_width=9, vertical="bottom")
    for column in ("distance\n/ bound", "ε at\nleast", "μ at\nleast", "noticed\nfrom ε =", "verdict"):
        table.add_column(column, justify="right", vertical="bottom", no_wrap=True)
    for game in claim["games"]:
        table.add_row(
            Text(f"{game['game']} ({game['kind']})"), number(game["ratio"]), number(game["epsilon_lower"]),
            number(game["mu_lower"]), _above(game["smallest_refutable"]),
            Text(game["outcome"], style=_COLOURS[game["outcome"]]),
        )  # fmt: skip
    notes = Table.grid(padding=(0, 1))
    for game in claim["games"]:
        by = f", refuted by {' and '.join(game['refuted_by'])}" if game["refuted_by"] else ""
        notes.add_row("·", Text(f"{game['game']}{by}: {game['power']}", style="dim"))
    if (noise := claim["noise"]) is not None:
        said = f"the noise in the release has {number(noise['variance'], 4)} of the claimed variance"
        if noise["refutes"]:
            notes.add_row("·", Text(f"{said} (p = {number(noise['p'])}): it is not what is claimed", style="bold red"))
        else:
            notes.add_row("·", Text(f"{said} (p = {number(noise['p'])})", style="dim"))
    for remark in claim["remarks"]:
        notes.add_row("·", Text(remark, style="dim"))
    return Padding(Group(head, Padding(Group(table, notes), (0, 0, 0, 2))), (1, 0, 0, 0))


def _above(epsilon: float | None) -> str:
    return "none" if epsilon is None else number(epsilon)


def _sum_up(report: Mapping[str, Any]) -> Text:
    refuted = [claim["kind"] for claim in report["claims"] if claim["refuted"]]
    if refuted:
        return Text(f"refuted: {', '.join(refuted)}", style="bold red")
    untried = [c["kind"] for c in report["claims"] if not any(g["outcome"] == "not refuted" for g in c["games"])]
    if len(untried) == len(report["claims"]):
        return Text("no claim is refuted, but no game had the power to refute one", style="yellow")
    if untried:
        return Text(f"no claim is refuted, but no game had the power to refute {', '.join(untried)}", style="yellow")
    return Text("no claim is refuted, which proves none", style="green")


def _claim_entry(claim: Audited) -> dict[str, Any]:
    entry = claim.certificate.to_dict()
    kept = {name: entry[name] for name in ClaimEntry.model_fields if name in entry}
    games = [_verdict_entry(verdict) for verdict in claim.verdicts]
    return {
        **kept,
        "refuted": claim.refuted,
        "games": games,
        "noise": _noise_entry(claim),
        "remarks": list(claim.remarks),
    }


def _noise_entry(claim: Audited) -> dict[str, Any] | None:
    law = claim.noise
    if law is None:
        return None
    p = min(law.p_mean, law.p_variance, law.p_kolmogorov)
    return {"mean": law.mean, "variance": law.variance, "p": p, "refutes": claim.noise_refutes}


def _verdict_entry(verdict: Verdict) -> dict[str, Any]:
    entry = verdict.to_dict()
    return {name: entry[name] for name in VerdictEntry.model_fields} | {
        "epsilon_lower": max(0.0, verdict.epsilon_lower) if math.isfinite(verdict.epsilon_lower) else 0.0
    }
