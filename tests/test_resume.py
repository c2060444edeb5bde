"""A run that is stopped anywhere and taken up again ends with the numbers of one that was not."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from resume_kit import METHODS, Failing, Killed, after_checkpoint, assert_same, go, in_pieces, power_cut, told
from small_runs import releases
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.errors import UserError
from fedunlearn.network.inline import InlineTransport
from fedunlearn.privacy import verify
from fedunlearn.results import checkpoints as checkpoint_files
from fedunlearn.results import run_directory
from fedunlearn.results.checkpoints import Checkpoints
from fedunlearn.simulation import story
from fedunlearn.unlearning.approximate.finetune import Finetune
from fedunlearn.unlearning.registry import methods

TWO = [{"level": "sample", "client": 1, "count": 5}, {"level": "client", "client": 4}]
CLIENTS = [{"level": "client", "client": 1}, {"level": "client", "client": 4}]


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    """Draw nothing: figures take longer than all the rest, and are drawn from what is compared here."""
    monkeypatch.setattr("fedunlearn.plots.draw_all", lambda *_, **__: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the run of an experiment that nobody stopped; each is run once."""
    done = {}

    def run(settings):
        key = settings.model_dump_json()
        if key not in done:
            done[key], _ = go(settings, out=tmp_path_factory.mktemp("whole") / "run")
        return done[key]

    return run


def settings_of(method: str, **changes):
    requests = CLIENTS if method == "rr-du" else TWO
    return told(**{"requests": requests, **METHODS[method], **changes})


def partial(out: Path) -> Path:
    (found,) = out.parent.glob(f"{out.name}.partial-*")
    return found


def test_every_registered_method_is_tested_here():
    assert set(methods()) == {name.partition(",")[0] for name in METHODS}


# --- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["newton", "rewind", "rr-du", "dp-sgd", "finetune"])
def test_a_run_that_is_killed_now_and_then_ends_with_the_same_numbers(method, tmp_path, whole, monkeypatch):
    settings = settings_of(method)
    reference = whole(settings)
    lengths = iter([2, 4, 60])

    def prepare(patch):
        after_checkpoint(patch, next(lengths))

    result, stops = in_pieces(settings, tmp_path / "run", monkeypatch, prepare)
    assert stops == 2
    assert result.summary["resumed"] == ["round 4 of 4 of 'train'", "round 2 of 4 of 'retrain 0'"]
    assert_same(result, reference)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_killed_after_every_checkpoint_ends_with_the_same_numbers(method, tmp_path, whole, monkeypatch):
    settings = settings_of(method)
    reference = whole(settings)
    result, stops = in_pieces(settings, tmp_path / "run", monkeypatch, lambda patch: after_checkpoint(patch, 1))
    assert stops == 14  # two points of the curve in each of three trainings, and eight stages
    assert_same(result, reference)
    assert result.summary["resumed"][:4] == [
        "round 2 of 4 of 'train'", "round 4 of 4 of 'train'", "the end of training", "the release after training"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "method",
    ["newton", *(pytest.param(each, marks=pytest.mark.slow) for each in ("rewind", "rr-du", "dp-sgd", "finetune"))],
)
def test_a_run_that_is_killed_at_any_request_to_the_hosts_ends_with_the_same_numbers(
    method, tmp_path, whole, monkeypatch
):
    settings = settings_of(method)
    reference = whole(settings)
    rng = np.random.default_rng(sorted(METHODS).index(method))
    where = {"out": tmp_path / "run"}
    for _ in range(4):
        with power_cut(monkeypatch):
            result, _ = go(settings, transport=Failing(1, int(rng.integers(2, 60))), **where)
            assert_same(result, reference)
            raise Killed  # it was not so long any more
        if (tmp_path / "run").exists():
            return
        where = {"resume": tmp_path / "run"}
    result, _ = go(settings, **where)
    assert_same(result, reference)


FEDERATED = {"topology": {"mixing": "exact-average"}, "training": {"algorithm": "fedavg", "client_fraction": 0.5}}


