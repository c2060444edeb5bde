"""The tables and the figure of a comparison that is a sweep of named points, such as certified_comparison.toml.

Every point is one method on one task, and its name begins with the task: ``softmax-rewind``, ``cnn-rewind``. Beside the
epsilon that is proved stands the one by which the method's own paper accounts for the very same noise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.certified_rows import Row, refused, rows_of
from fedunlearn.errors import UserError
from fedunlearn.privacy import NoCertificate, epsilon_of, verify
from fedunlearn.privacy.accounting.invert import smallest
from fedunlearn.privacy.accounting.transcripts import network_dp_sigma, paper_epsilon, transcript_mu
from fedunlearn.privacy.claims.dp_training import DpTrainingFacts, opinion_of
from fedunlearn.privacy.claims.dp_training_facts import RULE as DP_TRAINING
from fedunlearn.privacy.claims.walk_facts import RULE as WALK
from fedunlearn.results.words import number, seconds, share
from fedunlearn.sweep import Outcome

HEADS = (
    "point", "kind", "valid", "Δ", "σ", "ε proved", "ε paper", "acc", "retrained", "junk", "distance", "dist/Δ", "time",
    "messages",
)  # fmt: skip
DRAWN = {
    "softmax-newton": "newton", "softmax-newton-paper-worst-case": "worst case", "softmax-rr-du": "rr-du",
    "softmax-rr-du-conservative": "conservative", "softmax-rr-du-paper": "published",
}  # fmt: skip
"""Points in the figure, and their short names: one claim about one task, by noise of very different sizes."""


@dataclass(frozen=True)
class Line:
    """One line of a table: a :class:`Row` with its two accounts of the same noise.

    Attributes:
        row: what the run gave.
        proved: epsilon that is proved for this run; None where nothing is.
        supposed: what composition would prove if the open premises of an invalid claim held.
        paper: epsilon by the accounting of the method's paper; None where that says nothing of its own.
        distance: to the retrained network, before noise, also where nothing bounds it.
    """

    row: Row
    proved: float | None = None
    supposed: float | None = None
    paper: float | None = None
    distance: float | None = None


def lines_of(outcome: Outcome, folder: Path) -> list[Line]:
    """Return the line of a finished or refused point, and one for each further certificate.

    Args:
        outcome: of the point.
        folder: of its run.
    """
    point = outcome.point
    if not outcome.summary:
        return [Line(refused(point.name, point.experiment.unlearning.method, outcome.error))]
    request = outcome.summary["requests"][-1]
    rows = rows_of(point.name, outcome.summary, verify(folder / "certificate.json").ok)
    certificates = [request["certificate"], *request.get("further_certificates", ())]
    found = [Line(row, *accounts(certificate)) for row, certificate in zip(rows, certificates, strict=True)]
    first = found[0]
    return [Line(first.row, first.proved, first.supposed, first.paper, request["distance_to_retrained"]), *found[1:]]


def accounts(certificate: Mapping[str, Any] | None) -> tuple[float | None, float | None, float | None]:
    """Return epsilon proved, supposed and by the paper's accounting, at the certificate's delta.

    The restart walk's paper has its formula with ln N/N; that of the private walk amplifies by the same factor and adds
    what is spotted; DP-SGD's composes Renyi divergences. All others calibrate by the textbook formula
    sigma = Delta sqrt(2 ln(1.25/delta))/epsilon.
    """
    if certificate is None:
        return None, None, None
    facts, delta, mu = certificate["facts"], float(certificate["delta"]), certificate["mu"]
    claimed = float(certificate["epsilon"]) if certificate["valid"] else None
    if claimed is not None and mu:  # the whole profile is proved, so the claim may be less than what is known
        claimed = min(claimed, epsilon_of(float(mu), delta))
    if facts["rule"] == WALK:
        visits, clip, noise = len(facts["visits"]), float(facts["clip"]), float(facts["noise"])
        if facts["accounting"] == "network-dp":  # its premises for composition hold, whatever calibrated the noise
            proved = epsilon_of(transcript_mu(visits, 2 * clip * facts["local_steps"], noise), delta)
            group = facts["forget_count"] if facts["granularity"] == "sample" else 1
            return proved, None, _network_epsilon(noise, delta, facts["nodes"], facts["hops"], clip, group)
        p = facts["restart_probability"] or 1 / facts["nodes"]
        paper = paper_epsilon(noise, delta, facts["hops"], p, facts["nodes"], clip)
        supposed = None if claimed is not None else epsilon_of(transcript_mu(visits, clip, noise), delta)
        return claimed, supposed, paper
    if facts["rule"] == DP_TRAINING:
        return claimed, None, _renyi(facts, delta)
    supposed = float(certificate["epsilon"]) if claimed is None else None
    return claimed, supposed, None if not mu else float(mu) * math.sqrt(2 * math.log(1.25 / delta))


def _network_epsilon(noise: float, delta: float, nodes: int, hops: int, clip: float, group: int) -> float | None:
    """Return the epsilon whose published noise this is: the noise falls with epsilon."""
    try:
        return smallest(
            lambda e: network_dp_sigma(e, delta, nodes, hops, clip, group) <= noise * (1 + 1e-9), what="epsilon",
            relative=1e-6, limit=1e4,
        )  # fmt: skip
    except UserError:
        return None


def _renyi(facts: Mapping[str, Any], delta: float) -> float | None:
    try:
        second = opinion_of(DpTrainingFacts.from_dict(facts), delta).second
    except NoCertificate:
        return None
    found = [value for name, value in second.items() if "rdp" in name.lower() or "renyi" in name.lower()]
    return min(found, default=None)


# --- as text ---------------------------------------------------------------------------------------------------------


def cells(line: Line, task: str = "") -> tuple[str, ...]:
    """Return a line as under :data:`HEADS`; what is only supposed stands in parentheses."""
    row = line.row
    proved = number(line.proved) if line.proved is not None or line.supposed is None else f"({number(line.supposed)})"
    return (
        row.name.removeprefix(f"{task}-"), row.kind + (" (fell back)" if row.fell_back else ""),
        "–" if row.valid is None else "yes" if row.valid else "NO", number(row.sensitivity), number(row.sigma),
        proved, number(line.paper), share(row.unlearned), share(row.retrained), share(row.junk),
        number(line.distance), number(row.ratio, 2), seconds(row.seconds), number(row.messages),
    )  # fmt: skip


def tasks(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Return the lines of every task, in the order of the file."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.row.name.partition("-")[0], []).append(line)
    return found


# --- as a figure -----------------------------------------------------------------------------------------------------


def certificates_of(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Return the certificates of :data:`DRAWN` that have a place in the picture, by short name and in that order."""
    from fedunlearn.plots.certificates import drawable

    summaries = {outcome.point.name: outcome.summary for outcome in outcomes if outcome.summary}
    found = {
        short: summaries[name]["requests"][-1]["certificate"] for name, short in DRAWN.items() if name in summaries
    }
    return {short: certificate for short, certificate in found.items() if certificate and drawable(certificate)}


def figure(certificates: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Return the certificate curves of several points."""
    from fedunlearn.plots import certificate_curves

    return certificate_curves(list(certificates.values()), list(certificates))


def as_json(lines: Sequence[Line]) -> str:
    """Return the lines as JSON."""
    entries = [
        {**x.row.to_dict(), "proved": x.proved, "supposed": x.supposed, "paper": x.paper, "true_distance": x.distance}
        for x in lines
    ]
    return json.dumps(entries)
