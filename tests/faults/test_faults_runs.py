"""Whole runs under faults: equal on any hosts and after a resume, certified for who takes part, refused elsewhere."""

from __future__ import annotations

import io

import numpy as np
import pytest
from resume_kit import after_checkpoint, go, power_cut, told
from small_runs import experiment, numbers, run

from fedunlearn.battery.subject import subject_of
from fedunlearn.errors import UserError
from fedunlearn.network.inline import InlineTransport
from fedunlearn.privacy import verify
from fedunlearn.results.table import summary_table
from fedunlearn.simulation import estimate, prepare, simulate

CHURN = {"leave_probability": 0.2, "return_probability": 0.5, "crash_share": 0.3, "seed": 2}
LATE = {"gossip": "push", "message_loss": 0.1, "max_delay": 2, "delay_probability": 0.4, "leave_probability": 0.1}
LARGER = {"data": {"clients": 10}, "topology": {"generator": "complete"}}
RUNS = {
    "newton": {"faults": CHURN},
    "newton, late messages": {"faults": LATE, "training": {"momentum": 0.5, "lr": 1.0}},
    "finetune": {"faults": LATE, "unlearning": {"method": "finetune", "rounds": 2}},
    "retrain": {"faults": CHURN, "unlearning": {"method": "retrain"}},
    "fedavg": {"faults": CHURN, "training": {"algorithm": "fedavg", "client_fraction": 0.5}},
    "relay": {"faults": CHURN, "topology": {"generator": "complete", "repair": "relay"}},
}  # fmt: skip


def of(name: str, **more) -> dict:
    changes = {**LARGER, **RUNS[name], **more}
    changes["topology"] = {**LARGER["topology"], **RUNS[name].get("topology", {})}
    return changes


@pytest.mark.parametrize("name", RUNS)
def test_any_hosts_give_the_same_numbers(name):
    changes = of(name, requests=[{"level": "client", "client": 2}, {"level": "class", "label": 3}])
    alone = run(**changes).summary
    queued = simulate(experiment(**changes), InlineTransport(3, immediate=False)).summary
    assert numbers(queued) == numbers(alone)
    assert alone["faults"]["rounds"] == 4 and len(alone["faults"]["by_round"]["active"]) == 4
    for entry in alone["requests"]:
        assert 1 <= entry["faults"]["participants"] <= entry["faults"]["alive"] <= 10


def test_retraining_is_its_own_twin():
    """The answer follows the rounds of the trace from the beginning, as the twin does: not one bit apart."""
    for faults in (CHURN, LATE):
        summary = run(**of("retrain", faults=faults)).summary
        assert summary["requests"][0]["distance_to_retrained"] == 0.0
        assert summary["models"]["unlearned"] == summary["models"]["retrained"]


def test_newton_certifies_those_who_take_part_and_says_who_does_not(tmp_path):
    result = run(tmp_path / "run", **of("newton"))
    entry = result.summary["requests"][0]
    certificate, faults = entry["certificate"], entry["faults"]
    assert certificate["valid"] and certificate["constants"]["nodes"] == faults["participants"] < faults["alive"]
    away = faults["alive"] - faults["participants"]
    assert certificate["facts"]["away"] == away and faults["stale"] <= away
    assert any(line.startswith(f"away: {away} of the nodes took no part") for line in certificate["scope"])
    assert entry["distance_to_retrained"] <= certificate["sensitivity"]
    assert all(check.ok for check in verify(result.folder / "certificate.json").checks)
    shown = _shown(result.summary)
    assert f"by {faults['participants']} of {faults['alive']} nodes" in shown and "took part" in shown


def _shown(summary) -> str:
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(summary_table(summary))
    return console.export_text()


def test_without_faults_nothing_is_said_and_nothing_changes():
    summary = run().summary
    assert summary["faults"] is None and summary["requests"][0]["faults"] is None
    facts = summary["requests"][0]["certificate"]["facts"]
    assert facts["away"] == 0 and facts["nodes"] == 5
    assert "faults" not in _shown(summary)
    assert numbers(run(faults={"wait_limit": 7}).summary) == numbers(summary)