@pytest.mark.parametrize("changes", [
    pytest.param({"evaluation": {"twins": "side-by-side"}}, id="twins side by side"),
    pytest.param({"topology": {"mixing": "random-matching"}}, id="random matching", marks=pytest.mark.slow),
    pytest.param(FEDERATED, id="federated", marks=pytest.mark.slow),
])  # fmt: skip
def test_other_ways_to_train_go_on_as_well_and_on_other_hosts(changes, tmp_path, whole, monkeypatch):
    settings = told(requests=TWO, **changes)
    reference = whole(settings)
    where = {"out": tmp_path / "run"}
    for number in (1, 1, 4):
        with monkeypatch.context() as patch:
            after_checkpoint(patch, number)
            with power_cut(patch):
                go(settings, transport=InlineTransport(1 + number % 2), **where)
        where = {"resume": tmp_path / "run"}
    result, _ = go(settings, transport=InlineTransport(2), **where)
    assert_same(result, reference)


def test_a_run_without_a_checkpoint_begins_again_and_says_so(tmp_path, whole, monkeypatch):
    settings = told(runtime={"checkpoint_seconds": 1000})
    reference = whole(settings)
    with power_cut(monkeypatch):
        go(settings, transport=Failing(1, 20), out=tmp_path / "run")
    assert not list((partial(tmp_path / "run") / "checkpoints").glob("checkpoint-*"))
    result, said = go(settings, resume=tmp_path / "run")
    assert "resumed at the beginning: there is no checkpoint" in said
    assert result.summary["resumed"] == ["the beginning"]
    assert_same(result, reference)


def test_without_checkpoints_nothing_is_written(tmp_path, monkeypatch):
    with power_cut(monkeypatch):
        go(told(runtime={"checkpoints": False}), transport=Failing(1, 40), out=tmp_path / "run")
    assert not (partial(tmp_path / "run") / "checkpoints").exists()


def test_a_run_that_failed_is_resumed_from_where_it_failed(tmp_path, whole, monkeypatch):
    settings = told(requests=TWO)
    reference = whole(settings)
    with monkeypatch.context() as patch:
        after_checkpoint(patch, 4)
        with pytest.raises(Killed):
            go(settings, out=tmp_path / "run")
    assert [p.name for p in tmp_path.glob("run*")] == ["run.failed"]
    result, said = go(settings, resume=tmp_path / "run.failed")
    assert "resumed at the release after training" in said
    assert_same(result, reference)
    assert [p.name for p in tmp_path.glob("run*")] == ["run"]


def test_a_run_of_which_only_the_name_is_missing_gets_it(tmp_path, whole, monkeypatch):
    settings = told()
    reference = whole(settings)

    def stop(*_):
        raise Killed

    with power_cut(monkeypatch), monkeypatch.context() as patch:
        patch.setattr(run_directory, "_replace", stop)
        go(settings, out=tmp_path / "run")
    assert not (partial(tmp_path / "run") / "checkpoints").exists()
    with monkeypatch.context() as patch:
        patch.setattr(story, "prepare", stop)  # nothing is computed again
        result, _ = go(settings, resume=tmp_path / "run")
    assert_same(result, reference)


# --- damaged checkpoints ---------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, whole, monkeypatch):
    settings = told(requests=TWO)
    reference = whole(settings)
    with monkeypatch.context() as patch:
        after_checkpoint(patch, 3)
        with power_cut(patch):
            go(settings, out=tmp_path / "run")
    files = sorted((partial(tmp_path / "run") / "checkpoints").glob("checkpoint-*"))
    assert [path.name for path in files] == ["checkpoint-000002.safetensors", "checkpoint-000003.safetensors"]
    content = bytearray(files[1].read_bytes())
    content[-9] ^= 4
    files[1].write_bytes(bytes(content))
    with monkeypatch.context() as patch:
        after_checkpoint(patch, 1)
        with power_cut(patch):
            _, said = go(settings, resume=tmp_path / "run")
    for path in (partial(tmp_path / "run") / "checkpoints").glob("checkpoint-*"):
        path.write_bytes(path.read_bytes()[:-1])
    result, said = go(settings, resume=tmp_path / "run")
    named = [sentence for sentence in said if "damaged" in sentence]
    assert len(named) == 2 and all("checkpoint-00000" in sentence for sentence in named)
    assert "resumed at the beginning: there is no checkpoint" in said
    assert_same(result, reference)


def test_the_checkpoints_lie_in_a_folder_for_the_owner_alone(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        after_checkpoint(patch, 2)
        with power_cut(patch):
            go(told(), out=tmp_path / "run")
    folder = partial(tmp_path / "run") / "checkpoints"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.glob("checkpoint-*"))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """The name of a run that was stopped in its training."""
    with monkeypatch.context() as patch:
        after_checkpoint(patch, 1)
        with power_cut(patch):
            go(told(), out=tmp_path / "run")
    return tmp_path / "run"


