"""The cache of trained networks: it changes no number, its key holds what training depends on, deletion reaches it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from small_runs import THREE_REQUESTS, experiment, numbers, releases, run
from worlds import image_data, model_for, open_session

from fedunlearn.config import Experiment
from fedunlearn.evaluation.evaluator import Evaluator
from fedunlearn.network import Network, Session, TrainingSettings, train, train_together
from fedunlearn.network.inline import InlineTransport
from fedunlearn.simulation import choose_device, prepare
from fedunlearn.simulation.learning import new_network
from fedunlearn.simulation.training_cache import TrainingCache

CACHED = {"runtime": {"cache": True}}
MOMENTUM = {"model": {"name": "mlp", "features": "raw", "hidden": [8]}, "training": {"lr": 0.1, "momentum": 0.5}}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache for every test."""
    monkeypatch.setenv("FEDUNLEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "training"


def files(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.safetensors")}


# --- it changes no number --------------------------------------------------------------------------------------------

WORLDS = {
    "newton": {},
    "retrain": {"unlearning": {"method": "retrain"}},
    "finetune with momentum": {"unlearning": {"method": "finetune"}, **MOMENTUM},
    "federated": {
        "unlearning": {"method": "finetune"}, "topology": {"generator": "star"},
        "training": {"algorithm": "fedavg", "client_fraction": 0.5}, "requests": [THREE_REQUESTS[0]],
    },
    "one client": {"data": {"clients": 1}, "topology": {"generator": "single"}, "requests": [THREE_REQUESTS[1]]},
}  # fmt: skip


@pytest.mark.parametrize("world", WORLDS)
def test_cold_warm_and_without_the_cache_the_numbers_are_the_same(world, tmp_path, folder):
    changes = {"requests": THREE_REQUESTS, **WORLDS[world]}
    without = run(tmp_path / "without", **changes)
    assert not folder.exists()
    cold = run(tmp_path / "cold", **changes, **CACHED)
    warm = run(tmp_path / "warm", hosts=min(2, len(cold.summary["requests"])), **changes, **CACHED)
    assert numbers(without.summary) == numbers(cold.summary) == numbers(warm.summary)
    assert releases(without.folder) == releases(cold.folder) == releases(warm.folder)
    for name in ("metrics.csv", "ledger.json"):
        assert len({(r.folder / name).read_bytes() for r in (without, cold, warm)}) == 1, name


def test_the_summary_says_what_was_cached_and_keeps_the_first_seconds(tmp_path):
    cold, warm = (run(requests=THREE_REQUESTS, **CACHED).summary for _ in range(2))
    without = run(requests=THREE_REQUESTS).summary
    assert cold["cache"]["used"] and cold["cache"]["hits"] == [] and cold["seconds"]["cached"] == []
    assert warm["cache"]["hits"] == ["train", "retrain 0", "retrain 1", "retrain 2"]
    assert warm["seconds"]["cached"] == ["train", "retrain"]
    assert not without["cache"]["used"] and without["cache"]["hits"] == []
    for first, again in zip(cold["requests"], warm["requests"]):
        assert not first["retrain_cost"]["cached"] and again["retrain_cost"]["cached"]
        assert "cached" not in again["cost"]  # answers are never taken from the cache
    assert warm["seconds"]["total"] < cold["seconds"]["total"]  # the total is what this run took


def test_seconds_of_a_hit_hold_those_of_the_training():
    """A training that takes a hundred seconds (of a clock that is put forward) is reported as such, also when found."""
    ahead, real = [0.0], time.perf_counter

    def slowly(*args, **kwargs):
        ahead[0] += 100.0
        train(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: real() + ahead[0])
        patch.setattr("fedunlearn.unlearning.base.train", slowly)
        cold = run(**CACHED).summary
    warm = run(**CACHED).summary
    for summary in (cold, warm):
        assert summary["seconds"]["train"] == pytest.approx(100, abs=20)
        assert summary["requests"][0]["retrain_cost"]["seconds"] == pytest.approx(100, abs=20)
        assert summary["requests"][0]["cost"]["seconds"] < 20 and summary["seconds"]["evaluate"] < 20
    assert cold["seconds"]["total"] > 200 and warm["seconds"]["total"] < 20


@pytest.mark.parametrize("first, second", [("in-turn", "side-by-side"), ("side-by-side", "in-turn")])
def test_twins_side_by_side_find_and_keep_what_twins_in_turn_do(first, second, folder):
    cold, warm = (run(requests=THREE_REQUESTS, evaluation={"twins": way}, **CACHED).summary for way in (first, second))
    assert warm["cache"]["hits"] == ["train", "retrain 0", "retrain 1", "retrain 2"] and len(files(folder)) == 4
    assert numbers(warm) == numbers(cold) and warm["cache"]["kept"] == cold["cache"]["kept"]
    shared = ["train", "retrain"] if first == "side-by-side" else []
    assert warm["seconds"]["shared"] == cold["seconds"]["shared"] == shared  # what was stored is a share for ever


def test_what_is_missing_is_trained_side_by_side(folder):
    run(requests=THREE_REQUESTS[:1], **CACHED)
    mixed = run(requests=THREE_REQUESTS, evaluation={"twins": "side-by-side"}, **CACHED).summary
    assert mixed["cache"]["hits"] == ["train", "retrain 0"]
    assert [r["retrain_cost"]["together"] for r in mixed["requests"]] == [1, 2, 2]
    assert numbers(mixed) == numbers(run(requests=THREE_REQUESTS).summary)
    secret = {"privacy": {"noise": "secret"}, "evaluation": {"twins": "side-by-side"}}
    result = run(requests=THREE_REQUESTS, **secret, **CACHED).summary["cache"]
    assert result["kept"] == [] and len(files(folder)) == 1  # the last twin


def test_seconds_of_a_joint_training_are_shared_by_samples():
    """A training that takes four hundred seconds (of a clock that is put forward) is shared by four networks."""
    ahead, real = [0.0], time.perf_counter

    def slowly(*args, **kwargs):
        ahead[0] += 400.0
        train_together(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: real() + ahead[0])
        patch.setattr("fedunlearn.simulation.learning.train_together", slowly)
        summary = run(requests=THREE_REQUESTS, evaluation={"twins": "side-by-side"}, **CACHED).summary
    again = run(requests=THREE_REQUESTS, **CACHED).summary
    for found in (summary, again):
        twins = [request["retrain_cost"]["seconds"] for request in found["requests"]]
        assert found["seconds"]["train"] + sum(twins) == pytest.approx(400, abs=40)
        assert found["seconds"]["train"] > twins[0] > twins[1] > twins[2] > 60  # each lacks more
        assert found["seconds"]["retrain"] == pytest.approx(sum(twins), abs=20)
        assert found["seconds"]["evaluate"] < 20 and found["seconds"]["unlearn"] < 20
    assert summary["seconds"]["total"] > 400 and again["seconds"]["total"] < 20


def test_a_twin_is_found_again_by_a_run_with_another_method():
    run(**CACHED)
    other = run(unlearning={"method": "finetune"}, links={"latency_ms": 50.0}, **CACHED)
    assert other.summary["cache"]["hits"] == ["train", "retrain 0"]
    without = run(unlearning={"method": "finetune"}, links={"latency_ms": 50.0})
    assert numbers(other.summary) == numbers(without.summary)  # simulated seconds too, on links of their own


def test_a_damaged_entry_is_built_again(folder):
    first = run(**CACHED).summary
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
    again = run(**CACHED).summary
    assert again["cache"]["hits"] == [] and numbers(again) == numbers(first)
    assert run(**CACHED).summary["cache"]["hits"] == ["train", "retrain 0"]


def test_a_folder_that_cannot_be_written_costs_no_run(folder):
    folder.parent.write_text("a file in the way")
    assert numbers(run(**CACHED).summary) == numbers(run().summary)


def test_what_is_too_large_is_not_stored_and_old_entries_make_room(monkeypatch, folder):
    run(requests=[], **CACHED)
    (first,) = files(folder)
    size = (folder / f"{first}.safetensors").stat().st_size
    monkeypatch.setattr("fedunlearn.simulation.training_cache.FOLDER_LIMIT", size + size // 2)
    run(requests=[], seed=5, **CACHED)
    (second,) = files(folder)
    assert second != first
    monkeypatch.setattr("fedunlearn.simulation.training_cache.ENTRY_LIMIT", 1000)
    run(requests=[], seed=6, **CACHED)
    assert files(folder) == {second}


# --- what the key holds ----------------------------------------------------------------------------------------------

OTHER = {
    "algorithm": "fedavg", "rounds": 5, "local_epochs": 2, "local_steps": 3, "batch": 16, "lr": 0.5, "final_rounds": 1,
    "final_factor": 0.2, "momentum": 0.9, "l2": 0.02, "clip": 1.0, "radius": 9.0, "client_fraction": 0.5,
    "weighting": "samples", "form": "loop", "bfloat16": True, "schedule": "holes",
}  # fmt: skip
"""Another value of every training setting."""

SILENT = [
    {"name": "other"}, {"out": "elsewhere"}, {"requests": THREE_REQUESTS}, {"requests": []},
    {"unlearning": {"method": "retrain"}}, {"unlearning": {"method": "newton", "target_sigma": 0.1}},
    {"privacy": {"epsilon": 2.0}}, {"privacy": {"delta": 1e-6}}, {"privacy": {"noise": "secret"}},
    {"links": {"bandwidth_mbps": 1.0}}, {"links": {"latency_ms": 1.0}}, {"links": {"samples_per_second": 1.0}},
    {"runtime": {"hosts": 2}}, {"runtime": {"workers": 3}}, {"runtime": {"device": "cpu"}},
    {"runtime": {"checkpoints": False}}, {"runtime": {"checkpoint_seconds": 5}},
    {"runtime": {"memory_gb": 9.0}}, {"runtime": {"scratch": "."}}, {"runtime": {"cache": True}},
    {"evaluation": {"membership": False}}, {"evaluation": {"influence_rounds": 4}}, {"evaluation": {"controls": True}},
    {"evaluation": {"twins": "side-by-side"}},
    {"topology": {"repair": "path"}}, {"topology": {"radius": 0.3}}, {"model": {"extractor_epochs": 2}},
    {"policy": {"duplicates": "ignore"}}, {"faults": {"offline_requests": "answer"}}, {"faults": {"wait_limit": 3}},
    {"topology": {"degree": 2}}, {"data": {"shards_per_client": 5}},
]  # fmt: skip
"""Settings without a part in the training of the small experiment."""

SPEAKING = [
    {"seed": 4}, {"data": {"seed": 1}}, {"data": {"clients": 7}}, {"data": {"max_samples_per_client": 50}},
    {"topology": {"generator": "complete"}}, {"topology": {"mixing": "lazy-metropolis"}},
    {"model": {"features": "raw"}}, {"model": {"name": "mlp"}, "unlearning": {"method": "finetune"}},
    {"evaluation": {"every": 1}}, {"evaluation": {"max_samples": 20}}, {"evaluation": {"node_samples": 10}},
    {"data": {"test_fraction": 0.2}},
    *({"faults": fault} for fault in (
        {"leave_probability": 0.1}, {"leave_probability": 0.1, "return_probability": 0.2}, {"link_failure": 0.1},
        {"leave_probability": 0.1, "crash_share": 0.2}, {"late_share": 0.3, "late_until": 2}, {"message_loss": 0.1},
        {"message_loss": 0.1, "on_loss": "gone"}, {"slow_share": 0.3, "slow_factor": 2}, {"gossip": "push"},
        {"max_delay": 1, "delay_probability": 0.2}, {"partitions": [{"begin": 1, "end": 2, "parts": 2}]},
        {"events": [{"round": 1, "kind": "leave", "nodes": [0]}]}, {"link_failure": 0.1, "seed": 9},
    )),
]  # fmt: skip
"""Settings outside of ``training`` that change what is trained, on what, or the stored points of the curve."""


def key_of(settings: Experiment, **like) -> str:
    """Return the key of the network's training, by the way a run takes."""
    world = prepare(settings, lambda phase, done, total: None)
    with Session(
        InlineTransport(1), world.dataset, world.model, world.features, seed=settings.seed, runtime=settings.runtime,
        device=choose_device(settings.runtime.device), graph=world.graph,
    ) as session:  # fmt: skip
        network = new_network(world, session, "main", like.pop("graph", world.graph), **like)
        evaluator = Evaluator(world.dataset, world.features, world.model, settings.evaluation, settings.seed)
        every = min(settings.evaluation.every, max(1, settings.training.rounds))
        return TrainingCache(world.dataset, evaluator, every=every).key(network, world.start, settings.training)


def test_every_training_setting_is_in_the_key():
    assert set(OTHER) == set(TrainingSettings.model_fields)
    keys = {name: key_of(experiment(training={name: value})) for name, value in OTHER.items()}
    assert len({*keys.values(), key_of(experiment())}) == len(OTHER) + 1


def test_no_other_setting_is_unless_it_changes_what_is_trained():
    tried = {room for change in SILENT + SPEAKING for room in change} | {"training"}
    assert tried == set(Experiment.model_fields)
    for room in ("links", "runtime", "privacy", "evaluation", "faults"):
        fields = set(Experiment.model_fields[room].annotation.model_fields)
        assert fields == {key for change in SILENT + SPEAKING for key in change.get(room, {})}
    key = key_of(experiment())
    for change in SILENT:
        change = {**change, "runtime": {**change.get("runtime", {}), "workers": 0}}
        assert key_of(experiment(**change)) == key, change
    found = [key_of(experiment(**change)) for change in SPEAKING]
    assert len({*found, key}) == len(found) + 1


def test_deleted_samples_leavers_and_the_graph_are_in_the_key():
    ids = prepare(experiment(), lambda *_: None).dataset.train_rows(0)
    gone = {"alive": np.array([False, True, True, True, True, True]), "graph": nx.path_graph(range(1, 6))}
    gone["graph"].add_node(0)
    keys = [
        key_of(experiment()), key_of(experiment(), deleted=ids[:1]), key_of(experiment(), deleted=ids[:2]),
        key_of(experiment(), deleted=ids), key_of(experiment(), deleted=ids, **gone),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)


def test_content_start_torch_and_source_are_in_the_key(monkeypatch):
    dataset = image_data()
    model, features = model_for(dataset)
    graph = nx.cycle_graph(6)
    settings = experiment()

    def key(dataset=dataset, start=None, graph=graph) -> str:
        with open_session(dataset, model, features) as session:
            network = Network(session, "main", graph, "metropolis", model.initial(0))
            evaluator = Evaluator(dataset, features, model, settings.evaluation, 0)
            cache = TrainingCache(dataset, evaluator, every=1)
            return cache.key(network, model.initial(0) if start is None else start, settings.training)

    inputs, labels = dataset.inputs.copy(), dataset.labels.copy()
    row = dataset.train_rows(3)[0]
    inputs[row, 0, 0] ^= 1
    labels[row] = (labels[row] + 1) % 4
    relabelled = type(dataset)(**{**vars_of(dataset), "labels": labels})
    repainted = type(dataset)(**{**vars_of(dataset), "inputs": inputs})
    same = nx.relabel_nodes(graph, {}, copy=True)
    assert key() == key(graph=same)
    chord = nx.Graph(graph)
    chord.add_edge(0, 3)
    keys = [key(), key(relabelled), key(repainted), key(start=model.initial(0) + 1), key(graph=chord)]
    monkeypatch.setattr("torch.__version__", "0.0")
    keys.append(key())
    monkeypatch.setattr("fedunlearn.simulation.training_cache.source_sha256", lambda: "other")
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_holes_are_in_the_key():
    """A deleted sample and one that never was leave the same data, and with holes not the same batches."""
    whole = image_data()
    row = whole.train_rows(3)[0]
    without = type(whole)(**{**vars_of(whole), "is_test": whole.is_test | (np.arange(len(whole.labels)) == row)})
    model, features = model_for(whole)
    evaluator = Evaluator(whole, features, model, experiment().evaluation, 0)
    for schedule, same in (("compact", True), ("holes", False)):
        training = experiment().training.model_copy(update={"schedule": schedule})
        keys = []
        for dataset, deleted in ((whole, np.array([row])), (without, None)):
            with open_session(dataset, model, features) as session:
                network = Network(
                    session, "main", nx.cycle_graph(6), "metropolis", model.initial(0), deleted=deleted
                )  # fmt: skip
                keys.append(TrainingCache(dataset, evaluator, every=1).key(network, model.initial(0), training))
        assert (keys[0] == keys[1]) is same


def vars_of(dataset):
    return {name: getattr(dataset, name) for name in type(dataset).__dataclass_fields__}


def test_a_module_of_ones_own_is_never_cached(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "models"))
    summary = run(
        model={"name": "user_modules:Good", "features": "raw"}, unlearning={"method": "finetune"}, **CACHED
    ).summary
    assert not summary["cache"]["used"] and not folder.exists()


# --- deletion --------------------------------------------------------------------------------------------------------


def test_entries_with_deleted_data_are_listed_as_kept(folder):
    for _ in range(2):
        cache = run(requests=THREE_REQUESTS, **CACHED).summary["cache"]
        assert cache["purged"] == []
        assert set(cache["kept"]) < files(folder) and len(files(folder)) == 4
        assert len(cache["kept"]) == 3  # all but the last twin, who never saw any of it
    assert set(run(requests=THREE_REQUESTS).summary["cache"]["kept"]) == set(cache["kept"])  # also when it is not used


def test_a_run_with_secret_noise_purges_them(folder):
    run(requests=THREE_REQUESTS, **CACHED)
    run(requests=[], seed=8, **CACHED)
    before = files(folder)
    result = run(requests=THREE_REQUESTS, privacy={"noise": "secret"}, **CACHED).summary["cache"]
    assert result["kept"] == [] and set(result["purged"]) < before
    assert files(folder) == before - set(result["purged"]) and len(files(folder)) == 1  # the last twin
    after = run(requests=THREE_REQUESTS, **CACHED).summary["cache"]
    assert after["hits"] == ["retrain 2"]


def test_other_runs_with_the_same_people_are_reached(folder):
    """Client 2's samples under other clients' numbers, other rows and other roles are still client 2's samples."""
    run(requests=[], **CACHED)
    run(requests=[], data={"partition": "iid", "clients": 3, "max_samples_per_client": None}, **CACHED)
    assert len(files(folder)) == 2
    gone = run(requests=THREE_REQUESTS, privacy={"noise": "secret"}).summary["cache"]
    assert len(gone["purged"]) == 2 and not files(folder)


def test_an_entry_that_cannot_be_read_counts_as_one_with_deleted_data(folder):
    folder.mkdir(parents=True)
    (folder / ("0" * 64 + ".safetensors")).write_bytes(b"half an entry")
    assert run().summary["cache"]["kept"] == ["0" * 64]
    assert run(privacy={"noise": "secret"}).summary["cache"]["purged"] == ["0" * 64]


def test_the_summary_on_disk_lists_them_too(tmp_path):
    run(tmp_path / "run", **CACHED)
    assert len(json.loads((tmp_path / "run" / "summary.json").read_text())["cache"]["kept"]) == 1
