"""``fedunlearn certify views``: what nodes of finished runs saw, as the tables, the JSON and the document show it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from small_runs import run
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.config import load_experiment
from fedunlearn.network.inline import InlineTransport
from fedunlearn.network.ledger import Ledger
from fedunlearn.privacy import epsilon_of
from fedunlearn.results import read_ledger
from fedunlearn.simulation import simulate

TWO = [{"level": "sample", "client": 1, "count": 5}, {"level": "client", "client": 4}]
BROADCAST = {
    "method": "newton", "mode": "paper", "bound": "worst-case", "gradient": "forget-set",
    "curvature_data": "asking-client", "message_radius": 0.5,
}  # fmt: skip
DOCUMENT = (Path(__file__).parents[1] / "docs" / "accounting.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A provable run of two requests."""
    return run(tmp_path_factory.mktemp("views") / "run", requests=TWO).folder


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, ["certify", "views", *map(str, words)])


@pytest.fixture
def ask(call):
    """Return the JSON answer, with its tables by title."""

    def asked(*words):
        result = call(*words, "--json")
        assert result.exit_code == 0, result.output
        answer = json.loads(result.stdout)
        assert answer["schema"] == "fedunlearn/certify-views/1"
        return answer, {table["title"].split(":")[0]: table["rows"] for table in answer["tables"][::-1]}

    return asked


def test_every_message_of_the_answers_is_in_one_view(folder, ask):
    answer, tables = ask(folder)
    assert answer["given"] == {
        "run": folder.as_posix(), "method": "newton", "nodes": 6, "answers": 2, "delta": 1e-5
    }  # fmt: skip
    records = read_ledger(folder)["records"]
    for number in (0, 1):
        rows = tables[f"request {number}"]
        assert [row["node"] for row in rows] == [str(v) for v in range(6)]
        mine = [r for r in records if r["request"] == number]
        assert mine and {r["phase"] for r in mine} == {"unlearn"}
        assert sum(row["messages"] for row in rows) == sum(r["messages"] * r["repeats"] for r in mine)
        assert sum(row["bytes"] for row in rows) == sum(r["messages"] * r["repeats"] * r["message_bytes"] for r in mine)
        for kind in {r["kind"] for r in mine}:
            sent = sum(r["messages"] * r["repeats"] for r in mine if r["kind"] == kind)
            assert sum(row[kind.replace(" ", "_").replace("-", "_")] for row in rows) == sent
    assert {r["request"] for r in records if r["phase"] == "train"} == {None}


def test_given_the_last_release_messages_add_nothing(folder, ask):
    answer, tables = ask(folder)
    by = {number: [(row["epsilon"], row["by"]) for row in tables[f"request {number}"]] for number in (0, 1)}
    assert by[0] == [(0, "T-V2"), (None, "own data"), *[(0, "T-V2")] * 4]
    assert by[1] == [*[(0, "T-V2")] * 4, (0, "nothing heard"), (0, "T-V2")]  # 4 left, and hears nothing
    assert tables["request 1"][4]["messages"] == 0
    held = tables["certificates of the run"]
    assert [(c["certificate"], c["request"], c["valid"], c["messages"]) for c in held] == [
        (0, 0, True, "T-V2"), (1, 1, True, "T-V2")
    ]  # fmt: skip
    assert any(note.startswith("T-V2 (request 0, 1): Given the last release") for note in answer["notes"])


def test_those_who_pool_are_one_observer(folder, ask):
    _, alone = ask(folder, "--observer", 2, "--observer", 3)
    _, pooled = ask(folder, "--collude", "3,2", "--collude", "1,2")
    (two, three), (both, with_asker) = alone["request 0"], pooled["request 0"]
    assert both["node"] == "2, 3"
    for key in ("gradient", "release", "messages", "bytes"):
        assert both[key] == two[key] + three[key] > 0
    assert (both["epsilon"], with_asker["epsilon"], with_asker["by"]) == (0, None, "own data")


def test_a_clipped_broadcast_is_worth_its_certificate_to_everybody(tmp_path, ask):
    made = run(tmp_path / "run", unlearning=BROADCAST, topology={"repair": "path"}).folder
    _, tables = ask(made)
    (certificate,) = [c for c in tables["certificates of the run"] if c["kind"] == "message"]
    assert certificate["messages"] == "T-V1" and certificate["valid"]
    expected = epsilon_of(certificate["mu"], 1e-5)
    for row in tables["request 0"]:
        if row["node"] == "2":
            assert row["by"] == "own data"
        else:
            assert row["epsilon"] == pytest.approx(expected, rel=1e-9) and row["by"] == "T-V1"


