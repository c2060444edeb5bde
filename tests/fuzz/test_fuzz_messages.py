"""Mutated messages to a live host, and mutated answers to a conductor.

What "no wrong result is accepted" means here, exactly. A message that is refused leaves every byte of the host's store
as it was. A message that is accepted is one of the declared operations with arrays of the declared type, shape and
range; after it

- the store holds no array of another type or shape than before, and none that a legitimate message cannot make,
- operations that only read have left everything but their own scratch arrays as it was,
- no vertex has come back from the dead, no deleted sample is kept again, and what was finite is finite (only training
  may diverge, and only the rows of vertices that left or crashed are NaN, or mixed from rows that were overwritten),
- the answer passes the conductor's own check.

Mutants that ask for more of the same work (a million rounds) are legitimate: how long a run takes is the conductor's
business. They are left out here, for they would only take time.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from fedunlearn.errors import UserError
from fedunlearn.network import Network, Reply, Request, RuntimeSettings, Session, TrainingSettings, faulty, train
from fedunlearn.network.host import Host
from fedunlearn.network.inline import InlineTransport
from fedunlearn.network.messages import check_reply
from tests.fuzz.mutations import STRANGE, at_most, mutated_array, mutated_value
from tests.worlds import all_rows, image_data, model_for, ring_network

DATA = image_data(clients=6)
READING = {"sum", "measure", "read", "export", "save", "walk"}
SCRATCH = ("vector.", "partial.", "numbers-", "probabilities.", "points.")
TRAINS = {"rows", "rounds"}
HOP = "fedunlearn.unlearning.certified.token_walk:restart_hop"


class Recording(InlineTransport):
    """Keeps copies of all that it carries."""

    def __init__(self, num_hosts: int, places: Sequence[str] = ()) -> None:
        super().__init__(num_hosts, immediate=False, places=places)
        self.sent: list[tuple[int, Request, Reply]] = []

    def exchange(self, requests: Sequence[Request | None]) -> list[Reply | None]:
        kept = copy.deepcopy(list(requests))
        replies = super().exchange(requests)
        for host, (request, reply) in enumerate(zip(kept, replies)):
            if request is not None and reply is not None:
                self.sent.append((host, request, copy.deepcopy(reply)))
        return replies


@pytest.fixture(scope="module")
def told():
    """A session on two hosts after a story that used every operation, and the messages to its first host."""
    transport = Recording(2, ("here", "here"))
    model, features = model_for(DATA)
    with Session(transport, DATA, model, features, seed=5, runtime=RuntimeSettings(hosts=2, workers=0)) as session:
        network = ring_network(session, momentum=True)
        other = ring_network(session, "other")
        recipe = TrainingSettings(rounds=2, batch=5, lr=0.3, momentum=0.5)
        session.put({"evaluation.inputs": features.apply(DATA.inputs[:4]), "evaluation.labels": DATA.labels[:4]})
        network.checkpoint("here")
        train(network, recipe)
        x = network.mean()
        objective = {"at": "at", "weighting": "equal", "clients": 6, "total": network.total_samples}
        network.sum("fedunlearn.network.programs:gradient", objective, {"at": x})
        network.sum("fedunlearn.network.programs:hessian_vector", {**objective, "direction": "v"}, {"at": x, "v": x})
        network.mean(np.arange(1.0, 7.0))
        network.measure("fedunlearn.network.programs:finite", {})
        samples = {"inputs": "evaluation.inputs", "labels": "evaluation.labels"}
        network.measure("fedunlearn.evaluation.programs:node_utility", samples, width=2)
        network.measure("fedunlearn.evaluation.programs:row_distance", {"other": "other"})
        hop = {
            "visited": 1, "lr": 0.1, "noise": 0.5, "clip": 1.0, "l2": 0.01, "minibatches": 1, "batch": 4, "forget": [3],
            "local_steps": 2, "optimiser": "sgd", "noise_first": False, "ball": 2.0, "trust": None, "batch_seed": 3,
            "noise_kind": "simulated", "noise_seed": 4,
        }  # fmt: skip
        network.walk(HOP, hop, x, [(0, True), (1, True), (0, False), (2, True)], {"centre": x})
        session.ask("copy", {"source": "main", "target": "other"})
        network.write(x.astype(np.float32), nodes=[1, 4])
        graph = network.graph.copy()
        graph.remove_edges_from(list(graph.edges(2)))
        network.leave(2, graph)
        network.erase(DATA.train_rows(1)[:3])
        network.mix(2)
        network.broadcast(network.read(0), operation="add")
        network.rewind("here")
        faults(network)
        network.restore(network.save())
        extra = ring_network(session, "extra")
        extra.mix(1)
        extra.drop()
        network.wipe()
        network.mix(2)
        all_rows(network), all_rows(other)
        work = {"program": "fedunlearn.network.local_training:train", "only": None, "grain": 8, "population": "main"}
        recipe_of = next(r for _, message, _ in transport.sent for r in (*message.before, message) if r.op == "rows")
        params = {k: v for k, v in recipe_of.params["params"].items() if k != "round_"}
        rounds = Request("rounds", {"rounds": [2, 3], "work": [{**work, "params": params, "mix": False}]})
        transport.exchange([rounds, None])
        kept = [(m, r) for host, m, r in transport.sent if host == 0 and m.op not in ("setup", "close")]
        yield session, transport._hosts[0], kept


def faults(network: Network) -> None:
    """Vertices crash, come back and take over rows; rows of the round before arrive late."""
    ids = np.array
    faulty._take_over(network, ids([0]), ids([4]), restarts=ids([1, 5]), forget=ids([0, 1, 3, 5]), crashed=ids([1, 5]))
    even = np.eye(6)
    even[[0, 1, 3, 4, 5], [1, 0, 4, 5, 3]] = 1.0
    even[2] = 0.0
    weights = sparse.csr_array(even / np.maximum(even.sum(1, keepdims=True), 1.0))
    network.begin_mix_by(weights, (), 0)()
    ring = network.weights
    network.begin_mix_by(sparse.csr_array(sparse.hstack([weights / 2, ring / 2])), (0,), 1)()
    assert np.isfinite(all_rows(network)).all()
    network.session.later("forget", {"population": network.name})
    network.set_graph(network.graph)


def test_the_story_used_every_operation(told):
    _, host, kept = told
    used = {each.op for message, _ in kept for each in (*message.before, message)}
    assert used == set(host._operations) - {"close"}


def state_of(host: Host) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(host.store.folder.iterdir())}


def put_back(host: Host, state: dict[str, bytes]) -> None:
    folder = host.store.folder
    for path in list(folder.iterdir()):
        if path.name not in state:
            path.unlink()
    for name, content in state.items():
        if not (folder / name).is_file() or (folder / name).read_bytes() != content:
            (folder / name).unlink(missing_ok=True)
            (folder / name).write_bytes(content)
    host.refresh()


def mutated(request: Request, rng: random.Random, others: list[Request]) -> Request:
    """Return a request with a fault in its operation, parameters, arrays, or in one of those before it."""
    if request.before and rng.random() < 0.6:
        before = list(request.before)
        place, kind = rng.randrange(len(before)), rng.randrange(4)
        if kind == 0:
            rng.shuffle(before)
        elif kind == 1:
            del before[place]
        elif kind == 2:
            before.insert(place, before[rng.randrange(len(before))])
        else:
            before[place] = mutated(before[place], rng, others)
        return Request(request.op, request.params, request.arrays, tuple(before))
    op, params, arrays = request.op, request.params, dict(request.arrays)
    kind = rng.randrange(8)
    if kind == 0:
        op = rng.choice([*(o.op for o in others), "nothing", "", "setup", "__init__", "_put", 3, None])
    elif kind <= 3 and params:
        params = mutated_value(params, rng)
    elif kind <= 6 and arrays:
        name = rng.choice(list(arrays))
        if rng.random() < 0.75:
            arrays[name] = mutated_array(arrays[name], rng)
        elif rng.random() < 0.5:
            del arrays[name]
        else:
            arrays[rng.choice(["theta.main", "../x", "a/b", "labels", "zzz", "", "evaluation.x"])] = arrays[name]
    elif params and rng.random() < 0.5:
        key = rng.choice(["program", "population", "name", "label", "only", "dim", "width", "zzz", "params", "route"])
        strange = [*STRANGE, "os:system", "fedunlearn.api:run", "fedunlearn.network.programs:first_sick", "main.npy",
                   "fedunlearn.network.declared:declared", "*", "main", "../../etc", [0, 1], [5, 1], [99]]  # fmt: skip
        params = {**params, key: rng.choice(strange)}
    else:
        other = rng.choice(others)
        params, arrays = rng.choice([(other.params, arrays), (params, dict(other.arrays))])
    return Request(op, params, arrays, request.before)


def more_work(value: Any) -> bool:
    """Return whether a request asks for much more of the work than the story did."""
    if isinstance(value, dict):
        for key in ("local_epochs", "local_steps", "minibatches", "rounds", "batch", "round_"):
            entry = value.get(key)
            numbers = entry if isinstance(entry, list) else [entry]
            if any(isinstance(n, int) and abs(n) > 1000 for n in numbers):
                return True
        return any(more_work(entry) for entry in value.values())
    return isinstance(value, list) and any(more_work(entry) for entry in value)


def arrays_in(state: dict[str, bytes]) -> dict[str, np.ndarray]:
    found = {}
    for name, content in state.items():
        if name.endswith(".npy"):
            version = content[6]
            start = 10 + int.from_bytes(content[8:10], "little") if version == 1 else None
            assert start is not None
            header = eval(content[10:start], {}, {})
            found[name.removesuffix(".npy")] = np.frombuffer(content[start:], header["descr"]).reshape(header["shape"])
    return found


def loses_rows(request: Request) -> bool:
    """Return whether a message says itself that rows become NaN: of vertices that crash, or mixed from old rows."""
    every = (*request.before, request)
    late = any(each.op == "topology" and each.params.get("past") for each in every)
    return late or any(each.op == "adopt" and len(each.arrays["crashed"]) for each in every)


def judge(host: Host, request: Request, before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Assert what the head of this file says of an accepted message."""
    ops = {each.op for each in (*request.before, request)}
    assert ops <= set(host._operations)
    old, new = arrays_in(before), arrays_in(after)
    if ops <= READING:
        assert {n: v for n, v in after.items() if not n.startswith(SCRATCH)} == {
            n: v for n, v in before.items() if not n.startswith(SCRATCH)
        }
    made = {each.params["name"] for each in (*request.before, request) if each.op == "population"}
    taken = {name for each in (*request.before, request) if each.op == "put" for name in each.arrays}
    dim, count, nodes = host.block.model.dim, len(host.block.ids), host.block.num_nodes
    for name, array in new.items():
        kind, _, population = name.partition(".")
        assert "/" not in name and not name.startswith(".")
        if name in old and name not in taken and population.split(".")[0] not in made and kind not in (
            "halo", "border-0", "border-1", "weights", "vector", "partial"
        ):  # fmt: skip
            assert (array.dtype, array.shape) == (old[name].dtype, old[name].shape), name
        if kind in ("theta", "momentum"):
            assert array.dtype == np.float32 and len(array) == count
            alive = new[f"alive.{population}"][host.block.ids]
            if not ops & TRAINS and not loses_rows(request):
                assert np.isfinite(array[:, :dim][alive]).all(), name
        if kind == "alive":
            assert array.shape == (nodes,)
            if name in old and population not in made:
                assert (array <= old[name]).all()
        if kind == "keep" and name in old and population not in made:
            assert (array <= old[name]).all()