def test_other_settings_are_refused_by_the_first_key_that_differs(stopped):
    for changes, key in (
        ({"training": {"lr": 3.0}, "seed": 4}, "seed = 4"),
        ({"training": {"lr": 3.0}}, "training.lr = 3.0"),
        ({"requests": []}, "requests = 0 of them"),
        ({"requests": [{"level": "client", "client": 3}]}, "requests.0.client = 3"),
        ({"unlearning": {"method": "finetune"}}, "unlearning.method = 'finetune'"),
    ):
        with pytest.raises(UserError, match=rf"^{key} is not what this run was begun with"):
            go(told(**changes), resume=stopped)
    go(told(runtime={"checkpoint_seconds": 7, "hosts": 2}), transport=InlineTransport(2), resume=stopped)


def test_other_code_and_other_libraries_are_refused(stopped, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("fedunlearn.simulation.recording.code_sha256", lambda: "0" * 64)
        with pytest.raises(UserError, match="its code is not what it was when it began"):
            go(told(), resume=stopped)
    with monkeypatch.context() as patch:
        patch.setattr("fedunlearn.simulation.resuming.versions", lambda: {"torch": "1.0"})
        with pytest.raises(UserError, match="its versions is not what it was"):
            go(told(), resume=stopped)
    result, _ = go(told(), resume=stopped)  # it is as it was
    assert result.summary["resumed"] == ["round 2 of 4 of 'train'"]


def test_a_run_that_goes_on_is_finished_or_is_none_cannot_be_resumed(stopped, tmp_path):
    going = run_directory.RunDirectory.resume(stopped)
    with pytest.raises(UserError, match="is a run that is still going on"):
        go(told(), resume=stopped)
    going._release()
    result, _ = go(told(), resume=stopped)
    with pytest.raises(UserError, match="is a finished run"):
        go(told(), resume=result.folder)
    with pytest.raises(UserError, match="no unfinished run of this name"):
        go(told(), resume=tmp_path / "other")


def test_a_method_that_keeps_what_it_does_not_name_gets_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(Finetune, "prepare", lambda self, network, situation: vars(self).update(_memory=1))
    result, said = go(told(unlearning={"method": "finetune"}), out=tmp_path / "run")
    assert said.count("no checkpoint: Finetune keeps '_memory', and does not name it in `keeps`") == 1
    assert result.summary["requests"]


# --- secret noise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        "newton",
        "rr-du",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("newton, paper", "rewind", "dp-sgd", "ddp")),
    ],
)
def test_secret_noise_is_drawn_once_however_often_a_run_is_killed_after_it_was_stored(
    method, tmp_path, monkeypatch, draws
):
    settings = settings_of(method, privacy={"noise": "secret"})
    go(settings, out=tmp_path / "whole")
    once = draws.pop("draws")
    result, stops = in_pieces(
        settings, tmp_path / "run", monkeypatch, lambda patch: after_checkpoint(patch, 1, "draw")
    )  # fmt: skip
    assert draws["draws"] == once and stops >= 2
    assert verify(result.folder / "certificate.json").ok


def test_what_was_stored_is_what_is_released(tmp_path, monkeypatch):
    settings = told(requests=TWO, privacy={"noise": "secret"}, runtime={"checkpoint_seconds": 1000})
    stored = []
    original = Checkpoints.draw

    def draw(self, key, vector):
        original(self, key, vector)
        stored.append((key, np.array(vector)))

    monkeypatch.setattr(Checkpoints, "draw", draw)
    result, _ = in_pieces(settings, tmp_path / "run", monkeypatch, lambda patch: after_checkpoint(patch, 1, "draw"))
    assert len({key for key, _ in stored}) == len(stored)
    for key, vector in stored:
        if key.startswith("main"):
            content = releases(result.folder)[f"release-{key.split()[1]}.safetensors"]
            assert vector.tobytes() in content


