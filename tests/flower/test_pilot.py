"""Runs in which train clients' samples lie with their hosts alone: the same models, and nothing of them travels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict
from resume_kit import after_checkpoint, assert_same, power_cut
from small_runs import experiment, numbers, releases, run

from fedunlearn.config import Experiment, dump_toml, load_experiment
from fedunlearn.data import FederatedDataset, Role, load_dataset
from fedunlearn.data.split import split
from fedunlearn.errors import UserError
from fedunlearn.flower import GridTransport, LocalGrid, deployment, server_app
from fedunlearn.flower.client_app import app
from fedunlearn.models import FeatureMap
from fedunlearn.network.inline import InlineTransport
from fedunlearn.network.transport import Reply, Request
from fedunlearn.results.reading import read_summary
from fedunlearn.simulation import RunResult, simulate
from fedunlearn.topology import build_graph
from fedunlearn.topology.partition import bounds, vertex_order

ON_HOSTS = ("retain_accuracy", "forget_accuracy", "membership_auc_forget_vs_test")
SMALL_STEPS = {"schedule": "holes", "local_steps": 2, "batch": 16, "lr": 1.0}
METHODS: dict[str, dict[str, Any]] = {
    "newton": {"evaluation": {"controls": True, "influence_rounds": 2}},
    "finetune": {"unlearning": {"method": "finetune", "rounds": 2}, "training": {"momentum": 0.5, "lr": 1.0}},
    "rewind": {"unlearning": {"method": "rewind"}, "training": SMALL_STEPS, "topology": {"repair": "relay"}},
    "rr-du": {"unlearning": {"method": "rr-du", "hops": 12}, "topology": {"repair": "path"}},
    "retrain": {
        "unlearning": {"method": "retrain"}, "evaluation": {"twins": "side-by-side"},
        "requests": [{"level": "sample", "client": 1, "count": 5}, {"level": "client", "client": 4}],
    },
}  # fmt: skip


class Listening(GridTransport):
    """Keeps every reply, and every array of a request."""

    def __init__(self, grid: LocalGrid) -> None:
        super().__init__(grid, grid.get_node_ids())
        self.heard: list[Reply] = []

    def exchange(self, requests: Sequence[Request | None]) -> list[Reply | None]:
        """Deliver, and note what came back."""
        replies = super().exchange(requests)
        for reply in replies:
            self.heard += [] if reply is None else [*reply.before, reply]
        return replies


def cut(settings: Experiment, folder: Path, hosts: int = 2) -> Experiment:
    """Split the data of an experiment and return the experiment of a conductor that does not have them."""
    dataset = load_dataset(settings.data)
    nodes = len(dataset.clients(Role.TRAIN))
    order = vertex_order(build_graph(settings.topology, nodes, settings.seed))
    split(dataset, [order[low:high] for low, high in bounds(nodes, hosts)], folder, settings.data)
    data = settings.data.model_copy(update={"parts": str(folder / "conductor.npz")})
    return settings.model_copy(update={"data": data})


def supernodes(folder: Path, hosts: Iterable[int] = (0, 1)) -> LocalGrid:
    """Return hosts of this process, each of which has the file of its own part."""
    grid = LocalGrid(app, len(list(hosts)))
    for host, context in zip(hosts, grid._contexts.values()):
        context.node_config["data"] = str(folder / f"host-{host}.npz")
    return grid


def apart(settings: Experiment, tmp_path: Path, out: Path | None = None) -> tuple[RunResult, Listening]:
    """Run an experiment with two hosts that have their own samples each, and a conductor that has none of them."""
    conductors = cut(settings, tmp_path / "parts")
    (tmp_path / "parts" / "conductor.npz").rename(tmp_path / "conductor.npz")
    data = conductors.data.model_copy(update={"parts": str(tmp_path / "conductor.npz")})
    with supernodes(tmp_path / "parts") as grid:
        transport = Listening(grid)
        return simulate(conductors.model_copy(update={"data": data}), transport, out=out), transport


def forms(dataset: FederatedDataset) -> Iterator[tuple[str, bytes]]:
    """Yield every training sample, and the labels of every client, as bytes in each type in which they could travel."""
    rows, offsets = dataset.all_train_rows()
    seen = FeatureMap("unit", dataset.input_shape).apply(dataset.inputs[rows])
    for samples in (dataset.inputs[rows], seen):
        for kind in (np.uint8, np.float32, np.float64):
            for row in samples.astype(kind) if samples is not seen or kind is not np.uint8 else ():
                yield "inputs", row.tobytes()
    for first, last in pairwise(offsets):
        for kind in (np.uint8, np.int64, np.float32, np.float64):
            yield "labels", dataset.labels[rows[first:last]].astype(kind).tobytes()


def leaks(replies: Iterable[Reply], dataset: FederatedDataset) -> set[str]:
    """Return what of the training samples stands in replies: ``inputs`` or ``labels``."""
    heard = b"|".join(
        part
        for reply in replies
        for part in (*(np.ascontiguousarray(a).tobytes() for a in reply.arrays.values()), repr(reply.params).encode())
    )
    return {what for what, form in forms(dataset) if form in heard}


@pytest.mark.parametrize("method", METHODS)
def test_the_same_models_as_with_all_data_in_one_place_and_no_sample_travels(method: str, tmp_path: Path) -> None:
    settings = experiment(**METHODS[method])
    here = run(tmp_path / "here", **METHODS[method])
    there, transport = apart(settings, tmp_path, tmp_path / "there")
    assert len(transport.heard) > 20 and leaks(transport.heard, load_dataset(settings.data)) == set()
    assert releases(there.folder) == releases(here.folder) and releases(here.folder)
    mine, theirs = numbers(there.summary), numbers(here.summary)
    assert [n for n in mine.pop("notes") if n not in theirs["notes"]] == [
        "the training samples lie with their hosts alone: no training is cached, and deleted samples are not measured "
        "once they are erased"
    ]
    theirs.pop("notes")
    for name, entry in mine["models"].items():
        known = theirs["models"][name]
        early = name in ("original", "public_head")
        assert (entry["forget_accuracy"] is None) is not early
        for key in ON_HOSTS:
            value, expected = entry.pop(key), known.pop(key)
            assert value == pytest.approx(expected, abs=1e-12) if value is not None else not early
    assert mine == theirs
    assert there.summary["cache"] == {"used": False, "hits": [], "purged": [], "kept": []}
    for name in ("metrics.csv", "ledger.json"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    figures = [{path.name for path in (tmp_path / where / "figures").iterdir()} for where in ("here", "there")]
    assert figures[0] == figures[1] and figures[0]


def test_a_sample_that_travelled_would_be_heard() -> None:
    dataset = load_dataset(experiment().data)
    client = dataset.train_rows(2)
    seen = FeatureMap("unit", dataset.input_shape).apply(dataset.inputs[client[3:5]])
    for told in (seen, seen.astype(np.float64), dataset.inputs[client[3:5]]):
        assert leaks([Reply({}, {"x": told})], dataset) == {"inputs"}
    assert leaks([Reply({}, {"y": dataset.labels[client]})], dataset) == {"labels"}


def test_hosts_that_do_not_have_what_was_agreed_are_refused(tmp_path: Path) -> None:
    settings = experiment()
    conductors = cut(settings, tmp_path / "parts")
    with LocalGrid(app, 2) as grid, pytest.raises(UserError, match="this host has none: name its part in its node"):
        simulate(conductors, GridTransport(grid, grid.get_node_ids()))
    with supernodes(tmp_path / "parts", (1, 0)) as grid, pytest.raises(UserError, match="lacks the samples of client"):
        simulate(conductors, GridTransport(grid, grid.get_node_ids()))
    with LocalGrid(app, 3) as grid, pytest.raises(UserError, match="were split for 2 hosts, but 3 take part"):
        simulate(conductors, GridTransport(grid, grid.get_node_ids()))


def test_a_part_with_more_than_was_agreed_is_refused(tmp_path: Path) -> None:
    conductors = cut(experiment(), tmp_path / "parts")
    dataset = load_dataset(experiment().data)
    split(dataset, [np.arange(6), np.zeros(0, np.int64)], tmp_path / "others")  # everything on the first host
    (tmp_path / "parts" / "host-0.npz").write_bytes((tmp_path / "others" / "host-0.npz").read_bytes())
    with supernodes(tmp_path / "parts") as grid, pytest.raises(UserError, match="take all parts from one"):
        simulate(conductors, GridTransport(grid, grid.get_node_ids()))


def test_data_made_otherwise_than_they_were_split_are_refused(tmp_path: Path) -> None:
    conductors = cut(experiment(), tmp_path / "parts")
    others = conductors.data.model_copy(update={"seed": 7})
    with pytest.raises(UserError, match=r"was split with data.seed = 0, but here it is 7; split the data again"):
        load_dataset(others)
    wrong = conductors.data.model_copy(update={"parts": str(tmp_path / "parts" / "host-0.npz")})
    with pytest.raises(UserError, match=r"is not the conductor's part; name the file conductor\.npz beside it"):
        load_dataset(wrong)


def test_a_class_cannot_be_deleted_by_who_does_not_know_it(tmp_path: Path) -> None:
    conductors = cut(experiment(requests=[{"level": "class", "label": 3}]), tmp_path / "parts")
    sentence = r"requests.0.label = 3: which samples are of a class is known to their hosts alone"
    with supernodes(tmp_path / "parts") as grid, pytest.raises(UserError, match=sentence):
        simulate(conductors, GridTransport(grid, grid.get_node_ids()))


@pytest.mark.parametrize(
    "more", [{"mode": "one-step"}, {"mode": "paper", "bound": "worst-case", "curvature_data": "asking-client"}]
)
def test_gradients_of_deleted_samples_alone_are_not_asked_for(more: dict[str, Any], tmp_path: Path) -> None:
    conductors = cut(experiment(unlearning={"method": "newton", "gradient": "forget-set", **more}), tmp_path / "parts")
    with (
        supernodes(tmp_path / "parts") as grid,
        pytest.raises(UserError, match=r"^unlearning.gradient = 'forget-set' .* with data.parts .*allowed: 'retained'"),
    ):
        simulate(conductors, GridTransport(grid, grid.get_node_ids()))


def test_a_run_that_was_broken_off_goes_on_without_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conductors = cut(experiment(runtime={"checkpoint_seconds": 0}), tmp_path / "parts")
    results = []
    for name, stop in (("whole", 0), ("broken", 3)):
        with monkeypatch.context() as patch, supernodes(tmp_path / "parts") as grid:
            where: dict[str, Any] = {"out": tmp_path / name}
            if stop:
                after_checkpoint(patch, stop)
                with power_cut(patch):
                    simulate(conductors, Listening(grid), **where)
                patch.undo()
                where = {"resume": tmp_path / name}
            results.append(simulate(conductors, Listening(grid), **where))
    assert_same(results[1], results[0])
    assert results[1].summary["models"]["original"]["forget_accuracy"] is not None


def start(**config: str) -> None:
    with LocalGrid(app, 1) as grid:
        server_app.app(grid, Context(1, 1, {}, RecordDict(), dict(config)))


def test_flwr_run_goes_on_with_an_unfinished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = experiment(runtime={"checkpoint_seconds": 0})
    (tmp_path / "small.toml").write_text(dump_toml(settings))
    names = {"simulation": str(tmp_path / "small.toml")}
    start(**names, out=str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        after_checkpoint(patch, 3)
        with power_cut(patch):
            start(**names, out=str(tmp_path / "broken"))
    assert not (tmp_path / "broken").exists(), "nothing unfinished lies under the name"
    start(**names, resume=str(tmp_path / "broken"))
    whole, broken = read_summary(tmp_path / "whole"), read_summary(tmp_path / "broken")
    assert len(broken["resumed"]) == 1 and not whole["resumed"]
    assert releases(tmp_path / "broken") == releases(tmp_path / "whole")
    for summary in (whole, broken):
        summary.pop("resumed")
    assert numbers(broken) == numbers(whole)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_hosts_elsewhere_say_themselves_whether_they_have_a_gpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(InlineTransport):
        def exchange(self, requests: Sequence[Request | None]) -> list[Reply | None]:
            assert requests[0] is not None and requests[0].op == "setup"
            raise UserError(f"set up for {requests[0].params['device']}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "auto")
    settings = experiment(runtime={"device": device})
    with pytest.raises(UserError, match=f"^set up for {'cuda' if device == 'cuda' else 'cpu'}$"):
        simulate(settings, Elsewhere(1, immediate=False))
    if device == "cuda":
        with pytest.raises(UserError, match="torch finds no GPU here"):
            simulate(settings, InlineTransport(1))


def test_deploy_gives_each_its_own_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class NotStarted:
        address = "nowhere"

        def __init__(self, hosts: int, *, data: Path | None = None) -> None:
            seen["data"] = data

        def __enter__(self) -> NotStarted:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def run(self, simulation: Path, overrides: Sequence[str], out: Path, say: Any, resume: Path | None) -> None:
            (tmp_path / "small.toml").write_text(dump_toml(experiment()))
            seen["experiment"] = load_experiment(tmp_path / "small.toml", list(overrides))

    monkeypatch.setattr(deployment, "Deployment", NotStarted)
    (tmp_path / "the parts").mkdir()
    for name in ("conductor.npz", "host-0.npz", "host-1.npz"):
        with pytest.raises(UserError, match=f"has no {name}; make it by `fedunlearn data split --hosts 2`"):
            deployment.deploy(tmp_path / "x", [], tmp_path / "out", 2, print, data=tmp_path / "the parts")
        (tmp_path / "the parts" / name).touch()
    assert not seen
    deployment.deploy(tmp_path / "small.toml", ["seed=4"], tmp_path / "out", 2, print, data=tmp_path / "the parts")
    assert seen["data"] == tmp_path / "the parts" and seen["experiment"].seed == 4
    assert seen["experiment"].data.parts == str(tmp_path / "the parts" / "conductor.npz")