def broken(host: Host, request: Request) -> str:
    """Send one message; say what became of it, and leave the host as it was."""
    before = state_of(host)
    try:
        with at_most(10):
            reply = host.handle(request)
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        assert state_of(host) == before, "a refused message has changed the store"
        return "refused"
    block = host.block
    try:
        check_reply(request, reply, 0, block.ids, block.num_nodes, block.model.dim, low=block.low)
    except UserError as error:  # past rows of vertices that have left are wiped; the conductor takes none of them
        assert "'export': array 'rows' holds a value that is not a finite number" in str(error)
        assert request.params.get("past") is not None
        put_back(host, before)
        return "refused"
    judge(host, request, before, state_of(host))
    put_back(host, before)
    return "accepted"


def fuzz(told: Any, number: int, seed: int) -> Counter[str]:
    _, host, kept = told
    rng, found = random.Random(seed), Counter[str]()
    messages = [message for message, _ in kept]
    everything = [each for message in messages for each in (*message.before, message)]
    start = state_of(host)
    for i in range(number):
        # Every operation is as likely as any other, alone or in the batch in which it travelled.
        op = rng.choice(sorted({each.op for each in everything}))
        alone = rng.choice([each for each in everything if each.op == op])
        request = rng.choice([Request(alone.op, alone.params, alone.arrays), rng.choice(messages)])
        mutant = mutated(copy.deepcopy(request), rng, everything)
        parts = (*mutant.before, mutant)
        if any(more_work(part.params) for part in parts) or any(part.op == "close" for part in parts):
            found["more work"] += 1
            continue
        try:
            with np.errstate(all="ignore"):
                found[broken(host, mutant)] += 1
        except BaseException:
            print(f"message {i} of seed {seed}: {mutant.op} {str(mutant.params)[:800]}")
            print({k: (v.dtype, v.shape) for k, v in mutant.arrays.items()}, [part.op for part in mutant.before])
            raise
    assert state_of(host) == start
    return found


