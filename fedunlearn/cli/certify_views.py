"""The question of ``fedunlearn certify`` about a finished run: what each node saw of its answers, and what follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedunlearn.cli.answers import Answer, AsJson, Rows, tell
from fedunlearn.errors import UserError, listed

if TYPE_CHECKING:
    from fedunlearn.network.ledger import Ledger
    from fedunlearn.privacy import Certificate
    from fedunlearn.privacy.observed import Answered, Seen

_NOTES = (
    "Epsilon is about the messages of one answer and the data deleted by it, given all that the observers knew before "
    "the request: 0 says that the messages add nothing. A view without a number has no certificate.",
    "Received is what nodes send to each other; what one node computes for itself, and what a server sees, is not in "
    "the tables. The certificates are taken at their word: fedunlearn verify recomputes them.",
)
_SIMULATED = "The noise is simulated: the claims are about the same run with secret noise."


def views(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    observer: Annotated[
        list[int] | None, typer.Option("--observer", metavar="V", help="A node; may be repeated. Default: every node.")
    ] = None,
    collude: Annotated[
        list[str] | None,
        typer.Option("--collude", metavar="LIST", help="Nodes that pool what they hear, such as 3,12; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What each node of a finished run received while requests were answered, and what its view is worth.

    Every message is in the ledger of the run; its certificates say which of them they cover.
    """
    from fedunlearn.network.ledger import Ledger
    from fedunlearn.privacy import read_certificates
    from fedunlearn.results import read_ledger, read_run
    from fedunlearn.results.reading import read_settings
    from fedunlearn.results.run_names import CERTIFICATES, LEDGER

    summary = read_run(run).summary
    requests = summary["requests"]
    if not requests:
        raise UserError(f"'{run}' answered no request, so there are no views to account for")
    try:
        ledger = Ledger.from_summary(read_ledger(run))
    except UserError as error:
        raise UserError(f"{run / LEDGER}: {str(error).removeprefix(f'{run / LEDGER}: ')}") from None
    certificates = _by_request(requests, read_certificates(run / CERTIFICATES), run / CERTIFICATES)
    groups = _groups(observer, collude, ledger.num_nodes)
    model = read_settings(run).get("model")
    checkpoint = model.get("checkpoint") if isinstance(model, Mapping) else None
    tables: list[Rows] = []
    claims: list[dict[str, Any]] = []
    reasons: dict[tuple[str, str], list[int]] = {}
    classes: list[int] = []
    for number, entry in enumerate(requests):
        answered = _answered(number, entry, certificates[number], ledger, public=checkpoint is None)
        claims += [_claim(number, *pair) for pair in certificates[number].items()]
        found = _seen(number, answered, ledger, groups)
        tables += _tables(number, entry["request"]["text"], found, answered)
        for key in dict.fromkeys((seen.by, seen.reason) for seen in found):
            reasons.setdefault(key, []).append(number)
        classes += [number] if entry["request"]["level"] == "class" else []
    if claims:
        tables.insert(0, Rows("certificates of the run", claims))
    notes = [f"{by} (request {listed(numbers)}): {reason}" for (by, reason), numbers in reasons.items()]
    if classes:
        notes.append(f"Request {listed(classes)} deleted a class: nodes that held samples of it know their own.")
    issued = [certificate for held in certificates for certificate in held.values()]
    if any(certificate.noise == "simulated" for certificate in issued):
        notes.append(_SIMULATED)
    given = {
        "run": run.as_posix(), "method": requests[0]["method"], "nodes": ledger.num_nodes, "answers": len(requests),
        "delta": issued[0].delta if issued else None,
    }  # fmt: skip
    tell(Answer("views", given, {}, tables, [*notes, *_NOTES]), as_json)