@pytest.mark.parametrize(("method", "epsilon"), [("retrain", 0), ("finetune", None)])
def test_without_certificates_only_retraining_is_known_to_add_nothing(method, epsilon, tmp_path, ask):
    answer, tables = ask(run(tmp_path / "run", unlearning={"method": method}).folder, "--observer", 0, "--observer", 2)
    assert answer["given"]["delta"] is None and "certificates of the run" not in tables
    first, left = tables["request 0"]
    assert first["messages"] > 0 and first["epsilon"] == epsilon
    assert (left["messages"], left["epsilon"]) == (0, 0)
    if epsilon is None:
        assert any("no certificate (request 0)" in note and "adds no noise" in note for note in answer["notes"])


def test_the_ledger_of_a_run_is_rebuilt(folder):
    plain = read_ledger(folder)
    ledger = Ledger.from_summary(plain)
    assert ledger.totals() == {"messages": plain["messages"], "bytes": plain["bytes"]}
    received = [h for v in range(6) for h in ledger.received_by(v)]
    assert sum(len(h["senders"]) * h["repeats"] for h in received) == plain["messages"]
    assert len(plain["graphs"][-1]["gone"]) == 1


def test_the_help_knows_the_question(call):
    shown = CliRunner().invoke(app, ["certify", "--help"]).stdout
    assert " views " in shown
    assert "--collude" in call("--help").stdout


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--observer", "6"], "--observer 6: must be a node of the run, from 0 to 5"),
        (["--observer", "-1"], "--observer -1: must be a node of the run, from 0 to 5"),
        (["--collude", "1,9"], "--collude 9: must be a node of the run"),
        (["--collude", "1,x"], "--collude 1,x: must be node numbers"),
        (["--collude", "1,1"], "--collude 1,1: must name at least two nodes"),
    ],
)
def test_mistakes_in_the_question_are_one_sentence(folder, call, words, message):
    _one_sentence(call(folder, *words), message)


def _spoiled_ledger(plain):
    plain["graphs"], plain["graphs_left_out"] = None, "the graphs have more than 100,000 edges"


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("ledger.json", lambda t: t.update(schema="fedunlearn/ledger/1"), "allowed: 'fedunlearn/ledger/2'"),
        ("ledger.json", _spoiled_ledger, "ledger.json: graphs = null: the graphs have more than 100,000 edges"),
        ("ledger.json", lambda t: t.pop("seed"), "ledger.json: the ledger has no entry 'seed'"),
        ("certificate.json", lambda t: t["certificates"].pop(), "lists other certificates than this file"),
        ("certificate.json", lambda t: t["certificates"].reverse(), "lists other certificates than this file"),
        ("certificate.json", lambda t: t["certificates"].append(t["certificates"][0]), "lists 2 certificates, this"),
        ("summary.json", lambda t: t.update(requests=[]), "answered no request"),
    ],
)
def test_a_spoiled_run_is_one_sentence(folder, call, tmp_path, name, spoil, message):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    table = json.loads((copy / name).read_text())
    spoil(table)
    (copy / name).write_text(json.dumps(table))
    _one_sentence(call(copy), message)


def test_what_is_no_run_is_one_sentence(call, tmp_path):
    _one_sentence(call(tmp_path), "is not a complete run")


def _one_sentence(result, message):
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and len(lines) == 1 and lines[0].startswith("error: "), result.output
    assert message in lines[0]


# --- the document -----------------------------------------------------------------------------------------------------


def test_the_document_shows_what_is_printed(call, ask, tmp_path, monkeypatch):
    section = DOCUMENT[DOCUMENT.index("### `views`") :]
    settings = re.search(r"```toml\n(.*?)```", section, flags=re.DOTALL)
    example = re.search(
        r"```console\n\$ fedunlearn run views.toml --out (\S+)\n\$ fedunlearn certify views (\S.*)\n((?:.*\n)*?)```",
        section,
    )
    assert settings is not None and example is not None
    monkeypatch.chdir(tmp_path)
    Path("views.toml").write_text(settings[1])
    simulate(load_experiment(Path("views.toml"), ["runtime.workers=0"]), InlineTransport(1), out=Path(example[1]))
    monkeypatch.setenv("COLUMNS", "118")
    words = example[2].split()
    shown = [line.rstrip() for line in call(*words).stdout.rstrip().splitlines()]
    assert shown == example[3].splitlines()
    _, tables = ask(*words)
    first, second = tables["request 0"], tables["request 1"]
    assert all(row["epsilon"] is None for row in first)
    (mu,) = {c["mu"] for c in tables["certificates of the run"]}
    named = {row["node"]: (row["epsilon"], row["by"]) for row in second}
    assert named["4"] == (0, "nothing heard") and named["2, 3"] == (None, "own noise")
    assert named["2, 5"] == (pytest.approx(epsilon_of(mu, 1e-5), rel=1e-9), "transcript")
