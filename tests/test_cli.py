"""The command line: what each command prints, and that every mistake is one sentence and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from rich.table import Table
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.cli.options import duration, flat, readable, size
from fedunlearn.cli.progress import progress_bar
from fedunlearn.config import dump_toml, load_experiment
from fedunlearn.errors import UserError
from fedunlearn.privacy.verify import Check, Report
from fedunlearn.unlearning.registry import methods

EXPERIMENT = """
name = "small"
[training]
rounds = 3
[unlearning]
method = "retrain"
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run a command in an empty folder that holds ``small.toml``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "small.toml").write_text(EXPERIMENT)
    return lambda *words: CliRunner().invoke(app, list(words))


@pytest.fixture
def simulator(monkeypatch):
    """Stand in for the simulator: keeps what it was asked, writes a small run."""
    asked = []

    def run_local(experiment, out=None, progress=None, resume=None):
        assert resume is None
        asked.append((experiment, out))
        if experiment.training.lr > 100:
            raise UserError("training: NaN at round 1")
        if experiment.training.lr > 10:
            raise KeyboardInterrupt
        progress("train", 1, 2)
        progress("train", 2, 2)
        summary = {"models": {"unlearned": {"test_accuracy": 0.5}}, "seconds": {"total": 1.0}}
        (out / "figures").mkdir(parents=True)
        (out / "figures" / "accuracy.png").write_bytes(b"")
        (out / "settings.toml").write_text(dump_toml(experiment))
        (out / "summary.json").write_text(json.dumps(summary))
        return SimpleNamespace(summary=summary, folder=out)

    def estimate(experiment):
        return {"memory_bytes": 2_500_000, "seconds": 75.0, "messages": 1200, "epsilon": {"reachable": 1.0}}

    def summary_table(summary):
        table = Table("model", "test accuracy")
        table.add_row("unlearned", str(summary["models"]["unlearned"]["test_accuracy"]))
        return table

    for module, names in {
        "fedunlearn.flower.local": {"run_local": run_local},
        "fedunlearn.simulation": {"estimate": estimate},
        "fedunlearn.results.table": {"summary_table": summary_table},
    }.items():
        stand_in = ModuleType(module)
        stand_in.__dict__.update(names)
        monkeypatch.setitem(sys.modules, module, stand_in)
    return asked


def refused(result, *parts):
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


