"""What must not be read out of a run directory: the noise, what it hides, deleted samples, the environment's secrets.

A noise-free vector beside its release gives the noise away, and with it the deleted data's part in the model. Files of
the finished folder are searched byte by byte, as float32 and float64 in both byte orders and as decimal text; so are
all files that lie in the unfinished folder whenever a checkpoint has been written.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fedunlearn.data import DataSettings, load_dataset
from fedunlearn.results.checkpoints import Checkpoints
from fedunlearn.unlearning.certified import release
from tests.small_runs import BASE, run

REQUESTS = [{"level": "client", "client": 2}, {"level": "sample", "client": 1, "count": 5}]
SECRET = "wJalrXUtnFEMI-not-a-key-bPxRfiCY"


def forms_of(vector: np.ndarray) -> list[bytes]:
    """Return how sixteen entries in the middle of a vector may stand in a file."""
    part = np.asarray(vector, dtype=np.float64).reshape(-1)
    part = part[len(part) // 2 :][:16]
    return [part.astype(kind).tobytes() for kind in ("<f4", ">f4", "<f8", ">f8")]


def words_of(vector: np.ndarray) -> list[bytes]:
    """Return the longest decimal forms of some entries."""
    some = [x for x in np.asarray(vector, dtype=np.float64).reshape(-1)[::37] if abs(x) > 1e-6][:8]
    return [repr(float(kind(x))).encode() for x in some for kind in (np.float32, np.float64)]


class Spy:
    """Notes what was hidden by which noise, and what lay in the run's folder meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pairs, self.snapshots = folder, [], []  # type: ignore[var-annotated]

    def publish(self, original):
        def spied(vector, noise):
            self.pairs.append((np.array(vector), np.array(noise)))
            return original(vector, noise)

        return spied

    def write(self, original):
        def spied(checkpoints, *args, **kwargs):
            size = original(checkpoints, *args, **kwargs)
            files = (p for p in self.folder.rglob("*") if p.is_file())
            self.snapshots.append((len(self.pairs), {p.name: p.read_bytes() for p in files}))
            return size

        return spied


@pytest.fixture(scope="module")
def secret_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secret")
    spy = Spy(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("HF_TOKEN", SECRET[::-1])
        patch.setattr(release, "publish", spy.publish(release.publish))
        patch.setattr(Checkpoints, "write", spy.write(Checkpoints.write))
        out = run(
            folder / "run", requests=REQUESTS, privacy={"noise": "secret"},
            runtime={"checkpoint_seconds": 0.0},
        ).folder  # fmt: skip
    files = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    return spy, files


def test_the_run_released_under_noise_and_kept_checkpoints(secret_run):
    spy, files = secret_run
    assert len(spy.pairs) >= 2 and len(spy.snapshots) >= 2 and "summary.json" in files
    released = [forms_of(vector + noise)[0] for vector, noise in spy.pairs]
    assert sum(any(form in content for content in files.values()) for form in released) >= 2  # the search finds


def test_no_noise_and_nothing_noise_free_lies_in_a_finished_run(secret_run):
    spy, files = secret_run
    for vector, noise in spy.pairs:
        for name, content in files.items():
            for form in (*forms_of(vector), *forms_of(noise), *words_of(vector), *words_of(noise)):
                assert form not in content, name
    assert not any("checkpoint" in name or "drawn" in name for name in files)


def test_no_noise_lies_in_a_run_that_goes_on(secret_run):
    spy, _ = secret_run
    for count, files in spy.snapshots:
        for _, noise in spy.pairs[:count]:
            for name, content in files.items():
                assert not any(form in content for form in (*forms_of(noise), *words_of(noise))), name


def test_what_a_release_hides_is_gone_from_checkpoints_after_it(secret_run):
    spy, _ = secret_run
    count, files = spy.snapshots[-1]
    for vector, _ in spy.pairs[: count - 1]:
        for name, content in files.items():
            assert not any(form in content for form in forms_of(vector)), name


def test_no_deleted_sample_lies_in_a_run(secret_run):
    _, files = secret_run
    dataset = load_dataset(DataSettings(**BASE["data"]))
    for row in dataset.train_rows(2)[:20]:
        image = dataset.inputs[row]
        unit = image.astype(np.float64).reshape(-1) / np.linalg.norm(image)
        for form in (image.tobytes(), *forms_of(unit / np.sqrt(2)), *forms_of(image / 255)):
            assert not any(form in content for content in files.values())


def test_no_secret_of_the_environment_lies_in_a_run(secret_run):
    spy, files = secret_run
    for content in (*files.values(), *(c for _, snapshot in spy.snapshots for c in snapshot.values())):
        assert SECRET.encode() not in content and SECRET[::-1].encode() not in content
    assert not any(os.environ.get("HOME", "/nowhere-at-all").encode() in content for content in files.values())
