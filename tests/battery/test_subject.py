"""What a battery looks at: the run's own models and sample sets; one sentence for what is not a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fedunlearn.battery.subject import Subject, subject_of
from fedunlearn.errors import UserError
from fedunlearn.results.reading import read_run
from tests.small_runs import THREE_REQUESTS, run


def silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small finished run with a never-member."""
    folder = tmp_path_factory.mktemp("subject") / "run"
    run(folder, data={"clients": 8, "train_clients": "0-5", "never_members": "6-7"}, requests=THREE_REQUESTS)
    return folder


@pytest.fixture(scope="module")
def subject(made: Path) -> Subject:
    """Return the subject of that run."""
    return subject_of(made, silent)


def test_the_models_measure_as_the_run_says(subject: Subject, made: Path) -> None:
    entries = read_run(made).summary["models"]
    for name, vector in subject.vectors.items():
        outputs = subject.outputs(vector)
        for part, entry in (
            ("test", "test_accuracy"), ("forget", "forget_accuracy"), ("retain", "retain_accuracy"),
            ("never_member", "never_member_accuracy"),
        ):  # fmt: skip
            assert outputs[part].correct.mean() == pytest.approx(entries[name][entry], abs=1e-12)  # type: ignore[index]
        assert outputs["test"].loss.mean() == pytest.approx(entries[name]["test_loss"], rel=1e-5)


def test_sets_are_disjoint_and_know_their_clients(subject: Subject) -> None:
    dataset = subject.world.dataset
    rows = {name: set(samples.rows.tolist()) for name, samples in subject.sets.items()}
    names = sorted(rows)
    assert names == ["forget", "never_member", "retain", "test"]
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not rows[one] & rows[other]
    assert rows["forget"] == set(subject.deleted.tolist())
    outputs = subject.outputs(subject.vectors["original"])
    for name, samples in subject.sets.items():
        np.testing.assert_array_equal(outputs[name].clients, dataset.client_of[samples.rows])
    assert set(outputs["never_member"].clients.tolist()) == {6, 7}


def test_clients_that_left_are_those_without_a_sample(subject: Subject) -> None:
    # client 4 leaves, client 1 deletes five samples, and class 3 goes everywhere
    assert subject.left_clients == [4]


def test_a_fresh_world_has_a_method_of_its_own(subject: Subject) -> None:
    assert subject.fresh().unlearner is not subject.world.unlearner
    assert subject.fresh().dataset is subject.world.dataset


def test_what_is_not_a_finished_run_gets_one_sentence(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        subject_of(tmp_path / "nothing", silent)
    shutil.copytree(made, tmp_path / "short")
    (tmp_path / "short" / "models" / "unlearned.safetensors").unlink()
    with pytest.raises(UserError, match="there is no such model"):
        subject_of(tmp_path / "short", silent)
    run(tmp_path / "run", requests=[])
    with pytest.raises(UserError, match="without deletion requests"):
        subject_of(tmp_path / "run", silent)


def test_a_model_of_another_size_gets_one_sentence(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "run")
    run(tmp_path / "wide", model={"name": "mlp", "hidden": [4]}, unlearning={"method": "finetune"})
    model = "models/unlearned.safetensors"
    shutil.copy(tmp_path / "wide" / model, tmp_path / "run" / model)
    with pytest.raises(UserError, match=r"model .unlearned. has .* parameters"):
        subject_of(tmp_path / "run", silent)


def test_other_data_than_the_runs_are_refused(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(made, folder)
    text = (folder / "settings.toml").read_text()
    (folder / "settings.toml").write_text(text.replace("max_samples_per_client = 100", "max_samples_per_client = 90"))
    with pytest.raises(UserError, match="was made with other data"):
        subject_of(folder, silent)
