"""The experiments of simulations/hosts: the same numbers on one host and on two, in few messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedunlearn.config import load_experiment
from fedunlearn.network.inline import InlineTransport
from fedunlearn.simulation import simulate

_MEASURED = ("seconds", "hosts", "memory", "cache", "versions", "resumed")
_SETTINGS = ["runtime.workers=0", "runtime.cache=false"]


def without_seconds(value: Any) -> Any:
    """Return tables without what every run measures anew, and without hashes of settings that name the hosts."""
    if isinstance(value, dict):
        measured = [k for k in value if "seconds" in k and k != "network_seconds"] + ["built_in", "sha256", "hashes"]
        return {k: without_seconds(v) for k, v in value.items() if k not in measured}
    return [without_seconds(v) for v in value] if isinstance(value, list) else value


def told(name: str, hosts: int, *, immediate: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    experiment = load_experiment(f"simulations/hosts/{name}.toml", [*_SETTINGS, f"runtime.hosts={hosts}"])
    summary = simulate(experiment, InlineTransport(hosts, immediate=immediate)).summary
    rest = {k: v for k, v in summary.items() if k not in _MEASURED}
    return without_seconds(json.loads(json.dumps(rest))), summary["hosts"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("train", 60), ("newton", 60), ("walk", 60), ("rewind", 60), ("churn", 64)])
def test_two_hosts_give_the_numbers_of_one_in_few_messages(name: str, most: int) -> None:
    alone, one = told(name, 1, immediate=True)
    beside, two = told(name, 2, immediate=False)
    assert beside == alone
    assert one["count"] == 1 and one["cut_edges"] == 0 and one["border_share"] == 0.0
    assert two["count"] == 2 and two["cut_edges"] > 0 and two["messages"] <= most
    assert all(request["certificate"]["valid"] for request in beside["requests"])
