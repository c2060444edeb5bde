"""Whole runs: the same bits on any hosts, every setting and method through one code path, certificates that verify."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from small_runs import THREE_REQUESTS, experiment, numbers, releases, run

from fedunlearn.data import load_dataset
from fedunlearn.flower.local import run_local
from fedunlearn.network.inline import InlineTransport
from fedunlearn.privacy import verify
from fedunlearn.requests import resolve_requests
from fedunlearn.results import check_summary, read_metrics
from fedunlearn.results.schema import Summary
from fedunlearn.results.vectors import read_vector
from fedunlearn.simulation import simulate

MLP = {"model": {"name": "mlp", "features": "raw", "hidden": [8]}, "training": {"lr": 0.1, "momentum": 0.5}}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """One run of three requests, written to disk."""
    return run(tmp_path_factory.mktemp("reference") / "run", requests=THREE_REQUESTS)


# --- how a run is carried out does not matter ------------------------------------------------------------------------


@pytest.mark.parametrize("hosts, workers", [(1, 0), (2, 0), (1, 1)])
def test_flower_hosts_and_workers_give_the_bits_of_one_host_called_directly(reference, tmp_path, hosts, workers):
    settings = experiment(requests=THREE_REQUESTS, runtime={"hosts": hosts, "workers": workers})
    result = run_local(settings, tmp_path / "run")
    assert numbers(result.summary) == numbers(reference.summary)
    assert releases(result.folder) == releases(reference.folder)


def test_two_hosts_called_directly_give_the_bits_of_one(reference, tmp_path):
    result = run(tmp_path / "run", hosts=2, requests=THREE_REQUESTS)
    assert numbers(result.summary) == numbers(reference.summary)
    assert releases(result.folder) == releases(reference.folder)


def test_the_same_settings_and_seed_give_the_same_files(reference, tmp_path):
    again = run(tmp_path / "run", requests=THREE_REQUESTS).folder
    assert again is not None
    for name in ("settings.toml", "metrics.csv", "certificate.json", "ledger.json"):
        assert (again / name).read_bytes() == (reference.folder / name).read_bytes(), name
    assert releases(again) == releases(reference.folder)


def test_without_a_folder_the_summary_is_the_same(reference):
    assert numbers(run(requests=THREE_REQUESTS).summary) == numbers(reference.summary)


def test_another_seed_gives_another_run(reference):
    other = run(seed=4, requests=THREE_REQUESTS)
    assert other.summary["models"] != reference.summary["models"]


# --- what a run leaves -----------------------------------------------------------------------------------------------


def test_the_summary_is_complete(reference):
    on_disk = json.loads((reference.folder / "summary.json").read_text())
    assert check_summary(on_disk) == on_disk == json.loads(json.dumps(reference.summary))
    for name, field in Summary.model_fields.items():
        assert (field.alias or name) in on_disk
    assert set(on_disk["models"]) == {"original", "retrained", "unlearned", "public_head"}
    for entry in on_disk["models"].values():
        assert all(0 <= entry[f"{of}_accuracy"] <= 1 for of in ("test", "retain", "forget", "never_member"))
        assert 0 <= entry["membership_auc_forget_vs_test"] <= 1
    assert on_disk["models"]["original"]["node_test_accuracy"]["min"] <= on_disk["models"]["original"]["test_accuracy"]
    assert [r["request"]["level"] for r in on_disk["requests"]] == ["sample", "class", "client"]
    for request in on_disk["requests"]:
        assert set(request["certificate"]) >= {"epsilon", "delta", "sigma", "sensitivity", "valid", "premises"}
        for cost in (request["cost"], request["retrain_cost"]):
            assert all(cost[key] > 0 for key in ("seconds", "gradients", "messages", "bytes", "network_seconds"))
    assert set(on_disk["seconds"]) >= {"setup", "train", "retrain", "unlearn", "evaluate", "total"}


def test_the_run_directory_is_complete(reference):
    names = {p.relative_to(reference.folder).as_posix() for p in reference.folder.rglob("*") if p.is_file()}
    assert {"settings.toml", "summary.json", "metrics.csv", "certificate.json", "ledger.json"} <= names
    models = ("original", "retrained", "unlearned", "public_head", "release-0", "release-1", "release-2", "release-3")
    assert {name for name in names if name.startswith("models/")} == {f"models/{m}.safetensors" for m in models}
    assert sum(name.startswith("figures/") for name in names) >= 3
    assert [p.name for p in reference.folder.parent.iterdir()] == ["run"]  # nothing partial beside it


def test_curves_of_the_network_and_of_every_twin_are_drawn(reference):
    rows = read_metrics(reference.folder / "metrics.csv")
    points = {(r.phase, r.round) for r in rows if r.scope == "average"}
    assert points == {(p, k) for p in ("train", "retrain 0", "retrain 1", "retrain 2") for k in (2, 4)}
    assert {r.model for r in rows} == {"original", "retrained"}


def test_what_is_released_last_is_the_unlearned_model(reference):
    last, _ = read_vector(reference.folder / "models" / "release-3.safetensors")
    unlearned, _ = read_vector(reference.folder / "models" / "unlearned.safetensors")
    np.testing.assert_array_equal(last, unlearned)


def test_a_run_without_requests_only_trains(tmp_path):
    summary = run(tmp_path / "run", requests=[]).summary
    assert summary["requests"] == [] and set(summary["models"]) == {"original", "public_head"}
    assert summary["models"]["original"]["forget_accuracy"] is None
    assert verify(tmp_path / "run" / "certificate.json").ok  # it claims nothing


def test_seconds_of_the_phases_add_up_to_the_whole(reference):
    seconds = {k: v for k, v in reference.summary["seconds"].items() if isinstance(v, float)}
    parts = sum(v for k, v in seconds.items() if k != "total")
    assert parts <= seconds["total"] * 1.001


# --- certificates ----------------------------------------------------------------------------------------------------


def test_certificates_verify_against_the_files_beside_them(reference):
    report = verify(reference.folder / "certificate.json")
    assert report.ok, report.text()
    assert {check.certificate for check in report.checks} == {0, 1, 2}
    checked = report.text()
    for name in ("settings.toml", *(f"models/release-{k}.safetensors" for k in (1, 2, 3))):
        assert name in checked


@pytest.mark.parametrize("name", ["models/release-2.safetensors", "settings.toml"])
def test_a_certificate_does_not_verify_after_tampering(reference, tmp_path, name):
    copy = tmp_path / "copy"
    for path in reference.folder.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(reference.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(bytes(content))
    report = verify(copy / "certificate.json")
    assert not report.ok
    assert all(name in failure.what for failure in report.failures)


def test_the_measured_distance_keeps_to_the_certified_bound(reference):
    for request in reference.summary["requests"]:
        certificate = request["certificate"]
        assert certificate["valid"]
        assert 0 < request["distance_to_retrained"] <= certificate["sensitivity"]
        assert request["distance_to_retrained"] < request["distance_before"]
        assert 0 <= request["prediction_distance_to_retrained"] < 0.01


def test_secret_noise_differs_from_run_to_run_and_simulated_noise_does_not(tmp_path):
    secret = [run(tmp_path / f"secret{i}", privacy={"noise": "secret"}) for i in range(2)]
    simulated = [run(tmp_path / f"simulated{i}") for i in range(2)]
    for number in (0, 1):
        name = f"release-{number}.safetensors"
        (a, b), (c, d) = ([releases(r.folder)[name] for r in pair] for pair in (secret, simulated))
        assert a != b and c == d
    for result in secret:
        assert verify(result.folder / "certificate.json").ok
        request = result.summary["requests"][0]
        assert request["certificate"]["noise"] == "secret" and request["certificate"]["valid"]
        assert request["distance_to_retrained"] <= request["certificate"]["sensitivity"]


def test_a_release_is_the_noise_free_vector_plus_noise_of_the_certified_size(reference):
    """The noise-free vectors of the network and of its twin are close; their releases differ by two draws of noise."""
    released, _ = read_vector(reference.folder / "models" / "unlearned.safetensors")
    ideal, _ = read_vector(reference.folder / "models" / "retrained.safetensors")
    sigma = reference.summary["requests"][-1]["certificate"]["sigma"]
    found = np.std(released - ideal) / math.sqrt(2)
    assert found == pytest.approx(sigma, rel=4 / math.sqrt(2 * len(released)))


# --- methods and settings through the same code ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["newton", "finetune", "retrain"])
@pytest.mark.parametrize("model", ["softmax", "mlp"])
def test_several_requests_in_order(method, model):
    if (method, model) == ("newton", "mlp"):
        unlearning = {"method": "newton", "mode": "one-step", "curvature": "fisher-diagonal", "damping": 1.0}
    else:
        unlearning = {"method": method}
    summary = run(requests=THREE_REQUESTS, unlearning=unlearning, **(MLP if model == "mlp" else {})).summary
    dataset = load_dataset(experiment().data)
    resolved = resolve_requests(experiment(requests=THREE_REQUESTS).requests, dataset, 3)
    for entry, request in zip(summary["requests"], resolved, strict=True):
        assert entry["method"] == method
        assert entry["request"]["samples"] == len(request.sample_ids)
        assert entry["request"]["leaves"] == list(request.leaves)
        assert math.isfinite(entry["distance_to_retrained"])
        assert entry["certificate"] is not None or entry["certificate_reason"]
        if method == "retrain":  # bit for bit the twin's models
            assert entry["distance_to_retrained"] == 0.0 and entry["prediction_distance_to_retrained"] == 0.0
            assert entry["distance_before"] > 0
            assert numbers_of(entry["cost"]) == numbers_of(entry["retrain_cost"])
        elif method == "finetune":
            assert entry["distance_to_retrained"] > 0
            assert entry["cost"]["messages"] == (5 * 2 * edges(entry))
    if method == "retrain":
        assert summary["models"]["unlearned"] == summary["models"]["retrained"]


def edges(entry):
    return 6 if not entry["request"]["leaves"] else 4


def numbers_of(cost):
    return {k: v for k, v in cost.items() if k not in ("seconds", "cached", "together")}


SETTINGS = {
    "federated": {
        "topology": {"generator": "star", "mixing": "exact-average"},
        "training": {"algorithm": "fedavg", "client_fraction": 0.5},
        "requests": [{"level": "sample", "client": 3, "samples": [0, 2, 5]}],
    },
    "centralized": {
        "data": {"clients": 1},
        "topology": {"generator": "single"},
        "requests": [{"level": "sample", "client": 0, "count": 7}, {"level": "class", "label": "3"}],
    },
    "random-matching": {"topology": {"mixing": "random-matching"}, "requests": [{"level": "client", "client": 1}]},
}


@pytest.mark.parametrize("method", ["newton", "finetune", "retrain"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_federated_and_centralized_networks_run_through_the_same_code(setting, method, tmp_path):
    changes = dict(SETTINGS[setting])
    if setting != "centralized":
        changes["topology"] = {**changes["topology"], "repair": "path"}
    summary = run(tmp_path / "run", unlearning={"method": method}, **changes).summary
    assert len(summary["requests"]) == len(changes["requests"])
    for request in summary["requests"]:
        if method == "newton":
            assert request["certificate"]["valid"]
            assert request["distance_to_retrained"] <= request["certificate"]["sensitivity"]
        if method == "retrain":
            assert request["distance_to_retrained"] == 0.0
    assert verify(tmp_path / "run" / "certificate.json").ok
    assert summary["models"]["unlearned"]["test_accuracy"] > 0.2  # after four rounds
    if setting == "centralized":
        assert summary["ledger"]["messages"] == 0
    hosts = 1 if setting == "centralized" else 2
    other = run(tmp_path / "again", hosts=hosts, unlearning={"method": method}, **changes)
    assert numbers(other.summary) == numbers(summary)
    assert releases(other.folder) == releases(tmp_path / "run")


def test_influence_and_controls_are_reported_when_asked_for():
    summary = run(evaluation={"influence_rounds": 3, "controls": True}).summary
    request = summary["requests"][0]
    assert np.shape(request["influence"]["predicted"]) == np.shape(request["influence"]["measured"]) == (4, 6)
    ways = {"newton_from_initial_model", "newton_from_public_head", "newton_with_diagonal"}
    assert set(request["controls"]) == ways
    assert all(0 < control["test_accuracy"] <= 1 for control in request["controls"].values())
    assert summary["preparation"]["what"] == "public curvature" and summary["preparation"]["built_in"] > 0


# --- what was deleted is read by nobody ------------------------------------------------------------------------------


class Watching(InlineTransport):
    """Calls ``after(op, hosts)`` after every exchange."""

    def __init__(self, hosts, after):
        super().__init__(hosts)
        self.after = after

    def exchange(self, requests):
        replies = super().exchange(requests)
        self.after(requests[0], self._hosts)
        return replies


@pytest.mark.parametrize("changes", [{}, {"unlearning": {"method": "finetune"}, **MLP}], ids=["newton", "finetune"])
def test_a_poisoned_forget_set_changes_nothing_but_its_own_evaluation(monkeypatch, tmp_path, changes):
    """When the hosts erase, the conductor's own copy of the samples becomes garbage; the hosts' rows are NaN then."""
    settings = experiment(requests=THREE_REQUESTS, **changes)
    plain = simulate(settings, InlineTransport(2), out=tmp_path / "plain")
    loaded = load_dataset(settings.data)
    dataset = dataclasses.replace(loaded, inputs=loaded.inputs.copy(), labels=loaded.labels.copy())
    monkeypatch.setattr("fedunlearn.simulation.world.load_dataset", lambda _: dataset)
    erased = []

    def poison(request, hosts):
        if request.op != "erase":
            return
        gone = request.arrays["sample_ids"]
        dataset.inputs[gone], dataset.labels[gone] = 77, 0
        for host in hosts:
            mine = np.isin(host.store["sample_ids"], gone)
            if np.issubdtype(host.store["inputs"].dtype, np.floating):
                assert np.isnan(host.store["inputs"][mine]).all() and not np.isnan(host.store["inputs"][~mine]).any()
            assert (host.store["labels"][mine] == -1).all()
        erased.append(len(gone))

    poisoned = simulate(settings, Watching(2, poison), out=tmp_path / "poisoned")
    assert len(erased) == 3 and erased == sorted(erased)
    assert releases(poisoned.folder) == releases(plain.folder)
    for summary in (plain.summary, poisoned.summary):
        for entry in summary["models"].values():
            entry["forget_accuracy"] = entry["membership_auc_forget_vs_test"] = None
    assert numbers(poisoned.summary) == numbers(plain.summary)


# --- retrained twins side by side ------------------------------------------------------------------------------------

SIDE = {"evaluation": {"twins": "side-by-side"}}
ONE_CLIENT = [{"level": "sample", "client": 0, "count": 5}, {"level": "class", "label": 3}]
TWIN_WORLDS = {
    "newton": {},
    "finetune with momentum": {"unlearning": {"method": "finetune"}, **MLP},
    "federated": {
        "unlearning": {"method": "finetune"}, "topology": {"generator": "star"},
        "training": {"algorithm": "fedavg", "client_fraction": 0.5}, "requests": THREE_REQUESTS[:2],
    },
    "relay": {"topology": {"repair": "relay"}, "unlearning": {"method": "finetune"}},
    "one client": {"data": {"clients": 1}, "topology": {"generator": "single"}, "requests": ONE_CLIENT},
}  # fmt: skip


@pytest.mark.parametrize(
    ("world", "hosts"),
    [(world, hosts) for world in TWIN_WORLDS for hosts in (1, 2) if (world, hosts) != ("one client", 2)],
)
def test_twins_side_by_side_have_the_numbers_of_twins_in_turn(world, hosts, tmp_path):
    changes = {"requests": THREE_REQUESTS, **TWIN_WORLDS[world]}
    turn = run(tmp_path / "turn", hosts, **changes)
    side = run(tmp_path / "side", hosts, **changes, **SIDE)
    assert numbers(side.summary) == numbers(turn.summary)
    assert releases(side.folder) == releases(turn.folder)
    for name in ("metrics.csv", "ledger.json"):
        assert (side.folder / name).read_bytes() == (turn.folder / name).read_bytes(), name
    count = len(changes["requests"])
    for summary, together in ((turn.summary, 1), (side.summary, count + 1)):
        assert [r["retrain_cost"]["together"] for r in summary["requests"]] == [together] * count
        assert summary["seconds"]["shared"] == ([] if together == 1 else ["train", "retrain"])


def test_a_method_that_trains_in_a_way_of_its_own_has_its_twins_in_turn():
    changes = {
        "unlearning": {"method": "rewind"}, "training": {"schedule": "holes", "rounds": 3, "local_steps": 2, "lr": 1.0},
        "topology": {"repair": "relay"}, "requests": [{"level": "sample", "client": 1, "count": 2}],
    }  # fmt: skip
    turn, side = run(**changes).summary, run(**changes, **SIDE).summary
    assert numbers(side) == numbers(turn)
    assert side["seconds"]["shared"] == [] and side["requests"][0]["retrain_cost"]["together"] == 1


def test_without_requests_there_is_nothing_to_train_beside():
    assert numbers(run(requests=[], **SIDE).summary) == numbers(run(requests=[]).summary)


@pytest.mark.parametrize("changes", [{}, {"unlearning": {"method": "finetune"}, **MLP}], ids=["newton", "finetune"])
def test_twins_that_wait_hold_and_read_nothing_of_what_is_deleted_before_their_turn(monkeypatch, tmp_path, changes):
    """What is erased is garbage from then on, on hosts and in the data set; all twins lacked it from the beginning."""
    settings = experiment(requests=THREE_REQUESTS, **changes, **SIDE)
    plain = simulate(settings, InlineTransport(2), out=tmp_path / "plain")
    loaded = load_dataset(settings.data)
    dataset = dataclasses.replace(loaded, inputs=loaded.inputs.copy(), labels=loaded.labels.copy())
    monkeypatch.setattr("fedunlearn.simulation.world.load_dataset", lambda _: dataset)
    waiting = []

    def look(request, hosts):
        if request.op != "erase":
            return
        gone = request.arrays["sample_ids"]
        dataset.inputs[gone], dataset.labels[gone] = 77, 0
        for host in hosts:
            twins = [path.name.split(".")[1] for path in host.store.folder.glob("keep.retrained-*.npy")]
            waiting.append(sorted(twins))
            mine = np.isin(host.store["sample_ids"], gone)
            assert not any(host.store[f"keep.{twin}"][mine].any() for twin in twins)
            if np.issubdtype(host.store["inputs"].dtype, np.floating):
                host.store["inputs"][mine] = np.nan
            host.store["labels"][mine] = 10**6

    poisoned = simulate(settings, Watching(2, look), out=tmp_path / "poisoned")
    assert waiting[::2] == [[f"retrained-{k}" for k in range(first, 3)] for first in range(3)]
    assert releases(poisoned.folder) == releases(plain.folder)
    for summary in (plain.summary, poisoned.summary):
        for entry in summary["models"].values():
            entry["forget_accuracy"] = entry["membership_auc_forget_vs_test"] = None
    assert numbers(poisoned.summary) == numbers(plain.summary)


def test_the_row_of_a_leaver_is_overwritten():
    seen = []

    def look(request, hosts):
        if request.op == "drop":
            home = next(host for host in hosts if 2 in host.block.ids)
            seen.append(np.array(home.store["theta.main"][home.block.place(2)]))

    simulate(experiment(), Watching(2, look))
    assert seen and all(np.isnan(row).all() for row in seen)
