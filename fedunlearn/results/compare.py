"""Finished runs side by side: what was certified, how good the models are, what it cost, and what the battery found."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fedunlearn.errors import UserError
from fedunlearn.results.evaluation_schema import COLUMNS, read_evaluation
from fedunlearn.results.files import plain
from fedunlearn.results.finished import finished_run
from fedunlearn.results.measure_names import SECTIONS
from fedunlearn.results.reading import read_settings
from fedunlearn.results.words import ORDER, describe_request

SCHEMA: Literal["fedunlearn/compare/1"] = "fedunlearn/compare/1"
TABLE_SCHEMA = "fedunlearn/compare-table/1"
CSV_FIELDS = ("run", "section", "measure", "model", "value", "low", "high")
ACCURACIES = ("test_accuracy", "retain_accuracy", "forget_accuracy")
"""What is shown of each model in the summary of a run."""
FACTS = ("distance_before", "distance_to_retrained", "seconds", "retrain_seconds", "times_cheaper")
"""Numbers of a run that belong to no single model."""


def compare_runs(paths: Sequence[Path | str]) -> dict[str, Any]:
    """Return several runs side by side as plain JSON values.

    Each is known by a ``label``, its name, or the end of its path where two have one name. Numbers of the last request
    are compared. ``measures`` holds what the evaluations of at least two runs have; ``reach`` the quantities by hop of
    each evaluation that has them; ``warnings`` one sentence where runs differ in data, seed or forget set.

    Raises:
        UserError: for fewer than two runs, one run named twice, or a folder that is not a finished run.
    """
    folders = [Path(path) for path in paths]
    if len(folders) < 2:
        raise UserError(f"compare needs at least two runs, and {len(folders) or 'none'} was named")
    places = [folder.resolve() for folder in folders]
    if twice := [str(folder) for folder, place in zip(folders, places) if places.count(place) > 1]:
        raise UserError(f"'{twice[0]}' is named twice (allowed: different runs)")
    runs = [finished_run(folder) for folder in folders]
    names = [str(run.summary["name"]) for run in runs]
    labels = names if len(set(names)) == len(names) else distinct_labels(places)
    evaluations = [read_evaluation(folder) for folder in folders]
    entries = [
        _entry(label, str(folder), run.summary, evaluation)
        for label, folder, run, evaluation in zip(labels, folders, runs, evaluations)
    ]
    given = {label: evaluation for label, evaluation in zip(labels, evaluations) if evaluation is not None}
    networks = {label: evaluation["curves"].get("network") for label, evaluation in given.items()}
    identities = {label: _identity(folder, run.summary) for label, folder, run in zip(labels, folders, runs)}
    found = {
        "schema": SCHEMA,
        "runs": entries,
        "warnings": warnings(identities),
        "measures": shared_measures(given),
        "reach": {label: network["by_hop"] for label, network in networks.items() if network is not None},
    }
    return dict(plain(found))


def distinct_labels(places: Sequence[Path]) -> list[str]:
    """Return the shortest ends of absolute paths that tell them apart: ``a/run`` and ``b/run``, or ``x`` and ``y``."""
    parts = 1
    while True:
        labels = ["/".join(place.parts[-parts:]) for place in places]
        if len(set(labels)) == len(set(places)) or parts > max(len(place.parts) for place in places):
            return labels
        parts += 1


def warnings(identities: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return one sentence about what differs that must be equal for numbers to be comparable, or an empty list.

    Args:
        identities: for each label, by the name of what must be equal, its value and how it is shown: ``(value, text)``.
    """
    labels = list(identities)
    differs = []
    for what in identities[labels[0]]:
        told = [(label, *identities[label][what]) for label in labels]
        if any(value != told[0][1] for _, value, _ in told):
            texts = dict.fromkeys(text for _, _, text in told)
            shown = "; ".join(f"{label}: {text}" for label, _, text in told) if len(texts) > 1 else f"all: {told[0][2]}"
            differs.append(f"{what} ({shown})")
    if not differs:
        return []
    listed = differs[0] if len(differs) == 1 else f"{', '.join(differs[:-1])} and {differs[-1]}"
    return [f"these runs differ in {listed}, so their numbers are not comparable"]