def leaves(round_: int, node: int, back: int) -> dict:
    return {"events": [{"round": round_, "kind": "leave", "nodes": [node]},
                       {"round": back, "kind": "return", "nodes": [node]}]}  # fmt: skip


def test_the_request_of_a_node_that_is_away_waits_until_it_is_back_or_is_answered_without_it():
    waits = run(**LARGER, faults=leaves(3, 2, 9)).summary["requests"][0]["faults"]
    assert (waits["round"], waits["waited"], waits["asker_takes_part"]) == (9, 4, True)
    at_once = {**leaves(3, 2, 9), "offline_requests": "answer"}
    answered = run(**LARGER, faults=at_once).summary["requests"][0]["faults"]
    assert (answered["round"], answered["waited"], answered["asker_takes_part"]) == (5, 0, False)
    given_up = run(**LARGER, faults={**leaves(3, 2, 99), "wait_limit": 3}).summary["requests"][0]["faults"]
    assert (given_up["waited"], given_up["asker_takes_part"]) == (3, False)
    others = run(**LARGER, faults=leaves(3, 5, 99)).summary["requests"][0]["faults"]
    assert (others["waited"], others["participants"], others["alive"], others["stale"]) == (0, 8, 9, 1)


def test_a_request_waits_for_whoever_asks_also_in_a_window_and_for_no_operator():
    def answered(*requests, node=2, **more):
        return run(**LARGER, faults=leaves(3, node, 9), requests=list(requests), **more).summary["requests"][0][
            "faults"
        ]

    whole = {"level": "client", "client": 2}
    operator = answered({**whole, "by": "operator"})
    assert (operator["round"], operator["waited"], operator["asker_takes_part"]) == (5, 0, None)
    other = answered({**whole, "by": 5}, node=5, policy={"ownership": "off"})
    assert (other["round"], other["waited"], other["asker_takes_part"]) == (9, 4, True)
    few = [{"level": "sample", "client": client, "count": 3} for client in (3, 2)]
    together = answered(*few, policy={"window": 7.0})
    assert (together["round"], together["waited"], together["asker_takes_part"]) == (9, 4, True)


def test_an_error_names_the_request_as_the_experiment_counts():
    gone = {"events": [{"round": 5, "kind": "leave", "nodes": [1, 2, 3, 4, 5]}], "wait_limit": 2}
    requests = [{"level": "client", "client": 99}, {"level": "client", "client": 0}]
    with pytest.raises(UserError, match=r"^requests\.1: in rounds 5 to 7 there is no node that could answer"):
        run(topology={"generator": "complete"}, faults=gone, policy={"unknown": "refuse"}, requests=requests)


@pytest.mark.parametrize("training", [{}, {"algorithm": "fedavg"}])
def test_whether_a_search_fails_changes_neither_who_answers_nor_when(training):
    """A step limit that is too small stands for data on which the search fails: both answers are for the same nodes."""
    found = []
    for steps in (1, 50):
        entries = run(
            **LARGER, faults={**CHURN, "seed": 3}, training=training,
            unlearning={"method": "newton", "max_steps": steps},
            requests=[{"level": "client", "client": 2}, {"level": "client", "client": 3}],
        ).summary["requests"]  # fmt: skip
        assert all(entry["fell_back_to_retraining"] == (steps == 1) for entry in entries)
        for entry in entries:
            certificate, faults = entry["certificate"], entry["faults"]
            assert certificate["valid"] and entry["distance_to_retrained"] <= certificate["sensitivity"]
            assert certificate["constants"]["nodes"] == faults["participants"]
            assert certificate["facts"]["away"] == faults["alive"] - faults["participants"]
        found.append([{**entry["faults"], "stale": None} for entry in entries])
    assert found[0] == found[1]


def test_without_a_release_no_model_is_older_than_one():
    cut = {"partitions": [{"begin": 4, "end": 6, "groups": [[4, 5]]}]}
    summary = run(**of("finetune", faults=cut)).summary
    assert summary["requests"][0]["faults"]["stale"] is None
    assert "older model" not in _shown(summary)


