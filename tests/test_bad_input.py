"""Bad input through the command line: one sentence that names key and value, exit code 2, nothing left over."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from fedunlearn.cli import app

EXPERIMENT = """
name = "small"
[data]
source = "digits"
clients = 6
max_samples_per_client = 30
[topology]
generator = "ring"
[model]
features = "unit"
[training]
rounds = 2
lr = 1.0
l2 = 1e-2
[runtime]
workers = 0
[evaluation]
max_samples = 100
[[requests]]
level = "client"
client = 2
"""

DELETED_TWICE = """
[[requests]]
level = "sample"
client = 2
samples = [0]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder of the command, with ``small.toml``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(EXPERIMENT)
    return tmp_path


@pytest.fixture
def refused(folder):
    """Run ``small.toml`` with changes, and assert that it is refused with a sentence that holds the parts."""

    def check(parts, *changes, options=(), requests="", leaves=()):
        (folder / "small.toml").write_text(EXPERIMENT + requests)
        words = [w for change in changes for w in ("--set", change)]
        result = CliRunner().invoke(app, ["run", "small.toml", *words, *options])
        assert result.exit_code == 2, (result.output, result.exception)
        sentence = result.stderr.strip().splitlines()[-1]
        assert sentence.startswith("error: ") and "Traceback" not in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        for part in parts:
            assert part in sentence, sentence
        finished = [p for p in folder.rglob("summary.json") if "failed" not in str(p) and "partial" not in str(p)]
        assert finished == []
        runs = sorted(p.name for p in (folder / "runs").iterdir()) if (folder / "runs").exists() else []
        assert runs == list(leaves), runs
        assert not any(folder.glob("**/*.partial-*"))
        return sentence

    return check


def test_the_experiment_itself_runs(folder):
    assert CliRunner().invoke(app, ["run", "small.toml"]).exit_code == 0
    assert (folder / "runs" / "small-0" / "summary.json").is_file()


# --- settings that are refused while they are read -------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, parts",
    [
        ("training.lerning_rate=0.1", ["training.lerning_rate", "0.1", "did you mean"]),
        ("training.l_r=0.1", ["training.l_r", "did you mean 'lr'"]),
        ("trainig.lr=0.1", ["trainig", "did you mean 'training'"]),
        ("unlearning.tolerence=0.1", ["unlearning.tolerence", "did you mean 'tolerance'"]),
        ("unlearning.method=newtn", ["unlearning.method", "newtn", "did you mean 'newton'"]),
        ("data.source=digit", ["data.source", "digit", "did you mean 'digits'"]),
        ("topology.generator=rings", ["topology.generator", "rings", "'ring'"]),
        ("privacy.delta=0", ["privacy.delta", "0"]),
        ("privacy.delta=1", ["privacy.delta", "1"]),
        ("privacy.delta=-0.5", ["privacy.delta", "-0.5"]),
        ("privacy.epsilon=0", ["privacy.epsilon", "0"]),
        ("privacy.epsilon=-1", ["privacy.epsilon", "-1"]),
        ("privacy.epsilon=nan", ["privacy.epsilon = NaN", "greater than 0"]),
        ("privacy.epsilon=inf", ["privacy.epsilon = Infinity"]),
        ("training.rounds=many", ["training.rounds", "many"]),
        ("requests.0.clint=3", ["requests.0.clint", "did you mean 'client'"]),
        ("runtime.hosts=0", ["runtime.hosts", "0"]),
    ],
)
def test_a_setting_that_is_not_allowed(refused, change, parts):
    refused(parts, change)


# --- what only the data, the graph and the requests show -------------------------------------------------------------


@pytest.mark.parametrize(
    "change, parts",
    [
        ("requests.0.client=6", ["requests.0.client = 6", "0 to 5"]),
        ("requests=[{level='class', label=11}]", ["requests.0.label = 11", "0 to 9"]),
        ("requests=[{level='class', label='seven'}]", ["requests.0.label = 'seven'"]),
        ("requests=[{level='sample', client=0, samples=[100000]}]", ["requests.0.samples", "100000"]),
        ("requests=[{level='sample', client=0, samples=[-1]}]", ["requests.0.samples", "-1"]),
        ("requests=[{level='sample', client=0, count=100000}]", ["requests.0.count = 100000"]),
        (
            "requests=[{level='sample', client=0, samples=[3]}, {level='sample', client=0, samples=[2, 3]}]",
            ["requests.1.samples", "3", "already deleted"],
        ),
        (
            "requests=[{level='client', client=1}, {level='client', client=1}]",
            ["requests.1.client = 1", "already deleted"],
        ),
        (
            "requests=[{level='class', label=1}, {level='class', label=1}]",
            ["requests.1.label = 1", "no training sample"],
        ),
    ],
)
def test_a_request_for_what_is_not_there(refused, change, parts):
    refused(parts, change, leaves=["small-0.failed"])


def test_a_request_by_a_client_who_has_left(refused):
    refused(["requests.1.client = 2", "already deleted"], requests=DELETED_TWICE, leaves=["small-0.failed"])


def test_deleting_the_last_client(refused):
    refused(
        ["requests.0", "last client"], "data.clients=1", "topology.generator=single",
        "requests=[{level='client', client=0}]", leaves=["small-0.failed"],
    )  # fmt: skip


def test_a_leaver_who_would_disconnect_the_graph(refused):
    refused(
        ["without client 0", "falls into 5 parts", "topology.repair"],
        "topology.generator=star", "requests=[{level='client', client=0}]",
        leaves=["small-0.failed"],
    )  # fmt: skip


