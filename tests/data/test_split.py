"""Each host's file holds its own clients' training samples and nobody else's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedunlearn.cli.application import app
from fedunlearn.config import load_experiment
from fedunlearn.data import DataSettings, FederatedDataset, Role, load_dataset
from fedunlearn.data.parted import AbsentDataError
from fedunlearn.data.split import read_part, split
from fedunlearn.errors import UserError
from fedunlearn.models import FeatureMap, build_model
from fedunlearn.network import RuntimeSettings, Session
from fedunlearn.network.inline import InlineTransport
from fedunlearn.topology import build_graph

PROJECT = Path(__file__).resolve().parents[2]
MEMBERS = [np.array([5, 0, 2]), np.array([1, 3, 4])]


@pytest.fixture(scope="module")
def dataset() -> FederatedDataset:
    return load_dataset(DataSettings(source="digits", clients=6))


@pytest.fixture(scope="module")
def folder(dataset: FederatedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "new"
    split(dataset, MEMBERS, folder)
    return folder


def test_a_part_has_its_own_samples_and_nothing_of_others(dataset: FederatedDataset, folder: Path) -> None:
    for host, vertices in enumerate(MEMBERS):
        part = read_part(folder / f"host-{host}.npz")
        mine = np.zeros(len(dataset.labels), bool)
        for client in dataset.clients(Role.TRAIN)[vertices]:
            mine[dataset.train_rows(int(client))] = True
        assert np.array_equal(part.dataset.inputs[mine], dataset.inputs[mine])
        assert np.array_equal(part.dataset.labels[mine], dataset.labels[mine])
        for values in (part.dataset.inputs, part.dataset.labels):
            with pytest.raises(AbsentDataError, match="lie on another host"):
                values[~mine]
            with pytest.raises(AbsentDataError):
                values[int(np.flatnonzero(~mine)[-1])]
        assert np.array_equal(part.rows, np.flatnonzero(mine)) and not dataset.is_test[part.rows].any()
        for name in ("offsets", "is_test", "roles"):
            assert np.array_equal(getattr(part.dataset, name), getattr(dataset, name))
        assert part.whole == dataset.sha256()
        part.check(dataset.sha256(), vertices)


def test_all_files_together_are_the_data_set(dataset: FederatedDataset, folder: Path) -> None:
    parts = [read_part(path) for path in sorted(folder.iterdir())]
    assert np.array_equal(np.sort(np.concatenate([p.rows for p in parts])), np.arange(len(dataset.labels)))
    for part in parts:
        assert np.array_equal(part.dataset.inputs[part.rows], dataset.inputs[part.rows])
        assert np.array_equal(part.dataset.labels[part.rows], dataset.labels[part.rows])


def test_the_conductors_file_has_no_training_sample(dataset: FederatedDataset, folder: Path) -> None:
    with np.load(folder / "conductor.npz") as file:
        rows, head = file["rows"], json.loads(str(file["head"]))
    assert not np.isin(dataset.all_train_rows()[0], rows).any() and dataset.is_test[rows].any()
    assert len(head["parts"]) == 2
    for host, content in enumerate(head["parts"]):
        with np.load(folder / f"host-{host}.npz") as file:
            assert json.loads(str(file["head"]))["content"] == content


def test_files_are_their_owners_alone(folder: Path) -> None:
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}


def test_a_part_of_another_host_or_data_set_is_refused(dataset: FederatedDataset, folder: Path) -> None:
    part = read_part(folder / "host-0.npz")
    with pytest.raises(UserError, match=r"lacks the samples of client 1 .*give host h the part host-h\.npz"):
        part.check(dataset.sha256(), MEMBERS[1])
    with pytest.raises(UserError, match="but the run is on 000000000000"):
        part.check("0" * 64, MEMBERS[0])


@pytest.mark.parametrize("change", ["inputs", "labels", "rows", "offsets", "is_test", "roles"])
def test_a_part_that_was_changed_is_refused(folder: Path, tmp_path: Path, change: str) -> None:
    with np.load(folder / "host-0.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays[change] = arrays[change].copy()
    arrays[change].flat[3] = arrays[change].flat[3] == 0
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match="was changed since"):
        read_part(tmp_path / "bad.npz")


def test_what_is_no_part_is_told(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name in ("text.npz", "other.npz", "none.npz"):
        with pytest.raises(UserError, match=f"{name}' is not a part of a data set"):
            read_part(tmp_path / name)


def test_nothing_is_written_into_a_folder_that_is_taken(dataset: FederatedDataset, folder: Path) -> None:
    with pytest.raises(UserError, match="is not empty"):
        split(dataset, MEMBERS, folder)


def test_the_command_cuts_as_a_session_does(tmp_path: Path) -> None:
    experiment = load_experiment(PROJECT / "simulations" / "deployment.toml", ["topology.generator='watts-strogatz'"])
    done = CliRunner().invoke(
        app,
        [
            "data", "split", str(PROJECT / "simulations" / "deployment.toml"), "--hosts", "3",
            "--out", str(tmp_path / "parts"), "--set", "topology.generator='watts-strogatz'",
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    dataset = load_dataset(experiment.data)
    graph = build_graph(experiment.topology, 8, experiment.seed)
    model = build_model(experiment.model, dataset.num_classes, dataset.input_shape)
    features = FeatureMap("raw", dataset.input_shape)
    with Session(
        InlineTransport(3), dataset, model, features, seed=1, graph=graph, runtime=RuntimeSettings(workers=0)
    ) as session:
        for host, vertices in enumerate(session.members):
            read_part(tmp_path / "parts" / f"host-{host}.npz").check(dataset.sha256(), vertices)


def test_more_hosts_than_nodes_are_refused(tmp_path: Path) -> None:
    file = str(PROJECT / "simulations" / "deployment.toml")
    done = CliRunner().invoke(app, ["data", "split", file, "--hosts", "9", "--out", str(tmp_path / "parts")])
    assert done.exit_code == 2 and "--hosts 9 is more than the 8 nodes" in " ".join(done.output.split())
    assert not (tmp_path / "parts").exists()
