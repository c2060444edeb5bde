"""The door of a host, and the conductor's: what operations may hold, and that nothing happens before it is checked."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

import fedunlearn
from fedunlearn.errors import UserError
from fedunlearn.network import Reply, Request, TrainingSettings, train
from fedunlearn.network.declared import declared, node_program
from fedunlearn.network.messages import RULES, all_finite, check_reply, check_setup, fits
from tests.worlds import all_rows, image_data, model_for, open_session, ring_network

DATA = image_data(clients=6)
OBJECTIVE = {"at": "at", "weighting": "equal", "clients": 6, "total": 60}
SUM = {"program": "fedunlearn.network.programs:gradient", "params": OBJECTIVE, "population": "main", "only": None}
TRAIN = "fedunlearn.network.local_training:train"


@pytest.fixture(scope="module")
def world():
    model, features = model_for(DATA)
    with open_session(DATA, model, features, hosts=2) as session:
        network = ring_network(session, momentum=True)
        yield network, session.transport._hosts[0]


def files(host):
    return {p.name: p.read_bytes() for p in sorted(host.store.folder.iterdir())}


def refused(host, request: Request, part: str) -> None:
    before = files(host)
    with pytest.raises(UserError) as caught:
        host.handle(request)
    assert part in str(caught.value) and "\n" not in str(caught.value)
    assert files(host) == before


def test_every_operation_of_a_host_has_a_rule(world):
    _, host = world
    assert set(RULES) == set(host._operations)


ARRAYS = [
    ("write", {"vector": np.full(260, np.nan, np.float32)}, "not a finite number"),
    ("write", {"vector": np.zeros(260)}, "of type float64, not float32"),
    ("write", {"vector": np.zeros(259, np.float32)}, "shape (259,)"),
    ("write", {"vector": np.zeros((1, 260), np.float32)}, "shape (1, 260)"),
    ("write", {"vector": np.zeros(260, ">f4")}, "float32"),
    ("write", {}, "lacks the array 'vector'"),
    ("write", {"vector": np.zeros(260, np.float32), "nodes": np.array([6])}, "not less than 6"),
    ("write", {"vector": np.zeros(260, np.float32), "more": np.zeros(1)}, "no array 'more'"),
    ("leave", {"nodes": np.array([-1])}, "less than 0"),
    ("read", {"nodes": np.array([5])}, "another host"),
    ("erase", {"sample_ids": np.array([0.0])}, "int64"),
    ("restore", {"theta": np.zeros((2, 260), np.float32)}, "shape (2, 260)"),
    ("mix", {"halo": np.zeros((1, 260), np.float32)}, "shape (1, 260)"),
    ("mix", {}, "lacks the array 'halo'"),
]


@pytest.mark.parametrize(("op", "arrays", "part"), ARRAYS)
def test_arrays_are_checked_for_type_shape_range_and_finiteness(world, op, arrays, part):
    _, host = world
    params = {"population": "main"} | ({"operation": "set", "reset_momentum": True} if op == "write" else {})
    refused(host, Request(op, params, arrays), part)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"program": "os:system"}, "not a declared node program"),
        ({"program": "fedunlearn.api:run"}, "not a declared node program"),
        ({"program": "fedunlearn.network.programs:first_sick"}, "not a declared node program"),
        ({"program": "fedunlearn.network.programs:node_program"}, "not a declared node program"),
        ({"program": TRAIN}, "is a program of 'rows'"),
        ({"population": "nobody"}, "no population 'nobody'"),
        ({"population": "../main"}, "cannot be the name of a population"),
        ({"only": [2, 1]}, "ascending order"),
        ({"only": [6]}, "ascending order"),
        ({"only": [True]}, "wrong kind"),
        ({"dim": 261}, "gives 260 numbers a vertex, not 261"),
        ({"dim": 1.5}, "wrong kind"),
        ({"params": {**OBJECTIVE, "at": "../at"}}, "names no array"),
        ({"params": {**OBJECTIVE, "at": "elsewhere"}}, "lacks the array 'elsewhere'"),
        ({"params": {**OBJECTIVE, "more": 1}}, "no parameter 'more'"),
        ({"params": {**OBJECTIVE, "weighting": "other"}}, "'weighting' is neither"),
        ({"params": {**OBJECTIVE, "total": "60"}}, "wrong kind"),
        ({"params": {"at": "at"}}, "lacks the parameter 'weighting'"),
        ({"params": []}, "wrong kind"),
        ({"more": 1}, "no parameter 'more'"),
    ],
)
def test_programs_and_their_parameters_are_checked(world, change, part):
    _, host = world
    arrays = {"at": np.zeros(260)}
    host.handle(Request("sum", {**SUM, "dim": 260}, arrays))
    refused(host, Request("sum", {**SUM, "dim": 260, **change}, arrays), part)


HOP = "fedunlearn.unlearning.certified.token_walk:restart_hop"
WALK = {
    "visited": 1, "lr": 0.1, "noise": 0.0, "clip": 1.0, "l2": 0.01, "minibatches": 1, "batch": 4, "local_steps": 1,
    "optimiser": "sgd", "noise_first": False, "ball": None, "trust": None, "batch_seed": 3, "noise_kind": "simulated",
    "noise_seed": 4,
}  # fmt: skip


@pytest.mark.parametrize(("radius", "vector"), [("ball", "centre"), ("trust", "reference")])
def test_a_vector_that_a_program_reads_comes_with_its_message(world, radius, vector):
    _, host = world
    arrays = {"token": np.zeros(260)}
    request = {"program": HOP, "population": "main", "route": [[0, 1]]}
    host.handle(Request("walk", {**request, "params": WALK}, arrays))
    asked = Request("walk", {**request, "params": {**WALK, radius: 2.0}}, arrays)
    host.handle(dataclasses.replace(asked, arrays={**arrays, vector: np.zeros(260)}))
    # That of the message before still lies in the store, and is not taken for one of this message.
    assert f"vector.{vector}" in host.store
    refused(host, asked, f"lacks the array '{vector}'")


def test_programs_read_no_vector_but_those_that_they_declare():
    """Looks at the source of every program: which names it gives to ``block.vector`` and ``block.array``."""
    seen = set()
    for path in sorted(Path(fedunlearn.__file__).parent.rglob("*.py")):
        text = path.read_text()
        if path.name not in ("block.py", "execute.py", "host_work.py", "host_state.py"):
            assert "vector.{" not in text and '"vector.' not in text, path
        if "@node_program(" not in text:
            continue
        module = ".".join(("fedunlearn", *path.relative_to(Path(fedunlearn.__file__).parent).with_suffix("").parts))
        tree = ast.parse(text)
        for function in (f for f in tree.body if isinstance(f, ast.FunctionDef) and f.decorator_list):
            if "node_program" not in ast.unparse(function.decorator_list[0]):
                continue
            program = declared(f"{module}:{function.name}")
            read = set(re.findall(r"block\.(?:vector|array)\((\w+)\)", ast.unparse(function)))
            # Walks read theirs through a function that is told the name, and the radius that says whether it is needed.
            pairs = dict(re.findall(r"_shared\(block, '(\w+)', (\w+)\)", ast.unparse(function)))
            assert read == set(program.vectors) and pairs == dict(program.shared), function.name
            seen.add(program.kind)
    assert seen == {"rows", "sum", "measure", "walk"}


def test_a_vector_that_nobody_sent_is_one_sentence(world):
    _, host = world
    with pytest.raises(UserError, match="reads the vector 'nowhere', which did not come with its message"):
        host.block.vector("nowhere")


def test_momentum_is_for_populations_that_have_momenta(world):
    network, host = world
    ring_network(network.session, "plain")
    recipe = TrainingSettings(rounds=1, batch=5, momentum=0.5).model_dump(mode="json")
    params = {"round_": 0, "training": recipe, "form": "vmap"}
    asked = {"program": TRAIN, "params": params, "only": None, "grain": 8}
    refused(host, Request("rows", {**asked, "population": "plain"}), "population 'plain' keeps no momenta")
    work = {**asked, "population": "plain", "mix": False, "params": {k: params[k] for k in ("training", "form")}}
    refused(host, Request("rounds", {"rounds": [0, 1], "work": [work]}), "population 'plain' keeps no momenta")
    host.handle(Request("save", {"population": "plain"}))


def test_a_population_of_an_old_name_has_nothing_of_the_old_one():
    model, features = model_for(DATA)
    with open_session(DATA, model, features) as session:
        network = ring_network(session, momentum=True)
        network.mix(1)
        host = session.transport._hosts[0]
        host.handle(
            Request(
                "population", {"name": "main", "momentum": False, "seed": 1},
                {"start": np.zeros(260, np.float32), "alive": np.ones(6, bool), "deleted": np.zeros(0, np.int64)},
            )
        )  # fmt: skip
        refused(host, Request("mix", {"population": "main"}), "population 'main' has no mixing matrix")
        assert set(host.handle(Request("save", {"population": "main"})).arrays) == {"theta"}


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "theta.main", "labels", "order", "alive.x", "", ".x", "vector.at", "checkpoint-a.b"]
)
def test_nothing_is_put_under_a_name_of_the_hosts_own(world, name):
    _, host = world
    refused(host, Request("put", {}, {name: np.zeros(3)}), "nothing can be put under the name")


@pytest.mark.parametrize("label", ["../x", "a/b", "", ".", "a.b", "x" * 200])
def test_labels_are_plain_names(world, label):
    _, host = world
    refused(host, Request("checkpoint", {"population": "main", "label": label}), "cannot be a label")
    refused(host, Request("rewind", {"population": "main", "label": "never"}), "no checkpoint 'never'")


def test_a_mixing_matrix_is_row_stochastic(world):
    network, host = world
    before = host.store["weights.main.data"].copy()
    arrays = {"indptr": np.array([0, 1, 2, 3]), "indices": np.array([0, 1, 2]), "data": np.ones(3)}
    for name, values, part in (
        ("data", np.array([1.0, 2.0, 1.0]), "add up to one"), ("data", np.array([1.0, np.inf, 1.0]), "finite"),
        ("indptr", np.array([0, 2, 1, 3]), "into rows"), ("indptr", np.array([0, 1, 2, 4]), "into rows"),
        ("indices", np.array([0, 1, 6]), "not less than 6"), ("indices", np.array([0, 1]), "shape"),
    ):  # fmt: skip
        refused(host, Request("topology", {"population": "main"}, {**arrays, name: values}), part)
    assert np.array_equal(host.store["weights.main.data"], before) and network.dim == 260


def test_a_message_is_checked_as_a_whole_before_any_part_is_carried_out(world):
    _, host = world
    good = Request("write", {"population": "main", "operation": "add", "reset_momentum": False},
                   {"vector": np.ones(260, np.float32)})  # fmt: skip
    bad = Request("drop", {"population": "nobody"})
    refused(host, dataclasses.replace(bad, before=(good, good)), "no population 'nobody'")
    refused(host, dataclasses.replace(good, before=(dataclasses.replace(good, before=(good,)),)), "within each other")


def test_a_population_is_known_to_what_follows_in_its_message(world):
    _, host = world
    make = Request(
        "population", {"name": "fresh", "momentum": False, "seed": 2**63 - 1},
        {"start": np.zeros(260, np.float32), "alive": np.ones(6, bool), "deleted": np.zeros(0, np.int64)},
    )  # fmt: skip
    read = Request("read", {"population": "fresh"}, {"nodes": np.array([0])})
    drop = Request("drop", {"population": "fresh"})
    refused(host, dataclasses.replace(read, before=(make, drop)), "no population 'fresh'")
    reply = host.handle(dataclasses.replace(read, before=(make,)))
    assert reply.arrays["rows"].shape == (1, 260)
    host.handle(drop)


def test_erased_samples_are_read_by_no_population():
    model, features = model_for(DATA)
    with open_session(DATA, model, features) as session:
        first, second = ring_network(session, "first"), ring_network(session, "second")
        first.erase(DATA.train_rows(2)[:2])
        train(first, TrainingSettings(rounds=1, batch=5))
        with pytest.raises(UserError, match="population 'second' still counts on samples that were erased"):
            train(second, TrainingSettings(rounds=1, batch=5))
        assert np.isfinite(all_rows(second)).all()


REPLIES = [
    (Request("read", {}, {"nodes": np.array([0, 1])}), Reply(arrays={"rows": np.zeros((1, 4), np.float32)}), "shape"),
    (
        Request("export", {}, {"nodes": np.array([0])}),
        Reply(arrays={"rows": np.full((1, 4), np.nan, np.float32)}),
        "fin",
    ),
    (Request("measure", {"width": 2}), Reply(arrays={"values": np.zeros((3, 1))}), "shape"),
    (Request("sum", {"dim": 4}), Reply(arrays={"keys": np.array([[0, 4]]), "sums": np.zeros((1, 4))}), "no part in"),
    (Request("sum", {"dim": 4}), Reply(arrays={"keys": np.array([[9, 0]]), "sums": np.zeros((1, 4))}), "no part in"),
    (
        Request("sum", {"dim": 4}),
        Reply(arrays={"keys": np.array([[0, 1]] * 2), "sums": np.zeros((2, 4))}),
        "no part in",
    ),
    (Request("sum", {"dim": 4}), Reply(arrays={"keys": np.array([[0, 1]]), "sums": np.zeros((1, 5))}), "shape"),
    (Request("rows"), Reply({"sick": 5}), "another host"),
    (Request("rows"), Reply({}), "lacks the parameter"),
    (Request("wipe"), Reply({"more": 1}), "no parameter 'more'"),
    (Request("wipe"), Reply(before=(Reply(),)), "1 answers to 0 requests"),
    (Request("walk", {}, {"token": np.zeros(4)}), Reply(arrays={"token": np.zeros(5)}), "shape"),
    (Request("save"), Reply(arrays={"theta": np.zeros((3, 4))}), "float64"),
    (Request("rounds", {"rounds": [0, 2], "work": [{"population": "a"}]}), Reply({"sick": {"a": [3, 0]}}), "not asked"),
    (Request("rounds", {"rounds": [0, 2], "work": [{"population": "a"}]}), Reply({"sick": {}}), "asked for"),
]


@pytest.mark.parametrize(("request_", "reply", "part"), REPLIES)
def test_a_reply_that_is_no_answer_to_the_request_is_refused(request_, reply, part):
    with pytest.raises(UserError, match=r"^host 1 gave ") as caught:
        check_reply(request_, reply, 1, np.arange(3), 6, 4)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"block": [0, 9]}, "range of vertices"), ({"workers": 10**6}, "workers"), ({"device": "tpu"}, "wrong kind"),
        ({"data": {"source": "nowhere"}}, "does not describe a data set"), ({"num_nodes": 0}, "out of range"),
        ({"data": {"source": "table", "path": "../../secret.csv"}}, "does not describe a data set"),
        ({"features": {"kind": "raw", "input_shape": [], "extractor": None}}, "shape of a sample"),
        ({"model": {}}, "lacks the parameter 'name'"), ({"scratch": 3}, "wrong kind"), ({"more": 1}, "no parameter"),
    ],
)  # fmt: skip
def test_a_set_up_is_checked(change, part):
    model, features = model_for(DATA)
    params = {
        "block": [0, 6], "num_nodes": 6, "workers": 0, "device": "cpu", "room": None, "scratch": None, "dataset": "x",
        "data": None, "model": model.spec, "features": features.to_spec()[0],
    }  # fmt: skip
    check_setup(params, {})
    with pytest.raises(UserError, match="malformed 'setup'") as caught:
        check_setup({**params, **change}, {})
    assert part in str(caught.value)


def test_json_values_fit_annotations():
    assert (
        fits(1, float) and fits([1, 2], list[int]) and fits(None, int | None) and fits({"a": [1]}, dict[str, list[int]])
    )
    for value, kind in ((True, int), (float("nan"), float), (float("inf"), float), (1.0, int), ([True], list[int]),
                        ("1", int), (2**70, int), ([2**63], list[int]), ({1: 2}, dict[str, int])):  # fmt: skip
        assert not fits(value, kind)


def test_all_finite_is_numpys_answer():
    huge = np.full(1000, 3e38, np.float32)
    assert all_finite(huge) and all_finite(np.zeros(0))
    for bad in (np.nan, np.inf, -np.inf):
        for size in (3, 1000):
            values = np.ones(size, np.float32)
            values[size // 2] = bad
            assert not all_finite(values)
    mixed = np.array([np.inf, -np.inf] * 50)
    assert not all_finite(mixed)


def test_a_program_must_be_declared_where_it_is_named(monkeypatch):
    assert declared(TRAIN).kind == "rows"

    @node_program("measure")
    def mine(block, population, nodes):
        return [0.0 for _ in nodes]

    import fedunlearn.network.clock as elsewhere

    monkeypatch.setattr(elsewhere, "mine", mine, raising=False)  # declared in another module than it is named by
    for name in (
        "fedunlearn.network.clock:mine",
        "tests.network.test_messages:mine",
        "numpy:load",
        "a:b",
        "",
        "x" * 999,
    ):
        declared.cache_clear()
        with pytest.raises(UserError, match="not a declared node program"):
            declared(name)


def test_checks_change_no_number():
    model, features = model_for(DATA)
    rows = []
    for hosts in (1, 2):
        with open_session(DATA, model, features, hosts=hosts) as session:
            network = ring_network(session, momentum=True)
            train(network, TrainingSettings(rounds=2, batch=5, momentum=0.5))
            rows.append(all_rows(network))
            assert nx.is_connected(network.graph)
    assert np.array_equal(*rows)
