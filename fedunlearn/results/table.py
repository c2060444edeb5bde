"""The summary of a run as a table for the terminal: whole at 80 columns, and no wider than 100."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedunlearn.results.certificate_lines import certificate_lines
from fedunlearn.results.words import (
    JUNK_START,
    describe_request,
    in_order,
    is_control,
    model_title,
    number,
    points,
    seconds,
    share,
    times,
)

_TEXT_WIDTH = 84
"""Columns of running text at most: longer lines are hard to follow on a wide terminal."""
_REFUSALS = 5
"""Refused requests that are listed at most."""
_COSTS = {
    "seconds": ("time", seconds),
    "messages": ("messages", number),
    "network_seconds": ("network\ntime", seconds),
    "gradients": ("gradi-\nents", number),
    "hvps": ("HVPs", number),
}
"""Numbers of a cost that are shown: title and how they are written."""

_BOUNDS_THE_DISTANCE = ("retrain-equivalence", "single-node", "exact")
"""Kinds of certificate whose sensitivity bounds the distance to retraining."""


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Return the whole summary as one printable table: head, accuracies, and one block a request.

    Args:
        summary: as in ``summary.json`` (:mod:`fedunlearn.results.schema`).
    """
    whole = Table.grid(expand=False)
    whole.add_row(_head(summary))
    whole.add_row(accuracy_table(summary))
    for place, request in enumerate(summary["requests"], start=1):
        whole.add_row(request_block(request, place, len(summary["requests"]), summary["models"]))
    if summary.get("refused") or summary.get("notes"):
        whole.add_row(_refusals(summary))
    if summary.get("preparation") is not None:
        whole.add_row(_preparation(summary["preparation"]))
    whole.add_row(_foot(summary))
    return whole


def accuracy_table(summary: Mapping[str, Any]) -> Table:
    """Return one row a model and one column a set of samples."""
    table = _plain_table("accuracy on")
    for title in ("test", "nodes: mean\n± deviation", "worst to\nbest", "retain", "forget", "never-\nmember"):
        table.add_column(title, justify="right", vertical="bottom", no_wrap=True)
    table.add_column("member\nAUC", justify="right", vertical="bottom", no_wrap=True)
    names = in_order(summary["models"])
    for place, name in enumerate(names):
        entry = summary["models"][name]
        table.add_row(
            Text(model_title(name)),
            share(entry["test_accuracy"]),
            *_spread(entry.get("node_test_accuracy")),
            share(entry["retain_accuracy"]),
            share(entry["forget_accuracy"]),
            share(entry["never_member_accuracy"]),
            share(entry["membership_auc_forget_vs_test"]),
            style="dim" if is_control(name) else "",
            end_section=place + 1 < len(names) and not is_control(name) and is_control(names[place + 1]),
        )
    return table


def cost_table(entry: Mapping[str, Any], models: Mapping[str, Any]) -> Table:
    """Return what the answer to a request took beside retraining and, where they were run, beside its controls.

    Test accuracies are shown together with controls, which answer the last request: the models of the summary are the
    answer to that one.
    """
    controls = entry.get("controls") or {}
    table = _plain_table("what it took")
    for title, _ in _COSTS.values():
        table.add_column(title, justify="right", vertical="bottom", no_wrap=True)
    if controls:
        table.add_column("test\naccuracy", justify="right", vertical="bottom", no_wrap=True)

    def add(title: str, cost: Mapping[str, Any], accuracy: float | None, style: str = "") -> None:
        cells = [write(cost[key]) for key, (_, write) in _COSTS.items()]
        table.add_row(Text(title), *cells, *([share(accuracy)] if controls else []), style=style)

    def accuracy_of(name: str) -> float | None:
        return models.get(name, {}).get("test_accuracy")

    cost, retraining = entry["cost"], entry.get("retrain_cost")
    add("unlearning", cost, accuracy_of("unlearned"))
    if retraining is not None:
        share_of = retraining.get("together", 1)
        title = "retraining" if share_of == 1 else f"retraining (share of {share_of} side by side)"
        add(title, retraining, accuracy_of("retrained"))
        factors = [times(cost[key], retraining[key]) for key in _COSTS]
        table.add_row("retraining takes", *factors, style="bold")
    for name, control in controls.items():
        add(model_title(name), control, control.get("test_accuracy"), style="dim")
    return table


