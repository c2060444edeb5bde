"""Small experiments for tests of whole runs: handwritten digits, six nodes, a few rounds; well under a second each."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedunlearn.config import Experiment, parse_experiment
from fedunlearn.network.inline import InlineTransport
from fedunlearn.simulation import RunResult, simulate

BASE: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "data": {"source": "digits", "partition": "dirichlet", "clients": 6, "max_samples_per_client": 100},
    "topology": {"generator": "ring"},
    "model": {"name": "softmax", "features": "unit"},
    "training": {"rounds": 4, "lr": 4.0, "l2": 1e-2},
    "evaluation": {"every": 2, "max_samples": 300, "node_samples": 50},
    "runtime": {"workers": 0, "cache": False},
    "requests": [{"level": "client", "client": 2}],
}

THREE_REQUESTS = [
    {"level": "sample", "client": 1, "count": 5},
    {"level": "class", "label": 3},
    {"level": "client", "client": 4},
]


def experiment(**changes: Any) -> Experiment:
    """Return the small experiment; a table given by name is laid over its table, anything else replaces its value."""
    table = copy.deepcopy(BASE)
    for key, value in changes.items():
        table[key] = {**table[key], **value} if isinstance(value, Mapping) and key in table else value
    return parse_experiment(table)


def run(out: Path | None = None, hosts: int = 1, **changes: Any) -> RunResult:
    """Run the small experiment on hosts of this process, without any messaging layer."""
    return simulate(experiment(**changes), InlineTransport(hosts), out=out)


def numbers(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be equal however a run was carried out: all but seconds, cache, and hashes of the settings."""
    apart = ("schema", "seconds", "cache", "preparation", "hosts")
    left = {k: v for k, v in copy.deepcopy(dict(summary)).items() if k not in apart}
    for request in left["requests"]:
        for name in ("cost", "retrain_cost"):
            request[name] = {k: v for k, v in request[name].items() if k not in ("seconds", "cached", "together")}
        for control in request.get("controls", {}).values():
            control.pop("seconds")
        if request["certificate"] is not None:
            request["certificate"] = {
                k: v for k, v in request["certificate"].items() if k not in ("hashes", "sha256")
            }  # fmt: skip
    return left


def releases(folder: Path | None) -> dict[str, bytes]:
    """Return the released model files of a run by name."""
    assert folder is not None
    return {path.name: path.read_bytes() for path in sorted((folder / "models").glob("*.safetensors"))}