def test_with_secret_noise_no_checkpoint_holds_what_a_release_hides(tmp_path, monkeypatch):
    settings = told(requests=TWO, privacy={"noise": "secret"})
    original, seen, hidden = Checkpoints.write, [], []

    def write(self, value, what, *, alone=False):
        number = original(self, value, what, alone=alone)
        files = list(self.folder.glob("checkpoint-*"))
        assert not any(vector.tobytes() in path.read_bytes() for vector in hidden for path in files), what
        seen.append((what, len(files)))
        return number

    def conclude(state, work):
        work(state)
        if state.last is not None and state.last.noise_free is not None:
            hidden.append(state.last.noise_free)
            hidden.append(state.trained.read(0))

    monkeypatch.setattr(Checkpoints, "write", write)
    for name in ("_conclude", "_answer"):
        work = getattr(story, name)
        monkeypatch.setattr(story, name, lambda state, work=work, **more: conclude(state, lambda s: work(s, **more)))
    result, _ = go(settings, out=tmp_path / "run")
    assert len(hidden) == 6
    releases_of = [what for what, _ in seen if "release" in what or "answer" in what]
    assert len(releases_of) == 3
    assert all(count == 1 for what, count in seen if what in releases_of)
    assert all(request["distance_before"] is not None for request in result.summary["requests"])


def test_with_secret_noise_what_a_checkpoint_left_out_is_said_to_be_unknown(tmp_path, monkeypatch):
    settings = told(requests=TWO, privacy={"noise": "secret"})
    with monkeypatch.context() as patch:
        written = after_checkpoint(patch, 5)
        with power_cut(patch):
            go(settings, out=tmp_path / "run")
    assert written[-1] == "the answer to request 0"
    result, _ = go(settings, resume=tmp_path / "run")
    first, second = result.summary["requests"]
    for name in ("distance_before", "distance_to_retrained", "prediction_distance_to_retrained"):
        assert first[name] is None
    assert second["distance_before"] is None and second["distance_to_retrained"] >= 0
    assert verify(result.folder / "certificate.json").ok


def test_a_damaged_draw_is_not_drawn_again(tmp_path, monkeypatch):
    settings = told(privacy={"noise": "secret"})
    with monkeypatch.context() as patch:
        after_checkpoint(patch, 1, "draw")
        with power_cut(patch):
            go(settings, out=tmp_path / "run")
    (drawn,) = (partial(tmp_path / "run") / "checkpoints").glob("drawn-*")
    drawn.write_bytes(drawn.read_bytes()[:-4])
    with pytest.raises(UserError, match="noise is not drawn twice for the same state"):
        go(settings, resume=tmp_path / "run")


# --- a full disk -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_written_costs_one_sentence(tmp_path, whole, monkeypatch):
    settings = told(requests=TWO)
    reference = whole(settings)
    original, tries = checkpoint_files.write_atomically, []

    def write(path, *parts, private):
        if path.name.startswith("checkpoint-"):
            tries.append(path)
            if len(tries) > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(path, *parts, private=private)

    monkeypatch.setattr(checkpoint_files, "write_atomically", write)
    result, said = go(settings, out=tmp_path / "run")
    assert len([sentence for sentence in said if "No space left on device" in sentence]) == 1 and len(tries) > 3
    assert_same(result, reference)


@pytest.mark.parametrize("name", ["metrics.csv", "release-1.safetensors"])
def test_results_that_cannot_be_written_end_the_run_and_it_can_be_resumed(name, tmp_path, whole, monkeypatch):
    settings = told(requests=TWO)
    reference = whole(settings)
    original = run_directory.write_atomically

    def write(path, content):
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "write_atomically", write)
        with pytest.raises(UserError, match=rf"{name}' cannot be written: No space left on device"):
            go(settings, out=tmp_path / "run")
    result, said = go(settings, resume=tmp_path / "run")
    assert any(sentence.startswith("resumed at the") for sentence in said)
    assert_same(result, reference)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_goes_on_with_a_run_by_its_name_alone(stopped, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")

    def command(*words):
        return CliRunner().invoke(app, ["run", *map(str, words)])

    other = tmp_path / "other.toml"
    other.write_text((partial(stopped) / "settings.toml").read_text().replace("lr = 4.0", "lr = 2.0"))
    refused = command(other, "--resume", stopped)
    assert refused.exit_code == 2 and "training.lr = 2.0 is not what this run was begun with" in refused.output
    assert "keeps its name" in command("--resume", stopped, "--out", tmp_path / "new").output
    assert "FILE is missing" in command().output
    assert "no unfinished run of this name" in command("--resume", tmp_path / "nothing").output
    begun = command(other, "--resume", tmp_path / "new", "--set", "training.rounds=1", "--set", "runtime.workers=0")
    assert begun.exit_code == 0 and (tmp_path / "new").is_dir(), begun.output
    done = command("--resume", stopped, "--set", "runtime.checkpoint_seconds=30")
    assert done.exit_code == 0 and "resumed at round 2 of 4 of 'train'" in done.output, done.output
    assert stopped.is_dir() and f"results  {stopped}" in done.output