def shared_measures(evaluations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the measures that at least two evaluations have, by section, each with the estimates of every run.

    ``judged`` says whether one of the evaluations judges it (:mod:`fedunlearn.evaluation.standing_out`).
    """
    seen: dict[str, dict[str, Any]] = {}
    judged = {entry["measure"] for evaluation in evaluations.values() for entry in evaluation["judgements"]}
    for label, evaluation in evaluations.items():
        for measure in evaluation["measures"]:
            entry = seen.setdefault(
                measure["name"], {name: measure[name] for name in ("name", "section", "reads")} | {"runs": {}}
            )
            entry["judged"] = measure["name"] in judged
            entry["runs"][label] = {column: measure[column] for column in COLUMNS}
    order = list(SECTIONS)
    shared = [entry for entry in seen.values() if len(entry["runs"]) > 1]
    return sorted(shared, key=lambda entry: order.index(entry["section"]))


def comparison_csv(comparison: Mapping[str, Any]) -> str:
    """Return everything as tidy CSV, one number a row; numbers that are not a measure have the section ``summary``."""
    text = io.StringIO()
    text.write(f"# schema: {TABLE_SCHEMA}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for run in comparison["runs"]:
        for model, accuracies in run["models"].items():
            for name, value in accuracies.items():
                if value is not None:
                    writer.writerow([run["label"], "summary", name, model, repr(float(value)), "", ""])
        facts = {"epsilon": (run["certificate"] or {}).get("epsilon"), **{name: run[name] for name in FACTS}}
        for name, value in facts.items():
            if value is not None:
                writer.writerow([run["label"], "summary", name, "", repr(float(value)), "", ""])
    for measure in comparison["measures"]:
        for label, columns in measure["runs"].items():
            for model, entry in columns.items():
                if entry is not None:
                    numbers = [entry[part] for part in ("value", "low", "high")]
                    cells = ["" if x is None else repr(float(x)) for x in numbers]
                    writer.writerow([label, measure["section"], measure["name"], model, *cells])
    return text.getvalue()


def _entry(
    label: str, path: str, summary: Mapping[str, Any], evaluation: Mapping[str, Any] | None
) -> dict[str, Any]:  # fmt: skip
    request = summary["requests"][-1] if summary["requests"] else {}
    certificate = request.get("certificate")
    kept = ("kind", "epsilon", "delta", "valid", "worth")
    topology = summary["topology"]
    cost, retraining = request.get("cost"), request.get("retrain_cost")
    took, again = (None if entry is None else float(entry["seconds"]) for entry in (cost, retraining))
    return {
        "label": label,
        "path": path,
        "name": summary["name"],
        "seed": summary["seed"],
        "data": summary["data"]["name"],
        "topology": f"{topology['generator']}, {topology['nodes']:,} node{'' if topology['nodes'] == 1 else 's'}",
        "method": request.get("method"),
        "requests": [describe_request(entry["request"]) for entry in summary["requests"]],
        "certificate": None if certificate is None else {name: certificate[name] for name in kept},
        "certificate_reason": request.get("certificate_reason") or None,
        "models": {
            name: {key: summary["models"][name].get(key) for key in ACCURACIES}
            for name in ORDER
            if name in summary["models"]
        },
        "distance_before": request.get("distance_before"),
        "distance_to_retrained": request.get("distance_to_retrained"),
        "seconds": took,
        "retrain_seconds": again,
        "times_cheaper": again / took if again is not None and took else None,
        "battery": None if evaluation is None else evaluation["battery"],
    }


def _identity(folder: Path, summary: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return what must be equal, as values to compare and as they are shown."""
    settings = read_settings(folder)
    asked = [entry["request"] for entry in summary["requests"]]
    texts = "; ".join(describe_request(request) for request in asked) or "nothing deleted"
    data = summary["data"]
    sha256 = str(data.get("sha256") or "unknown")
    return {
        "data": ((data["name"], sha256, settings.get("data")), f"{data['name']} {sha256[:8]}"),
        "seed": (summary["seed"], str(summary["seed"])),
        "forget set": ((asked, settings.get("requests")), texts),
    }