def request_block(
    entry: Mapping[str, Any], place: int = 1, of: int = 1, models: Mapping[str, Any] | None = None
) -> RenderableType:
    """Return what is to be said about one request: certificate, distances, costs."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold", max_width=_TEXT_WIDTH)
    for label, value in certificate_lines(entry) + _junk_start_lines(entry, models or {}) + _distance_lines(entry):
        facts.add_row(label, value)
    which = f"Request {place}" if of > 1 else "Request"
    title = Text.assemble((which, "bold"), f": {describe_request(entry['request'])} ", (f"({entry['method']})", "dim"))
    below = Padding(cost_table(entry, models or {}), (0, 0, 0, 2))
    return Padding(Group(title, Padding(facts, (0, 0, 1, 2)), below), (1, 0, 0, 0))


def _plain_table(first: str) -> Table:
    """Return an empty table with its first column, of names, which alone may be folded."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold", min_width=11, vertical="bottom", header_style="not bold dim")
    return table


def _head(summary: Mapping[str, Any]) -> RenderableType:
    data, topology, model = summary["data"], summary["topology"], summary["model"]
    title = Text.assemble((summary["name"], "bold"), (f"  seed {summary['seed']}", "dim"))
    gap, rounds = topology["spectral_gap"], topology["mixing_time"]
    mixing = f"{topology['mixing']} mixing" + ("" if gap is None else f", spectral gap {number(gap)}")
    mixing += "" if rounds is None else f", mixes in {number(rounds)} rounds"
    synthetic = " (synthetic)" if data.get("synthetic") and "synthetic" not in data["name"] else ""
    lines = (
        f"{data['name']}{synthetic} · {_count(topology['nodes'], 'node')} on {topology['generator']}, "
        f"{_count(topology['edges'], 'edge')}",
        mixing,
        f"{model['name']} on {model['features']} features, {_count(model['parameters'], 'parameter')}",
    )
    about = Text("\n".join(lines), style="dim")
    return Padding(Group(title, about), (0, 0, 1, 0))


def _refusals(summary: Mapping[str, Any]) -> RenderableType:
    """Return what was refused and why, and the notes, one a line; at most so many of them."""
    refused, notes = summary.get("refused") or [], summary.get("notes") or []
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column(overflow="fold", max_width=_TEXT_WIDTH)
    for entry in refused[:_REFUSALS]:
        lines.add_row(entry["rule"], entry["reason"])
    if len(refused) > _REFUSALS:
        lines.add_row("", f"and {len(refused) - _REFUSALS} more")
    for note in notes:
        lines.add_row("note", note)
    title = Text(f"Refused: {_count(len(refused), 'request')}", "bold") if refused else Text("Notes", "bold")
    return Padding(Group(title, Padding(lines, (0, 0, 0, 2))), (1, 0, 0, 0))


def _preparation(made: Mapping[str, Any]) -> RenderableType:
    """Return what was built once for all requests, what that took, and when it has paid for itself."""
    took = f"built in {seconds(made['built_in'])}, once for all requests"
    if made["cached"]:
        took = f"{seconds(made['seconds'])} from the cache, {took}"
    if (after := made.get("break_even")) is not None:
        took += f"; paid for after {_count(after, 'request')} (beside '{model_title(made['without'])}')"
    return Padding(Text.assemble((f"{made['what']}: ", "bold"), took), (1, 0, 0, 0))


def _foot(summary: Mapping[str, Any]) -> RenderableType:
    spent = {name: value for name, value in summary["seconds"].items() if isinstance(value, (int, float))}
    total = spent.pop("total", None)
    cached = summary["seconds"].get("cached") or ()
    shared = summary["seconds"].get("shared") or ()
    marks = {k: f"{' (cached)' if k in cached else ''}{' (a share)' if k in shared else ''}" for k in spent}
    parts = ", ".join(f"{k} {seconds(v)}{marks[k]}" for k, v in spent.items())
    whole = f"{seconds(total)} in all: " if total is not None else ""
    resumed = list(summary.get("resumed", []))
    often = "resumed at" if len(resumed) == 1 else f"resumed {len(resumed)} times, last at"
    taken_up = f"\n{often} {resumed[-1]}" if resumed else ""
    return Padding(Text(whole + parts + taken_up + _faults(summary) + _hosts(summary), style="dim"), (1, 0, 0, 0))