def test_run_prints_the_summary_the_figures_and_the_folder(call, simulator):
    result = call("run", "small.toml", "--set", "training.rounds=4", "--seed", "5", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "unlearned" in result.stdout and "0.5" in result.stdout
    assert "figure   runs/small-5/figures/accuracy.png" in result.stdout
    assert "results  runs/small-5" in result.stdout
    experiment, _ = simulator[0]
    assert (experiment.training.rounds, experiment.seed, experiment.runtime.device) == (4, 5, "cpu")


def test_a_run_never_takes_the_folder_of_another(call, simulator, tmp_path):
    for _ in range(3):
        assert call("run", "small.toml").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["small-0", "small-0-2", "small-0-3"]
    assert call("run", "small.toml", "--out", "mine").exit_code == 0
    refused(call("run", "small.toml", "--out", "mine"), "--out mine: is there already")
    (tmp_path / "empty").mkdir()
    assert str(call("run", "small.toml", "--set", "out=there").stdout).endswith("results  there\n")
    assert str(call("run", "small.toml", "--set", "out=there").stdout).endswith("results  there-2\n")
    assert str(call("run", "small.toml", "--out", "runs/[x]").stdout).endswith("results  runs/[x]\n")


def test_the_settings_of_a_run_can_be_run_again(call, simulator):
    call("run", "small.toml", "--set", "training.lr=0.3", "--out", "first")
    assert call("run", "first/settings.toml", "--out", "second").exit_code == 0
    assert simulator[0][0] == simulator[1][0]


def test_a_dry_run_prints_what_it_would_take_and_writes_nothing(call, simulator, tmp_path):
    result = call("run", "small.toml", "--dry-run")
    assert result.exit_code == 0, result.output
    for part in ("memory bytes", "2.5 MB", "1 min 15 s", "1,200", "epsilon · reachable"):
        assert part in result.stdout
    assert not (tmp_path / "runs").exists() and not simulator


def test_mistakes_of_a_run_are_one_sentence(call, simulator):
    refused(call("run", "smal.toml"), "smal.toml: no such file, did you mean 'small.toml'?")
    refused(call("run", "small.toml", "--set", "training.lerning_rate=1"), "did you mean 'lr'?")
    refused(call("run", "small.toml", "--device", "gpu"), 'runtime.device = "gpu" must be one of auto, cpu, cuda')
    refused(call("run", "small.toml", "--set", "training.lr=1000"), "training: NaN at round 1")
    assert call("run", "small.toml", "--seed", "x").exit_code == 2
    assert call("run").exit_code == 2


def test_an_interrupted_run_says_so(call, simulator):
    result = call("run", "small.toml", "--set", "training.lr=50")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_sweep_runs_a_grid_once(call, simulator, tmp_path):
    (tmp_path / "grid.toml").write_text('base = "small.toml"\n[grid]\nseed = [0, 1]\ntraining.lr = [0.1, 0.2]\n')
    result = call("sweep", "grid.toml")
    assert result.exit_code == 0, result.output
    assert "grid: 4 points in runs/grid" in result.stdout
    assert "summary  runs/grid/summary.csv" in result.stdout
    assert "acc." in result.stdout and "ε" not in result.stdout
    assert len(simulator) == 4
    again = call("sweep", "grid.toml")
    assert again.exit_code == 0 and again.stdout.count("cached") >= 4 and len(simulator) == 4


def test_sweep_tells_of_failed_points_after_running_the_others(call, simulator, tmp_path):
    (tmp_path / "grid.toml").write_text('base = "small.toml"\n[grid]\ntraining.lr = [1000.0, 0.2]\n')
    result = call("sweep", "grid.toml", "--out", "points")
    refused_line = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2
    assert refused_line == ["error: 1 of 2 points failed, the first with: training: NaN at round 1"]
    assert "run" in result.stdout and (tmp_path / "points" / "summary.csv").is_file()


def test_certify_gives_sigma_epsilon_or_delta(call):
    sigma = json.loads(call("certify", "--sensitivity", "1", "--epsilon", "1", "--delta", "1e-5", "--json").stdout)
    assert sigma["sigma"] == pytest.approx(3.7306, abs=1e-4)
    assert sigma["computed"] == "sigma"
    back = call("certify", "--sensitivity", "1", "--sigma", repr(sigma["sigma"]), "--delta", "1e-5", "--json")
    assert json.loads(back.stdout)["epsilon"] == pytest.approx(1, abs=1e-9)
    third = call("certify", "--sensitivity", "1", "--sigma", repr(sigma["sigma"]), "--epsilon", "1", "--json")
    assert json.loads(third.stdout)["delta"] == pytest.approx(1e-5, rel=1e-9)
    text = call("certify", "--sensitivity", "1", "--epsilon", "1", "--delta", "1e-5").stdout
    assert "3.73063   (computed)" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epsilon", "0", "--delta", "1e-5"], "--epsilon 0: must be a number greater than 0"),
        (["--epsilon", "nan", "--delta", "1e-5"], "--epsilon nan: must be a number greater than 0"),
        (["--epsilon", "1", "--delta", "1"], "--delta 1: must be a number greater than 0 and less than 1"),
        (["--epsilon", "1", "--delta", "0"], "--delta 0: must be a number greater than 0 and less than 1"),
        (["--sigma", "-1", "--delta", "1e-5"], "--sigma -1: must be a number greater than 0"),
        (["--epsilon", "1"], "exactly two of --epsilon, --delta and --sigma"),
        (["--epsilon", "1", "--delta", "0.1", "--sigma", "1"], "exactly two of --epsilon, --delta and --sigma"),
    ],
)
def test_certify_refuses_what_no_certificate_has(call, words, message):
    refused(call("certify", "--sensitivity", "1", *words), message)


def test_verify_needs_a_certificate(call):
    refused(call("verify", "nothing.json"), "nothing.json")


@pytest.mark.parametrize("right", [True, False])
def test_verify_prints_every_check_and_ends_with_1_if_one_fails(call, monkeypatch, right):
    checks = (Check(0, "sigma", "3.7306", "3.7306", True), Check(0, "mu [joint]", "0.268", "0.2681", right))
    asked = []
    monkeypatch.setattr(
        "fedunlearn.privacy.verify", lambda path: asked.append(path) or Report(str(path), checks, ("n",))
    )
    Path("run").mkdir()
    for as_json in ((), ("--json",)):
        result = call("verify", "run", *as_json)
        assert result.exit_code == (0 if right else 1)
        assert "mu [joint]" in result.stdout
    assert asked == [Path("run/certificate.json")] * 2
    assert json.loads(result.stdout)["ok"] is right
    last = call("verify", "run/other.json").stdout.splitlines()[-1]
    assert last == ("verified: everything agrees" if right else "not verified: 1 of 2 checks fail")


def test_topology_list_names_every_generator(call):
    result = call("topology", "list")
    assert result.exit_code == 0
    for name in ("ring", "watts-strogatz", "random-geometric"):
        assert name in result.stdout