@pytest.mark.parametrize(
    "edges, parts",
    [
        ("0 1\n1 2\n2 0\n3 4\n4 5\n5 3\n", ["mine.edges", "connected"]),  # two triangles
        ("0 1\n1 2\n2 3\n3 4\n4 0\n", ["mine.edges", "5", "6"]),  # a sixth client without a vertex
    ],
)
def test_a_graph_that_cannot_carry_the_clients(folder, refused, edges, parts):
    (folder / "mine.edges").write_text(edges)
    refused(parts, "topology.generator=file", "topology.path=mine.edges", leaves=["small-0.failed"])


def test_an_isolated_node(folder, refused):
    (folder / "mine.toml").write_text("nodes = 6\nedges = [[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]]\n")
    refused(["mine.toml", "5"], "topology.generator=file", "topology.path=mine.toml", leaves=["small-0.failed"])


def test_a_random_graph_with_isolated_nodes(refused):
    refused(
        ["topology.generator = 'erdos-renyi'", "isolated nodes"],
        "topology.generator=erdos-renyi", "topology.probability=0.0", leaves=["small-0.failed"],
    )  # fmt: skip


def test_more_hosts_than_nodes(refused):
    refused(["runtime.hosts = 7", "6 nodes", "1 to 6"], "runtime.hosts=7", leaves=["small-0.failed"])


def test_a_run_that_does_not_fit_says_how_much_it_needs(refused):
    sentence = refused(["runtime.memory_gb", "0.1 GB"], "runtime.memory_gb=0.1", leaves=["small-0.failed"])
    needed = float(sentence.split("about ")[1].split(" GB")[0])
    assert 0.3 < needed < 3


def test_newton_without_strong_convexity(refused):
    refused(["training.l2 = 0.0", "l2 > 0"], "training.l2=0.0", leaves=["small-0.failed"])


def test_newton_on_a_model_that_is_not_convex(refused):
    refused(["model.name = 'mlp'", "not convex"], "model.name=mlp", leaves=["small-0.failed"])


# --- data ------------------------------------------------------------------------------------------------------------


def table(folder, rows):
    (folder / "mine.csv").write_text("a,b,label,who\n" + "".join(f"{r}\n" for r in rows))
    return ["data.source=table", "data.path=mine.csv", "data.client=who", "data.clients=2"]


@pytest.mark.parametrize("value", ["nan", "inf", ""])
def test_nan_in_the_data(folder, refused, value):
    rows = [f"{i},{i * i % 7},{i % 2},{i % 4}" for i in range(40)]
    rows[7] = f"7,{value},1,3"
    changes = table(folder, rows)[:3]
    refused(["mine.csv"], *changes, leaves=["small-0.failed"])


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 an archive that ends early"])
def test_a_corrupt_data_file(folder, refused, content):
    (folder / "mnist.npz").write_bytes(content)
    refused(["mnist.npz"], "data.source=mnist", "data.path=mnist.npz", leaves=["small-0.failed"])


def test_a_data_file_cut_short(folder, refused):
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.integers(0, 256, (40, 28, 28), dtype=np.uint8), "y_train": np.arange(40) % 10}
    np.savez(folder / "whole.npz", **arrays, x_test=arrays["x_train"][:5], y_test=arrays["y_train"][:5])
    (folder / "mnist.npz").write_bytes((folder / "whole.npz").read_bytes()[:20_000])
    refused(["mnist.npz"], "data.source=mnist", "data.path=mnist.npz", leaves=["small-0.failed"])


def test_a_data_file_that_is_not_there(refused, monkeypatch):
    monkeypatch.delenv("FEDUNLEARN_DATA", raising=False)
    refused(["femnist", "FEDUNLEARN_DATA"], "data.source=femnist", leaves=["small-0.failed"])
    refused(["nowhere.npz"], "data.source=mnist", "data.path=nowhere.npz", leaves=["small-0.failed"])


# --- while the run goes on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["softmax", "mlp"])
def test_training_that_diverges(refused, folder, model):
    changes = ["training.lr=1e30", f"model.name={model}", "unlearning.method=finetune", "model.features=raw"]
    refused(["training.lr = 1e+30", "NaN", "round"], *changes, "training.rounds=9", leaves=["small-0.failed"])
    assert not (folder / "runs" / "small-0.failed" / "summary.json").exists()
    assert (folder / "runs" / "small-0.failed" / "failure.json").is_file()


@pytest.mark.parametrize("place", ["a-file/run", "a-file"])
def test_an_unwritable_output_folder(folder, refused, place):
    (folder / "a-file").write_text("in the way")
    refused(["a-file"], options=["--out", place])
    assert (folder / "a-file").read_text() == "in the way"


def test_an_output_folder_that_is_taken(folder, refused):
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("years of work")
    refused(["mine", "is there already"], options=["--out", "mine"])
    assert (folder / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_failed_run_can_be_repaired_and_run_again(folder):
    assert CliRunner().invoke(app, ["run", "small.toml", "--set", "runtime.memory_gb=0.1"]).exit_code == 2
    assert CliRunner().invoke(app, ["run", "small.toml"]).exit_code == 0
    assert sorted(p.name for p in (folder / "runs").iterdir()) == ["small-0", "small-0.failed"]


def test_an_interrupted_run_leaves_nothing_that_looks_finished(folder, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedunlearn.unlearning.base.train", interrupt)
    result = CliRunner().invoke(app, ["run", "small.toml"])
    assert result.exit_code == 130 and "Traceback" not in result.stderr
    assert [p.name for p in (folder / "runs").iterdir()] == ["small-0.failed"]


@pytest.mark.parametrize("words", [["run", "smal.toml"], ["run", "broken.toml"], ["sweep", "small.toml"]])
def test_files_that_are_no_experiments(folder, words):
    (folder / "broken.toml").write_text("name = [")
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert words[1] in result.stderr
