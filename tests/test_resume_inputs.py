"""A run goes on with the inputs and the model files it has had, or ends with a sentence that names what is another."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from resume_kit import Killed, after_checkpoint, assert_same, go, power_cut, told
from safetensors.numpy import save_file

from fedunlearn.errors import UserError
from fedunlearn.results.checkpoints import Checkpoints
from fedunlearn.simulation.world import prepare

REQUEST = [{"level": "sample", "client": 1, "count": 5}]
OWN = """
from torch import nn
class Small(nn.Sequential):
    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(input_shape[0], num_classes))
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setattr("fedunlearn.plots.draw_all", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    sys.modules.pop("own_model", None)


def write_table(flipped: bool = False) -> None:
    rng = np.random.default_rng(0)
    with open("table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "label"])
        for i in range(300):
            x = rng.normal(size=3).round(3)
            writer.writerow([*x, int(x[0] > 0) ^ int(flipped and i % 3 == 0)])


def write_edges(nodes: list[int]) -> None:
    Path("graph.txt").write_text("".join(f"{a} {b}\n" for a, b in zip(nodes, [*nodes[1:], nodes[0]])))


def settings(**changes):
    table = {"source": "table", "path": "table.csv", "partition": "iid", "clients": 6}
    return told(**{"data": table, "requests": REQUEST, **changes})


def stop(experiment, patch: pytest.MonkeyPatch, number: int = 2) -> Path:
    """Stop a run as by kill -9 after so many checkpoints; returns the folder that is left."""
    with patch.context() as inner:
        after_checkpoint(inner, number)
        with power_cut(inner):
            go(experiment, out=Path("run"))
    (found,) = Path().glob("run.partial-*")
    return found


def refused(experiment, what: str) -> None:
    """Assert that the run is refused, as often as it is tried, for ``what`` has changed."""
    for _ in range(2):
        with pytest.raises(UserError, match=f"cannot be resumed: its {what} is not what it was when it began") as error:
            go(experiment, resume=Path("run"))
        assert "\n" not in str(error.value)


def test_other_data_are_refused_and_the_old_ones_are_taken(monkeypatch):
    write_table()
    reference, _ = go(settings(), out=Path("whole"))
    stop(settings(), monkeypatch)
    write_table(flipped=True)
    refused(settings(), "data")
    write_table()
    result, said = go(settings(), resume=Path("run"))
    assert "resumed at round 4 of 4 of 'train'" in said
    assert_same(result, reference)


def test_another_graph_is_refused(monkeypatch):
    write_edges([0, 1, 2, 3, 4, 5])
    experiment = told(requests=REQUEST, topology={"generator": "file", "path": "graph.txt"})
    stop(experiment, monkeypatch)
    write_edges([0, 2, 1, 3, 4, 5])
    refused(experiment, "graph")


def test_another_start_is_refused(monkeypatch):
    shapes = prepare(told(), lambda *_: None).model.shapes
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(weights, "start.safetensors")
    experiment = told(requests=REQUEST, model={"checkpoint": "start.safetensors"})
    stop(experiment, monkeypatch)
    save_file({name: array + 1 for name, array in weights.items()}, "start.safetensors")
    refused(experiment, "starting model")


def test_another_source_of_a_model_of_ones_own_is_refused(monkeypatch):
    Path("own_model.py").write_text(OWN)
    experiment = told(requests=REQUEST, model={"name": "own_model:Small"}, unlearning={"method": "finetune"})
    stop(experiment, monkeypatch)
    Path("own_model.py").write_text(OWN + "    scale = 2\n")
    refused(experiment, "model class")


def test_a_run_that_was_killed_before_it_had_inputs_takes_those_it_finds(monkeypatch):
    write_table()
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "confirm", _killed)
        with power_cut(patch):
            go(settings(), out=Path("run"))
    write_table(flipped=True)
    reference, _ = go(settings(), out=Path("whole"))
    result, _ = go(settings(), resume=Path("run"))
    assert_same(result, reference)


def _killed(self, inputs):
    raise Killed


# --- model files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["release-0", "release-1", "original"])
@pytest.mark.parametrize("noise", ["simulated", "secret"])
def test_a_model_file_that_is_gone_or_another_ends_the_run(name, noise, monkeypatch):
    experiment = told(requests=REQUEST, privacy={"noise": noise})
    file = stop(experiment, monkeypatch, 5) / "models" / f"{name}.safetensors"
    content = file.read_bytes()
    spoilt = bytearray(content)
    spoilt[-5] ^= 1
    for other in (None, bytes(spoilt)):
        file.unlink() if other is None else file.write_bytes(other)
        with pytest.raises(UserError, match=rf"{name}\.safetensors' is not what this run wrote") as error:
            go(experiment, resume=Path("run"))
        assert "\n" not in str(error.value)
        (folder,) = Path().glob("run.*")
        file = folder / "models" / file.name
        file.write_bytes(content)
    result, _ = go(experiment, resume=Path("run"))
    assert (result.folder / "models" / file.name).read_bytes() == content


def test_two_whole_checkpoints_are_kept_beside_a_damaged_one(tmp_path):
    checkpoints = Checkpoints.open(tmp_path, {"code": "c"})
    for number in (1, 2, 3):
        checkpoints.write({"stage": number}, "")
    (checkpoints.folder / "checkpoint-000003.safetensors").write_bytes(b"")
    again = Checkpoints.open(tmp_path, {"code": "c"})
    assert again.newest(()).number == 2
    again.write({"stage": 4}, "")
    (checkpoints.folder / "checkpoint-000004.safetensors").write_bytes(b"")
    assert Checkpoints.open(tmp_path, {"code": "c"}).newest(()).number == 2
