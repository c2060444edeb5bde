"""A run that finds no memory ends in one sentence, and can be resumed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import numbers
from typer.testing import CliRunner

from fedunlearn.cli.application import app
from fedunlearn.errors import UserError, out_of_memory
from fedunlearn.network import worker
from fedunlearn.network.host import Host

RUN = """
name = "short"
seed = 3
[data]
source = "digits"
clients = 4
[model]
name = "softmax"
features = "unit"
[topology]
generator = "ring"
[training]
rounds = 4
lr = 1.0
l2 = 1e-2
[evaluation]
every = 2
controls = false
[runtime]
workers = 0
cache = false
checkpoint_seconds = 0
[[requests]]
level = "client"
client = 1
"""


def starved(*_: object, **__: object) -> None:
    """Fail as a processor's allocator does."""
    torch.empty(2**60)


def test_what_counts_as_no_memory() -> None:
    with pytest.raises(RuntimeError) as allocator:
        starved()
    with pytest.raises(MemoryError) as numpys:
        np.empty(2**60, np.uint8)
    for error in (allocator.value, numpys.value, MemoryError(), OSError(12, "Cannot allocate memory")):
        told = out_of_memory(error)
        assert isinstance(told, UserError) and str(told).startswith("out of memory (") and "--resume" in str(told)
    for other in (
        RuntimeError("shapes do not fit"),
        ValueError("out of memory"),
        OSError(28, "No space left"),
        KeyError(),
    ):
        assert out_of_memory(other) is None


def test_a_run_without_memory_ends_in_a_sentence_and_goes_on_when_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "short.toml"
    file.write_text(RUN)
    whole = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / "whole")])
    assert whole.exit_code == 0, whole.output
    with monkeypatch.context() as patched:
        patched.setattr(Host, "_erase", starved)
        done = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / "short")])
    assert (done.exit_code == 2 and done.exception is None) or isinstance(done.exception, SystemExit), done.output
    assert "out of memory" in done.output and "Traceback" not in done.output
    assert (tmp_path / "short.failed").is_dir() and not (tmp_path / "short").exists()
    again = CliRunner().invoke(app, ["run", "--resume", str(tmp_path / "short")])
    assert again.exit_code == 0, again.output
    one, other = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("short", "whole"))
    apart = {"resumed", "memory", "versions"}
    assert {k: v for k, v in numbers(one).items() if k not in apart} == {
        k: v for k, v in numbers(other).items() if k not in apart
    }


def test_a_worker_without_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "execute", starved)
    monkeypatch.setattr(worker, "Block", lambda folder: object())
    monkeypatch.setattr("sys.stdin", io.StringIO('{"kind": "open", "folder": "x"}\n{"kind": "rows"}\n'))
    monkeypatch.setattr("sys.stdout", said := io.StringIO())
    worker.main()
    opened, answered = (json.loads(line) for line in said.getvalue().splitlines())
    assert opened == {} and answered["error"].startswith("out of memory (")
