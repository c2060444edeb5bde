"""Runs that are stopped on the way, as by kill -9, and taken up again: for tests of resuming."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_runs import experiment, numbers, releases

from fedunlearn.config import Experiment
from fedunlearn.network.inline import InlineTransport
from fedunlearn.results.checkpoints import Checkpoints
from fedunlearn.results.run_directory import RunDirectory
from fedunlearn.simulation import RunResult, simulate

FILES = ("settings.toml", "metrics.csv", "certificate.json", "ledger.json")
HOLES = {"schedule": "holes", "local_steps": 2, "batch": 16, "lr": 1.0}
METHODS: dict[str, dict[str, Any]] = {
    "retrain": {"unlearning": {"method": "retrain"}},
    "finetune": {"unlearning": {"method": "finetune", "rounds": 2}, "training": {"momentum": 0.5, "lr": 1.0}},
    "newton": {"evaluation": {"controls": True, "influence_rounds": 2}},
    "newton, paper": {"unlearning": {"method": "newton", "mode": "paper"}},
    "rewind": {"unlearning": {"method": "rewind"}, "training": HOLES, "topology": {"repair": "relay"}},
    "rr-du": {"unlearning": {"method": "rr-du", "hops": 12}, "topology": {"repair": "path"}},
    "ddp": {
        "unlearning": {"method": "ddp", "hops": 12, "calibration": "composed"}, "topology": {"generator": "complete"},
        "training": {"lr": 1.0},
    },
    "dp-sgd": {
        "unlearning": {"method": "dp-sgd", "rate": 0.3, "noise_multiplier": 2.0},
        "training": {"momentum": 0.5, "lr": 1.0},
    },
}  # fmt: skip
"""Every registered method, with settings under which it keeps something."""


class Killed(BaseException):
    """In the place of kill -9: nobody handles it, and nothing is tidied up."""


def told(**changes: Any) -> Experiment:
    """Return a small experiment that writes a checkpoint wherever it can."""
    changes["runtime"] = {"checkpoint_seconds": 0, **changes.get("runtime", {})}
    return experiment(**changes)


def go(settings: Experiment, *, transport: InlineTransport | None = None, **where: Any) -> tuple[RunResult, list[str]]:
    """Run an experiment, or with ``resume`` go on with it; returns the result and the sentences that were told."""
    said: list[str] = []
    result = simulate(
        settings, transport or InlineTransport(1), progress=lambda phase, done, total: said.append(phase), **where
    )
    return result, said


@contextmanager
def power_cut(patch: pytest.MonkeyPatch):
    """Let :class:`Killed` end a run as a power cut does: its folder stays as it is."""

    def fail(self: RunDirectory, error: BaseException | str) -> None:
        assert isinstance(error, Killed), error
        self._release()

    with patch.context() as inner:
        inner.setattr(RunDirectory, "fail", fail)
        with pytest.raises(Killed):
            yield


def after_checkpoint(patch: pytest.MonkeyPatch, number: int, what: str = "write") -> list[str]:
    """Kill the run when it has written so many checkpoints (or stored so many draws); lists what was written."""
    original, written = getattr(Checkpoints, what), []

    def write(self: Checkpoints, *args: Any, **kwargs: Any) -> Any:
        size = original(self, *args, **kwargs)
        written.append(str(args[1] if what == "write" else args[0]))
        if len(written) == number:
            raise Killed
        return size

    patch.setattr(Checkpoints, what, write)
    return written


class Failing(InlineTransport):
    """Kills the run in place of the n-th exchange with the hosts."""

    def __init__(self, hosts: int, number: int) -> None:
        super().__init__(hosts)
        self.left = number

    def exchange(self, *args: Any, **kwargs: Any) -> Any:
        """Count down."""
        self.left -= 1
        if self.left == 0:
            raise Killed
        return super().exchange(*args, **kwargs)


def in_pieces(
    settings: Experiment, out: Path, patch: pytest.MonkeyPatch, prepare: Callable[[pytest.MonkeyPatch], Any]
) -> tuple[RunResult, int]:
    """Tell a run in pieces, each of which ``prepare`` lets end; returns the result and how often it was stopped."""
    where: dict[str, Any] = {"out": out}
    for count in range(60):
        with patch.context() as inner:
            prepare(inner)
            try:
                with power_cut(inner):
                    result, _ = go(settings, **where)
                    raise Finished(result)
            except Finished as end:
                return end.result, count
        where = {"resume": out}
    raise AssertionError("the run does not come forward")


class Finished(Exception):
    """The run was not stopped any more."""

    def __init__(self, result: RunResult) -> None:
        super().__init__()
        self.result = result


def assert_same(found: RunResult, reference: RunResult) -> None:
    """Assert that two runs have the same numbers and files, seconds and where it was taken up apart."""
    assert found.folder is not None and reference.folder is not None
    mine, theirs = numbers(found.summary), numbers(reference.summary)
    for summary in (mine, theirs):
        summary.pop("resumed")
        summary.pop("hosts", None)  # who sent what to whom since it was taken up
    assert mine == theirs
    assert releases(found.folder) == releases(reference.folder)
    for name in FILES:
        assert (found.folder / name).read_bytes() == (reference.folder / name).read_bytes(), name
    assert json.loads((found.folder / "summary.json").read_text())["resumed"] == found.summary["resumed"]
    for folder in (found.folder, reference.folder):
        left = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        assert not any("checkpoint" in name or name.startswith(".") for name in left)