def _groups(observer: list[int] | None, collude: list[str] | None, nodes: int) -> list[tuple[int, ...]]:
    """Return the sets of nodes whose views are wanted: each alone, then those who pool."""
    groups: list[tuple[int, ...]] = [(node,) for node in observer or ()]
    for text in collude or ():
        try:
            together = tuple(sorted({int(word) for word in text.split(",") if word.strip()}))
        except ValueError:
            raise UserError(f"--collude {text}: must be node numbers with commas between them, such as 3,12") from None
        if len(together) < 2:
            raise UserError(f"--collude {text}: must name at least two nodes")
        groups.append(together)
    for group in groups:
        for node in group:
            if not 0 <= node < nodes:
                option = "observer" if len(group) == 1 else "collude"
                raise UserError(f"--{option} {node}: must be a node of the run, from 0 to {nodes - 1}")
    return list(dict.fromkeys(groups)) or [(node,) for node in range(nodes)]


def _by_request(
    requests: Iterable[Mapping[str, Any]], certificates: list[Certificate], path: Path
) -> list[dict[int, Certificate]]:
    """Return the certificates of every request by their number in the file, which lists them in the same order."""
    found: list[dict[int, Certificate]] = []
    number = 0
    for entry in requests:
        claimed = [*([entry["certificate"]] if entry["certificate"] else []), *entry.get("further_certificates", [])]
        held = dict(enumerate(certificates[number : number + len(claimed)], start=number))
        if [c.to_dict()["sha256"] for c in held.values()] != [c.get("sha256") for c in claimed]:
            raise UserError(f"{path}: summary.json of the run lists other certificates than this file")
        found.append(held)
        number += len(claimed)
    if number != len(certificates):
        raise UserError(f"{path}: summary.json of the run lists {number} certificates, this file {len(certificates)}")
    return found


def _answered(
    number: int, entry: Mapping[str, Any], certificates: dict[int, Certificate], ledger: Ledger, *, public: bool
) -> Answered:
    from fedunlearn.privacy.observed import Answered

    walks = [t.route for t in ledger.traffic if t.request == number and t.pattern == "walk" and t.route]
    return Answered(
        asker=entry["request"].get("client"),
        certificates=certificates,
        reason=entry["certificate_reason"],
        noise_makers=frozenset(route[0] for route in walks),  # a walk sets out from the node that adds its noise
        retrained=entry["method"] == "retrain" and public,
    )


def _seen(number: int, answered: Answered, ledger: Ledger, groups: list[tuple[int, ...]]) -> list[Seen]:
    from fedunlearn.privacy.observed import seen_by

    wanted = sorted({node for group in groups for node in group})
    heard = {v: [r for r in ledger.received_by(v) if r["request"] == number] for v in wanted}
    knew = [v for v in wanted if ledger.held_release(v, number)]
    return [seen_by({v: heard[v] for v in group}, answered, knew_the_release=knew) for group in groups]


def _tables(number: int, text: str, found: list[Seen], answered: Answered) -> list[Rows]:
    """Return what was received, a row for each set of observers, and what covers it, a row for each kind of message."""
    from fedunlearn.privacy.observed import cover_of

    kinds = list(dict.fromkeys(kind for seen in found for kind in seen.kinds))
    rows = [
        {"node": listed(seen.observers), **{kind: seen.kinds.get(kind, 0) for kind in kinds}, "messages": seen.messages,
         "bytes": seen.size, "epsilon": seen.epsilon, "by": seen.by}
        for seen in found
    ]  # fmt: skip
    covers = [(kind, cover_of(kind, answered)) for kind in kinds]
    kept = [
        {"messages of kind": kind, "covered by": c.by, "certificate": c.number, "mu": c.mu} for kind, c in covers
    ]  # fmt: skip
    tables = [Rows(f"request {number}: {text}", rows)]
    return [*tables, Rows(f"request {number}: what covers the messages", kept)] if kept else tables


def _claim(request: int, number: int, certificate: Certificate) -> dict[str, Any]:
    return {
        "certificate": number, "request": request, "kind": certificate.kind, "epsilon": certificate.epsilon,
        "mu": certificate.mu, "valid": certificate.valid, "messages": certificate.view,
    }  # fmt: skip