@pytest.mark.parametrize(
    "name", ["newton, late messages", pytest.param("newton", marks=pytest.mark.slow),
             pytest.param("finetune", marks=pytest.mark.slow), pytest.param("retrain", marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_run_that_is_stopped_ends_with_the_same_numbers(name, tmp_path, monkeypatch):
    changes = of(name, evaluation={"every": 1})
    whole, _ = go(told(**changes), out=tmp_path / "whole")
    for number in (2, 5):
        place = tmp_path / f"stopped-{number}"
        with power_cut(monkeypatch), monkeypatch.context() as patch:
            after_checkpoint(patch, number)
            go(told(**changes), out=place)
        again, said = go(told(**changes), resume=place)
        assert any(sentence.startswith("resumed at ") for sentence in said)
        mine, theirs = numbers(again.summary), numbers(whole.summary)
        mine.pop("resumed"), theirs.pop("resumed")
        assert mine == theirs


def test_training_under_faults_is_taken_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDUNLEARN_CACHE", str(tmp_path))
    for name in ("newton", "finetune"):
        fresh = run(**of(name)).summary
        for _ in range(2):
            cached = run(**of(name, runtime={"cache": True})).summary
        assert cached["cache"]["hits"] == ["train", "retrain 0"]
        assert numbers(cached) == numbers(fresh)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"unlearning": {"method": "rewind"}, "topology": {"repair": "relay"}}, "'rewind' is not defined with"),
        ({"unlearning": {"method": "rr-du"}}, "'rr-du' is not defined with"),
        ({"unlearning": {"method": "ddp"}}, "'ddp' is not defined with"),
        ({"unlearning": {"method": "dp-sgd"}}, "'dp-sgd' is not defined with"),
        ({"unlearning": {"method": "newton", "mode": "paper"}}, "unlearning.mode = 'paper' is not defined with"),
        ({"evaluation": {"influence_rounds": 3}}, "influence_rounds is not defined with"),
        ({"training": {"algorithm": "fedavg"}, "faults": {"gossip": "push"}}, "here a server averages"),
    ],
)
def test_what_is_not_defined_is_refused_before_anything_is_trained(changes, sentence):
    settings = experiment(**{"faults": CHURN, **changes})
    with pytest.raises(UserError, match=sentence):
        prepare(settings, lambda phase, done, total: None)


def test_a_run_that_nobody_ends_says_so():
    everybody = {"events": [{"round": 3, "kind": "leave", "nodes": list(range(6))}], "wait_limit": 4}
    with pytest.raises(UserError, match=r"in rounds 4 to 8, when training is over, there is no node"):
        run(faults=everybody)


def test_the_battery_refuses_a_run_with_faults(tmp_path):
    folder = run(tmp_path / "run", **of("newton")).folder
    with pytest.raises(UserError, match="with \\[faults\\] is not measured by the battery"):
        subject_of(folder, lambda phase, done, total: None)


def test_a_forecast_tells_of_the_ring_buffer_and_counts_messages_as_they_will_be():
    plain, late = (estimate(experiment(**LARGER, faults=f)) for f in ({}, {"max_delay": 30, "delay_probability": 0.1}))
    nodes, row = 10, 4 * plain["parameters"]
    assert late["memory_gb"] - plain["memory_gb"] == pytest.approx(2 * 30 * nodes * row / 2**30, rel=1e-6)
    summary = run(**of("finetune", requests=[])).summary
    by_kind = {(e["phase"], e["kind"]): e["messages"] for e in summary["ledger"]["by_kind"]}
    sent = by_kind["train", "model"] + summary["faults"]["adoptions"]
    assert estimate(experiment(**of("finetune", requests=[])))["training_messages"] == sent


def test_a_run_directory_can_be_read_and_every_figure_is_drawn(tmp_path):
    result = run(tmp_path / "run", **of("newton, late messages"))
    assert (result.folder / "figures" / "faults.png").is_file()
    rounds = np.array(result.summary["faults"]["by_round"]["round"])
    np.testing.assert_array_equal(rounds, np.arange(4))
