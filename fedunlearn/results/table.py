"""The summary of a run as a table for the terminal, readable at 100 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedunlearn.results.words import (
    describe_request,
    in_order,
    is_control,
    model_title,
    number,
    seconds,
    share,
    times_cheaper,
)

_COST_LINES = (("seconds", "time"), ("messages", "messages"), ("network_seconds", "network time"))


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Return the whole summary as one printable table: head, accuracies, and one block a request.

    Args:
        summary: as in ``summary.json`` (:mod:`fedunlearn.results.schema`).
    """
    whole = Table.grid(expand=False)
    whole.add_row(_head(summary))
    whole.add_row(accuracy_table(summary))
    for place, request in enumerate(summary["requests"], start=1):
        whole.add_row(request_block(request, place, len(summary["requests"])))
    whole.add_row(_foot(summary))
    return whole


def accuracy_table(summary: Mapping[str, Any]) -> Table:
    """Return one row a model and one column a set of samples."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("accuracy on", no_wrap=True, header_style="not bold")
    for title in ("test", "nodes: mean ± sd, worst–best", "retain", "forget", "never-\nmember", "member-\nship AUC"):
        table.add_column(title, justify="right", vertical="bottom", no_wrap="\n" not in title)
    names = in_order(summary["models"])
    for place, name in enumerate(names):
        entry = summary["models"][name]
        table.add_row(
            Text(model_title(name)),
            share(entry["test_accuracy"]),
            _spread(entry.get("node_test_accuracy")),
            share(entry["retain_accuracy"]),
            share(entry["forget_accuracy"]),
            share(entry["never_member_accuracy"]),
            share(entry["membership_auc_forget_vs_test"]),
            style="dim" if is_control(name) else "",
            end_section=place + 1 < len(names) and not is_control(name) and is_control(names[place + 1]),
        )
    return table


def request_block(entry: Mapping[str, Any], place: int = 1, of: int = 1) -> RenderableType:
    """Return what is to be said about one request: certificate, distances, costs."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, value in _certificate_lines(entry) + _distance_lines(entry) + _cost_lines(entry):
        facts.add_row(label, value)
    which = f"Request {place}" if of > 1 else "Request"
    title = Text.assemble((which, "bold"), f": {describe_request(entry['request'])} ", (f"({entry['method']})", "dim"))
    return Padding(Group(title, Padding(facts, (0, 0, 0, 2))), (1, 0, 0, 0))


def _head(summary: Mapping[str, Any]) -> RenderableType:
    data, topology, model = summary["data"], summary["topology"], summary["model"]
    title = Text.assemble((summary["name"], "bold"), (f"  seed {summary['seed']}", "dim"))
    mixing = "" if topology["mixing_time"] is None else f", mixes in {number(topology['mixing_time'])} rounds"
    synthetic = " (synthetic)" if data.get("synthetic") and "synthetic" not in data["name"] else ""
    about = (
        f"{data['name']}{synthetic} · {_count(topology['nodes'], 'node')} on {topology['generator']}, "
        f"{_count(topology['edges'], 'edge')}{mixing} · {model['name']} on {model['features']} features, "
        f"{model['parameters']:,} parameters"
    )
    return Padding(Group(title, Text(about, style="dim")), (0, 0, 1, 0))


def _foot(summary: Mapping[str, Any]) -> RenderableType:
    spent = {name: value for name, value in summary["seconds"].items() if isinstance(value, (int, float))}
    total = spent.pop("total", None)
    parts = ", ".join(f"{name} {seconds(value)}" for name, value in spent.items())
    whole = f"{seconds(total)} in all: " if total is not None else ""
    return Padding(Text(whole + parts, style="dim"), (1, 0, 0, 0))


def _spread(entry: Mapping[str, float] | None) -> str:
    if entry is None:
        return "–"
    return f"{entry['mean']:.4f} ± {entry['std']:.4f}, {entry['min']:.3f}–{entry['max']:.3f}"


def _certificate_lines(entry: Mapping[str, Any]) -> list[tuple[str, RenderableType]]:
    certificate = entry["certificate"]
    if certificate is None:
        reason = entry.get("certificate_reason") or "the method gives none"
        return [("certificate", Text(reason if reason.startswith("none") else f"none: {reason}"))]
    lines: list[tuple[str, RenderableType]] = [
        (
            "certificate",
            Text.assemble(
                (f"ε = {number(certificate['epsilon'])}, δ = {number(certificate['delta'])}", "bold"), "   ",
                _verdict(certificate),
            ),
        ),
        (
            "noise",
            Text(
                f"σ = {number(certificate['sigma'])} on each parameter, for a sensitivity of "
                f"{number(certificate['sensitivity'])}"
            ),
        ),
        ("theorem", Text(certificate["theorem"])),
    ]  # fmt: skip
    scope = Table.grid(padding=(0, 1))  # a grid of bullets, so that wrapped lines hang under their text
    for line in certificate["scope"]:
        scope.add_row("·", Text(line))
    return [*lines, ("scope", scope)]


def _verdict(certificate: Mapping[str, Any]) -> Text:
    if certificate["valid"]:
        return Text("valid: every premise was enforced", style="green")
    open_ = [f"{premise['name']} ({premise['status']})" for premise in _not_enforced(certificate)]
    return Text(f"NOT valid: {'; '.join(open_) or 'it names no premise'}", style="red")


def _not_enforced(certificate: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [premise for premise in certificate["premises"] if premise["status"] != "enforced"]


def _distance_lines(entry: Mapping[str, Any]) -> list[tuple[str, RenderableType]]:
    distance = entry.get("distance_to_retrained")
    if distance is None:
        return []
    text = Text(f"{number(distance)} to the retrained network")
    if entry["certificate"] is not None:
        bound = entry["certificate"]["sensitivity"]
        if distance <= bound:
            text.append(f", within the bound {number(bound)} ({number(100 * distance / bound, 2)} % of it)")
        else:
            text.append(f", ABOVE the bound {number(bound)}", style="red")
    if entry.get("distance_before") is not None:
        text.append(f"; {number(entry['distance_before'])} before unlearning")
    lines: list[tuple[str, RenderableType]] = [("distance", text)]
    if (moved := entry.get("prediction_distance_to_retrained")) is not None:
        lines.append(("", Text(f"predictions differ from it by {number(moved)} in mean total variation")))
    return lines


def _cost_lines(entry: Mapping[str, Any]) -> list[tuple[str, RenderableType]]:
    cost, retraining = entry["cost"], entry.get("retrain_cost")
    lines: list[tuple[str, RenderableType]] = []
    for key, name in _COST_LINES:
        shown = number if key == "messages" else seconds
        text = Text(f"{shown(cost[key])}")
        if retraining is not None:
            text.append(f" against {shown(retraining[key])} of retraining")
            text.append(f": {times_cheaper(cost[key], retraining[key])}", style="bold")
        lines.append((name, text))
    if cost["hvps"] or cost["gradients"]:
        products = f" and {_count(cost['hvps'], 'Hessian-vector product')}" if cost["hvps"] else ""
        lines.append(("work", Text(f"{_count(cost['gradients'], 'gradient')}{products} of the whole network")))
    return lines


def _count(how_many: float, what: str) -> str:
    return f"{how_many:,.0f} {what}{'' if how_many == 1 else 's'}"