def test_mutated_messages_are_refused_or_harmless(told):
    found = fuzz(told, 150, 1)
    assert found["refused"] > 60 and found["accepted"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [20, 21])
def test_a_thousand_mutated_messages(told, seed):
    found = fuzz(told, 500, seed)
    print(seed, dict(found))
    assert found["refused"] > 200 and found["accepted"] > 20


def test_mutated_answers_are_refused_or_of_the_asked_form(told):
    """A mutated answer either raises one sentence, or has the very parameters, types and shapes of an answer."""
    _, host, kept = told
    rng, found = random.Random(3), Counter[str]()
    for _ in range(300):
        request, reply = rng.choice(kept)
        params, arrays, before = reply.params, dict(reply.arrays), reply.before
        if arrays and rng.random() < 0.6:
            name = rng.choice(list(arrays))
            arrays[name] = mutated_array(arrays[name], rng)
        elif rng.random() < 0.5:
            params = mutated_value(params, rng) if params else {"sick": 3}
        else:
            before = rng.choice([(), before[1:], (*before, Reply()), tuple(reversed(before))])
        mutant = Reply(params, arrays, before) if isinstance(params, dict) else Reply({}, arrays, before)
        try:
            check_reply(
                request, mutant, 0, host.block.ids, host.block.num_nodes, host.block.model.dim, low=host.block.low
            )
        except UserError as error:
            assert str(error).startswith("host 0 gave ") and "\n" not in str(error)
            found["refused"] += 1
            continue
        found["accepted"] += 1
        assert len(mutant.before) == len(request.before)
        for got, sound in zip((*mutant.before, mutant), (*before, reply)):
            assert got.params.keys() == sound.params.keys()
            for name, array in got.arrays.items():
                assert array.dtype == sound.arrays[name].dtype and array.shape == sound.arrays[name].shape
    assert found["refused"] > 100 and found["accepted"] > 20