def _faults(summary: Mapping[str, Any]) -> str:
    """Return the lines about faults, with their line breaks: what training went through, and who answered."""
    faults = summary.get("faults")
    if faults is None:
        return ""
    told = (
        f"\nfaults: {faults['active_mean']:.0%} of nodes took part in a round of training (least "
        f"{faults['active_least']:.0%}), {faults['adoptions']:,} adoptions"
    )
    if faults["lost"] or faults["late"]:
        told += f", {faults['lost']:,} of {faults['sent']:,} messages lost, {faults['late']:,} late"
    for place, entry in enumerate(summary["requests"], start=1):
        if (answer := entry.get("faults")) is not None:
            waited = f" after waiting {_count(answer['waited'], 'round')}" if answer["waited"] else ""
            told += f"\nanswer {place}: by {answer['participants']:,} of {answer['alive']:,} nodes{waited}"
            told += f"; {_count(answer['stale'], 'node')} hold an older model" if answer["stale"] else ""
    return told


def _hosts(summary: Mapping[str, Any]) -> str:
    """Return the line about several hosts, with its line break."""
    hosts = summary.get("hosts") or {"count": 1}
    if hosts["count"] == 1:
        return ""
    sent, received = (f"{hosts[key] / 1e6:,.1f} MB" for key in ("bytes_sent", "bytes_received"))
    shared = f", {hosts['bytes_shared'] / 1e6:,.1f} MB read on one machine" if hosts.get("bytes_shared") else ""
    return (
        f"\n{hosts['count']} hosts: {hosts['cut_edges']:,} edges between them, {hosts['border_share']:.0%} of rows at "
        f"borders; {hosts['messages']:,} messages, {sent} sent, {received} received{shared}"
    )


def _spread(entry: Mapping[str, float] | None) -> tuple[str, str]:
    if entry is None:
        return "–", "–"
    if entry["min"] == entry["max"]:
        return share(entry["mean"]), "all equal"
    return f"{share(entry['mean'])} ± {share(entry['std'])}", f"{share(entry['min'])}–{share(entry['max'])}"


def _junk_start_lines(entry: Mapping[str, Any], models: Mapping[str, Any]) -> list[tuple[str, RenderableType]]:
    """Return the release beside what the same procedure makes of a start that no training touched (T6)."""
    junk = (entry.get("controls") or {}).get(JUNK_START)
    if junk is None:
        return []
    released, reached = models.get("unlearned", {}).get("test_accuracy"), junk.get("test_accuracy")
    said = f"test accuracy {share(reached)} from a start that no training touched, {share(released)} here"
    lines: list[tuple[str, RenderableType]] = [("junk start", Text(said))]
    if (limit := junk.get("allowed_difference")) is None:
        return lines
    text = f"the certificate lets the trained start add at most {points(limit)}"
    if released is None or reached is None:
        return [*lines, ("", Text(text))]
    gained = released - reached
    over = gained > limit
    shown = Text(f"{text}; here it adds {points(gained)}" + (", MORE than that" if over else ""), "red" if over else "")
    return [*lines, ("", shown)]


def _distance_lines(entry: Mapping[str, Any]) -> list[tuple[str, RenderableType]]:
    distance = entry.get("distance_to_retrained")
    if distance is None:
        return []
    text = Text(f"{number(distance)} to retraining")
    certificate = entry["certificate"]
    if certificate is not None and certificate["kind"] not in _BOUNDS_THE_DISTANCE:
        text.append(", which the certificate does not bound")
    elif certificate is not None:
        bound = certificate["sensitivity"]
        if distance <= bound:
            share = f" ({number(100 * distance / bound, 2)} % of it)" if bound > 0 else ""
            text.append(f", within the bound {number(bound)}{share}")
        else:
            text.append(f", ABOVE the bound {number(bound)}", style="red")
    lines: list[tuple[str, RenderableType]] = [("distance", text)]
    if entry.get("distance_before") is not None:
        lines.append(("", Text(f"{number(entry['distance_before'])} before unlearning")))
    if (moved := entry.get("prediction_distance_to_retrained")) is not None:
        lines.append(("", Text(f"predictions differ by {number(moved)} in mean total variation")))
    return lines


def _count(how_many: float, what: str) -> str:
    return f"{how_many:,.0f} {what}{'' if how_many == 1 else 's'}"