def test_topology_show_prints_the_numbers_of_a_ring(call):
    result = call("topology", "show", "ring", "--set", "nodes=8", "--set", "topology.mixing=metropolis")
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[1:])
    assert (rows["nodes"].strip(), rows["edges"].strip(), rows["diameter"].strip()) == ("8", "8", "4")
    # Metropolis weights of a ring are 1/3, so lambda_2 = (1 + 2 cos(2 pi / 8)) / 3 = 0.80474.
    assert "0.19526" in result.stdout


def test_topology_show_draws_a_graph_and_takes_files(call, tmp_path):
    (tmp_path / "triangle.edgelist").write_text("0 1\n1 2\n2 0\n")
    result = call("topology", "show", "triangle.edgelist", "--plot", "new/graph.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "new" / "graph.png").read_bytes()[1:4] == b"PNG"
    refused(call("topology", "show", "ring", "--plot", "graph.nix"), "'.nix' is not a kind of image")


def test_the_seed_decides_a_random_graph(call):
    words = ("topology", "show", "erdos-renyi", "--set", "nodes=30")
    assert call(*words, "--seed", "1").stdout == call(*words, "--seed", "1").stdout
    assert call(*words, "--seed", "1").stdout != call(*words, "--seed", "2").stdout


def test_mistakes_of_topology_show_are_one_sentence(call):
    refused(call("topology", "show", "watts-strogat"), "did you mean 'watts-strogatz'?")
    refused(call("topology", "show", "ring", "--set", "degre=3"), "topology.degre = 3", "did you mean 'degree'?")
    refused(call("topology", "show", "ring", "--set", "nodes=0"), "topology.nodes = 0 must be a whole number")


def test_data_commands_describe_the_sources(call):
    listed = call("data", "list")
    assert listed.exit_code == 0
    assert "femnist" in listed.stdout and "digits" in listed.stdout
    assert "fedunlearn[hub]" in listed.stdout
    info = call("data", "info", "digits", "--set", "clients=4")
    assert info.exit_code == 0, info.output
    assert "10" in info.stdout
    refused(call("data", "info", "femnst"), 'data.source = "femnst" must be one of', "did you mean 'femnist'?")
    refused(call("data", "info", "digits", "--set", "data.clinets=4"), "did you mean 'clients'?")


def test_methods_lists_the_methods_and_the_settings_of_one(call):
    listed = call("methods")
    assert listed.exit_code == 0, listed.output
    for name in ("newton", "retrain", "finetune"):
        assert name in listed.stdout
    one = call("methods", "newton")
    assert one.exit_code == 0 and '[unlearning] method = "newton"' in one.stdout
    refused(call("methods", "newtn"), "did you mean 'newton'?")


@pytest.mark.parametrize("method", sorted(methods()))
def test_the_default_settings_of_every_method_survive_a_file(call, method):
    experiment = load_experiment("small.toml", [f"unlearning.method={method}"])
    Path("copy.toml").write_text(dump_toml(experiment))
    assert load_experiment("copy.toml") == experiment


def test_version_and_help(call):
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert call("--version").stdout == f"fedunlearn {project['project']['version']}\n"
    assert "topology" in call("--help").stdout


def test_an_unknown_option_ends_with_code_2_and_no_traceback():
    words = [sys.executable, "-m", "fedunlearn", "run", "--nix"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "No such option" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("memory_bytes", 1_500_000, "1.5 MB"),
        ("seconds", 0.25, "0.25 s"),
        ("seconds", 185, "3 min 05 s"),
        ("seconds", 7830.0, "2 h 10 min"),
        ("nodes", 12345, "12,345"),
        ("gap", 0.123456789, "0.12346"),
        ("valid", True, "yes"),
        ("epsilon", None, "-"),
        ("hidden", (8, 4), "8, 4"),
        ("name", "x", "x"),
    ],
)
def test_values_are_readable(name, value, text):
    assert readable(name, value) == text


def test_small_formats():
    assert size(999) == "999 B" and size(3e15) == "3000 TB"
    assert duration(59.96) == "60 s"
    assert flat({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}


def test_python_runs_what_the_command_runs(call, simulator):
    import fedunlearn

    seen = []
    result = fedunlearn.run("small.toml", ["seed=2"], out="here", progress=lambda *state: seen.append(state))
    assert result.summary["models"] and seen == [("train", 1, 2), ("train", 2, 2)]
    experiment = load_experiment("small.toml")
    assert fedunlearn.run(experiment, out="there", progress=lambda *_: None).folder.name == "there"
    with pytest.raises(TypeError, match="overrides"):
        fedunlearn.run(experiment, ["seed=2"])


def test_progress_is_one_line_a_phase_where_there_is_no_terminal(capsys):
    with progress_bar() as report:
        for done in (1, 2, 2):
            report("train", done, 2)
        report("unlearn", 0, 1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("train: 2/2 in ")
