"""Expected seconds: every step of a level once, in its order, and more for what takes more."""

from __future__ import annotations

from typing import Any

import pytest

from fedunlearn.battery.expected import expected_seconds
from fedunlearn.battery.settings import BatterySettings
from fedunlearn.simulation import prepare
from tests.small_runs import experiment

TOOK = {"train": 10.0, "retrain": 8.0, "unlearn": 2.0}
SIZES = {"forget": 50, "retain": 300, "test": 200}


def expected(level: str = "full", took: dict[str, float] = TOOK, **changes: Any) -> dict[str, float]:
    """Return the seconds of the steps of the small experiment."""
    settings = BatterySettings(level=level, **changes.pop("settings", {}))  # type: ignore[arg-type]
    return expected_seconds(prepare(experiment(**changes), lambda *said: None), took, SIZES, settings)


def test_a_level_has_its_steps() -> None:
    quick = ["models", "membership of clients", "relearning"]
    assert list(expected("quick")) == quick
    assert list(expected("standard")) == ["retell", "network", "backdoor", *quick, "rounds"]
    assert list(expected("full")) == [
        "retell", "network", "backdoor", "shadow models", "models", "shadow attacks", "membership of clients",
        "relearning", "rounds",
    ]  # fmt: skip
    assert list(expected("standard", settings={"backdoor": False, "trace_rounds": False})) == [
        "retell", "network", *quick
    ]  # fmt: skip
    assert min(expected(took={}).values()) > 0


def test_trainings_are_counted() -> None:
    no_cache, cache = expected(), expected(runtime={"cache": True})
    assert no_cache["retell"] - cache["retell"] == pytest.approx(18.0)  # the network's and the twin's
    assert cache["retell"] == pytest.approx(0.5 + 2 + 8)
    finetune = {"unlearning": {"method": "finetune"}}
    mlp = expected(runtime={"cache": True}, model={"name": "mlp", "features": "raw"}, **finetune)
    assert mlp["retell"] == pytest.approx(0.5 + 2 + 2 * 8)  # a second control, from the run's start
    assert expected(settings={"shadows": 8})["shadow models"] == pytest.approx(8 * 20.5, rel=0.01)
    two = [{"level": "sample", "client": 1, "count": 5}, {"level": "client", "client": 2}]
    assert expected(requests=two)["shadow models"] == pytest.approx(16 * 16.5, rel=0.01)  # one of two retrainings
    assert expected()["rounds"] == pytest.approx(0.5 + 10 + 16, rel=0.01)
