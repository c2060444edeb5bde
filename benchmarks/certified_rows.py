"""From the summary of a run to one line of the comparison of certified methods; nothing here runs anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedunlearn.results.words import number, seconds, share, times

BOUNDS_THE_DISTANCE = ("retrain-equivalence", "single-node", "exact")
"""Kinds of certificate whose sensitivity bounds the distance to retraining."""

_RIGHT = re.compile(r"guesses right in ([\d.e+-]+) %")


@dataclass(frozen=True)
class Row:
    """What one file gave: the claim, what it is worth, and what the answer did and took.

    Attributes:
        name, method: of the file; ``name`` without the common beginning.
        kind: what the release is compared with (docs/certificates.md); ``none`` without a certificate, ``exact`` where
            none is needed, ``not defined`` where the method refuses the network or the request.
        valid, epsilon, delta, sensitivity, sigma: of the certificate; None without one.
        distance: largest L2 distance of a node to the retrained network, before noise; None where the method keeps no
            noise-free vector, or nothing bounds it.
        ratio: ``distance / sensitivity``, where the kind bounds the distance; None elsewhere.
        guess: how often the best observer guesses the world right, in [0.5, 1].
        vacuous: whether the certificate is called so.
        unlearned, retrained, junk: test accuracy of the release, of retraining with the same ending, and of the same
            answer from a start that no training touched (None where it makes no difference or was not run).
        allowed: how much of any score the certificate lets the trained start account for; None where it hides no start.
        seconds, retrain_seconds: wall clock of this machine.
        messages, retrain_messages: between vertices, the same on every machine.
        fell_back: the method retrained instead.
        verified: whether ``fedunlearn verify`` agrees; None without a certificate file.
        remark: why there is no valid certificate, or why the method is not defined.
    """

    name: str
    method: str
    kind: str
    valid: bool | None = None
    epsilon: float | None = None
    delta: float | None = None
    sensitivity: float | None = None
    sigma: float | None = None
    distance: float | None = None
    ratio: float | None = None
    guess: float | None = None
    vacuous: bool = False
    unlearned: float | None = None
    retrained: float | None = None
    junk: float | None = None
    allowed: float | None = None
    seconds: float | None = None
    retrain_seconds: float | None = None
    messages: float | None = None
    retrain_messages: float | None = None
    fell_back: bool = False
    verified: bool | None = None
    remark: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def rows_of(name: str, summary: Mapping[str, Any], verified: bool | None) -> list[Row]:
    """Return the line of a run's last request, and one more for each certificate about other observers.

    Args:
        name: what the lines are called; further ones add the kind of their certificate.
        summary: as in ``summary.json``.
        verified: what ``fedunlearn verify`` said about the run's certificates.
    """
    request, models = summary["requests"][-1], summary["models"]
    junk = request.get("controls", {}).get("junk_start")
    certificate = request["certificate"]
    claim = _claim(certificate)
    if certificate is None and request.get("certificate_reason", "").startswith("none is needed"):
        claim = {"kind": "exact"}
    distance = request["distance_to_retrained"]
    bounded = certificate is not None and certificate["kind"] in BOUNDS_THE_DISTANCE
    first = Row(
        name=name, method=request["method"], **claim, distance=distance if bounded or certificate is None else None,
        ratio=_ratio(distance, certificate["sensitivity"]) if bounded else None,
        unlearned=models["unlearned"]["test_accuracy"], retrained=models["retrained"]["test_accuracy"],
        junk=None if junk is None else junk["test_accuracy"],
        allowed=None if junk is None else junk["allowed_difference"],
        seconds=request["cost"]["seconds"], retrain_seconds=request["retrain_cost"]["seconds"],
        messages=request["cost"]["messages"], retrain_messages=request["retrain_cost"]["messages"],
        fell_back=bool(request.get("fell_back_to_retraining")), verified=verified,
        remark=_remark(certificate, request.get("certificate_reason", "")),
    )  # fmt: skip
    further = [
        Row(
            name=f"{name}: {c['kind']}", method=request["method"], **_claim(c), verified=verified, remark=_remark(c, "")
        )
        for c in request.get("further_certificates", ())
    ]
    return [first, *further]


def refused(name: str, method: str, why: str) -> Row:
    """Return the line of a method that is not defined for the network or the request."""
    return Row(name=name, method=method, kind="not defined", remark=why)


def controls_of(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence for every other way to the last answer that was tried, apart from the junk start."""
    controls = summary["requests"][-1].get("controls", {})
    return [
        f"{name.replace('_', ' ')}: {number(entry['messages'])} messages"
        for name, entry in controls.items()
        if name != "junk_start"
    ]


def _claim(certificate: Mapping[str, Any] | None) -> dict[str, Any]:
    if certificate is None:
        return {"kind": "none"}
    worth = str(certificate["worth"])
    found = _RIGHT.search(worth)
    numbers = {key: certificate[key] for key in ("kind", "valid", "epsilon", "delta", "sensitivity", "sigma")}
    return {
        **numbers, "guess": None if found is None else float(found[1]) / 100, "vacuous": worth.startswith("vacuous")
    }  # fmt: skip


def _ratio(distance: float | None, sensitivity: float) -> float | None:
    return None if distance is None or sensitivity <= 0 else distance / sensitivity


def _remark(certificate: Mapping[str, Any] | None, reason: str) -> str:
    """Return why a line has no valid certificate; empty where it has one."""
    if certificate is None:
        return reason.removeprefix("none: ")
    open_ = [f"{p['name']} ({p['status']})" for p in certificate["premises"] if p["status"] != "enforced"]
    return "" if certificate["valid"] else "not valid: " + (", ".join(open_) or "it names no premise")


# --- as text ---------------------------------------------------------------------------------------------------------

CLAIMS = ("file", "kind", "valid", "ε", "δ", "Δ", "σ", "guess", "dist/Δ")
EFFECTS = ("file", "acc", "retrained", "junk", "time", "retrain", "messages", "retrain", "saved")


def claim_cells(row: Row) -> tuple[str, ...]:
    """Return the claim half of a line, as under :data:`CLAIMS`."""
    guess = "–" if row.guess is None else f"{100 * row.guess:.1f} %"
    return (
        row.name, row.kind, "–" if row.valid is None else "yes" if row.valid else "NO", number(row.epsilon),
        number(row.delta), number(row.sensitivity), number(row.sigma), "vacuous" if row.vacuous else guess,
        number(row.ratio, 2),
    )  # fmt: skip


def effect_cells(row: Row) -> tuple[str, ...]:
    """Return the half of a line that says what the answer did and took, as under :data:`EFFECTS`."""
    return (
        row.name, share(row.unlearned), share(row.retrained), share(row.junk), seconds(row.seconds),
        seconds(row.retrain_seconds), number(row.messages), number(row.retrain_messages),
        times(row.messages, row.retrain_messages),
    )  # fmt: skip


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, first column to the left and the others to the right.

    >>> print(markdown(("a", "b"), [("x", "1")]))
    | a | b |
    | --- | ---: |
    | x | 1 |
    """
    rule = ["---"] + ["---:"] * (len(heads) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *lines))


def remarks(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a sentence for every line that has something to say beside its numbers."""
    for row in rows:
        if row.verified is False:
            yield f"{row.name}: NOT VERIFIED"
        if row.fell_back:
            yield f"{row.name}: fell back to retraining"
        if row.remark:
            yield f"{row.name}: {row.remark}"