def digest(host: Host) -> str:
    whole = hashlib.sha256()
    for name, content in state_of(host).items():
        whole.update(name.encode() + content)
    return whole.hexdigest()


def test_mutated_contents_of_flower_messages(tmp_path: Path):
    """Bytes, types, shapes, names, session, host and sequence of what travels; the ClientApp always answers."""
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

    from fedunlearn.flower import LocalGrid
    from fedunlearn.flower.client_app import _attached, app
    from fedunlearn.flower.codec import Address, decode_reply, encode_request
    from fedunlearn.flower.transport import GridTransport

    rng, found = random.Random(4), Counter[str]()
    model, features = model_for(DATA)
    with LocalGrid(app, 1) as grid:
        transport = GridTransport(grid, grid.get_node_ids())
        with Session(transport, DATA, model, features, seed=5, runtime=RuntimeSettings(workers=0)) as session:
            network = ring_network(session)
            host = next(iter(_attached.values()))[1]
            before = digest(host)
            vector = np.ones(network.dim, np.float32)
            request = Request(
                "write", {"population": "main", "operation": "add", "reset_momentum": True}, {"vector": vector}
            )
            (node,) = grid.get_node_ids()
            for _ in range(150):
                place = Address(transport._session, 0, transport._sent[0])
                content = encode_request(request, place)
                head, record = dict(content.config_records["fedunlearn"]), dict(content.array_records["arrays"])
                kind, array = rng.randrange(6), record["0/vector"]
                if kind == 0:
                    head[rng.choice(list(head))] = rng.choice(["", "x", -1, 10**6, 1.5, True, "[", "[[]]", "[" * 10**5])
                elif kind == 1:
                    del head[rng.choice(list(head))]
                elif kind == 2:
                    record[rng.choice(["1/vector", "-1/vector", "x", "0/../x", "0/"])] = record.pop("0/vector")
                elif kind == 3:
                    record["0/vector"] = Array(
                        rng.choice(["float64", "object", "float32", "complex128", "S4"]),
                        rng.choice([(network.dim,), (-1,), (2**40,), (1, network.dim), ()]),
                        rng.choice([array.stype, "numpy.ndarray", "pickle"]),
                        rng.choice([array.data, array.data[:-1], b"", b"\x80\x04\x95."]),
                    )
                elif kind == 4:
                    record = {}
                else:
                    head["parts"] = head["parts"].replace("main", rng.choice(["", "../x", "Ma", "ma\\u0000in"]))
                parts = {"fedunlearn": ConfigRecord(head), "arrays": ArrayRecord(record)}
                if rng.random() < 0.05:
                    parts.pop(rng.choice(list(parts)))
                message = Message(RecordDict(parts), dst_node_id=node, message_type="query")
                (reply,) = grid.send_and_receive([message])
                assert not reply.has_error()
                if digest(host) == before:
                    with pytest.raises(UserError) as caught:
                        decode_reply(reply.content)
                    assert "\n" not in str(caught.value)
                    found["refused"] += 1
                else:  # a mutation that hit nothing: the message is still sound, and has its turn
                    decode_reply(reply.content)
                    found["accepted"] += 1
                    transport._sent[0] += 1
                    before = digest(host)
                if reply_was_counted(grid, node) != transport._sent[0] - 1:
                    transport._sent[0] = reply_was_counted(grid, node) + 1
    assert found["refused"] > 100


def reply_was_counted(grid: Any, node: int) -> int:
    """Return the last message that the host of a local grid has counted."""
    return int(grid._contexts[node].state.config_records["fedunlearn.host"]["sequence"])
